"""YAML → nodes, from libyaml's events, with the scalars of YAML 1.2: `on`, `no` and `12:30:00` are texts."""

from __future__ import annotations

import re
from typing import Any

import yaml

from egress_gateway.errors import Mark, quote
from egress_gateway.positions import MAX_DEPTH, MAX_NODES, Node, SyntaxProblem, duplicate_key, too_deep, too_many

# Aliases may add this many values to a file: enough for shared lists, too few for a bomb.
MAX_ALIAS_NODES = 100_000

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,40}")
_OCTAL = re.compile(r"0o[0-7]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,4})?")
_STR_TAG = "tag:yaml.org,2002:str"


def read(text: str) -> Node | None:
    """The root of the only document; None when there is none.

    Raises:
        SyntaxProblem: at the first place where the text is not the YAML that is read here.
    """
    try:
        return _Composer(text).document()
    except yaml.MarkedYAMLError as error:
        raise _explain(error, text) from None
    except yaml.reader.ReaderError as error:
        raise SyntaxProblem(
            Mark(1, 1), "yaml", f"this is not YAML text: {error.reason}", "save the file as UTF-8"
        ) from None


class _Composer:
    def __init__(self, text: str) -> None:
        self._loader = yaml.CSafeLoader(text)
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        self._alias_nodes = 0

    def document(self) -> Node | None:
        self._loader.get_event()
        event = self._loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        root = self._node(self._loader.get_event(), 1)
        self._loader.get_event()
        event = self._loader.get_event()
        if not isinstance(event, yaml.StreamEndEvent):
            raise SyntaxProblem(
                _mark(event),
                "two_documents",
                "a second document begins here",
                "put it in a file of its own, in one directory",
            )
        return None if root.value is None else root

    def _node(self, event: Any, depth: int) -> Node:
        mark = _mark(event)
        if depth > MAX_DEPTH:
            raise too_deep(mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "", mark)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise too_many(mark)
        if event.tag not in (None, "!", _STR_TAG):
            raise SyntaxProblem(mark, "yaml_tag", f"the tag {quote(event.tag)} is not read", "remove the tag")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(event.value if event.tag or not event.implicit[0] else resolve(event.value), mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, depth)
        else:
            node = self._mapping(mark, depth)
        # Only a finished node can be referred to, so no node can hold itself.
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _sequence(self, mark: Mark, depth: int) -> Node:
        node = Node([], mark)
        while not isinstance(event := self._loader.get_event(), yaml.SequenceEndEvent):
            item = self._node(event, depth + 1)
            node.add(len(node.items), item, item.mark)
        return node

    def _mapping(self, mark: Mark, depth: int) -> Node:
        node = Node({}, mark)
        while not isinstance(event := self._loader.get_event(), yaml.MappingEndEvent):
            place = _mark(event)
            if not isinstance(event, yaml.ScalarEvent):
                what = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or a map"
                raise SyntaxProblem(
                    place,
                    "yaml_key",
                    f"{what} cannot be a key",
                    "write the key as a text; quote it if it begins with * or {",
                )
            key = event.value
            if key == "<<" and event.implicit[0]:
                raise SyntaxProblem(
                    place, "yaml_merge", "merge keys (<<) are not read", "write the keys out, or use groups"
                )
            if key in node.keys:
                raise duplicate_key(key, place, node.keys[key])
            node.add(key, self._node(self._loader.get_event(), depth + 1), place)
        return node

    def _alias(self, anchor: str, mark: Mark) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            raise SyntaxProblem(
                mark,
                "unknown_alias",
                f'"*{anchor}" refers to an anchor that is not there',
                f'if the text is meant, quote it: "*{anchor}"',
            )
        self._alias_nodes += node.size
        if self._alias_nodes > MAX_ALIAS_NODES:
            raise SyntaxProblem(
                mark,
                "alias_bomb",
                f"aliases spell out to more than {MAX_ALIAS_NODES} values",
                "use groups for destinations that rules share",
            )
        return node


def resolve(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    # Most scalars are words: the first character tells, before any pattern is tried.
    if text[0] not in "+-.0123456789":
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text) or _OCTAL.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _mark(event: Any) -> Mark:
    start, end = event.start_mark, event.end_mark
    same = start.line == end.line and isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent))
    return Mark(start.line + 1, start.column + 1, max(1, end.column - start.column) if same else 1)


def _explain(error: yaml.MarkedYAMLError, text: str) -> SyntaxProblem:
    """libyaml's words, and what the author most likely meant."""
    place = error.problem_mark or error.context_mark
    mark = Mark(place.line + 1, place.column + 1) if place else Mark(1, 1)
    lines = text.split("\n")
    if mark.line > len(lines):
        # libyaml ends every text with a line of its own.
        mark = Mark(len(lines), len(lines[-1]) + 1)
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    problem = error.problem or "the text is not YAML"
    context = f"{error.context}: " if error.context else ""
    if "alias" in context:
        start = error.context_mark
        if start is not None:
            mark = Mark(start.line + 1, start.column + 1)
        name = re.match(r"\*[^\s,\]}]*", line[mark.column - 1 :])
        word = name.group() if name else "*.example.com"
        return SyntaxProblem(
            mark._replace(width=len(word)),
            "yaml",
            f"{quote(word)} begins an alias in YAML",
            f'put it in quotes: "{word}"',
        )
    if "\t" in line[: mark.column]:
        tab = line.index("\t") + 1
        return SyntaxProblem(Mark(mark.line, tab), "yaml", "a tab cannot indent YAML", "indent with spaces")
    if "mapping values are not allowed" in problem:
        fix = "check the indentation, and put a text that holds `: ` in quotes"
    elif "cannot start any token" in problem:
        fix = "put the text in quotes"
    elif "did not find expected key" in problem or "block end" in problem or "block mapping" in context:
        fix = "indent the keys of one map alike, and put a text with special characters in quotes"
    elif "flow" in context or "',' or" in problem:
        fix = "close the [ or { that is still open, and separate its items by commas"
    elif "quoted scalar" in context:
        fix = "close the quote; in double quotes a backslash is written twice"
    elif "expected ':'" in problem:
        fix = "write `key: value`, with a space after the colon"
    else:
        fix = "check quotes and indentation on this line and the line before"
    return SyntaxProblem(mark, "yaml", context + problem, fix)
