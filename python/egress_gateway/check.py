"""Load and compile: the one way to a policy, for `egress run`, for a reload and for `egress check` alike."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from egress_core._dataplane import Policy, PolicyError
from egress_gateway.document import Document
from egress_gateway.errors import ConfigError, ConfigErrors, Path
from egress_gateway.load import Draft, Loaded
from egress_gateway.merge import Origin
from egress_gateway.messages import Memo

# What the compiler says of names that it does not find: worthless while something is missing from the document.
_REFERENCES = frozenset(
    {"unknown_name", "unknown_group", "unknown_reference", "no_cluster", "unknown_link", "no_link", "unused_share"}
)


class Checked(msgspec.Struct, frozen=True):
    """A configuration without a mistake, compiled."""

    loaded: Loaded
    policy: Policy
    document: Document

    def memo(self) -> Memo:
        """What the next control process has to know of it."""
        return Memo(admin=self.loaded.admin, log=self.loaded.log)

    def error(self, path: Path, code: str, message: str, fix: str) -> ConfigError:
        """An error at the place in a file that a path of the document comes from, if there is one."""
        return _error(self.document.trace(path), code, message, fix)


def check(paths: Iterable[str | os.PathLike[str]]) -> Checked:
    """Reads, merges and compiles. Blocks for as long as that takes; the compiler releases the GIL.

    Raises:
        ConfigErrors: with every mistake, those of the files and those that only the compiler sees.
    """
    draft = Draft(paths)
    try:
        policy = Policy.compile(draft.document.encode())
    except PolicyError as error:
        for path, code, message, fix in error.problems:
            _take_over(draft, tuple(path), code, message, fix)
        if not draft.errors:
            # Nothing but what follows from something else: say it rather than pass a policy that does not exist.
            raise
    if draft.errors:
        raise ConfigErrors(draft.sorted_errors())
    return Checked(draft.loaded(), policy, draft.document)


def _error(origin: Origin | None, code: str, message: str, fix: str) -> ConfigError:
    if origin is None:
        return ConfigError(file="-", code=code, message=message, fix=fix)
    source, place = origin
    return source.error(place, code, message, fix)


def _take_over(draft: Draft, path: Path, code: str, message: str, fix: str) -> None:
    """A problem of the document becomes an error of a file, unless it follows from an error that is there already."""
    origin = draft.document.trace(path)
    if origin is None:
        if not draft.errors:
            draft.errors.append(_error(None, code, message, fix))
        return
    source, place = origin
    reported = draft.reported.get(source.file, set())
    if any(_related(place, other) for other in reported):
        return
    if draft.errors and (code == "tie" or (draft.partial and code in _REFERENCES)):
        return
    draft.errors.append(_error(origin, code, message, fix))


def _related(one: Path, other: Path) -> bool:
    shorter = min(len(one), len(other))
    # The file as a whole (a missing version line) says nothing of its parts.
    return shorter > 0 and one[:shorter] == other[:shorter]
