"""With `share_by: namespace` the workloads of one Kubernetes namespace have a part together, as client certificates
name it, however many there are."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .gateway import Gateway, wait_for
from .servers import Server
from .test_shaping import flood
from .test_tls_to_the_proxy import GOOD, Keys, connect_to, exactly, policy, reach, with_ca

pytestmark = pytest.mark.alone

Start = Callable[..., Gateway]
Serve = Callable[..., Server]


class Count:
    """Bytes that the workloads of a namespace have received."""

    def __init__(self) -> None:
        self.bytes = 0

    def read(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.bytes += len(data)


def test_a_namespace_of_six_workloads_has_as_much_as_one_of_one(start: Start, serve: Serve, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    upstream = serve(flood)
    shared = (
        f'  - {{ name: shared, to: "{GOOD}:{upstream.port}", bandwidth: {{ max: 32 Mbit/s, share_by: namespace }} }}'
    )
    text = policy(keys, upstream.port, tls=with_ca(keys), rules=shared)
    gateway = start(text.replace(f'  - {{ name: allowed, to: "{GOOD}:{upstream.port}" }}\n', ""))
    counts = {"large": Count(), "small": Count()}
    workloads = [("large", n) for n in range(6)] + [("small", 0)]
    with contextlib.ExitStack() as stack:
        for namespace, number in workloads:
            identity = f"spiffe://prod.example/ns/{namespace}/sa/worker-{number}"
            client = stack.enter_context(reach(gateway, keys.context(keys.client(None, identity))))
            client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
            assert exactly(client, 39).startswith(b"HTTP/1.1 200")
            client.sendall(b"x")
            threading.Thread(target=counts[namespace].read, args=(client,), daemon=True).start()
        time.sleep(0.5)
        before = {name: count.bytes for name, count in counts.items()}
        wait_for("the small one's", lambda: counts["small"].bytes - before["small"] > 3_000_000, 30)
        large, small = (counts[name].bytes - before[name] for name in ("large", "small"))
        assert 0.75 < small / large < 1.33
