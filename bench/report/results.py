"""The raw figures of each row, with the machine, the versions and the commit that they belong to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers

ROOT = Path(__file__).resolve().parents[2]
FILE = "results.json"
Json = dict[str, Any]


def machine() -> Json:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": models[0] if models else platform.machine(),
        "virtual": "hypervisor" in cpuinfo,
        "memory_gib": round(memory / (1 << 20)),
        "kernel": platform.release(),
    }


def commit() -> str:
    """Of this repository; `+` when files that count have changes."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return told.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "rust", "python", "egress_core")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


@dataclass
class Results:
    rows: dict[str, Json]
    components: Json

    @classmethod
    def empty(cls) -> Results:
        return cls({}, {})

    @classmethod
    def read(cls, folder: Path) -> Results:
        file = folder / FILE
        if not file.exists():
            return cls.empty()
        stored = json.loads(file.read_text())
        return cls(stored["rows"], stored["components"])

    def put(self, row: str, samples: list[Json], rounds: int, seconds: float) -> None:
        self.rows[row] = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "commit": commit(),
            "rounds": rounds,
            "seconds": seconds,
            "machine": machine(),
            "versions": {peer.name: peer.version() for peer in peers.present() if peer.version_command},
            "missing": peers.missing(),
            "samples": samples,
        }

    def put_components(self, told: Path) -> None:
        """The file that pytest-benchmark wrote."""
        stored = json.loads(told.read_text())
        self.components = {
            "date": stored["datetime"][:10],
            "commit": commit(),
            "machine": machine(),
            "tests": [
                {"name": one["name"], "median_s": one["stats"]["median"], "rounds": one["stats"]["rounds"]}
                | {"min_s": one["stats"]["min"], "max_s": one["stats"]["max"], "extra": one["extra_info"]}
                for one in stored["benchmarks"]
            ],
        }

    def with_rows_of(self, other: Results) -> Results:
        return Results({**self.rows, **other.rows}, other.components or self.components)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"rows": self.rows, "components": self.components}, indent=1, sort_keys=True)
        (folder / FILE).write_text(text + "\n")

    def samples(self, row: str, case: str | None = None) -> list[Json]:
        found: list[Json] = self.rows.get(row, {}).get("samples", [])
        return [one for one in found if case is None or one["case"] == case]
