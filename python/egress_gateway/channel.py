"""The control plane's end of the socket to the data plane: requests, answers, events, and the end of both.

The parent's death is seen as end-of-file here and nowhere else. There is one reader (a callback on the loop) and
one writer (`_send`); every queue and every wait is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from egress_gateway import messages
from egress_gateway.messages import (
    Event,
    Hello,
    Install,
    Installed,
    Memo,
    ProtocolError,
    Refused,
    Reply,
    ReportQuery,
    ReportTold,
    Status,
    StatusQuery,
)

#: Seconds. The data plane opens, checks and swaps a snapshot in well under one, at a million names.
INSTALL_TIMEOUT: Final = 30.0
#: Seconds. A status is answered from counters.
STATUS_TIMEOUT: Final = 2.0
#: Seconds. The parent sends its hello before it starts the child.
HELLO_TIMEOUT: Final = 10.0
#: Packets. More unsent ones than this means that the data plane has stopped reading.
MAX_UNSENT: Final = 32
#: Descriptors that one packet may carry; the hello and a report have one, everything else none.
MAX_FDS: Final = 4
#: Bytes of the largest report that is read: some hundred for each of the 4,096 classes, and as much of budgets.
MAX_REPORT: Final = 32 << 20


class ChannelClosedError(Exception):
    """The data plane is gone, or this end was closed."""


class Channel:
    """Owns `sock`. `on_event` is called on the loop for what the data plane says unasked; `closed` is set by
    end-of-file or by a protocol error, which `error` then holds. Received descriptors belong to the caller of
    `hello`; any other is closed on sight, so a confused peer cannot fill the descriptor table."""

    def __init__(self, sock: socket.socket, on_event: Callable[[Event], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[Reply | bytes]] = {}
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._hello: asyncio.Future[tuple[Hello, int]] = self._loop.create_future()
        self.closed = asyncio.Event()
        self.error: ProtocolError | None = None
        self._loop.add_reader(sock.fileno(), self._readable)

    async def hello(self) -> tuple[Hello, int]:
        """The data plane's first packet and the descriptor of the telemetry memory, which the caller now owns.
        Raises ChannelClosedError, ProtocolError or TimeoutError."""
        return await asyncio.wait_for(self._hello, HELLO_TIMEOUT)

    async def install(self, snapshot_fd: int, memo: Memo) -> Installed | Refused:
        """Offers a sealed snapshot. The descriptor stays the caller's."""
        reply = await self._request(Install(id=self._take_id(), memo=memo), (snapshot_fd,), INSTALL_TIMEOUT)
        if not isinstance(reply, Installed | Refused):
            raise ProtocolError("the data plane answered an install with something else")
        return reply

    async def status(self) -> Status:
        """Raises ChannelClosedError or TimeoutError."""
        reply = await self._request(StatusQuery(id=self._take_id()), (), STATUS_TIMEOUT)
        if not isinstance(reply, Status):
            raise ProtocolError("the data plane answered a status query with something else")
        return reply

    async def report(self) -> bytes:
        """What the terms of rules have come to, as JSON. Raises ChannelClosedError or TimeoutError."""
        reply = await self._request(ReportQuery(id=self._take_id()), (), STATUS_TIMEOUT)
        if not isinstance(reply, bytes):
            raise ProtocolError("the data plane answered a report query with something else")
        return reply

    def close(self) -> None:
        """Idempotent. Everybody who waits gets ChannelClosedError."""
        self._end(None)

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    async def _request(
        self, message: Install | StatusQuery | ReportQuery, fds: Sequence[int], seconds: float
    ) -> Reply | bytes:
        if self.closed.is_set():
            raise ChannelClosedError("the data plane is gone")
        if len(self._unsent) >= MAX_UNSENT:
            raise TimeoutError("the data plane does not read its control socket")
        packet = messages.encode(message)
        # Duplicated, because an unsent packet may outlive the caller's descriptor when the caller gives up.
        own = [os.dup(fd) for fd in fds]
        future: asyncio.Future[Reply | bytes] = self._loop.create_future()
        self._waiting[message.id] = future
        self._send(packet, own)
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise TimeoutError(f"the data plane did not answer within {seconds:g} s") from None
        finally:
            self._waiting.pop(message.id, None)

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        self._unsent.append((packet, fds))
        if len(self._unsent) == 1:
            self._writable()

    def _writable(self) -> None:
        while self._unsent:
            packet, fds = self._unsent[0]
            try:
                socket.send_fds(self._sock, [packet], fds)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                self._end(None)  # the data plane is gone; the reader would see the same a moment later
                return
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            # Not socket.recv_fds: it drops its flags, and every child of this process would inherit the descriptors.
            packet, ancillary, flags, _ = self._sock.recvmsg(
                messages.MAX_MESSAGE, socket.CMSG_LEN(MAX_FDS * array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end(None)
            return
        fds = [fd for _level, _type, data in ancillary for fd in array("i", data)]
        try:
            if not packet:
                self._end(None)
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ProtocolError(f"a packet larger than {messages.MAX_MESSAGE} bytes or {MAX_FDS} descriptors")
            self._dispatch(messages.decode(packet), fds)
        except ProtocolError as error:
            self._end(error)
        finally:
            for fd in fds:
                os.close(fd)

    def _dispatch(self, message: messages.Incoming, fds: list[int]) -> None:
        """Takes the descriptor that it hands on out of `fds`; what is left there is closed by the caller."""
        match message:
            case Hello():
                if self._hello.done() or len(fds) != 1:
                    raise ProtocolError("a second hello, or a hello without exactly one descriptor")
                self._hello.set_result((message, fds.pop()))
            case Installed() | Refused() | Status() | ReportTold():
                # An unknown id is the late answer to a request that has timed out: nobody waits, nothing is wrong.
                future = self._waiting.get(message.id)
                if future is not None and not future.done():
                    future.set_result(_report(fds) if isinstance(message, ReportTold) else message)
            case _:
                self._on_event(message)

    def _end(self, error: ProtocolError | None) -> None:
        if self.closed.is_set():
            return
        self.error = error
        self.closed.set()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        with contextlib.suppress(OSError):
            self._sock.close()
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()
        reason: Exception = error if error is not None else ChannelClosedError("the data plane is gone")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(reason)
        if not self._hello.done():
            self._hello.set_exception(reason)
            self._hello.exception()  # marks it as seen: nobody need be waiting for the hello


def _report(fds: list[int]) -> bytes:
    """What is in the one descriptor of a report."""
    if len(fds) != 1 or (size := os.fstat(fds[0]).st_size) > MAX_REPORT:
        raise ProtocolError("a report without exactly one descriptor, or a larger one than there can be")
    return os.pread(fds[0], size, 0)
