"""A data plane that says something wrong, too much, or nothing at all: each has one end, and no descriptor is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from egress_gateway import channel as channels
from egress_gateway import messages
from egress_gateway.channel import Channel, ChannelClosedError
from egress_gateway.messages import Event, Installed, Memo, ProtocolError

MEMO = Memo(admin=None, log="off")
HELLO = {
    "type": "hello",
    "pid": 1,
    "boot": 1,
    "generation": 0,
    "digest": None,
    "options": {"config": ["x"], "new": 1},
}
STATUS = {
    "type": "status",
    "generation": 7,
    "digest": None,
    "uptime_ms": 1,
    "draining": False,
    "workers": [],
    "listeners": [],
}


class Peer:
    """The data plane's end, and a channel on the other."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.channel = Channel(ours, self.events.put_nowait)
        #: What travels as a descriptor in these tests.
        self.memory = os.memfd_create("memory")

    def say(self, message: dict[str, Any] | bytes, *fds: int) -> None:
        packet = message if isinstance(message, bytes) else json.dumps({"v": messages.VERSION, **message}).encode()
        socket.send_fds(self.sock, [packet], fds)

    async def hear(self) -> tuple[dict[str, Any], list[int]]:
        while True:
            with contextlib.suppress(BlockingIOError):
                packet, fds, _, _ = socket.recv_fds(self.sock, messages.MAX_MESSAGE, 8)
                return json.loads(packet), fds
            await asyncio.sleep(0)

    async def end(self) -> ProtocolError | None:
        await asyncio.wait_for(self.channel.closed.wait(), 5)
        return self.channel.error


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Peer]:
    peer = Peer()
    try:
        yield peer
    finally:
        peer.channel.close()
        peer.sock.close()
        os.close(peer.memory)


def descriptors() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


def same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def played(play: Callable[[Peer], Coroutine[Any, Any, None]]) -> None:
    """Runs `play`, and looks that it leaves as many descriptors as it found, nobody waiting and no broken callback."""
    broken: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: broken.append(context))
        async with connected() as peer:
            await play(peer)
            assert peer.channel._waiting == {}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))
        before = descriptors()
        runner.run(run())
        assert descriptors() == before
    assert broken == []


WRONG: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "oversize": (b'{"v": 2, "type": "reload"}'.ljust(messages.MAX_MESSAGE + 1), "packet larger"),
    "unknown type": ({"type": "resign"}, "resign"),
    "unknown key": ({"type": "reload", "why": "because"}, "why"),
    "a key too few": ({"type": "installed", "id": 1}, "generation"),
    "what only we say": ({"type": "install", "id": 1}, "install"),
    "another version": ({"type": "reload", "v": messages.VERSION + 1}, "restart the gateway"),
    "no version": (b'{"type": "reload"}', "restart the gateway"),
    "not JSON": (b"reload", "not a message"),
    "not text": (b'{"v": 2, "type": "\xff"}', "not a message"),
    "a hello without memory": (HELLO, "without exactly one descriptor"),
}


@pytest.mark.parametrize(("packet", "why"), WRONG.values(), ids=WRONG)
def test_what_it_does_not_understand_ends_it_with_a_reason(packet: dict[str, Any] | bytes, why: str) -> None:
    async def play(peer: Peer) -> None:
        asking = asyncio.create_task(peer.channel.status())
        await peer.hear()
        peer.say(packet)
        with pytest.raises(ProtocolError, match=why):
            await asking
        assert await peer.end() is not None
        with pytest.raises(ChannelClosedError):
            await peer.channel.status()
        assert peer.events.empty()

    played(play)


def test_the_largest_packet_is_still_heard() -> None:
    async def play(peer: Peer) -> None:
        packet = json.dumps({"v": messages.VERSION, "type": "draining"}).encode()
        peer.say(packet.ljust(messages.MAX_MESSAGE))
        assert isinstance(await peer.events.get(), messages.Draining)

    played(play)


def test_the_hello_hands_over_its_descriptor_and_a_second_one_does_not() -> None:
    async def play(peer: Peer) -> None:
        peer.say(HELLO, peer.memory)
        hello, ours = await peer.channel.hello()
        assert same(ours, peer.memory) and hello.options.config == ["x"]
        assert not os.get_inheritable(ours)
        peer.say(HELLO, peer.memory)
        assert await peer.end() is not None
        os.close(ours)

    played(play)


