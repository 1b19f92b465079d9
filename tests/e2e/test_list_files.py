"""A list file is part of the policy: loading it is no change, editing it is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .gateway import Gateway, wait_for
from .test_failures import ask


def test_a_list_is_loaded_once_and_its_edit_is_seen(start: Callable[..., Gateway], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one.example\n")
    policy = f"""
resolver: {{ hosts: {{ one.example: 127.0.0.1, two.example: 127.0.0.1 }} }}
lists: {{ some: {{ file: "{names}" }} }}
rules: [{{ name: listed, to: ["some:9"] }}]
"""
    time.sleep(0.1)
    gateway = start(policy)
    # Long enough for two looks of the watcher's poll.
    time.sleep(5)
    assert gateway.status()["last_reload"]["cause"] == "start", "nothing has changed, so nothing is loaded again"
    assert ask(gateway, "two.example", 9).startswith(b"HTTP/1.1 403")
    names.write_text("one.example\ntwo.example\n")
    wait_for("the edit", lambda: ask(gateway, "two.example", 9).startswith(b"HTTP/1.1 502"))
    assert gateway.status()["generation"] == 2
