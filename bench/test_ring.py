"""Nanoseconds to fold one record into the totals: the compiled reader beside the same fold in plain Python."""

import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "telemetry"))

from segment_writer import AT, VOCABULARY, SegmentWriter, record

from egress_core.ring import Reader, Segment

#: A full ring of 65,536 records with 50 rules: 32 MiB, more than the caches hold.
RECORDS = 65536


def filled() -> SegmentWriter:
    writer = SegmentWriter(ring=RECORDS, totals=4 << 20)
    for i in range(RECORDS):
        writer.push(record(i, rule_name=b"rule-%d" % (i % 50), bytes_up=i))
    return writer


def rewind(writer: SegmentWriter, segment: Segment) -> tuple[tuple[Reader], dict[str, Any]]:
    """A ring whose records are all to be folded again: as another boot, with its tail at 0."""
    writer.put("ring.tail", 0, base=writer.control())
    writer.map[writer.totals : writer.totals + 8] = bytes(8)
    return (Reader(segment, VOCABULARY, log=False),), {}


def test_fold_in_cython(benchmark: Any) -> None:
    writer = filled()
    # One mapping for all rounds: a page is faulted in once in the life of a reader.
    segment = Segment(writer.fd)
    Reader(segment, VOCABULARY, log=False).drain(RECORDS)
    folded = benchmark.pedantic(lambda reader: reader.drain(RECORDS), setup=lambda: rewind(writer, segment), rounds=20)
    assert folded == RECORDS
    benchmark.extra_info["ns_per_record"] = benchmark.stats.stats.median * 1e9 / RECORDS


def test_fold_in_python(benchmark: Any) -> None:
    writer = filled()

    def fold() -> int:
        connections: Counter[tuple[bytes, int, int, int]] = Counter()
        up: Counter[bytes] = Counter()
        base = writer.control() + 4096
        for i in range(RECORDS):
            at = base + i * AT["size.record"]
            sent, _down = struct.unpack_from("<QQ", writer.map, at + AT["record.bytes_up"])
            verdict, reason, end = struct.unpack_from("<BBB", writer.map, at + AT["record.verdict"])
            name = at + AT["record.rule_name"]
            rule = writer.map[name : name + writer.map[at + AT["record.rule_len"]]]
            connections[rule, verdict, reason, end] += 1
            up[rule] += sent
        return connections.total()

    assert benchmark.pedantic(fold, rounds=3) == RECORDS
    benchmark.extra_info["ns_per_record"] = benchmark.stats.stats.median * 1e9 / RECORDS
