"""The decision log: whole lines to stdout, stderr or a file. It never blocks the loop and loses nothing by itself.

A line leaves the shared ring only after it is written, so trouble with the sink (disk full, a pipe nobody reads) holds
records back; when the ring is full the data plane drops records and counts them, and traffic goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from pathlib import Path
from typing import Final

from egress_core.ring import LINE_BYTES, Reader

#: Records rendered at a time: about 100 KB of lines, well under a millisecond.
BATCH: Final = 256
#: Seconds before a sink that failed is tried again.
RETRY: Final = 0.5
#: The same for a pipe that is full: its reader is alive, and 64 KiB of lines is soon read.
RETRY_FULL: Final = 0.02


def _open(target: str) -> int:
    """A descriptor of our own that never blocks and never ends another process's use of the same stream."""
    if target not in ("stdout", "stderr"):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(target, flags, 0o640)
    number = 1 if target == "stdout" else 2
    # O_NONBLOCK belongs to the open file, which others share; opening it anew gives one of our own. Where that is not
    # allowed (a socket, a pipe of another user) the copy blocks, and `_ready` is asked before each write.
    with contextlib.suppress(OSError):
        return os.open(
            f"/proc/self/fd/{number}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        )
    return os.dup(number)


class DecisionLog:
    """`target` is `stdout`, `stderr`, `off` or a path. OSError where a path cannot be opened at the start, unless
    `patient`: then it is tried again with each write, and the records wait in the ring."""

    def __init__(self, reader: Reader, target: str, *, patient: bool = False) -> None:
        self.target = target
        self.failures = 0
        self.lines = 0
        self.last_error: str | None = None
        self._reader = reader
        self._fd = -1
        self._file = False
        self._batch = b""
        self._at = 0
        self._retry_at = 0.0
        reader.log = target != "off"
        if target != "off":
            try:
                self._attach()
            except OSError as error:
                if not patient:
                    raise
                self._failed(error)

    def _attach(self) -> None:
        self._fd = _open(self.target)
        self._file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if self._file and self.target not in ("stdout", "stderr"):
            self._end_torn_line()

    def _end_torn_line(self) -> None:
        """A process killed within a write leaves half a line; the next one must not be glued to it."""
        with contextlib.suppress(OSError), Path(self.target).open("rb") as existing:
            if existing.seek(0, os.SEEK_END) and (existing.seek(-1, os.SEEK_END), existing.read(1))[1] != b"\n":
                os.write(self._fd, b"\n")

    def reopen(self) -> None:
        """After a rotation: goes on in the file that the path names now. A line cut short is written again, whole."""
        if self.target in ("stdout", "stderr", "off"):
            return
        self._at = self._batch.rfind(b"\n", 0, self._at) + 1
        self._retry_at = 0.0
        self._close_fd()
        try:
            self._attach()
        except OSError as error:
            self._failed(error)

    def write(self) -> int:
        """Writes what is waiting, up to one batch; gives the lines written. Never raises, never blocks."""
        if self.target == "off" or (self._retry_at and time.monotonic() < self._retry_at):
            return 0
        self._retry_at = 0.0
        if not self._batch:
            self._batch = self._reader.encode(BATCH)
            self._at = 0
        if not self._batch:
            return 0
        before = self._at
        written = 0
        try:
            if self._fd < 0:
                self._attach()
            while self._at < len(self._batch):
                self._at += os.write(self._fd, self._next())
        except OSError as error:
            self._failed(error)
        if self._at < len(self._batch):
            written = self._batch.count(b"\n", before, self._at)
        else:
            written = self._reader.encoded - self._batch.count(b"\n", 0, before)
            self._reader.commit()
            self._batch = b""
            self.last_error = None
        self.lines += written
        return written

    def _next(self) -> bytes:
        """The bytes of the next write. Into anything but a file: whole lines of at most PIPE_BUF, which a pipe takes
        whole or not at all, so a reader never sees half a line even when we are killed."""
        if self._file:
            return self._batch[self._at :]
        if not self._ready():
            raise BlockingIOError(errno.EAGAIN, "the reader of the log does not keep up")
        end = self._batch.rfind(b"\n", self._at, self._at + LINE_BYTES) + 1
        return self._batch[self._at : end]

    def _ready(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        self.last_error = error.strerror or str(error)
        self._retry_at = time.monotonic() + (RETRY_FULL if isinstance(error, BlockingIOError) else RETRY)

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Writes what a willing sink still takes, then lets go; what is left stays in the ring."""
        while self.write():
            pass
        self._close_fd()
