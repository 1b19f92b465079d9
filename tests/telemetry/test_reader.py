"""Records are folded and logged exactly, and hostile memory is survived."""

import json
import os
import random
import struct

import pytest
from segment_writer import AT, VOCABULARY, SegmentWriter, record

from egress_core.live import Live
from egress_core.ring import LINE_BYTES, Reader, Segment, SegmentError


def attach(writer: SegmentWriter, log: bool = True) -> Reader:
    return Reader(Segment(writer.fd), VOCABULARY, log=log)


def test_folded_sums_equal_the_records() -> None:
    writer = SegmentWriter(workers=3)
    reader = attach(writer, log=False)
    for i in range(150):
        assert writer.push(record(i, bytes_up=i, bytes_down=2 * i, rule_name=b"r%d" % (i % 5)), i % 3)
    assert sum(iter(lambda: reader.drain(7), 0)) == 150
    totals = reader.totals()
    assert len(totals) == 5
    assert [sum(row[k] for row in totals) for k in (5, 6, 7)] == [150, sum(range(150)), 2 * sum(range(150))]
    buckets, total_us = reader.histograms()["duration"]
    assert sum(buckets) == 150 and total_us == 150 * 1500 and buckets[0] == 150
    assert sum(reader.histograms()["resolve"][0]) == 0


def test_a_record_stays_until_folded_and_logged() -> None:
    writer = SegmentWriter(ring=4)
    reader = attach(writer)
    for i in range(4):
        assert writer.push(record(i))
    assert reader.drain(100) == 4 and not writer.push(record(4)), "a record that is not logged was overwritten"
    assert reader.dropped() == [1]
    assert reader.encode(100) == reader.encode(100)
    reader.commit()
    assert writer.push(record(5)) and reader.encode(9).count(b"\n") == 1


def test_a_line_has_every_field() -> None:
    writer = SegmentWriter()
    reader = attach(writer)
    writer.push(record(0xABC, name=b'a"\\\n\xff', flags=1 | 16, start_unix_ns=951_782_399_000_000_001, upstream=None,
                       source="2001:db8::1", peer="192.0.2.9", peer_port=7, other=b"x.example", evidence=2,
                       identity=b"al\xefce\x1b", waited_us=2_000_500, held_by=b'sl"w', held_up_ns=1_500_000,
                       held_down_ns=7))  # fmt: skip
    line = json.loads(reader.encode(1))
    assert line == {
        "time": "2000-02-28T23:59:59.000000001Z", "decision": "0000000000000abc", "verdict": "allow", "reason": "rule",
        "rule": "web", "rule_line": 12, "generation": 1, "listener": "tls", "accept": "tls",
        "source": {"ip": "2001:db8::1", "port": 40000}, "peer": {"ip": "192.0.2.9", "port": 7},
        "evidence": "login", "identity": "al\u00efce\x1b", "name": 'a"\\\n\xff', "port": 443, "upstream": None,
        "bytes_up": 100, "bytes_down": 1000, "duration_ms": 1.5, "first_bytes_ms": 0.3, "resolve_ms": None,
        "connect_ms": 0.9, "waited_ms": 2000.5, "held": {"by": "sl?w", "up_ms": 1.5, "down_ms": 0.0},
        "end": "closed", "flags": ["ech", "spliced"], "other_name": "x.example",
    }  # fmt: skip


def test_labels_are_bounded_and_sums_stay_exact() -> None:
    writer = SegmentWriter(ring=1024, totals=4096 + 16384 + 17 * 640)
    reader = attach(writer, log=False)
    for i in range(500):
        writer.push(record(i, rule_name=b"rule-%d" % i))
    reader.drain(1000)
    totals = reader.totals()
    assert len(totals) == 9 and reader.combinations == (8, 8) and reader.overflowed == 492
    assert sum(row[5] for row in totals) == 500
    assert next(row[5] for row in totals if row[0] == "other") == 492


def test_totals_survive_and_another_boot_clears_them() -> None:
    writer = SegmentWriter()
    writer.push(record(1))
    attach(writer).drain(9)
    again = attach(writer)
    assert again.drain(9) == 0 and again.totals()[0][5] == 1 and again.attaches == 2
    assert again.encode(9).count(b"\n") == 1, "the line that was not logged is lost"
    writer.put("header.boot_unix_ns", 5)
    assert attach(writer).totals() == []


