"""Each kind of broken file is refused at its line and column, with what to write instead; nothing else is reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from egress_gateway.errors import ConfigError

from .conftest import Broken

V1 = "egress: v1\n"
RULE = V1 + "rules:\n  - name: a\n    to: [ a.example ]\n"

YAML = [
    Broken("tab", "yaml", V1 + "default:\n⟦\taction: deny\n", "a tab cannot indent", "indent with spaces"),
    Broken(
        "unquoted star", "yaml", V1 + "groups: { aws: [ ⟦*.amazonaws.com ] }\n", "begins an alias", '"*.amazonaws.com"'
    ),
    Broken("unknown alias", "yaml", V1 + "groups: { aws: ⟦*names }\n", "an anchor that is not there", '"*names"'),
    Broken(
        "open list", "yaml", V1 + "rules:\n  - name: a\n    to: [ a.example\n⟦", "flow sequence", "close the [ or {"
    ),
    Broken("open quote", "yaml", V1 + 'default: { message: "no }\n⟦', "quoted scalar", "close the quote"),
    Broken("colon in text", "yaml", RULE + "    why: see⟦: ticket: 1\n", "mapping values are not allowed", "in quotes"),
    Broken(
        "bad indentation", "yaml", V1 + "default:\n  action: deny\n ⟦mode: audit\n", "block mapping", "indent the keys"
    ),
    Broken("backtick", "yaml", RULE + "    why: ⟦`x`\n", "cannot start any token", "put the text in quotes"),
    Broken("duplicate key", "yaml", V1 + "workers: 1\n⟦workers: 2\n", "given twice; first on line 2", "keep one"),
    Broken("second document", "yaml", V1 + "⟦---\negress: v1\n", "a second document", "a file of its own"),
    Broken("merge key", "yaml", V1 + "default:\n  ⟦<<: { mode: audit }\n", "merge keys", "write the keys out"),
    Broken("tag", "yaml", V1 + "workers: ⟦!!int '4'\n", "the tag", "remove the tag"),
    Broken("map as a key", "yaml", V1 + "⟦{ a: 1 }: 2\n", "cannot be a key", "as a text"),
    Broken("no name allowed", "yaml", V1 + "default: { no_name: ⟦allow }\n", "not in this version", "write deny"),
    Broken("empty", "yaml", "⟦# nothing yet\n", "the file is empty", "`egress: v1`"),
    Broken("list on top", "yaml", "⟦- egress: v1\n", "holds a list", "`egress: v1`"),
    Broken("nesting", "yaml", V1 + "groups: " + "[" * 31 + "⟦[" + "]" * 32 + "\n", "nested deeper than 32", "five"),
    Broken("control character", "yaml", RULE + "    why: a⟦\x07b\n", "control character U+0007", "as an escape"),
    Broken("no version", "yaml", "⟦rules: []\n", "does not say `egress: v1`", "add `egress: v1`"),
    Broken("other version", "yaml", "egress: ⟦v2\n", "expected v1", "v1"),
    Broken(
        "no value",
        "yaml",
        V1 + "rules:\n  - name: a\n    ⟦from:\n    to: a.example\n",
        "`from` has no value",
        "remove the key",
    ),
    Broken("unknown key", "yaml", V1 + "⟦rule: []\n", "unknown key `rule`", "did you mean `rules`?"),
    Broken(
        "far unknown key",
        "yaml",
        V1 + "timeouts: { ⟦xyz: 5s }\n",
        "unknown key `xyz`",
        "first_bytes, server_first, connect, idle, drain, grace",
    ),
    Broken(
        "unknown key in a rule",
        "yaml",
        RULE + "    ⟦form: { cidr: 10.0.0.0/8 }\n",
        "unknown key `form`",
        "did you mean `from`?",
    ),
    Broken(
        "misspelt name",
        "yaml",
        V1 + "rules:\n  - ⟦nam: a\n    to: a.example\n",
        "unknown key `nam`",
        "did you mean `name`?",
    ),
    Broken("no name", "yaml", V1 + "rules:\n  - ⟦to: a.example\n", "`name` is missing", "add `name: "),
    Broken("yes for true", "yaml", RULE + "    deny: ⟦yes\n", "expected true or false", "write true, without quotes"),
    Broken(
        "number for text",
        "yaml",
        V1 + "rules:\n  - name: a\n    to: [ b.example, ⟦1.5 ]\n",
        "the number 1.5",
        "in quotes",
    ),
    Broken(
        "word near", "yaml", V1 + "default: { mode: ⟦adit }\n", "expected enforce or audit", "did you mean `audit`?"
    ),
    Broken("word far", "yaml", V1 + "default: { action: ⟦xyz }\n", "expected deny or allow", "write deny or allow"),
    Broken("bare duration", "yaml", V1 + "timeouts: { idle: ⟦60 }\n", "60 has no unit", "60s for seconds"),
    Broken("wordy duration", "yaml", V1 + "timeouts: { idle: ⟦5 minutes }\n", '"minutes" is no unit', "write 5m"),
    Broken("no duration", "yaml", V1 + "timeouts: { idle: ⟦soon }\n", "not a duration", "250ms, 5s, 10m"),
    Broken("no such day", "yaml", RULE + "    until: ⟦2026-02-30\n", "no such day", "a day of the calendar"),
    Broken("not a date", "yaml", RULE + "    until: ⟦tomorrow\n", "not a date", "2026-12-01"),
    Broken(
        "time without offset", "yaml", RULE + "    until: ⟦2026-12-01T10:00:00\n", "no offset", "2026-12-01T10:00:00Z"
    ),
    Broken(
        "count below one", "yaml", RULE + "    connections: { max: ⟦0 }\n", "whole number from 1", "whole number from 1"
    ),
    Broken("count as text", "yaml", RULE + "    connections: { max: ⟦'9' }\n", "whole number", "without quotes"),
    Broken("count with fraction", "yaml", V1 + "workers: ⟦1.5\n", "the number 1.5", "whole number"),
    Broken("namespace", "yaml", RULE + "    from: { ⟦namespace: pay }\n", "`namespace` is not in this version", "cidr"),
    Broken("budget of bits", "yaml", RULE + "    budget: { up: ⟦5 Gbit/day }\n", '"Gbit" is no unit', "write 5 GB/day"),
    Broken("budget of others", "yaml", RULE + "    budget: { up: ⟦5 GiB/day }\n", '"GiB" is no unit', "write 5 GB/day"),
    Broken("budget without a unit", "yaml", RULE + "    budget: { up: ⟦5 }\n", "`5` has no unit", "5 GB/day"),
    Broken("budget without a period", "yaml", RULE + "    budget: { up: ⟦5 GB }\n", "no period", "write 5 GB/day"),
    Broken(
        "budget of a week", "yaml", RULE + "    budget: { up: ⟦5 GB/week }\n", '"week" is no period', "hour, day and"
    ),
    Broken("budget in short", "yaml", RULE + "    budget: { up: ⟦5 GB/d }\n", '"d" is no period', "write 5 GB/day"),
    Broken("no budget", "yaml", RULE + "    budget: { up: ⟦0 GB/day }\n", "out of bounds", "1 kB/day to 1000 TB/day"),
    Broken(
        "rate for a budget", "yaml", RULE + "    budget: ⟦5 GB/day\n", "expected a map", "up, down, per_source, then"
    ),
    Broken("what then", "yaml", RULE + "    budget: { up: 1 GB/day, then: ⟦block }\n", "neither to slow", "write deny"),
    Broken("how slow", "yaml", RULE + "    budget: { up: 1 GB/day, then: ⟦slow 5 }\n", "`5` has no unit", "Mbit/s"),
    Broken("time zone key", "yaml", V1 + "budgets: { ⟦timezone: UTC }\n", "unknown key", "did you mean `time_zone`?"),
    Broken("bare rate", "yaml", RULE + "    bandwidth: ⟦50\n", "expected a text or a map", "quotes"),
    Broken("rate without a unit", "yaml", RULE + "    bandwidth: ⟦'50'\n", "`50` has no unit", "kbit/s, Mbit/s"),
    Broken("rate of others", "yaml", RULE + "    bandwidth: ⟦50 Mbps\n", '"Mbps" is no unit', "write 50 Mbit/s"),
    Broken("rate in a map", "yaml", RULE + "    bandwidth: { max: ⟦5 MB }\n", '"MB" is no unit', "write 40 Mbit/s"),
    Broken("when full", "yaml", RULE + "    connections: { max: 1, when_full: ⟦queue }\n", "neither", "wait 2s"),
    Broken(
        "bare wait", "yaml", RULE + "    connections: { max: 1, when_full: ⟦wait 2 }\n", "no unit", "2s for seconds"
    ),
    Broken("no wait", "yaml", RULE + "    connections: { max: 1, when_full: ⟦wait 0s }\n", "no time", "write refuse"),
    Broken("slow rate", "yaml", RULE + "    bandwidth: ⟦1 kbit/s\n", "out of bounds", "8 kbit/s to 1000 Gbit/s"),
    Broken("no link", "yaml", RULE + "    bandwidth: { ⟦lnk: wan }\n", "unknown key `lnk`", "did you mean `link`?"),
    Broken(
        "port of connect",
        "yaml",
        V1 + 'listeners: [ { name: p, bind: "0.0.0.0:1", accept: connect, port: ⟦8443 } ]\n',
        "only a tls or postgres listener",
        "remove `port`",
    ),
    Broken("admin bind", "yaml", V1 + "admin: { bind: ⟦localhost }\n", "not an address with a port", "127.0.0.1:9900"),
    Broken("log word", "yaml", V1 + "log: { decisions: ⟦stdot }\n", "neither stdout", "did you mean `stdout`?"),
    Broken(
        "log file without a slash", "yaml", V1 + "log: { decisions: ⟦egress.jsonl }\n", "nor a path", "./egress.jsonl"
    ),
    Broken(
        "list file",
        "yaml",
        V1 + "lists: { ads: { file: ⟦gone.txt } }\n",
        "cannot be read: no such file",
        "looked for /",
    ),
    Broken(
        "map for list",
        "yaml",
        V1 + "groups: { aws: ⟦a.example }\n",
        'expected a list, found "a.example"',
        "write a list",
    ),
    Broken("text for map", "yaml", V1 + "default: ⟦deny\n", "expected a map of keys", "action, mode, message"),
    Broken("long text", "yaml", RULE + "    why: ⟦" + "x" * 1025 + "\n", "at most 1024 characters", "make it shorter"),
    Broken(
        "rule name twice", "yaml", RULE + "  - name: ⟦a\n    to: b.example\n", "taken: policy.yaml:3:5", "another name"
    ),
]

TOML = [
    Broken("unquoted text", "toml", "egress = ⟦v1\n", "invalid value", "double quotes"),
    Broken("no equals", "toml", 'egress = "v1"\nworkers⟦: 4\n', "expected '='", 'write `key = "value"`'),
    Broken("key twice", "toml", 'egress = "v1"\nworkers = 1\nworkers = 2⟦\n', "given twice", "keep one"),
    Broken("open list", "toml", 'egress = "v1"\n[groups]\na = [ "x"⟦\n', "unclosed array", "close the ["),
    Broken(
        "unknown key",
        "toml",
        'egress = "v1"\n[default]\n⟦acton = "deny"\n',
        "unknown key `acton`",
        "did you mean `action`?",
    ),
    Broken(
        "wrong word",
        "toml",
        'egress = "v1"\n[[rules]]\nname = "a"\nto = "b.example"\nsni = ⟦"agre"\n',
        "agree or any",
        "`agree`",
    ),
    Broken("inline table", "toml", 'egress = "v1"\ntimeouts = { connect = "5s", idle = ⟦5 }\n', "5 has no unit", "5s"),
    Broken("dotted key", "toml", 'egress = "v1"\ntimeouts.idle = ⟦5\n', "5 has no unit", "5s"),
    Broken(
        "after a text of several lines",
        "toml",
        'egress = "v1"\n[default]\nmessage = """\none # [two]\n"""\nmode = ⟦"x" # no\n',
        "expected enforce",
        "write enforce",
    ),
    Broken(
        "local time",
        "toml",
        'egress = "v1"\n[[rules]]\nname = "a"\nuntil = ⟦2026-12-01T10:00:00\nto = "b.example"\n',
        "no offset",
        "Z",
    ),
]

