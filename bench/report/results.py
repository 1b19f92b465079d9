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

import network
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
        "kernel": platform.release().partition("-")[0],
        "congestion_control": network.congestion_control(),
    }


def commit() -> str:
    """Of this repository; `+` when files that count have changes."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return told.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "rust", "python", "egress_core")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


def rounded(value: Any) -> Any:
    """To six digits: no clock here is better."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


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
        """A line for each sample, so that a difference can be read."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for name, row in self.rows.items():
            lines = ",\n".join("   " + json.dumps(rounded(one)) for one in row["samples"])
            about = json.dumps({key: value for key, value in row.items() if key != "samples"})
            rows.append(f'  {json.dumps(name)}: {about[:-1]}, "samples": [\n{lines}\n  ]}}')
        text = (
            '{"rows": {\n' + ",\n".join(rows) + f'\n }},\n "components": {json.dumps(rounded(self.components))}\n}}\n'
        )
        json.loads(text)
        (folder / FILE).write_text(text)

    def samples(self, row: str, case: str | None = None) -> list[Json]:
        found: list[Json] = self.rows.get(row, {}).get("samples", [])
        return [one for one in found if case is None or one["case"] == case]
