"""Plain values → structs, with every mistake reported and not only the first.

msgspec does the work where nothing is wrong, which is nearly always. Where it refuses a value, the value is taken apart
key by key, so that each part is either taken or reported.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from egress_gateway.config import decode_unit
from egress_gateway.errors import ConfigError, Path, quote, safe
from egress_gateway.positions import Source, describe
from egress_gateway.section import Section
from egress_gateway.units import Allowance, Duration, Rate, UnitError, Until

#: In place of a value that was reported.
BROKEN: Final[Any] = object()
#: In place of the key that one of a later version stands for: it may be any.
LATER: Final = "(later)"
# Share of letters that must agree for a suggestion; difflib's own default.
_LIKENESS = 0.6
# YAML 1.1 took these for booleans; this language does not, and says what they mean.
_BOOL_WORDS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


class Field(msgspec.Struct, frozen=True):
    """A key of a section."""

    name: str
    attribute: str
    type: Any
    required: bool


_fields: dict[type[Section], dict[str, Field]] = {}


def fields(section: type[Section]) -> dict[str, Field]:
    """The keys of a section, as users write them, in the order of their definition."""
    if section not in _fields:
        hints = get_type_hints(section, include_extras=True)
        _fields[section] = {
            item.encode_name: Field(item.encode_name, item.name, hints[item.name], item.required)
            for item in msgspec.structs.fields(section)
        }
    return _fields[section]


class Validator:
    """Reads one source; what is wrong with it gathers in `errors`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.errors: list[ConfigError] = []
        #: The places that were reported.
        self.paths: set[Path] = set()

    def report(self, path: Path, code: str, message: str, fix: str, *, key: bool = False) -> None:
        """Adds a mistake at `path`."""
        self.paths.add(path)
        self.errors.append(self._source.error(path, code, message, fix, key=key))

    def read(self, kind: Any, value: Any, path: Path = ()) -> Any:
        """The value as `kind`, without its broken parts; BROKEN when nothing of it can be used."""
        try:
            return msgspec.convert(value, kind, dec_hook=decode_unit, strict=True)
        except (msgspec.ValidationError, UnitError):
            pass
        options = _options(kind)
        if value is None:
            self.report(
                path,
                "no_value",
                f"`{_name(path)}` has no value",
                f"write {_expected(kind)}, or remove the key",
                key=True,
            )
            return BROKEN
        if isinstance(value, dict):
            for option in options:
                if isinstance(option, type) and issubclass(option, Section):
                    return self._section(option, value, path)
                if get_origin(option) is dict:
                    return self._map(get_args(option)[1], value, path)
        if isinstance(value, list):
            for option in options:
                if get_origin(option) is list:
                    return self._list(get_args(option)[0], value, path)
        self._scalar(kind, options, value, path)
        return BROKEN

    def _section(self, section: type[Section], value: dict[Any, Any], path: Path) -> Any:
        known = fields(section)
        # The keys that a misspelt or a postponed one stands for are not reported as missing as well.
        meant = {self._unknown_key(section, key, path) for key in value if key not in known}
        taken = {}
        for key, item in known.items():
            if key in value:
                part = self.read(item.type, value[key], (*path, key))
                if part is not BROKEN:
                    taken[item.attribute] = part
            elif item.required and not meant & {key, LATER}:
                self._missing(section, key, path)
        if any(item.required and item.attribute not in taken for item in known.values()):
            return BROKEN
        return section(**taken)

    def _map(self, kind: Any, value: dict[Any, Any], path: Path) -> Any:
        taken = {key: self.read(kind, item, (*path, key)) for key, item in value.items()}
        return {key: item for key, item in taken.items() if item is not BROKEN}

    def _list(self, kind: Any, value: list[Any], path: Path) -> Any:
        # A broken item stays in its place: the numbers of the others are how later checks name them.
        return [self.read(kind, item, (*path, index)) for index, item in enumerate(value)]

    def _unknown_key(self, section: type[Section], key: str, path: Path) -> str | None:
        """Reports a key that is not there, and gives the one that was meant."""
        here = (*path, key)
        later = section.later.get(key)
        if later is not None:
            self.report(here, "not_in_this_version", f"`{key}` is not in this version", later, key=True)
            return LATER
        known = list(fields(section))
        near = nearest(key, known)
        fix = f"did you mean `{near}`?" if near else f"the keys here are {', '.join(known)}"
        self.report(here, "unknown_key", f"unknown key `{safe(key)}`", fix, key=True)
        return near

    def _missing(self, section: type[Section], key: str, path: Path) -> None:
        if path == ():
            # The version line: said as a beginner needs it.
            self.report((), "missing_key", "the file does not say `egress: v1`", "add `egress: v1` as the first line")
            return
        example = example_of(fields(section)[key].type)
        self.report(path, "missing_key", f"`{key}` is missing", f"add `{key}: {example}`")

    def _scalar(self, kind: Any, options: list[Any], value: Any, path: Path) -> None:
        literals = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
        if literals and isinstance(value, str):
            near = nearest(value, literals)
            expected = _expected(kind)
            fix = f"did you mean `{near}`?" if near else f"write {expected}"
            self.report(path, "bad_value", f"expected {expected}, found {quote(value)}", fix)
            return
        for option in options:
            if option in (Allowance, Duration, Rate, Until):
                try:
                    option.parse(value)
                except UnitError as error:
                    self.report(path, "bad_value", str(error), error.fix)
                return
        found = quote(value) if isinstance(value, str) else describe(value)
        self.report(path, "bad_value", f"expected {_expected(kind)}, found {found}", _fix(options, kind, value))


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word that was most likely meant, if one is near."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=_LIKENESS)
    return near[0] if near else None


