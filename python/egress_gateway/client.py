"""Asks the running gateway over its control socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Final

#: Seconds. A reload of a very large policy takes the longest.
TIMEOUT: Final = 180.0


class NoGatewayError(Exception):
    """Nobody answers at the control socket. The text says what to do."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, method: str, target: str) -> tuple[int, bytes]:
    """Status and body of one request. Raises NoGatewayError."""
    connection = _Connection(path)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except PermissionError:
        raise NoGatewayError(
            f"the control socket {path} is not yours; run this as the gateway's user (or root)"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise NoGatewayError(
            f"no gateway answers at {path} ({what}); start one with `egress run`, or name its socket with --control"
        ) from None
    finally:
        connection.close()


def ask_json(path: str, method: str, target: str) -> tuple[int, Any]:
    """As `ask`, for an endpoint that answers JSON."""
    status, body = ask(path, method, target)
    try:
        return status, json.loads(body)
    except ValueError:
        raise NoGatewayError(f"{path} answered {status}, and not as a gateway does") from None
