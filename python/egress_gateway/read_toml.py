"""TOML → nodes. tomllib reads the text; a scan over text known to be valid finds where keys and values stand."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Any

from egress_gateway.errors import Mark, PathItem
from egress_gateway.positions import MAX_DEPTH, MAX_NODES, Node, SyntaxProblem, mark_at, too_deep, too_many

_BLANK = re.compile(r"[ \t]*")
# Between two things of a list or of the file: blanks, line ends and comments.
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def read(text: str) -> Node | None:
    """The root; None for a text without a key.

    Raises:
        SyntaxProblem: at the first place where the text is not TOML.
    """
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _explain(str(error), text) from None
    except RecursionError:
        raise too_deep(Mark(1, 1)) from None
    except ValueError as error:
        raise SyntaxProblem(
            Mark(1, 1), "toml", f"this is not TOML: {error}", "write numbers of sensible length"
        ) from None
    if not plain:
        return None
    root = _Scanner(text).document()
    _attach(root, plain, 1)
    return root


def _attach(node: Node, plain: Any, depth: int) -> None:
    """Gives the places their values."""
    if depth > MAX_DEPTH:
        raise too_deep(node.mark)
    node.value = plain
    for key, child in node.items.items():
        _attach(child, plain[key], depth + 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        # tomllib counts a CRLF as one line end; so does this, as \r is a blank here.
        self._text = text
        self._at = 0
        self._nodes = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> Node:
        root = self._node({}, 0, 0)
        table = root
        self._skip(_SPACE)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header(root)
            else:
                self._pair(table)
            self._skip(_SPACE)
        return root

    def _header(self, root: Node) -> Node:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        keys = self._dotted()
        self._at += 2 if many else 1
        table = root
        for key, mark in keys[:-1]:
            table = self._last(self._child(table, key, mark))
        key, mark = keys[-1]
        if not many:
            return self._child(table, key, mark)
        tables = table.items.get(key)
        if tables is None:
            tables = self._node([], 0, 0)
            self._put(table, key, tables, mark)
        fresh = Node({}, mark)
        self._put(tables, len(tables.items), fresh, mark)
        return fresh

    def _child(self, table: Node, key: str, mark: Mark) -> Node:
        child = table.items.get(key)
        if child is None:
            child = Node({}, mark)
            self._put(table, key, child, mark)
        return child

    def _last(self, node: Node) -> Node:
        """A header below an array of tables means its last table."""
        return node.items[len(node.items) - 1] if isinstance(node.value, list) else node

    def _pair(self, table: Node) -> None:
        keys = self._dotted()
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        for key, mark in keys[:-1]:
            table = self._child(table, key, mark)
        key, mark = keys[-1]
        self._put(table, key, self._value(), mark)

    def _dotted(self) -> list[tuple[str, Mark]]:
        keys = []
        while True:
            self._skip(_BLANK)
            start = self._at
            match = _STRING.match(self._text, start) or _BARE_KEY.match(self._text, start)
            if match is None:
                raise self._lost()
            self._at = match.end()
            word = match.group()
            key = next(iter(tomllib.loads(f"{word}=0"))) if word[0] in "\"'" else word
            keys.append((key, self._mark(start, self._at)))
            self._skip(_BLANK)
            if self._text[self._at : self._at + 1] != ".":
                return keys
            self._at += 1

    def _value(self) -> Node:
        start = self._at
        first = self._text[start : start + 1]
        if first == "[":
            return self._list()
        if first == "{":
            return self._inline()
        match = _STRING.match(self._text, start) or _SCALAR.match(self._text, start)
        if match is None:
            raise self._lost()
        self._at = match.end()
        return self._node(None, start, start + len(match.group().rstrip()))

    def _list(self) -> Node:
        node = self._node([], self._at, self._at + 1)
        self._at += 1
        while True:
            self._skip(_SPACE)
            if self._text[self._at : self._at + 1] == ",":
                self._at += 1
            elif self._text[self._at : self._at + 1] == "]":
                self._at += 1
                return node
            else:
                item = self._value()
                self._put(node, len(node.items), item, item.mark)

    def _inline(self) -> Node:
        node = self._node({}, self._at, self._at + 1)
        self._at += 1
        while True:
            self._skip(_SPACE)
            if self._text[self._at : self._at + 1] == ",":
                self._at += 1
            elif self._text[self._at : self._at + 1] == "}":
                self._at += 1
                return node
            else:
                self._pair(node)

    @staticmethod
    def _put(node: Node, key: PathItem, child: Node, mark: Mark) -> None:
        node.items[key] = child
        node.keys[key] = mark

    def _node(self, value: Any, start: int, end: int) -> Node:
        self._nodes += 1
        mark = self._mark(start, end)
        if self._nodes > MAX_NODES:
            raise too_many(mark)
        return Node(value, mark)

    def _mark(self, start: int, end: int) -> Mark:
        line = bisect_right(self._lines, start)
        # The width of a text over several lines would underline what is beside it.
        width = end - start if line == bisect_right(self._lines, max(start, end - 1)) else 1
        return Mark(line, start - self._lines[line - 1] + 1, max(1, width))

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _lost(self) -> SyntaxProblem:
        return SyntaxProblem(mark_at(self._text, self._at), "toml", "this is not TOML", "check the line")


def _explain(said: str, text: str) -> SyntaxProblem:
    match = _PLACE.fullmatch(said)
    message = match.group(1) if match else said
    mark = (
        Mark(int(match.group(2)), int(match.group(3)))
        if match and match.group(2)
        else mark_at(text, len(text.rstrip()))
    )
    if "overwrite" in message or "twice" in message or "declare" in message:
        return SyntaxProblem(
            mark, "duplicate_key", f"this key or table is given twice: {message.lower()}", "keep one of the two"
        )
    if "Invalid value" in message:
        fix = "put texts in double quotes; numbers, true, false and dates stand bare"
    elif "'='" in message:
        fix = 'write `key = "value"`'
    elif "Unclosed array" in message or "inline table" in message:
        fix = "close the [ or { that is still open, and separate its items by commas"
    elif "newline or end of document" in message:
        fix = "begin a new line; a text goes in double quotes"
    elif "escape" in message:
        fix = "write a backslash twice, or use single quotes"
    elif "string" in message.lower() or "character" in message:
        fix = "close the quote on the same line"
    else:
        fix = "check quotes, brackets and the equals sign on this line"
    return SyntaxProblem(mark, "toml", f"this is not TOML: {message[:1].lower()}{message[1:]}", fix)
