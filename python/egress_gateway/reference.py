"""docs/reference/config.md, written from the definitions in `config`: `python -m egress_gateway.reference > FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

import msgspec

from egress_gateway.config import DEFAULT_LISTENERS, Config
from egress_gateway.section import Section
from egress_gateway.units import Duration
from egress_gateway.validate import Field, fields, metas, strip, words_of

_HEAD: Final = """\
# Configuration reference

Generated from `python/egress_gateway/config.py` by `python -m egress_gateway.reference`; do not edit.

A policy file is YAML (`.yaml`, `.yml`), TOML (`.toml`) or JSON (`.json`), told apart by its ending. Every file begins
with `egress: v1`. Several files, or a directory of them, count as one: rules and listeners are put side by side, and a
key that two files give with different values is an error. Unknown keys are errors. A key that is written needs a value.

Durations are a number and its unit: `250ms`, `5s`, `10m` (minutes), `1h`, `5d`. Rates are bits per second: `64 kbit/s`,
`50 Mbit/s`, `2 Gbit/s`. Bytes in a period are `500 MB/hour`, `5 GB/day`, `1 TB/month`, of 1,000.
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, section in _sections():
        parts.append(_section(title, section))
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, type[Section]]]:
    """Every section with the path under which users find it, outermost first."""
    queue: list[tuple[str, type[Section]]] = [("", Config)]
    for title, section in queue:
        yield title, section
        for item in fields(section).values():
            dot = f"{title}.{item.name}" if title else item.name
            queue += [(dot + suffix, inner) for inner, suffix in _inner(item.type)]


def _inner(kind: Any) -> Iterator[tuple[type[Section], str]]:
    """The section that a key holds, by itself, in a list or under names."""
    bare = strip(kind)
    if isinstance(bare, type) and issubclass(bare, Section):
        yield bare, ""
    elif get_origin(bare) is dict:
        yield from ((inner, ".NAME" + suffix) for inner, suffix in _inner(get_args(bare)[1]))
    else:
        many = "[]" if get_origin(bare) is list else ""
        found = {inner: many + suffix for part in get_args(bare) for inner, suffix in _inner(part)}
        yield from found.items()


def _section(title: str, section: type[Section]) -> str:
    heading = f"## `{title}`" if title else "## The file"
    summary = " ".join((section.__doc__ or "").split())
    lines = [heading, "", summary, "", "| key | value | default | meaning | example |", "|---|---|---|---|---|"]
    lines += [_row(section, item) for item in fields(section).values()]
    if section.later:
        later = ", ".join(f"`{key}`" for key in section.later)
        lines += ["", f"Not in this version: {later}."]
    if section is Config:
        lines += ["", "The built-in listeners:", "", "```yaml", "listeners:"]
        lines += [
            f'  - {{ name: {each.name}, bind: "{each.bind}", accept: {each.accept} }}' for each in DEFAULT_LISTENERS
        ]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _row(section: type[Section], item: Field) -> str:
    description = next((meta.description for meta in metas(item.type) if meta.description), "")
    examples = [example for meta in metas(item.type) for example in meta.examples or ()]
    shown = ", ".join(f"`{_plain(example)}`" for example in examples)
    cells = [f"`{item.name}`", ", ".join(words_of(item.type)), _default(section, item), description, shown]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(section: type[Section], item: Field) -> str:
    if item.required:
        return "required"
    info = next(each for each in msgspec.structs.fields(section) if each.name == item.attribute)
    value = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
    if value is msgspec.UNSET or isinstance(value, Section):
        return ""
    if isinstance(value, Duration):
        return f"`{value}`"
    return f"`{_plain(value)}`"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


if __name__ == "__main__":
    sys.stdout.write(reference())
