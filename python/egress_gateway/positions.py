"""Text of YAML, TOML or JSON → a tree that remembers where each value stands.

All three readers give the same `Node`s and refuse the same things: a key written twice, nesting or size beyond its
bound, bytes that are not UTF-8 text.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, Final

from egress_gateway.errors import ConfigError, Mark, PathItem, safe

# Bytes of one file. A policy of 100,000 rules has about 20 MB; long lists of names belong in a list file.
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
# The language nests five deep. More is an attack on recursion.
MAX_DEPTH: Final = 32
# Values of one file, aliases counted as often as they are used: nine lines of aliases can spell a billion values.
MAX_NODES: Final = 5_000_000
# Characters of a source line kept for an error.
_LINE_CHARS: Final = 4096

FORMATS: Final = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Node:
    """A value, where it stands, and its parts with where their keys stand. Aliases share one node."""

    __slots__ = ("items", "keys", "mark", "size", "value")

    def __init__(self, value: Any, mark: Mark) -> None:
        self.value = value
        self.mark = mark
        self.items: dict[PathItem, Node] = {}
        self.keys: dict[PathItem, Mark] = {}
        # How many values it spells out to.
        self.size = 1

    def add(self, key: PathItem, node: Node, mark: Mark) -> None:
        """Puts a part in place, in the plain value as well."""
        self.items[key] = node
        self.keys[key] = mark
        self.size += node.size
        if isinstance(self.value, list):
            self.value.append(node.value)
        else:
            self.value[key] = node.value


class SyntaxProblem(Exception):
    """Text that cannot be read as its format."""

    def __init__(self, mark: Mark, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.mark, self.code, self.message, self.fix = mark, code, message, fix


class Source:
    """A file that was read: its lines for excerpts, and its tree for the places of values."""

    def __init__(self, file: str, text: str, root: Node | None = None) -> None:
        self.file = file
        self.root = root
        self._text = text
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """The text of a line, counted from 1; empty when there is no such line."""
        if self._lines is None:
            # Not splitlines(): it also breaks at characters that no editor counts as the end of a line.
            self._lines = self._text.replace("\r\n", "\n").split("\n")
        return self._lines[number - 1][:_LINE_CHARS] if 0 < number <= len(self._lines) else ""

    def locate(self, path: tuple[PathItem, ...], *, key: bool = False) -> Mark:
        """Where the value at `path` stands (or its key), or the nearest value around it that is written."""
        if self.root is None:
            return Mark(1, 1)
        node, mark = self.root, self.root.mark
        for position, item in enumerate(path):
            child = node.items.get(item)
            if child is None:
                break
            last = position == len(path) - 1
            mark = node.keys[item] if key and last else child.mark
            node = child
        return mark

    def error(
        self,
        path: tuple[PathItem, ...],
        code: str,
        message: str,
        fix: str,
        *,
        key: bool = False,
        mark: Mark | None = None,
    ) -> ConfigError:
        """An error at `path`, with what is written there."""
        from egress_gateway.errors import show_path

        mark = mark or self.locate(path, key=key)
        source = self.line(mark.line)
        return ConfigError(
            file=self.file,
            line=mark.line,
            column=mark.column,
            width=mark.width,
            path=show_path(path),
            text=safe(source[mark.column - 1 : mark.column - 1 + mark.width]),
            message=message,
            fix=fix,
            code=code,
            source=source,
        )


def parse(file: str, data: bytes) -> tuple[Source, list[ConfigError]]:
    """Reads a file's bytes by the ending of its name. A source without a root comes with the errors that say why."""
    if len(data) > MAX_FILE_BYTES:
        fix = "split it into files of one directory; long lists of names belong in `lists`"
        message = f"the file has {len(data)} bytes; at most {MAX_FILE_BYTES} are read"
        return Source(file, ""), [ConfigError(file=file, code="too_large", message=message, fix=fix)]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        source = Source(file, data.decode("utf-8-sig", errors="replace"))
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        problem = SyntaxProblem(
            mark_at(before, len(before)),
            "not_utf8",
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            "save the file as UTF-8",
        )
        return source, [_as_error(source, problem)]
    source = Source(file, text)
    try:
        source.root = _read(PurePath(file).suffix.lower(), text)
    except SyntaxProblem as problem:
        return source, [_as_error(source, problem)]
    return source, []


def _read(ending: str, text: str) -> Node:
    from egress_gateway import read_json, read_toml, read_yaml

    if control := _CONTROL.search(text):
        raise SyntaxProblem(
            mark_at(text, control.start()),
            "control_character",
            f"control character U+{ord(control.group()):04X}",
            "remove it; in a quoted text write it as an escape",
        )
    readers = {"yaml": read_yaml.read, "toml": read_toml.read, "json": read_json.read}
    form = FORMATS.get(ending)
    if form is None:
        raise SyntaxProblem(
            Mark(1, 1),
            "unknown_format",
            f'files ending in "{safe(ending)}" are not read',
            "use .yaml, .yml, .toml or .json",
        )
    root = readers[form](text)
    if root is None or (root.value == {} and not root.items):
        raise SyntaxProblem(Mark(1, 1), "empty_file", "the file is empty", "begin it with " + _FIRST_LINE[form])
    if not isinstance(root.value, dict):
        raise SyntaxProblem(
            root.mark,
            "not_a_map",
            f"the file holds {describe(root.value)}, not keys",
            "begin it with " + _FIRST_LINE[form],
        )
    return root


_FIRST_LINE = {"yaml": "`egress: v1`", "toml": '`egress = "v1"`', "json": '`{"egress": "v1"}`'}


def _as_error(source: Source, problem: SyntaxProblem) -> ConfigError:
    return source.error((), problem.code, problem.message, problem.fix, mark=problem.mark)


def mark_at(text: str, offset: int, width: int = 1) -> Mark:
    """The place of an offset in a text."""
    start = text.rfind("\n", 0, offset) + 1
    return Mark(text.count("\n", 0, offset) + 1, offset - start + 1, width)


def describe(value: object) -> str:
    """What a value is, in words for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the word {'true' if value else 'false'}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a map of keys"
    return "a date or time"


def duplicate_key(key: str, mark: Mark, first: Mark) -> SyntaxProblem:
    """The same key twice in one map: which of the two was meant?"""
    return SyntaxProblem(
        mark, "duplicate_key", f"`{safe(key)}` is given twice; first on line {first.line}", "keep one of the two"
    )


def too_deep(mark: Mark) -> SyntaxProblem:
    """Nesting beyond `MAX_DEPTH`."""
    return SyntaxProblem(mark, "too_deep", f"nested deeper than {MAX_DEPTH} levels", "the language needs five")


def too_many(mark: Mark) -> SyntaxProblem:
    """More values than `MAX_NODES`."""
    return SyntaxProblem(
        mark,
        "too_many_values",
        f"more than {MAX_NODES} values, aliases counted where they are used",
        "use groups or list files",
    )
