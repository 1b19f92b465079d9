"""dig(1) as a client of DNS listeners."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

import pytest


class Reply(NamedTuple):
    """What dig read."""

    #: `NOERROR`, `REFUSED`, …; `TIMEOUT` where nothing was answered.
    status: str
    #: Data of the answer section, in the order of the records.
    answers: list[str]
    #: The extended error's number and text (RFC 8914).
    error: tuple[int, str] | None
    flags: list[str]
    text: str

    @property
    def ttls(self) -> list[int]:
        return [int(ttl) for ttl in re.findall(r"^\S+\s+(\d+)\s+IN\s+(?:A|AAAA)\s", self.text, re.MULTILINE)]


def dig(server: tuple[str, int], *arguments: str, prefix: Sequence[str] = ()) -> Reply:
    """Asks once, for up to five seconds; gives what came."""
    if shutil.which("dig") is None:
        missing = "dig is not installed (Debian: bind9-dnsutils)"
        if os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
            pytest.fail(f"{missing}, and EGRESS_REQUIRE_TOOLS=1")
        pytest.skip(missing)
    address, port = server
    command = [*prefix, "dig", f"@{address}", "-p", str(port), "+tries=1", "+time=5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return read(done.stdout)


def read(text: str) -> Reply:
    status = re.search(r"status: (\w+)", text)
    answers = re.search(r";; ANSWER SECTION:\n(.*?)\n\n", text, re.DOTALL)
    error = re.search(r"^; EDE: (\d+)[^:\n]*(?:: \((.*)\))?", text, re.MULTILINE)
    flags = re.search(r";; flags: ([^;]*);", text)
    return Reply(
        status[1] if status else "TIMEOUT",
        [line.split(None, 4)[4] for line in answers[1].splitlines()] if answers else [],
        (int(error[1]), error[2] or "") if error else None,
        flags[1].split() if flags else [],
        text,
    )
