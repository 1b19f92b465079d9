"""The collector takes in what comes, and never holds the loop for long."""

import asyncio
import time

from egress_gateway.telemetry.collector import Collector
from egress_gateway.telemetry.log import DecisionLog
from segment_writer import VOCABULARY, SegmentWriter, record

from egress_core.ring import Reader, Segment


def test_a_full_ring_is_drained_in_short_turns() -> None:
    writer = SegmentWriter(ring=32768, totals=4 << 20)
    reader = Reader(Segment(writer.fd), VOCABULARY, log=False)
    collector = Collector(reader, DecisionLog(reader, "off"))
    for i in range(32768):
        writer.push(record(i))

    async def main() -> None:
        collector.start()
        await asyncio.sleep(0.5)
        assert collector.folded == 32768
        writer.push(record(1))
        await asyncio.sleep(0.5)
        assert collector.folded == 32769, "a late record was not taken in"
        collector.stop()

    asyncio.run(main())
    assert sum(row[5] for row in reader.totals()) == 32769


def test_a_turn_is_bounded() -> None:
    writer = SegmentWriter(ring=65536, totals=4 << 20)
    reader = Reader(Segment(writer.fd), VOCABULARY)
    collector = Collector(reader, DecisionLog(reader, "/dev/null"))
    for i in range(65536):
        writer.push(record(i))
    longest, more = 0.0, True
    while more:
        began = time.thread_time()
        more = collector.turn()
        longest = max(longest, time.thread_time() - began)
    assert reader.backlog() == (0, 0)
    assert longest < 0.010, f"a turn took {longest * 1000:.1f} ms of CPU"
