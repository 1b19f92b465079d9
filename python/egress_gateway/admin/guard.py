"""What stands in front of the admin application: how many connections, and who may ask for what."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

#: Connections at once on each socket. Counted apart, so that a flood of scrapers cannot lock the operator out.
MAX_CONNECTIONS: Final = 64
#: Bytes of a request's body; the only request that could have one is POST /reload, and it needs none.
MAX_BODY: Final = 4096


class _Full(asyncio.Protocol):
    """Closes the connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def door(server: web.Server) -> asyncio.BaseProtocol:
    """The protocol for one more connection of `server`."""
    return _Full() if len(server.connections) >= MAX_CONNECTIONS else server()


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
