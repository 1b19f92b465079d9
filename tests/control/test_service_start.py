"""What stops a start stops it with every reason; what breaks later stops nothing."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.gateway import Gateway, running, wait_for


def refused(folder: Path, policy: str) -> str:
    folder.mkdir()
    gateway = Gateway(folder, policy)
    try:
        assert gateway.process.wait(30) == 78
    finally:
        gateway.stop()
    assert "Traceback" not in gateway.stderr()
    return gateway.stderr()


def test_a_broken_first_policy_ends_the_gateway_with_all_its_errors(tmp_path: Path) -> None:
    said = refused(tmp_path / "g", "rules:\n  - { name: a, to: ['*'] }\n  - { name: b, to: ['x..example'] }\n")
    assert "rules[0]" in said and "rules[1]" in said


def test_a_port_that_is_taken_is_named_with_its_listener(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(
            tmp_path / "g",
            f'listeners:\n  - {{ name: front, bind: "127.0.0.1:{port}", accept: connect }}\nrules: []\n',
        )
    assert "front" in said and str(port) in said
    assert "policy.yaml:5:26: listeners[0].bind: " in said


def test_more_reasons_than_one_message_holds_are_counted(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        listeners = "".join(
            f'  - {{ name: listener-{n}, bind: "127.0.0.{n}:{port}", accept: connect }}\n' for n in range(1, 251)
        )
        said = refused(tmp_path / "g", f"listeners:\n{listeners}rules: []\n")
    assert "listener listener-1: " in said and "250 errors" in said and "… and 200 more" in said


def test_a_control_plane_that_starts_over_broken_files_serves_the_old_policy(tmp_path: Path) -> None:
    with running(tmp_path / "g", "rules: []\n") as gateway:
        gateway.write("rules: 5\n")
        old = gateway.control_pid()
        assert old is not None
        os.kill(old, signal.SIGKILL)
        wait_for("the next control process", lambda: gateway.control_pid() not in (None, old))
        wait_for("status", lambda: gateway.egress("status", "--json").returncode == 0)
        # It answers before it has read the files.
        wait_for("the error", lambda: gateway.status()["config_error"] is True)
        assert gateway.status()["generation"] == 1
        families = {one.name: one for one in text_string_to_metric_families(gateway.egress("metrics").stdout)}
        broken = [one for name, one in families.items() if name.endswith("config_error")]
        assert [sample.value for one in broken for sample in one.samples] == [1.0]


def test_the_tcp_port_answers_its_own_names_and_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "g", "rules: []\n") as gateway:
        address = gateway.status()["admin"]

        def ask(method: str, target: str, host: str = "localhost") -> int:
            connection = http.client.HTTPConnection(address, timeout=10)
            try:
                connection.request(method, target, headers={"Host": host})
                return connection.getresponse().status
            finally:
                connection.close()

        assert [ask("GET", page) for page in ("/", "/healthz", "/readyz", "/metrics")] == [200] * 4
        assert ask("GET", "/metrics", host="rebound.example") == 403
        assert ask("POST", "/reload") in (404, 405) and ask("POST", "/metrics") == 405
        assert ask("GET", "/status") == ask("GET", "/flows") == 404
