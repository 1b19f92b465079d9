"""The decision log never blocks, never tears a line and loses nothing to a kill, a rotation or a bad sink."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from egress_gateway.telemetry.log import DecisionLog
from segment_writer import VOCABULARY, SegmentWriter, record

from egress_core import ring
from egress_core.ring import Reader, Segment


def test_rotation_goes_on_in_the_new_file(tmp_path: Path) -> None:
    writer = SegmentWriter()
    reader = Reader(Segment(writer.fd), VOCABULARY)
    path = tmp_path / "log"
    log = DecisionLog(reader, str(path))
    writer.push(record(1))
    assert log.write() == 1
    path.rename(tmp_path / "old")
    log.reopen()
    writer.push(record(2))
    assert log.write() == 1
    assert b"0001" in (tmp_path / "old").read_bytes() and b"0002" in path.read_bytes()


def test_a_full_disk_keeps_the_records() -> None:
    writer = SegmentWriter()
    reader = Reader(Segment(writer.fd), VOCABULARY)
    log = DecisionLog(reader, "/dev/full")
    writer.push(record(1))
    assert log.write() == 0 and log.failures == 1 and log.write() == 0 and log.failures == 1
    assert reader.backlog() == (1, 1)


def test_a_pipe_nobody_reads_does_not_block(tmp_path: Path) -> None:
    writer = SegmentWriter(ring=1024)
    reader = Reader(Segment(writer.fd), VOCABULARY)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = DecisionLog(reader, str(fifo))
    for i in range(1000):
        writer.push(record(i))
    began = time.monotonic()
    while log.write():
        pass
    assert time.monotonic() - began < 1 and log.failures == 1
    got = b""
    while reader.backlog()[1]:
        got += os.read(end, 1 << 16)
        time.sleep(0.025)
        log.write()
    got += os.read(end, 1 << 20)
    assert [int(json.loads(line)["decision"], 16) for line in got.splitlines()] == list(range(1000))


def test_a_torn_last_line_is_ended(tmp_path: Path) -> None:
    writer = SegmentWriter()
    path = tmp_path / "log"
    path.write_bytes(b'{"time":')
    log = DecisionLog(Reader(Segment(writer.fd), VOCABULARY), str(path))
    writer.push(record(1))
    log.write()
    assert path.read_bytes().startswith(b'{"time":\n{"time"')


CHILD = """
import sys
from segment_writer import VOCABULARY
from egress_core.ring import Reader, Segment
from egress_gateway.telemetry.log import DecisionLog
reader = Reader(Segment(int(sys.argv[1])), VOCABULARY)
log = DecisionLog(reader, sys.argv[2])
while True:
    reader.drain(5)
    log.write()
"""


def test_no_record_is_lost_when_the_reader_is_killed(tmp_path: Path) -> None:
    workers, kills = 2, 10
    writer = SegmentWriter(workers=workers, ring=64)
    path = tmp_path / "log"
    rng = random.Random(3)
    # The compiled package first: a source folder of the same name may be on the path too.
    compiled = str(Path(ring.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([compiled, *sys.path])}
    pushed = 0
    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, str(writer.fd), str(path)], pass_fds=[writer.fd], env=env
        )
        size = path.stat().st_size if path.exists() else 0
        until = time.monotonic() + 0.15 + rng.random() * 0.2
        # On a busy machine it takes longer to begin.
        while time.monotonic() < until or not path.exists() or path.stat().st_size == size:
            pushed += writer.push(record(pushed), pushed % workers)
        child.send_signal(signal.SIGKILL)
        child.wait()
    reader = Reader(Segment(writer.fd), VOCABULARY)
    log = DecisionLog(reader, str(path))
    while reader.drain(100) + log.write():
        pass
    seen = set()
    for line in path.read_bytes().splitlines():
        if line.endswith(b"}"):
            seen.add(int(json.loads(line)["decision"], 16))
    assert seen == set(range(pushed)) and pushed > 100
    total = sum(row[5] for row in reader.totals())
    assert pushed <= total <= pushed + kills * workers
    assert reader.attaches == kills + 1
