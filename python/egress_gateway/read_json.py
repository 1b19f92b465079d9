"""JSON → nodes. The json module says whether the text is JSON; a scan over text known to be valid finds the places."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import NoReturn

from egress_gateway.errors import Mark
from egress_gateway.positions import (
    MAX_DEPTH,
    MAX_NODES,
    Node,
    SyntaxProblem,
    duplicate_key,
    mark_at,
    too_deep,
    too_many,
)

_TOKEN = re.compile(r'[ \t\r\n]*("(?:[^"\\]|\\.)*"|[-+.0-9a-zA-Z]+|[\[\]{}:,])')


def read(text: str) -> Node | None:
    """The root; None for an empty text.

    Raises:
        SyntaxProblem: at the first place where the text is not JSON.
    """
    if not text.strip():
        return None
    _check_depth(text)
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _explain(error, text) from None
    except ValueError as error:
        raise SyntaxProblem(
            Mark(1, 1), "json", f"this is not JSON: {error}", "write numbers as digits, of sensible length"
        ) from None
    return _Scanner(text).node(1)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def _check_depth(text: str) -> None:
    # Ahead of json.loads(), whose own bound is the recursion of the interpreter.
    depth = 0
    for match in re.finditer(r'"(?:[^"\\\n]|\\.)*"|[\[\]{}]', text):
        word = match.group()
        if word in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise too_deep(mark_at(text, match.start()))
        elif word in "]}":
            depth -= 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._nodes = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def _token(self) -> tuple[str, Mark]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise SyntaxProblem(mark_at(self._text, self._at), "json", "this is not JSON", "check the line")
        self._at = match.end()
        start = match.start(1)
        line = bisect_right(self._lines, start)
        return match.group(1), Mark(line, start - self._lines[line - 1] + 1, len(match.group(1)))

    def node(self, depth: int, token: tuple[str, Mark] | None = None) -> Node:
        word, mark = token or self._token()
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise too_many(mark)
        if word == "[":
            return self._list(Node([], mark), depth)
        if word == "{":
            return self._map(Node({}, mark), depth)
        return Node(json.loads(word), mark)

    def _list(self, node: Node, depth: int) -> Node:
        token = self._token()
        while token[0] != "]":
            if token[0] == ",":
                token = self._token()
            item = self.node(depth + 1, token)
            node.add(len(node.items), item, item.mark)
            token = self._token()
        return node

    def _map(self, node: Node, depth: int) -> Node:
        word, mark = self._token()
        while word != "}":
            if word == ",":
                word, mark = self._token()
            key = json.loads(word)
            if key in node.keys:
                raise duplicate_key(key, mark, node.keys[key])
            self._token()
            node.add(key, self.node(depth + 1), mark)
            word, mark = self._token()
        return node


def _explain(error: json.JSONDecodeError, text: str) -> SyntaxProblem:
    rest = text[error.pos :].lstrip()
    before = text[: error.pos].rstrip()
    if error.msg.startswith("Illegal trailing comma") or (before.endswith(",") and rest[:1] in ("]", "}")):
        # Python 3.13 points at the comma, earlier ones behind it.
        comma = error.pos if text[error.pos] == "," else len(before) - 1
        message = "this is not JSON: a comma after the last item"
        return SyntaxProblem(mark_at(text, comma), "json", message, "remove the comma")
    if rest[:1] in ("/", "#"):
        fix = "JSON has no comments; use YAML or TOML, or the key `why`"
    elif rest[:1] == "'" or "double quotes" in error.msg:
        fix = 'put keys and texts in double quotes: "name"'
    elif "delimiter" in error.msg:
        fix = "put a comma between two items, and a colon between key and value"
    elif error.msg == "Extra data":
        fix = "a file holds one { … }; remove what follows it"
    elif not rest:
        fix = "the text ends too early: close what is still open"
    elif "control character" in error.msg or "Unterminated" in error.msg:
        fix = "close the quote on the same line; write a line break as \\n"
    elif "escape" in error.msg:
        fix = "write a backslash twice"
    else:
        fix = "write a text in double quotes, a number, true, false, [ … ] or { … }"
    return SyntaxProblem(
        Mark(error.lineno, error.colno), "json", f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}", fix
    )
