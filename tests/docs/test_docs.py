"""What the documents say is there is there: links, policies, commands and what they print, files and functions."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from egress_gateway import cli
from egress_gateway.check import check

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Where a path of ARCHITECTURE.md may begin; said at its top.
ROOTS = (ROOT, ROOT / "rust/crates", ROOT / "python/egress_gateway")
SOURCE = r"(?<![\w/.*-])((?:[\w-]+/)*[\w-]+\.(?:pyx|pyi|pxd|py|rs|toml|yaml|md))(?:::(\w+))?(?![\w/])"
#: Paths that exist on somebody's machine only. The one of the control socket is the product's own.
MACHINE = re.compile(r"/(?:work|root|home|Users)/|/tmp/(?!egress-UID/)|(?<![\w.])[A-Z]:\\")


class Block(NamedTuple):
    """A fenced block, and where it begins."""

    document: Path
    line: int
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(document, line, match[1], match[2]))
    return [block for block in found if block.language == language]


def where(block: object) -> str | None:
    return f"{block.document.name}:{block.line}" if isinstance(block, Block) else None


def prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The headings, as the usual renderers make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{document.name} links to {target}"


POLICIES = [block for block in blocks("yaml") if block.text.startswith("egress: v1")]


@pytest.mark.parametrize("block", POLICIES, ids=where)
def test_a_policy_in_a_document_is_good(block: Block, tmp_path: Path) -> None:
    # The lists that a document's policy names are not there; empty ones are enough to check it.
    for name in re.findall(r"\bfile: ([\w./-]+)", block.text):
        (tmp_path / name).write_text("")
    policy = tmp_path / "policy.yaml"
    policy.write_text(block.text)
    check([policy])


def test_there_are_policies_to_check() -> None:
    assert len(POLICIES) >= 8


COMMANDS = [
    (block, line[2:], output)
    for block in blocks("console")
    for line, output in re.findall(r"^(\$ .+)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    if line.startswith("$ egress")
]


@pytest.mark.parametrize(("block", "command", "_output"), COMMANDS, ids=where)
def test_a_command_in_a_document_is_one(block: Block, command: str, _output: str) -> None:
    try:
        cli.parser().parse_args(shlex.split(command)[1:])
    except SystemExit as refused:
        pytest.fail(f"{block.document.name}:{block.line}: `{command}` is not understood ({refused.code})")


OFFLINE = [one for one in COMMANDS if re.match(r"egress (check|why -c) ", one[1])]


@pytest.mark.parametrize(("block", "command", "output"), OFFLINE, ids=where)
def test_a_command_prints_what_the_document_shows(block: Block, command: str, output: str) -> None:
    arguments = [sys.executable, "-m", "egress_gateway.cli", *shlex.split(command)[1:]]
    told = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert steady(told.stdout + told.stderr) == steady(output), f"{block.document.name}:{block.line}: {command}"


def steady(text: str) -> str:
    """Without what may change and means nothing: the size of the compiled form."""
    return re.sub(r"[\d,]+ bytes compiled", "N bytes compiled", text).strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_named_in_the_text_exist(document: Path) -> None:
    named = set(re.findall(r"`egress ([a-z]+)", prose(document)))
    assert named <= {command[0] for command in cli.COMMANDS}


def test_every_command_is_in_the_readme() -> None:
    assert {command[0] for command in cli.COMMANDS} <= set(
        re.findall(r"^\| `egress ([a-z]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    )


def test_a_metric_named_in_the_guide_exists() -> None:
    known = (ROOT / "docs/reference/metrics.md").read_text()
    for document in DOCUMENTS:
        for metric in re.findall(r"\begress_[a-z_]+(?:_total|_error|_seconds)\b", document.read_text()):
            assert f"`{metric}`" in known, f"{document.name} names {metric}"


def defines(path: Path, function: str) -> bool:
    pattern = rf"^\s*(?:pub(?:\([a-z]+\))? )?(?:const |async )*(?:fn|def|cdef|cpdef)\b[^(\n]*\b{function}\s*[(<]"
    return re.search(pattern, path.read_text(), re.MULTILINE) is not None


def test_the_files_and_functions_of_the_architecture_exist() -> None:
    named = set(re.findall(SOURCE, (ROOT / "ARCHITECTURE.md").read_text()))
    assert len([function for _, function in named if function]) >= 40
    wrong = []
    for path, function in sorted(named):
        found = [root / path for root in ROOTS if (root / path).is_file()]
        if not found or (function and not any(defines(one, function) for one in found)):
            wrong.append(f"{path}::{function}" if function else path)
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_named_with_its_folder_exists(document: Path) -> None:
    if document.name == "ARCHITECTURE.md":
        return  # it has roots of its own, and a test of its own
    spans = " ".join(re.findall(r"`([^`\n]+)`", prose(document)))
    for path, _ in re.findall(SOURCE, spans):
        if path.split("/")[0] in {"rust", "python", "tests", "docs", "examples", "egress_core", "bench", "tools"}:
            assert (ROOT / path).is_file(), f"{document.name} names {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_machine_is_in_a_document(document: Path) -> None:
    assert not MACHINE.search(document.read_text())


def test_the_json_in_the_readme_is_json() -> None:
    for block in blocks("json"):
        assert msgspec.json.decode(block.text)