def test_random_records_and_positions_never_crash() -> None:
    rng = random.Random(7)
    for _ in range(300):
        writer = SegmentWriter(workers=2, ring=8)
        reader = attach(writer)
        for worker in (0, 1):
            at = writer.control(worker)
            writer.map[at + 4096 : at + 4096 + 8 * AT["size.record"]] = rng.randbytes(8 * AT["size.record"])
            for key in ("ring.head", "ring.tail"):
                writer.put(key, rng.choice([rng.getrandbits(64), rng.randrange(12)]), base=at)
        reader.drain(100)
        text = reader.encode(100)
        for line in text.splitlines():
            assert json.loads(line) and len(line) < LINE_BYTES
        reader.commit()
        reader = attach(writer)
        reader.drain(100)
        assert reader.drain(100) == 0
        writer.map[writer.totals : writer.size] = rng.randbytes(writer.size - writer.totals)
        attach(writer).totals()


def test_impossible_values_are_faults() -> None:
    writer = SegmentWriter()
    reader = attach(writer)
    writer.push(record(1, verdict=99, rule_len=200, listener_len=255))
    reader.drain(1)
    assert reader.faults == 1 and reader.totals()[0][2] == "unknown"
    writer.put("ring.head", 2**63, base=writer.control())
    assert reader.drain(10) == 0 and reader.faults == 2


def test_longest_line_fits() -> None:
    writer = SegmentWriter()
    reader = attach(writer)
    writer.push(b"\xff" * AT["size.record"])
    line = reader.encode(1)
    assert json.loads(line)["name"] == "\xff" * 255 and len(line) <= LINE_BYTES


@pytest.mark.parametrize("key", [key for key in AT if key.startswith("header.")])
def test_a_lying_header_is_refused_or_harmless(key: str) -> None:
    rng = random.Random(key)
    for value in [0, 1, 2**31, 2**32 - 1, 4095, *(rng.getrandbits(32) for _ in range(20))]:
        for form in ("<I", "<Q"):
            writer = SegmentWriter(totals=65536)
            struct.pack_into(form, writer.map, AT[key], value * (2**32 + 1) if form == "<Q" else value)
            try:
                segment = Segment(writer.fd)
                reader = Reader(segment, VOCABULARY)
            except SegmentError:
                continue
            reader.drain(10)
            Live(segment, VOCABULARY).flows()


def test_live_slots_are_whole_or_skipped() -> None:
    writer = SegmentWriter(live=4)
    live = Live(Segment(writer.fd), VOCABULARY)
    writer.write_live(0, name=b"x" * 200)
    writer.write_live(1, seq=3)
    writer.write_live(2, stage=77)
    flows = live.flows()
    assert [flow["decision"] for flow in flows] == [f"{1:016x}", f"{3:016x}"] and live.torn == 1
    assert flows[0]["name"] == "x" * 112 and flows[0]["name_cut"] and flows[1]["stage"] == "unknown"
    assert live.stages()[0]["relaying"] == 2
    writer.write_live(0, seq=6, stage=0)
    assert len(live.flows()) == 1 and live.stages()[0]["relaying"] == 1, "a free slot keeps its sequence"


def test_a_look_at_the_live_flows_fills_no_holes_of_the_segment() -> None:
    writer = SegmentWriter(workers=8, live=65536)
    segment = Segment(writer.fd)
    live = Live(segment, VOCABULARY)
    writer.write_live(40)
    assert live.stages()[0]["relaying"] == 1 and len(live.flows()) == 1  # the counter pages, by the way
    before = os.fstat(writer.fd).st_blocks
    writer.write_live(3, worker=7)
    assert sum(row["relaying"] for row in live.stages()) == 2 and len(live.flows()) == 2
    assert os.fstat(writer.fd).st_blocks - before <= 8, "more than the page of the one new slot"
    assert before * 640 < 1 << 20


def test_a_lie_about_the_live_slots_in_use_ends_at_the_table() -> None:
    writer = SegmentWriter(live=4)
    live = Live(Segment(writer.fd), VOCABULARY)
    writer.write_live(3)
    writer.put("worker.live_used", 2**64 - 1, base=writer.control() - 4096)
    assert len(live.flows()) == 1 and live.stages()[0]["relaying"] == 1


def test_of_many_flows_the_newest_are_given() -> None:
    writer = SegmentWriter(workers=2, live=8)
    for flow, start in enumerate([5, 9, 1, 7, 3, 9]):
        writer.write_live(flow % 4, worker=flow // 4, flow_id=start, start_unix_ns=start)
    live = Live(Segment(writer.fd), VOCABULARY)
    writer.write_live(5, worker=1, stage=0, start_unix_ns=8)  # free again
    for limit in (1, 2, 3, 4, 6, 100):
        assert sorted(flow["start_unix_ns"] for flow in live.flows(limit)) == sorted([5, 9, 1, 7, 3, 9])[-limit:]