def strip(kind: Any) -> Any:
    """The type without its documentation and without `UNSET`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _options(kind: Any) -> list[Any]:
    """The types of a union, each bare."""
    return [strip(option) for option in _documented(kind)]


def _documented(kind: Any) -> list[Any]:
    """The types of a union, each with its own bounds."""
    bare = strip(kind)
    if get_origin(bare) in (Union, types.UnionType):
        return [option for part in get_args(bare) for option in _documented(part)]
    return [] if bare is msgspec.UnsetType else [kind]


def metas(kind: Any) -> Iterable[msgspec.Meta]:
    """Every `Meta` on a type and on the parts of its union."""
    if get_origin(kind) is Annotated:
        yield from (meta for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta))
        yield from metas(get_args(kind)[0])
    elif get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from metas(part)


def _bounds(kind: Any) -> tuple[int | None, int | None, int | None]:
    low: int | None = None
    high: int | None = None
    length: int | None = None
    for meta in metas(kind):
        low = int(meta.ge) if meta.ge is not None else low
        high = int(meta.le) if meta.le is not None else high
        length = meta.max_length if meta.max_length is not None else length
    return low, high, length


def words_of(kind: Any) -> list[str]:
    """The kinds of value that a type takes, in words; also what the reference prints."""
    shown = []
    for documented in _documented(kind):
        low, high, length = _bounds(documented)
        option = strip(documented)
        if get_origin(option) is Literal:
            shown += [f"`{word}`" for word in get_args(option)]
        elif option is str:
            shown.append(f"a text of at most {length} characters" if length else "a text")
        elif option is bool:
            shown.append("true or false")
        elif option is int:
            shown.append(f"a whole number from {low} to {high}" if high is not None else "a whole number")
        elif option is Duration:
            shown.append("a duration")
        elif option is Rate:
            shown.append("a rate")
        elif option is Allowance:
            shown.append("bytes in a period")
        elif option is Until:
            shown.append("a date")
        elif get_origin(option) is list:
            shown.append("a list")
        else:
            shown.append("a map of keys")
    return shown


def _expected(kind: Any) -> str:
    return " or ".join(words_of(kind)).replace("`", "")


def example_of(kind: Any) -> str:
    """The first example of a key, or its first word."""
    for meta in metas(kind):
        if meta.examples:
            first = meta.examples[0]
            return first if isinstance(first, str) else msgspec.json.encode(first).decode()
    return next((str(get_args(option)[0]) for option in _options(kind) if get_origin(option) is Literal), "…")


def _fix(options: list[Any], kind: Any, value: Any) -> str:
    if bool in options:
        word = _BOOL_WORDS.get(value.lower()) if isinstance(value, str) else None
        return f"write {word or 'true or false'}, without quotes"
    if str in options and isinstance(value, (bool, int, float)):
        if isinstance(value, bool) and not value:
            return 'put it in quotes if the word is meant: "off"'
        return "put it in quotes if a text is meant"
    if str in options and isinstance(value, str):
        return "make it shorter"
    if int in options and isinstance(value, str):
        return "write a bare number, without quotes or a unit"
    if any(get_origin(option) is list for option in options) and str not in options:
        return "write a list: [ … ]"
    if any(isinstance(option, type) and issubclass(option, Section) for option in options):
        section = next(option for option in options if isinstance(option, type) and issubclass(option, Section))
        return f"write a map of keys: {', '.join(fields(section))}"
    return f"write {_expected(kind)}"


def _name(path: Path) -> str:
    return next((safe(item) for item in reversed(path) if isinstance(item, str)), "the file")
