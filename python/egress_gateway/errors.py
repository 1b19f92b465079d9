"""What is wrong in a policy file, where, and what to write instead.

Errors are values. They are collected, all of them, and shown together: a person who repairs a file wants the whole
list, not the first line of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

# As many as a screen or two can hold; what is beyond is counted, not hidden.
SHOWN_ERRORS = 50
# Characters of a source line that are shown around the caret; a minified JSON file is one line of megabytes.
EXCERPT_WIDTH = 110
# Characters of the offending text that are quoted in a message.
QUOTED_WIDTH = 60

PathItem = str | int
Path = tuple[PathItem, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
# C0, DEL, C1 and the marks that reorder text on a terminal.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


# In an address (`redis://user:password@host`): what is shown of a file may end up in logs.
_PASSWORD = re.compile(r"""(?<=://)([^\s"'/@:]*:)([^\s"'/]*)(?=@)""")


def _without_passwords(text: str) -> str:
    """As long as it was, or a caret below it would stand elsewhere."""
    return _PASSWORD.sub(lambda match: match[1] + "*" * len(match[2]), text)


class Mark(NamedTuple):
    """A place in a file: line and column count from 1, in characters; `width` is how many characters are meant."""

    line: int
    column: int
    width: int = 1


class ConfigError(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake. `line` is 0 when the file as a whole is meant (it cannot be read, it is missing); `file` is `-` when
    no file is to blame."""

    file: str
    message: str
    fix: str
    code: str
    line: int = 0
    column: int = 0
    width: int = 1
    path: str = ""
    text: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("message", "text", "source"):
            msgspec.structs.force_setattr(self, key, _without_passwords(getattr(self, key)))

    @property
    def place(self) -> str:
        """`file:line:column`, or the file alone, or nothing."""
        if self.file == "-":
            return ""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def headline(self) -> str:
        """`policy.yaml:14:9: rules[3].to[1]: message`."""
        return ": ".join(part for part in (safe(self.place), safe(self.path), safe(self.message)) if part)

    def render(self) -> str:
        """The headline, the source line with a caret under the offending text, and what to write instead."""
        lines = [self.headline()]
        if self.line and self.source.strip():
            excerpt, caret = _excerpt(self.source, self.column, self.width)
            gutter = f"{self.line:>5}"
            lines += [f"{gutter} | {excerpt}", f"{' ' * len(gutter)} | {caret}"]
        if self.fix:
            lines.append(f"  fix: {safe(self.fix)}")
        return "\n".join(lines)


class ConfigErrors(Exception):
    """Every mistake of a configuration, in the order of files and lines."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors: tuple[ConfigError, ...] = tuple(errors)
        super().__init__(f"{len(self.errors)} configuration error(s)")

    def render(self, limit: int = SHOWN_ERRORS) -> str:
        """For people: at most `limit` errors in full, then how many more there are."""
        shown = [error.render() for error in self.errors[:limit]]
        if len(self.errors) > limit:
            shown.append(f"… and {len(self.errors) - limit} more")
        return "\n".join(shown)

    def as_json(self) -> str:
        """For machines: one JSON object with every error."""
        return json.dumps({"ok": False, "errors": [msgspec.to_builtins(error) for error in self.errors]})

    def __str__(self) -> str:
        return self.render()


def show_path(path: Sequence[PathItem]) -> str:
    """`rules[3].to[1]`; keys that are no plain words are quoted."""
    shown = ""
    for item in path:
        if isinstance(item, int):
            shown += f"[{item}]"
        elif _PLAIN_KEY.fullmatch(item):
            shown += f".{item}" if shown else item
        else:
            shown += f"[{json.dumps(item, ensure_ascii=False)}]"
    return shown


def safe(text: str) -> str:
    """The text with everything escaped that a terminal would act on."""
    return _UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)


def quote(text: str) -> str:
    """The text in double quotes, cut to a length that fits in a message."""
    cut = text if len(text) <= QUOTED_WIDTH else text[: QUOTED_WIDTH - 1] + "…"
    return '"' + safe(cut) + '"'


def _excerpt(source: str, column: int, width: int) -> tuple[str, str]:
    """The part of the line around the column, and a caret line that stands under it."""
    # One character on the screen per character of the file, or the caret would stand elsewhere.
    shown = _UNPRINTABLE.sub(" ", source)
    at = max(0, min(column - 1, len(shown)))
    start = 0 if len(shown) <= EXCERPT_WIDTH else max(0, at - EXCERPT_WIDTH // 2)
    end = min(len(shown), start + EXCERPT_WIDTH)
    head, tail = ("…" if start else ""), ("…" if end < len(shown) else "")
    carets = "^" * max(1, min(width, end - at))
    return head + shown[start:end] + tail, " " * (len(head) + at - start) + carets
