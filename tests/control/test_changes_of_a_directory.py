"""Whatever changes in a policy directory, or in a list that it names, is loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.control.data_plane import DataPlane

MORE = "egress: v1\nrules: [{ name: more, to: [more.example] }]\n"
LISTED = "egress: v1\nlists: { names: { file: names.txt } }\nrules: [{ name: listed, to: [names] }]\n"


def edit_a_list(policy: Path) -> None:
    (policy / "names.txt").write_text("one.example\ntwo.example\n")


def add_a_file(policy: Path) -> None:
    (policy / "more.yaml").write_text(MORE)


def delete_a_file(policy: Path) -> None:
    (policy / "listed.yaml").unlink()


def name_another_list(policy: Path) -> None:
    (policy / "others.txt").write_text("other.example\n")
    (policy / "listed.yaml").write_text(LISTED.replace("names.txt", "others.txt"))


@pytest.mark.parametrize("act", [edit_a_list, add_a_file, delete_a_file, name_another_list])
def test_a_change_is_loaded_once(data_plane: DataPlane, act: Callable[[Path], None]) -> None:
    data_plane.install()
    (data_plane.policy / "names.txt").write_text("one.example\n")
    (data_plane.policy / "listed.yaml").write_text(LISTED)
    data_plane.install()
    act(data_plane.policy)
    data_plane.install()
    data_plane.nothing()
