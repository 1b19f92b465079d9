#!/bin/sh
# Says what is missing on this machine, and how to get it, before a build fails halfway. Usage: need.sh PYTHON
python=${1:-python3}
fail() { echo "egress-gateway needs $1" >&2; exit 1; }
command -v "$python" >/dev/null || fail "Python 3.11 or newer ($python was not found): Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer ($("$python" -V) found): set PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv module: Debian: apt-get install python3-venv"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || fail "Python's headers: Debian: apt-get install python3-dev"
command -v "${CC:-cc}" >/dev/null || fail "a C compiler (cc was not found): Debian: apt-get install gcc libc6-dev"
command -v cargo >/dev/null || fail "a Rust toolchain, 1.90 or newer (cargo was not found): install rustup from your distribution or rustup.rs, then rustup default stable"
cargo --version | awk '{ split($2, v, "."); exit !(v[1] > 1 || v[2] >= 90) }' || fail "Rust 1.90 or newer ($(cargo --version) found): rustup update stable"
