"""Builds the compiled core: Cython by setuptools, Rust by maturin, both as stable-ABI extensions of one wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

RUST = "egress_core._dataplane"
LIMITED_API = ("Py_LIMITED_API", "0x030B0000")  # CPython 3.11, the oldest that the wheel serves

MISSING = {
    "cargo": "a Rust toolchain, 1.90 or newer: install rustup, then `rustup default stable`",
    "cc": "a C compiler: install gcc or clang (Debian: apt-get install gcc libc6-dev)",
}


def cython(name: str) -> Extension:
    path = name.replace(".", "/") + ".pyx"
    return Extension(name, [path], define_macros=[LIMITED_API], py_limited_api=True, extra_compile_args=["-O3"])


class BuildCore(build_ext):
    """build_ext that asks maturin for the Rust extension and moves it in place."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == RUST:
            self.build_rust(Path(self.get_ext_fullpath(ext.name)))
            return
        if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
            raise CompileError(f"egress-gateway needs {MISSING['cc']}")
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        if fullname == RUST:
            return "egress_core/_dataplane.abi3.so"
        return str(super().get_ext_filename(fullname))

    def build_rust(self, target: Path) -> None:
        if shutil.which("cargo") is None:
            raise CompileError(f"egress-gateway needs {MISSING['cargo']}")
        profile = os.environ.get("EGRESS_BUILD_PROFILE", "release")
        # The base interpreter, not a venv's: its path is part of PyO3's build key, and would change at every build.
        interpreter = os.path.realpath(sys.executable)
        with tempfile.TemporaryDirectory() as out:
            command = ["maturin", "build", "--manifest-path", "rust/Cargo.toml", "--profile", profile, "--locked"]
            command += ["--interpreter", interpreter, "--out", out, "--compatibility", "linux"]
            if subprocess.run(command, check=False).returncode != 0:
                raise CompileError("the Rust extension did not build; its errors stand above")
            (wheel,) = Path(out).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (name for name in archive.namelist() if name.endswith(".so"))
                target.parent.mkdir(parents=True, exist_ok=True)
                # Replaced, never written over: a running gateway may have the old file mapped.
                fresh = target.with_suffix(".new")
                fresh.write_bytes(archive.read(member))
                fresh.chmod(0o755)
                fresh.replace(target)


setup(
    ext_modules=[
        cython("egress_core.ring"),
        cython("egress_core.live"),
        Extension(RUST, [], py_limited_api=True),
    ],
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
