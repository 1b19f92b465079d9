"""What we ship is what we chose: known licences, one registry, no second version of a crate without a reason, no
unsafe code outside the two places that say why. The checks of cargo-deny that need no network."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"
LICENCES = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
#: Crates that may appear in two versions, and why.
TWICE = {"syn": "derive macros of two generations; it runs at build time only"}
#: Crates that are not to come back, and why.
BANNED = {
    "openssl-sys": "rustls terminates TLS to the proxy",
    "async-std": "dormant",
    "tokio-uring": "dormant",
    "tls-parser": "reads one record only",
    "ring": "aws-lc-rs is the one library of cryptography",
}
#: Where `unsafe` may stand.
UNSAFE = ("rust/crates/sys/src/shm.rs",)


@pytest.fixture(scope="module")
def packages() -> list[dict[str, Any]]:
    """What the shipped extension is built from, without dev-dependencies, for Linux."""
    command = ["cargo", "tree", "--manifest-path", str(ROOT / "rust/Cargo.toml"), "--locked", "-p", "egress-dataplane"]
    command += [
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--target",
        "x86_64-unknown-linux-gnu",
    ]
    tree = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    command = [
        "cargo",
        "metadata",
        "--manifest-path",
        str(ROOT / "rust/Cargo.toml"),
        "--locked",
        "--format-version",
        "1",
    ]
    everything = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["packages"]
    return [one for one in everything if (one["name"], "v" + one["version"]) in wanted]


def test_every_crate_has_a_licence_that_we_accept(packages: list[dict[str, Any]]) -> None:
    assert len(packages) > 20
    for package in packages:
        expression = package["license"] or ""
        # Any alternative of an OR will do; every part of an AND has to.
        alternatives = re.split(r" OR |/", expression.replace("(", "").replace(")", ""))
        accepted = any(all(part.strip() in LICENCES for part in re.split(" AND ", one)) for one in alternatives)
        assert accepted, f"{package['name']} {package['version']}: {expression!r}"


def test_every_crate_comes_from_the_one_registry_or_from_here(packages: list[dict[str, Any]]) -> None:
    for package in packages:
        assert package["source"] in (None, CRATES_IO), package["name"]
        assert package["source"] is not None or package["name"].startswith("egress-")


def test_no_crate_is_there_twice_or_banned(packages: list[dict[str, Any]]) -> None:
    names = [package["name"] for package in packages]
    twice = {name for name in names if names.count(name) > 1} - set(TWICE)
    assert not twice, f"several versions of {sorted(twice)}: unify them, or write down why not"
    assert not set(names) & set(BANNED)


def test_unsafe_code_stands_only_where_it_may() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rust").rglob("*.rs")
        if "target" not in path.parts and re.search(r"\bunsafe\s*(\{|impl|fn)", path.read_text())
    }
    assert found == set(UNSAFE)
    for crate in ("hello", "password", "policy", "flowlog", "front", "proxy"):
        assert "#![forbid(unsafe_code)]" in (ROOT / f"rust/crates/{crate}/src/lib.rs").read_text()


def test_the_python_lock_names_every_dependency_with_its_hash() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = {package["name"] for package in lock["package"]}
    for dependency in project["project"]["dependencies"] + project["dependency-groups"]["dev"]:
        name = re.split(r"[<>=\[;! ]", dependency)[0].lower()
        assert name in locked, name
    for package in lock["package"]:
        if "registry" in package["source"]:
            files = package.get("wheels", []) + ([package["sdist"]] if "sdist" in package else [])
            assert files and all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_the_compiled_parts_are_the_ones_described() -> None:
    from egress_core import _dataplane, ring

    assert _dataplane.layout() == ring.layout(), "the two sides of the shared memory agree"
    assert _dataplane.build_profile() in ("release", "debug")
