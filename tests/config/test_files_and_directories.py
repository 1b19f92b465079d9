"""Several files, or a directory of them, are one configuration; which file says what is never a matter of order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from egress_gateway.errors import ConfigErrors
from egress_gateway.load import load

from .conftest import Errors


def _document(*paths: Path) -> Any:
    return json.loads(load(paths).document)


def _rule(name: str) -> str:
    return f"egress: v1\nrules:\n  - {{ name: {name}, to: {name}.example }}\n"


def test_rules_of_all_formats_are_put_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(_rule("a"))
    (tmp_path / "b.yml").write_text(_rule("b"))
    (tmp_path / "c.toml").write_text('egress = "v1"\n[[rules]]\nname = "c"\nto = "c.example"\n')
    (tmp_path / "d.json").write_text('{"egress": "v1", "rules": [{"name": "d", "to": "d.example"}]}')
    (tmp_path / "README.md").write_text("not a policy")
    (tmp_path / ".hidden.yaml").write_text("not a policy")
    (tmp_path / "a.yaml~").write_text("not a policy")
    rules = _document(tmp_path)["rules"]
    assert [rule["name"] for rule in rules] == ["a", "b", "c", "d"]
    assert [rule["line"] for rule in rules] == [3, 3, 2, 1]
    assert rules[2]["file"] == str(tmp_path / "c.toml")


def test_sections_merge_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "egress: v1\ndefault: { mode: audit }\nresolver: { hosts: { a.example: 10.0.0.1 } }\n"
    )
    (tmp_path / "b.yaml").write_text(
        "egress: v1\ndefault: { private_addresses: allow }\nresolver: { hosts: { b.example: [10.0.0.2] } }\n"
    )
    document = _document(tmp_path)
    assert (document["default"]["mode"], document["default"]["private_addresses"]) == ("audit", "allow")
    assert document["settings"]["resolver"]["hosts"] == {"a.example": ["10.0.0.1"], "b.example": ["10.0.0.2"]}


def test_the_same_value_twice_is_no_conflict(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("egress: v1\ntimeouts: { idle: 60s }\n")
    assert _document(tmp_path)["settings"]["timeouts"]["idle_ms"] == 60_000


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "timeouts: { idle: 1m }",
            "timeouts: { idle: 2m }",
            "`timeouts.idle` is given twice, with different values; first in a.yaml:2:13",
        ),
        ("workers: 1", "workers: 2", "`workers` is given twice, with different values; first in a.yaml:2:1"),
        ("groups: { g: [a.example] }", "groups: { g: [a.example] }", "`groups.g` is given twice; first in a.yaml:2:11"),
        ("rules: [ { name: r, to: a.example } ]", "rules: [ { name: r, to: b.example } ]", "`r` is taken: a.yaml:2:10"),
    ],
)
def test_a_conflict_names_both_places(first: str, second: str, message: str, errors: Errors) -> None:
    (error,) = errors(a_yaml=f"egress: v1\n{first}\n", b_yaml=f"egress: v1\n{second}\n")
    assert (error.file, error.line) == ("b.yaml", 2)
    assert message in error.message


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(_rule("a"))
    assert len(_document(tmp_path / "a.yaml", tmp_path)["rules"]) == 1


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="holds no policy file"):
        load([tmp_path])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="no such file"):
        load([tmp_path / "gone.yaml"])


def test_a_fifo_does_not_hold_the_load(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.yaml")
    with pytest.raises(ConfigErrors, match="not a regular file"):
        load([tmp_path])


def test_a_config_map_is_read_from_one_version(tmp_path: Path) -> None:
    for version, name in (("..1", "old"), ("..2", "new")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "policy.yaml").write_text(_rule(name))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    before = load([tmp_path])
    (tmp_path / "swap").symlink_to("..2")
    (tmp_path / "swap").rename(tmp_path / "..data")
    after = load([tmp_path])
    assert json.loads(before.document)["rules"][0]["name"] == "old"
    assert json.loads(after.document)["rules"][0]["name"] == "new"
    # People know the file by the name in the mount, not by the version behind it.
    assert after.files == (str(tmp_path / "policy.yaml"),)
    assert before.hash != after.hash


def test_a_swap_in_the_middle_of_reading_mixes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from egress_gateway import files

    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        for name in ("a", "b"):
            (tmp_path / version / f"{name}.yaml").write_text(_rule(f"{name}{version[2:]}"))
            (tmp_path / f"{name}.yaml").unlink(missing_ok=True)
            (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    (tmp_path / "..data").symlink_to("..1")
    read = files._read

    def swapping(path: str) -> bytes:
        data = read(path)
        if path.endswith("..1/a.yaml"):
            (tmp_path / "swap").symlink_to("..2")
            (tmp_path / "swap").rename(tmp_path / "..data")
        return data

    monkeypatch.setattr(files, "_read", swapping)
    assert [rule["name"] for rule in _document(tmp_path)["rules"]] == ["a2", "b2"]


def test_list_files_are_found_beside_their_policy_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("egress: v1\nlists: { ads: { file: ads.txt } }\n")
    (tmp_path / "ads.txt").write_text("ads.example\n")
    before = load([tmp_path])
    assert json.loads(before.document)["lists"] == {"ads": {"file": str(tmp_path / "ads.txt")}}
    assert before.files == (str(tmp_path / "policy.yaml"), str(tmp_path / "ads.txt"))
    (tmp_path / "ads.txt").write_text("other.example\n")
    assert load([tmp_path]).hash != before.hash
