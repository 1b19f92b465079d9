"""Several policy files → one: rules and listeners side by side, everything else key by key, no key from two files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from egress_gateway.config import Config
from egress_gateway.errors import ConfigError, Path, safe, show_path
from egress_gateway.positions import Source
from egress_gateway.section import Section
from egress_gateway.validate import BROKEN, fields

# Keys whose entries belong to the one who wrote them; the same entry twice is a mistake even if both are equal.
_KEYED: Final = (("groups",), ("lists",), ("links",), ("resolver", "hosts"))
_SECTIONS: Final = ("default", "budgets", "cluster", "users", "resolver", "timeouts", "admin", "log")
_SCALARS: Final = ("workers", "low_latency", "max_flows")

Origin = tuple[Source, Path]


class Merged:
    """Values by their path in the language, and where each was written."""

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []
        self.values: dict[Path, Any] = {}
        self.origins: dict[Path, Origin] = {}
        self.rules: list[tuple[Any, Origin]] = []
        self.listeners: list[tuple[Any, Origin]] = []
        self._names: dict[tuple[str, str], Origin] = {}

    def add(self, source: Source, config: Config) -> None:
        """Takes in what one file says."""
        written = source.root.value if source.root is not None else {}
        for key in ("listeners", "rules"):
            # "listener" and "rule", as messages call one of them.
            for index, item in enumerate(getattr(config, key)):
                if item is not BROKEN and self._is_new(key[:-1], item.name, source, (key, index)):
                    getattr(self, key).append((item, (source, (key, index))))
        for name in ("groups", "lists", "links"):
            self._keyed((name,), getattr(config, name), source)
        for name in _SECTIONS:
            if isinstance(written.get(name), dict):
                for path, value in _given(name, getattr(config, name), written[name]):
                    if path in _KEYED:
                        self._keyed(path, value, source)
                    else:
                        self._once(path, value, source)
        for name in _SCALARS:
            if name in written:
                self._once((name,), getattr(config, name), source)

    def section(self, name: str, section: Section) -> Any:
        """The section with what the files say in place of its defaults."""
        given = {
            item.attribute: self.values[name, item.name]
            for item in fields(type(section)).values()
            if (name, item.name) in self.values
        }
        return msgspec.structs.replace(section, **given)

    def keyed(self, *path: str) -> dict[str, Any]:
        """All entries under a key whose entries merge."""
        depth = len(path)
        return {
            str(item[depth]): value
            for item, value in self.values.items()
            if len(item) == depth + 1 and item[:depth] == path
        }

    def _keyed(self, path: Path, entries: dict[str, Any], source: Source) -> None:
        for name, value in entries.items():
            here = (*path, name)
            if here in self.origins:
                self._clash(source, here, self.origins[here], "is given twice", key=True)
            else:
                self.values[here] = value
                self.origins[here] = (source, here)

    def _once(self, path: Path, value: Any, source: Source) -> None:
        if path not in self.origins:
            self.values[path] = value
            self.origins[path] = (source, path)
        elif self.values[path] != value:
            self._clash(source, path, self.origins[path], "is given twice, with different values", key=True)

    def _is_new(self, kind: str, name: str, source: Source, path: Path) -> bool:
        first = self._names.setdefault((kind, name), (source, path))
        if first[1] == path and first[0] is source:
            return True
        message = f"the {kind} name `{safe(name)}` is taken: {place(first)}"
        self.errors.append(
            source.error((*path, "name"), f"duplicate_{kind}", message, "give one of the two another name")
        )
        return False

    def _clash(self, source: Source, path: Path, first: Origin, what: str, *, key: bool) -> None:
        message = f"`{show_path(path)}` {what}; first in {place(first)}"
        self.errors.append(source.error(path, "duplicate_key", message, "keep one of the two", key=key))


def place(origin: Origin) -> str:
    """`policy.yaml:14:9`."""
    source, path = origin
    mark = source.locate(path, key=True)
    return f"{source.file}:{mark.line}:{mark.column}"


def _given(name: str, section: Section, written: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    for item in fields(type(section)).values():
        if item.name in written:
            yield (name, item.name), getattr(section, item.attribute)