@pytest.mark.parametrize("count", [1, channels.MAX_FDS, channels.MAX_FDS + 1])
def test_descriptors_that_nobody_asked_for_are_closed(count: int) -> None:
    async def play(peer: Peer) -> None:
        peer.say({"type": "reload"}, *[peer.memory] * count)
        if count > channels.MAX_FDS:
            assert await peer.end() is not None
        else:
            await peer.events.get()

    played(play)


def test_the_end_of_the_peer_is_told_to_all_who_wait() -> None:
    async def play(peer: Peer) -> None:
        asking = [
            asyncio.create_task(peer.channel.hello()),
            asyncio.create_task(peer.channel.status()),
            asyncio.create_task(peer.channel.install(peer.memory, MEMO)),
        ]
        await asyncio.sleep(0)
        peer.sock.close()
        assert await peer.end() is None
        for each in asking:
            with pytest.raises(ChannelClosedError):
                await each

    played(play)


def test_a_request_is_given_up_in_time_and_its_late_answer_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "STATUS_TIMEOUT", 0.05)

    async def play(peer: Peer) -> None:
        with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
            await peer.channel.status()
        late, _ = await peer.hear()
        peer.say({**STATUS, "id": late["id"]})
        asking = asyncio.create_task(peer.channel.status())
        now, _ = await peer.hear()
        assert now["id"] != late["id"]
        peer.say({**STATUS, "id": now["id"], "generation": 8})
        assert (await asking).generation == 8

    played(play)


def test_a_hello_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "HELLO_TIMEOUT", 0.05)

    async def play(peer: Peer) -> None:
        with pytest.raises(TimeoutError):
            await peer.channel.hello()

    played(play)


def test_an_answer_of_the_other_kind_is_an_error() -> None:
    async def play(peer: Peer) -> None:
        asking = asyncio.create_task(peer.channel.status())
        asked, _ = await peer.hear()
        peer.say({"type": "installed", "id": asked["id"], "generation": 1, "changed": True})
        with pytest.raises(ProtocolError):
            await asking

    played(play)


def test_a_snapshot_goes_out_as_a_descriptor_and_the_callers_stays_his() -> None:
    async def play(peer: Peer) -> None:
        asking = asyncio.create_task(peer.channel.install(peer.memory, MEMO))
        asked, fds = await peer.hear()
        assert [same(fd, peer.memory) for fd in fds] == [True]
        os.close(fds[0])
        assert asked["type"] == "install" and asked["memo"] == {"admin": None, "log": "off"}
        peer.say({"type": "installed", "id": asked["id"], "generation": 1, "changed": True})
        assert isinstance(await asking, Installed)
        os.fstat(peer.memory)

    played(play)


@pytest.mark.parametrize("fault", ["a memo too large", "no such descriptor"])
def test_a_request_that_cannot_be_sent_leaves_nothing_behind(fault: str) -> None:
    async def play(peer: Peer) -> None:
        large = Memo(admin=None, log="x" * messages.MAX_MESSAGE)
        with pytest.raises((ProtocolError, OSError)):
            await (peer.channel.install(peer.memory, large) if "memo" in fault else peer.channel.install(-1, MEMO))
        assert not peer.channel.closed.is_set()

    played(play)


@pytest.mark.parametrize("reads_again", [True, False])
def test_a_peer_that_does_not_read_is_asked_so_often_and_no_more(
    monkeypatch: pytest.MonkeyPatch, reads_again: bool
) -> None:
    monkeypatch.setattr(channels, "INSTALL_TIMEOUT", 0.2)

    async def play(peer: Peer) -> None:
        asking = [asyncio.create_task(peer.channel.install(peer.memory, MEMO)) for _ in range(1000)]
        said = [str(error) for error in await asyncio.gather(*asking, return_exceptions=True)]
        refused = sum("does not read" in each for each in said)
        sent = 1000 - refused - channels.MAX_UNSENT
        assert sent > 0 and refused > 0, "the socket's buffer was filled, and the queue behind it"
        if not reads_again:
            return  # and what was kept is closed with the channel
        for _ in range(sent + channels.MAX_UNSENT):
            _, fds = await peer.hear()
            os.close(fds[0])
        asked = asyncio.create_task(peer.channel.status())
        now, _ = await peer.hear()
        peer.say({**STATUS, "id": now["id"]})
        assert (await asked).generation == 7

    played(play)
