"""A file with five mistakes shows five errors, in the order of its lines; several files show those of all."""

from __future__ import annotations

import json

from egress_gateway.errors import SHOWN_ERRORS, ConfigErrors

from .conftest import Errors

FIVE = """\
egress: v1
default: { acton: deny }
timeouts: { idle: 60 }
workers: many
rules:
  - { name: a, to: a.example, deny: maybe }
  - { name: b, to: b.example, until: never }
"""


def test_every_mistake_is_shown(errors: Errors) -> None:
    assert [(each.line, each.column) for each in errors(policy_yaml=FIVE)] == [
        (2, 12),
        (3, 19),
        (4, 10),
        (6, 37),
        (7, 38),
    ]


def test_a_broken_file_does_not_hide_the_mistakes_of_another(errors: Errors) -> None:
    found = errors(a_yaml="egress: v1\nworkers: [\n", b_toml='egress = "v1"\nworkers = 0\n')
    assert [each.file for each in found] == ["a.yaml", "b.toml"]


def test_a_wrong_version_does_not_hide_the_rest(errors: Errors) -> None:
    assert [each.line for each in errors(policy_yaml="egress: v2\nworkers: 0\n")] == [1, 2]


def test_many_are_cut_and_counted(errors: Errors) -> None:
    found = errors(policy_yaml="egress: v1\ngroups:\n  a:\n" + "    - 1.5\n" * (SHOWN_ERRORS + 7))
    assert len(found) == SHOWN_ERRORS + 7
    shown = ConfigErrors(found).render()
    assert shown.endswith("… and 7 more")
    assert shown.count("fix:") == SHOWN_ERRORS


def test_machines_get_all_of_them(errors: Errors) -> None:
    report = json.loads(ConfigErrors(errors(policy_yaml=FIVE)).as_json())
    assert report["ok"] is False
    first = report["errors"][0]
    assert (first["file"], first["line"], first["column"], first["path"]) == ("policy.yaml", 2, 12, "default.acton")
    assert (first["code"], first["text"]) == ("unknown_key", "acton")
    assert len(report["errors"]) == 5


def test_the_caret_stands_under_the_text(errors: Errors) -> None:
    (error,) = errors(policy_yaml="egress: v1\nworkers: many\n")
    assert error.render().split("\n")[1:3] == ["    2 | workers: many", "      |          ^^^^"]


def test_a_line_of_megabytes_is_cut_around_the_caret(errors: Errors) -> None:
    (error,) = errors(policy_json='{"egress": "v1", "groups": {"a": [' + '"x.example", ' * 9000 + "7]}}")
    assert max(len(line) for line in error.render().split("\n")) < 200


def test_what_a_terminal_would_act_on_is_escaped(errors: Errors) -> None:
    (error,) = errors(policy_json='{"egress": "v1", "log": {"decisions": "\\u001b[31m\\u202e"}}')
    assert "\x1b" not in error.render()
    assert "\u202e" not in error.render()
