"""The pages and the local control: one application, served on a loopback port and on a unix socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from egress_gateway.admin import guard
from egress_gateway.channel import ChannelClosedError
from egress_gateway.messages import ProtocolError
from egress_gateway.outcome import Outcome

#: Live flows in one answer.
MAX_FLOWS: Final = 100_000
#: Seconds that open requests have to end when the server stops.
SHUTDOWN: Final = 0.5

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

INDEX: Final = """egress gateway

/metrics   Prometheus metrics
/healthz   200 while the control plane runs
/readyz    200 while the data plane serves a policy and is not draining

status, flows, links and reload are on the control socket: egress status, egress flows, egress links, egress reload
"""


class Service(Protocol):
    """What the application shows and does."""

    async def metrics(self) -> str: ...
    async def report(self) -> bytes: ...
    def ready(self) -> str | None:
        """Why not, or None."""

    async def status(self) -> dict[str, Any]: ...
    async def flows(self, limit: int) -> list[dict[str, Any]]: ...
    async def reload(self, cause: str) -> Outcome: ...


class Admin:
    """Serves `service` on the sockets given to it until `stop`; see `guard` for the bounds."""

    def __init__(
        self, service: Service, *, connections: int = guard.MAX_CONNECTIONS, patience: float = guard.PATIENCE
    ) -> None:
        self._service = service
        self._connections = connections
        self._patience = patience
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []

    async def serve(self, sock: socket.socket, *, control: bool) -> None:
        """`control`: also what changes or reveals more than metrics. For the owner's unix socket only."""
        before = [guard.patient(self._patience), *([] if control else [guard.over_tcp])]
        app = web.Application(middlewares=before, client_max_size=guard.MAX_BODY)
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        if control:
            app.router.add_get("/status", self._status)
            app.router.add_get("/flows", self._flows)
            app.router.add_get("/report", self._report)
            app.router.add_post("/reload", self._reload)
        runner = web.AppRunner(
            app,
            logger=guard.LOG,
            access_log=None,
            keepalive_timeout=self._patience,
            lingering_time=guard.LINGER,
            auto_decompress=False,
            shutdown_timeout=SHUTDOWN,
            handle_signals=False,
        )
        await runner.setup()
        self._runners.append(runner)
        server = runner.server
        assert server is not None
        loop = asyncio.get_running_loop()

        def make() -> guard.Door:
            return guard.Door(server, self._connections)

        if sock.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(make, sock=sock))
        else:
            self._servers.append(await loop.create_server(make, sock=sock))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for runner in self._runners:
            await runner.cleanup()

    async def _index(self, _request: web.Request) -> web.Response:
        return web.Response(text=INDEX)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=(await self._service.metrics()).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        why_not = self._service.ready()
        return web.Response(text=f"{why_not or 'ok'}\n", status=503 if why_not else 200)

    async def _status(self, _request: web.Request) -> web.Response:
        return await _answer(self._service.status)

    async def _report(self, _request: web.Request) -> web.Response:
        return await _answer(self._service.report)

    async def _flows(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "1000")
        if not text.isdecimal() or not 1 <= int(text) <= MAX_FLOWS:
            raise web.HTTPBadRequest(text=f"limit is a number from 1 to {MAX_FLOWS}\n")
        return await _answer(lambda: self._service.flows(int(text)))

    async def _reload(self, _request: web.Request) -> web.Response:
        outcome = await self._service.reload("command")
        return _json(outcome, 200 if outcome.ok else 422)


async def _answer(ask: Callable[[], Awaitable[Any]]) -> web.Response:
    try:
        return _json(await ask(), 200)
    except TimeoutError as error:
        logging.getLogger(__name__).warning("%s", error)
        return _json({"error": str(error)}, 504)
    except (ChannelClosedError, ProtocolError) as error:
        # The data plane ended while it was asked, or is not understood; this process is about to end.
        return _json({"error": str(error)}, 503)


def _json(value: Any, status: int) -> web.Response:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json")
