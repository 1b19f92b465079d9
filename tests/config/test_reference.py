"""The committed reference is what the definitions say."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.config import Config
from egress_gateway.reference import reference
from egress_gateway.validate import fields

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "config.md"


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run: python -m egress_gateway.reference > docs/reference/config.md"


def test_every_key_of_the_file_has_a_meaning() -> None:
    for name in fields(Config):
        row = next(line for line in reference().splitlines() if line.startswith(f"| `{name}`"))
        assert len(row.split("|")[4].strip()) > 5, row
