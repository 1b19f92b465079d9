"""No kind of broken policy file changes anything in a running gateway; each is told with its place and its fix."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .gateway import Gateway
from .servers import Server, echo
from .test_reload_live import alive, rules, tunnel

CONFIG_TESTS = Path(__file__).resolve().parents[1] / "config"


def kinds() -> list[Any]:
    """The YAML kinds of the configuration's own tests, mistakes of form and of meaning."""
    sys.path.insert(0, str(CONFIG_TESTS))
    try:
        found = []
        for module, names in (("test_broken_files", ["YAML"]), ("test_broken_meaning", ["CASES"])):
            spec = importlib.util.spec_from_file_location(f"kinds_{module}", CONFIG_TESTS / f"{module}.py")
            assert spec is not None and spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
            for name in names:
                found += [kind for kind in getattr(loaded, name) if kind.ending == "yaml"]
        return found
    finally:
        sys.path.remove(str(CONFIG_TESTS))


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
    broken = kinds()
    assert len(broken) >= 40
    with tunnel(gateway, upstream.port) as client:
        for kind in broken:
            gateway.policy_file.write_text(kind.text.replace("⟦", ""))
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
