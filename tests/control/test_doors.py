"""What the policy says of log and pages must be possible before anything is served."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.control.test_service_start import refused


def test_a_log_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    said = refused(tmp_path / "g", f"log: {{ decisions: {tmp_path}/missing/log.jsonl }}\nrules: []\n")
    assert "missing/log.jsonl" in said and "log.decisions" in said
    assert "serves" not in said, "no listener was opened"


def test_an_admin_port_that_is_taken_ends_the_start_and_leaves_no_socket(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(tmp_path / "g", f'admin: {{ bind: "127.0.0.1:{taken.getsockname()[1]}" }}\nrules: []\n')
    assert "admin" in said and "--admin" in said
    assert not (tmp_path / "g" / "egress.sock").exists()
