"""Whatever bytes a policy file holds, the answer is a configuration or errors with a place; never another exception."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from egress_gateway.errors import ConfigErrors
from egress_gateway.load import load

TEXTS = {
    "p.yaml": "egress: v1\ndefault: { mode: audit }\nrules:\n  - name: a\n"
    "    to: [ &t x.example, *t ]\n    until: 2026-12-01\n",
    "p.toml": 'egress = "v1"\n[default]\nmode = "audit" # c\n'
    '[[rules]]\nname = "a"\nto = ["x", """y"""]\nuntil = 2026-12-01\n',
    "p.json": '{"egress": "v1", "default": {"mode": "audit"},\n "rules": [{"name": "a", "to": ["x"], "deny": true}]}',
}
PIECES = [
    "\n",
    " ",
    "\t",
    '"',
    "'",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "*",
    "&",
    "#",
    "-",
    "=",
    "\\",
    "0",
    "é",
    "\x00",
    "null",
    '"""',
    "1e9",
]
# Mutations of each text: a second or two in all.
ROUNDS = 400


@pytest.mark.parametrize("name", TEXTS)
def test_mutated_files_give_errors_only(name: str, tmp_path: Path) -> None:
    chance = random.Random(name)
    for _ in range(ROUNDS):
        text = TEXTS[name]
        for _ in range(chance.randint(1, 3)):
            start = chance.randrange(len(text))
            text = text[:start] + chance.choice(PIECES) + text[start + chance.randint(0, 4) :]
        (tmp_path / name).write_text(text)
        try:
            load([tmp_path / name])
        except ConfigErrors as caught:
            lines = text.count("\n") + 1
            assert caught.errors
            assert all(0 < each.line <= lines and each.column > 0 and each.fix for each in caught.errors), text
            caught.render()
