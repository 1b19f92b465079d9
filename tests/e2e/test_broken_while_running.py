"""No kind of broken policy file changes anything in a running gateway; each is told with its place and its fix."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from ..config.conftest import MARK
from ..config.test_broken_files import YAML
from ..config.test_broken_meaning import CASES
from .gateway import Gateway
from .servers import Server, echo
from .test_reload_live import alive, rules, tunnel

#: The YAML kinds of the configuration's own tests, mistakes of form and of meaning.
KINDS = [kind for kind in [*YAML, *CASES] if kind.ending == "yaml"]


def reload(gateway: Gateway) -> tuple[bytes, dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(30)
        control.connect(str(gateway.control))
        control.sendall(b"POST /reload HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := control.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], json.loads(body)


def test_every_broken_file_leaves_the_gateway_as_it_was(
    start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    upstream = serve(echo)
    gateway = start(rules(upstream.port))
    assert len(KINDS) >= 40
    with tunnel(gateway, upstream.port) as client:
        for kind in KINDS:
            gateway.policy_file.write_text(kind.text.replace(MARK, ""))
            status, outcome = reload(gateway)
            assert b" 422 " in status, f"{kind.name}: {outcome}"
            assert (outcome["result"], outcome["generation"]) == ("refused", 1), kind.name
            for error in outcome["errors"]:
                assert error["file"].endswith("policy.yaml") and error["line"] >= 1 and error["column"] >= 1, kind.name
                assert error["message"] and error.get("fix"), (kind.name, error)
            assert alive(client), kind.name
        gateway.write(rules(upstream.port))
        assert reload(gateway)[1]["result"] == "unchanged"
        assert alive(client)
