"""YAML is read by the rules of its version 1.2, and its tricks cannot be used against the reader."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from egress_gateway.errors import ConfigErrors
from egress_gateway.load import load
from egress_gateway.positions import parse
from egress_gateway.read_yaml import resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("NO", "NO"), ("true", True), ("False", False), ("~", None),
        ("null", None),
        ("12:30:45", "12:30:45"), ("1_000", "1_000"), ("010", 10), ("0o10", 8), ("0x1f", 31), ("1e3", 1000.0),
        ("1.5", 1.5),
        ("10.0.0.1", "10.0.0.1"), ("2026-12-01", "2026-12-01"), (".x", ".x"), ("-", "-"), ("=", "="),
    ],
)  # fmt: skip
def test_words_are_what_they_look_like(text: str, value: Any) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_quotes_make_a_text() -> None:
    source, _ = parse("p.yaml", b"a: 'true'\nb: \"5\"\nc: !!str 7\n")
    assert source.root is not None
    assert source.root.value == {"a": "true", "b": "5", "c": "7"}


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "egress: v1\ngroups:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 10):
        bomb += f"  a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]\n"
    (tmp_path / "policy.yaml").write_text(bomb)
    started = time.monotonic()
    with pytest.raises(ConfigErrors, match="aliases spell out to more than 100000 values") as caught:
        load([tmp_path])
    # Seconds; expanding it would take a billion values.
    assert time.monotonic() - started < 2
    assert len(caught.value.errors) == 1


def test_an_anchor_cannot_hold_itself() -> None:
    source, errors = parse("p.yaml", b"egress: v1\ngroups: &g { a: [ *g ] }\n")
    assert source.root is None
    assert "an anchor that is not there" in errors[0].message


def test_aliases_serve_for_shared_lists(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "egress: v1\nrules:\n  - { name: a, to: &t [x.example] }\n  - { name: b, to: *t, deny: true }\n"
    )
    assert load([tmp_path]).document.count(b'"x.example"') == 2


def test_text_that_is_not_utf8_is_named_by_its_place() -> None:
    _, (error,) = parse("p.yaml", b"egress: v1\nworkers: \xff\n")
    assert (error.line, error.column, error.message) == (2, 10, "byte 0xff is not UTF-8 text")


def test_a_byte_order_mark_and_crlf_do_not_matter() -> None:
    source, errors = parse("p.yaml", b"\xef\xbb\xbfegress: v1\r\nworkers: 2\r\n")
    assert not errors
    assert source.locate(("workers",)).line == 2


def test_a_file_beyond_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egress_gateway.positions.MAX_FILE_BYTES", 10)
    _, (error,) = parse("p.yaml", b"egress: v1\n# ")
    assert error.code == "too_large"


def test_ten_thousand_rules_load_in_seconds(tmp_path: Path) -> None:
    rules = "".join(
        f"  - name: r{n}\n    from: {{ cidr: 10.0.0.0/8 }}\n    to: [ a{n}.example, 'b{n}.example:8443' ]\n"
        for n in range(10_000)
    )
    (tmp_path / "policy.yaml").write_text("egress: v1\nrules:\n" + rules)
    started = time.monotonic()
    load([tmp_path])
    # Seconds; about one on an idle machine. Quadratic work would take minutes.
    assert time.monotonic() - started < 15
