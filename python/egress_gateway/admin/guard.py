"""What stands in front of the admin application: how many connections, and who may ask for what."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

#: Connections at once on each socket. Counted apart, so that a flood of scrapers cannot lock the operator out.
MAX_CONNECTIONS: Final = 64
#: Bytes of a request's body; the only request that could have one is POST /reload, and it needs none.
MAX_BODY: Final = 4096
#: Seconds that a client has for each of these: the head of its request (silence between two requests included), the
#: body, and taking the answer. A scraper gives up sooner.
PATIENCE: Final = 30.0
#: Seconds in which the rest of a refused body is thrown away, so that its sender sees the answer and not a reset.
LINGER: Final = 1.0


def _is_news(record: logging.LogRecord) -> bool:
    """Broken HTTP is answered with 400. On the log its traceback would be anybody's to write, as often as he likes."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


#: For the server's own words.
LOG: Final = logging.getLogger(__name__)
LOG.addFilter(_is_news)


class Door(asyncio.Protocol):
    """Lets a connection in to `server`, or closes it when it is one too many. Decides when the connection is made: of
    the ones of a burst whose protocol is made before that, the server knows nothing yet."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server, self._most = server, most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._server.connections) >= self._most:
            transport.close()
            return
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


def patient(seconds: float) -> Middleware:
    """A client has so long for the body of its request, and again for taking the answer. (The keep-alive time-out of
    aiohttp is the bound for the head.)"""

    @web.middleware
    async def within(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(seconds):
                await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the request did not come in time\n") from None
        except ConnectionError:
            raise web.HTTPBadRequest from None  # nobody is there to read it; it is no bug of ours either
        try:
            return await handler(request)
        finally:
            # What is left of this task is the sending of the answer, which waits for the client.
            transport, task = request.transport, asyncio.current_task()
            if transport is not None and task is not None:
                late = asyncio.get_running_loop().call_later(seconds, transport.abort)
                task.add_done_callback(lambda _: late.cancel())

    return within


def _is_own_host(host: str) -> bool:
    """An address or localhost. A name would be a page of the Internet that DNS has pointed at us (DNS rebinding)."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]")
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@web.middleware
async def over_tcp(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whoever can reach the port may look, and nothing else."""
    if not _is_own_host(request.host):
        raise web.HTTPForbidden(text="ask for this page by address, or as localhost\n")
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(
            request.method, ["GET", "HEAD"], text="changes are made over the control socket: egress reload\n"
        )
    return await handler(request)
