"""An HTTP/2 client that keeps to the letter what a test tells it, over a plain socket or TLS."""

from __future__ import annotations

import socket
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.connection import ConnectionInputs, ConnectionState

Headers = dict[str, str]


class Stream:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.headers: Headers = {}
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None


class Http2:
    """One connection; `wait` reads until something has come true."""

    def __init__(self, connection: socket.socket, *, window: int = 65535) -> None:
        self.socket = connection
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        # The library takes GOAWAY for the end of all; streams go on until their own (RFC 9113, section 6.8).
        machine, is_open = self.h2.state_machine, ConnectionState.CLIENT_OPEN
        machine._transitions = {**machine._transitions, (is_open, ConnectionInputs.RECV_GOAWAY): (None, is_open)}
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        self.closed = False
        self.pongs = 0
        #: Whether received bytes are given back to the server's windows at once.
        self.reads = True
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(self, headers: list[tuple[str, str]], *, end: bool = False) -> int:
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = Stream()
        self.h2.send_headers(number, headers, end_stream=end)
        self.flush()
        return number

    def connect(self, authority: str, **more: str) -> int:
        """Asks for a tunnel."""
        named = [(key.replace("_", "-"), value) for key, value in more.items()]
        return self.request([(":method", "CONNECT"), (":authority", authority), *named])

    def tunnel(self, authority: str) -> int:
        """A tunnel that is open."""
        number = self.connect(authority)
        self.wait(lambda: self.streams[number].headers or self.streams[number].reset is not None)
        assert self.streams[number].headers.get(":status") == "200", vars(self.streams[number])
        return number

    def answer(self, number: int) -> Stream:
        """The whole answer of a stream."""
        stream = self.streams[number]
        self.wait(lambda: stream.ended or stream.reset is not None)
        return stream

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        """Sends all, as far as the windows ever let it."""
        while data:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room == 0:
                self.step()
                continue
            self.h2.send_data(number, data[:room])
            data = data[room:]
            self.flush()
        if end:
            self.h2.end_stream(number)
            self.flush()

    def cancel(self, number: int, code: int = 8) -> None:
        self.h2.reset_stream(number, code)
        self.flush()

    def settle(self) -> None:
        """Comes back when the server has read all that was sent."""
        before = self.pongs
        self.h2.ping(b"12345678")
        self.flush()
        self.wait(lambda: self.pongs > before)

    def wait(self, probe: object, seconds: float = 15) -> None:
        self.socket.settimeout(seconds)
        while not probe():  # type: ignore[operator]
            assert not self.closed, f"the connection is closed (GOAWAY {self.goaway})"
            self.step()

    def step(self) -> None:
        """Reads once."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self.take(event)
        if not self.closed:
            self.flush()

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            return
        if isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
            return
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = {_text(name): _text(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            if self.reads:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
