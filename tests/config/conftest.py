"""Broken files, written with a mark where the error is expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from egress_gateway.check import check
from egress_gateway.errors import ConfigError, ConfigErrors

#: Stands in a text right before the place that the error must name.
MARK = "⟦"


class Broken(NamedTuple):
    """A file's ending, its text with the mark, and parts of the message and of the fix that must be shown."""

    name: str
    ending: str
    text: str
    message: str
    fix: str


Errors = Callable[..., tuple[ConfigError, ...]]


@pytest.fixture
def errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Errors:
    """Writes files (name → text) below a directory and gives what `check` says of them."""
    monkeypatch.chdir(tmp_path)

    def run(*paths: str, **files: str) -> tuple[ConfigError, ...]:
        for name, text in files.items():
            (tmp_path / name.replace("__", "/").replace("_", ".")).write_text(text)
        with pytest.raises(ConfigErrors) as caught:
            check(paths or [name.replace("__", "/").replace("_", ".") for name in files])
        return caught.value.errors

    return run


def place_of(text: str) -> tuple[str, int, int]:
    """The text without its mark, and the line and column of the mark."""
    before, _, after = text.partition(MARK)
    return before + after, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@pytest.fixture
def refuses(errors: Errors) -> Callable[[Broken], ConfigError]:
    """Asserts that a broken file gives exactly one error, at its mark, with its message and its fix."""

    def run(case: Broken) -> ConfigError:
        text, line, column = place_of(case.text)
        (error, *more) = errors(**{f"policy_{case.ending}": text})
        assert not more, "\n".join(each.render() for each in more)
        assert (error.file, error.line, error.column) == (f"policy.{case.ending}", line, column), error.render()
        assert case.message in error.message, error.render()
        assert case.fix in error.fix, error.render()
        return error

    return run
