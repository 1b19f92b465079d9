"""A reload that changes what only a restart can is refused whole, and each such change is named with its place."""

from __future__ import annotations

from pathlib import Path

from .gateway import running

FRONT = '  - { name: front, bind: "127.0.0.1:0", accept: connect }\n'
BACK = '  - { name: back, bind: "127.0.0.1:0", accept: tls }\n'
POLICY = f"""egress: v1
workers: 1
admin: {{ bind: off }}
log: {{ decisions: off }}
listeners:
{FRONT}{BACK}rules: []
"""
WHILE = "while the gateway runs"
#: What is replaced by what, and what is said of it.
CHANGES = {
    "added": (
        "rules",
        BACK.replace("back", "new") + "rules",
        "policy.yaml:8:5: listeners[2]: listener new cannot be added",
    ),
    "removed": (BACK, "", "listener back cannot be removed"),
    "changed": (
        "accept: tls",
        "accept: tls, port: 8443",
        "policy.yaml:7:59: listeners[1].port: `port` of listener back cannot change",
    ),
    "in another order": (FRONT + BACK, BACK + FRONT, "the order of the listeners cannot change"),
    "a number": ("workers: 1", "workers: 2", "policy.yaml:2:10: workers: `workers` cannot change"),
    "a number that is no longer written": ("workers: 1\n", "", "`workers` cannot change"),
    "the log": (
        "decisions: off",
        "decisions: stderr",
        "policy.yaml:4:19: log.decisions: `log.decisions` cannot change",
    ),
}


def test_each_change_is_named_with_its_place(tmp_path: Path) -> None:
    with running(tmp_path / "g", POLICY) as gateway:
        for what, (old, new, said) in CHANGES.items():
            gateway.write(POLICY.replace(old, new))
            done = gateway.egress("reload")
            assert done.returncode == 1, what
            lines = [line.removeprefix(f"{gateway.folder}/") for line in done.stderr.splitlines()]
            assert [line[: len(said)] for line in lines if WHILE in line] == [said], done.stderr
            assert "  fix: put it back, or restart the gateway (it drains first)" in lines
            assert gateway.status()["generation"] == 1
