"""Where things are when nobody says otherwise: one place for the CLI, the gateway and the pages."""

from __future__ import annotations

import os
from pathlib import Path


def control_socket() -> str:
    """EGRESS_CONTROL; else the run directory of the machine (root) or of the user; else a private one under /tmp."""
    if given := os.environ.get("EGRESS_CONTROL"):
        return given
    if os.geteuid() == 0:
        return "/run/egress/egress.sock"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/egress.sock"
    return f"/tmp/egress-{os.geteuid()}/egress.sock"


def config() -> list[str]:
    """EGRESS_CONFIG (colon-separated); else egress.yaml here; else /etc/egress."""
    if given := os.environ.get("EGRESS_CONFIG"):
        return given.split(":")
    return ["egress.yaml"] if Path("egress.yaml").exists() else ["/etc/egress"]
