"""What clients of the admin sockets cannot do: take all places, hold one for ever, send much, or see a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from egress_gateway.admin import guard
from egress_gateway.admin.http import Admin
from egress_gateway.channel import ChannelClosedError
from egress_gateway.messages import ProtocolError
from egress_gateway.outcome import Outcome

#: Seconds. What the tests give a client, instead of half a minute.
PATIENCE = 0.3


class Fake:
    """A service that says what the test wants."""

    def __init__(self) -> None:
        self.why_not: str | None = None
        self.trouble: Exception | None = None
        self.page = "metric 1\n"
        self.reloads = 0

    def metrics(self) -> str:
        return self.page

    def ready(self) -> str | None:
        return self.why_not

    async def status(self) -> dict[str, Any]:
        if self.trouble is not None:
            raise self.trouble
        return {"well": True}

    async def flows(self, _limit: int) -> list[dict[str, Any]]:
        return [await self.status()]

    async def reload(self, cause: str) -> Outcome:
        self.reloads += 1
        return Outcome(result="unchanged", cause=cause, time=0, seconds=0, generation=1, digest=None)


class Served:
    """`service` behind the real admin application on a loopback port, in a loop of its own."""

    def __init__(self, service: Fake, loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> None:
        self.service, self.loop, self.address = service, loop, address

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def ask(self, method: str, target: str, body: Any = None) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, target, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get_content_type()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def start(*, control: bool = True, **bounds: Any) -> Served:
            service, sock = Fake(), socket.create_server(("127.0.0.1", 0))
            address = sock.getsockname()
            ready: queue.SimpleQueue[Served] = queue.SimpleQueue()

            async def run() -> None:
                loop, end = asyncio.get_running_loop(), asyncio.Event()
                stack.callback(loop.call_soon_threadsafe, end.set)
                admin = Admin(service, **{"patience": PATIENCE, **bounds})
                await admin.serve(sock, control=control)
                ready.put(Served(service, loop, address))
                await end.wait()
                await admin.stop()

            thread = threading.Thread(target=lambda: uvloop.run(run()))
            stack.callback(thread.join)
            thread.start()
            return ready.get(timeout=10)

        yield start


def answered(client: socket.socket) -> bool:
    """Whether a request on this connection has an answer."""
    try:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.recv(4096).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def seconds_until_closed(client: socket.socket, trickle: bytes = b"") -> float:
    """How long the server holds on to a connection on which it hears `trickle`, one byte at a time."""
    began = time.monotonic()
    client.settimeout(0.05)
    for byte in [*trickle, *[None] * 200]:
        try:
            if byte is not None:
                client.sendall(bytes([byte]))
            if not client.recv(65536):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    else:
        raise AssertionError("it is held for ever")
    return time.monotonic() - began


def test_of_a_burst_so_many_are_let_in_and_no_more(serve: Callable[..., Served]) -> None:
    served = serve(connections=8, patience=30)
    # The loop is kept busy while they come, and meets all of them at once.
    served.loop.call_soon_threadsafe(time.sleep, 0.3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(40)]
        held = [client for client in clients if answered(client)]
        assert len(held) == 8
        with served.connect() as late:
            assert not answered(late)
        assert all(answered(client) for client in held), "the ones inside are not disturbed"
        held[0].close()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with served.connect() as next_one:
                if answered(next_one):
                    return
        raise AssertionError("the place that was left was not given to another")


HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "trickle"),
    [
        (b"", b""),
        (b"", HEAD),
        (HEAD, b""),
        (HEAD + b"\r\n", b""),
        (HEAD + b"\r\n", HEAD),
        (POST, b""),
        (POST, b"x" * 99),
    ],
    ids=[
        "nothing",
        "head in drops",
        "half a head",
        "idle after a request",
        "a second head in drops",
        "no body",
        "body in drops",
    ],
)
def test_a_connection_without_a_whole_request_is_closed(
    serve: Callable[..., Served], first: bytes, trickle: bytes
) -> None:
    served = serve()
    with served.connect() as client:
        client.sendall(first)
        took = seconds_until_closed(client, trickle)
    assert PATIENCE * 0.5 < took < PATIENCE + guard.LINGER + 1.5
    assert served.service.reloads == 0


def test_a_body_that_does_not_come_is_answered(serve: Callable[..., Served]) -> None:
    served = serve()
    with served.connect() as client:
        client.sendall(POST + b"half")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_is_not_taken_gives_its_place_back(serve: Callable[..., Served]) -> None:
    served = serve(connections=1)
    served.service.page = "x" * 50_000_000
    with served.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(10)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with served.connect() as other:
                if answered(other):
                    return
            time.sleep(0.05)
        raise AssertionError("the place is still taken")


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * 1000


@pytest.mark.parametrize("body", [lambda: b"x" * 1_000_000, lambda: chunks(1000)], ids=["length", "chunked"])
def test_a_large_body_is_refused(serve: Callable[..., Served], body: Callable[[], Any]) -> None:
    served = serve(patience=10)
    status, _, _ = served.ask("POST", "/reload", body())
    assert (status, served.service.reloads) == (413, 0)
    assert served.ask("POST", "/reload", b"x" * 100)[0] == 200
    assert served.service.reloads == 1


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000]
)
def test_what_is_no_http_is_refused_without_a_traceback(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture, noise: bytes
) -> None:
    served = serve()
    with served.connect() as client:
        client.sendall(noise)
        assert b" 400 Bad Request\r\n" in client.recv(4096)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_bug_of_ours_is_on_the_log(serve: Callable[..., Served], caplog: pytest.LogCaptureFixture) -> None:
    served = serve()
    served.service.trouble = ValueError("a bug")
    assert served.ask("GET", "/status")[0] == 500
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"Transfer-Encoding: chunked", b"zzz\r\n"),
        (b"Content-Length: 9", b"half"),
    ],
    ids=["no chunk", "half"],
)
@pytest.mark.parametrize("pause", [0, 0.1])
def test_a_broken_body_is_refused_without_a_traceback(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture, coding: bytes, body: bytes, pause: float
) -> None:
    served = serve()
    with served.connect() as client:
        client.sendall(b"POST /reload HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % coding)
        time.sleep(pause)
        client.sendall(body)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(4096)
    assert not answer or b" 40" in answer[:12]
    assert served.ask("GET", "/healthz")[0] == 200
    assert served.service.reloads == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_compressed_body_is_not_unpacked(serve: Callable[..., Served], caplog: pytest.LogCaptureFixture) -> None:
    served = serve()
    with served.connect() as client:
        client.sendall(POST.replace(b"100", b"9\r\nContent-Encoding: deflate") + b"nonsense!")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert not caplog.records


@pytest.mark.parametrize("why_not", ["draining", "no policy is in force"])
def test_it_is_not_ready_while_the_service_is_not(serve: Callable[..., Served], why_not: str) -> None:
    served = serve(control=False)
    served.service.why_not = why_not
    assert served.ask("GET", "/readyz")[:2] == (503, f"{why_not}\n".encode())
    assert served.ask("GET", "/healthz")[0] == 200
    served.service.why_not = None
    assert served.ask("GET", "/readyz")[:2] == (200, b"ok\n")


@pytest.mark.parametrize("target", ["/status", "/flows"])
@pytest.mark.parametrize(
    ("trouble", "code"), [(ChannelClosedError("gone"), 503), (ProtocolError("what?"), 503), (TimeoutError("slow"), 504)]
)
def test_a_lost_data_plane_is_said_in_json(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture, target: str, trouble: Exception, code: int
) -> None:
    served = serve()
    served.service.trouble = trouble
    status, body, kind = served.ask("GET", target)
    assert (status, kind) == (code, "application/json")
    assert json.loads(body) == {"error": str(trouble)}
    assert "Traceback" not in caplog.text