JSON = [
    Broken("trailing comma", "json", '{"egress": "v1"⟦,}', "not JSON", "remove the comma"),
    Broken("comment", "json", '{\n  ⟦// no\n  "egress": "v1"}', "not JSON", "no comments"),
    Broken("single quotes", "json", "{⟦'egress': 'v1'}", "not JSON", "double quotes"),
    Broken("missing comma", "json", '{"egress": "v1"\n ⟦"workers": 1}', "delimiter", "a comma between"),
    Broken("ends early", "json", '{"egress": "v1", "rules": [⟦', "not JSON", "close what is still open"),
    Broken("two values", "json", '{"egress": "v1"} ⟦{}', "extra data", "remove what follows"),
    Broken("duplicate key", "json", '{"egress": "v1",\n "workers": 1,\n ⟦"workers": 2}', "first on line 2", "keep one"),
    Broken(
        "null",
        "json",
        '{"egress": "v1", "rules": [{"name": "a", ⟦"from": null, "to": "b.example"}]}',
        "no value",
        "remove",
    ),
    Broken("wrong type", "json", '{"egress": "v1",\n "low_latency": ⟦"true"}', "expected true or false", "write true"),
    Broken("nesting", "json", '{"egress": ' + "[" * 31 + "⟦[" + "]" * 32 + "}", "nested deeper than 32", "five"),
    Broken("not a map", "json", '⟦"egress: v1"', "holds a text", '{"egress": "v1"}'),
]


@pytest.mark.parametrize("case", [*YAML, *TOML, *JSON], ids=lambda case: f"{case.ending}: {case.name}")
def test_a_broken_file_is_refused_with_its_place_and_its_fix(
    case: Broken, refuses: Callable[[Broken], ConfigError]
) -> None:
    error = refuses(case)
    head, *rest = error.render().split("\n")
    assert head.startswith(f"policy.{case.ending}:{error.line}:{error.column}: ")
    assert rest[-1] == f"  fix: {error.fix}"


def test_there_are_forty_kinds() -> None:
    assert len({(case.ending, case.name) for case in [*YAML, *TOML, *JSON]}) >= 40
