#!/bin/sh
# Runs each fuzz target over its corpus and so many inputs grown from it, on a stable toolchain: what libFuzzer needs of
# the compiler are passes of LLVM. For a long hunt use cargo-fuzz, which adds the sanitizers (CONTRIBUTING.md).
# An input of the policy's targets is a policy to compile: they get a tenth of the runs.
#   tools/fuzz.sh [RUNS [TARGET…]]
set -eu
cd "$(dirname "$0")/../rust/fuzz"
runs=${1:-500000}
[ $# -gt 0 ] && shift
if ! command -v c++ >/dev/null; then
  echo "fuzzing needs a C++ compiler for libFuzzer (Debian: g++)" >&2
  [ "${EGRESS_REQUIRE_TOOLS:-}" = 1 ] && exit 1
  exit 0
fi
triple=$(rustc -vV | sed -n 's/^host: //p')
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
# `--cfg fuzzing` is what libfuzzer_sys asks for; overflow and debug assertions stay on.
RUSTFLAGS="$coverage --cfg fuzzing -Cdebug-assertions -Coverflow-checks" \
  cargo build --quiet --locked --release --target "$triple" --target-dir target
# From the end of the alphabet: policy_document, by far the longest, is then among the first.
targets=${*:-$(ls -r fuzz_targets | sed 's/\.rs$//')}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export runs scratch
export built="target/$triple/release"
# One for each CPU; xargs waits for all and fails if one did.
printf '%s\n' $targets | xargs -n 1 -P "$(nproc)" sh -c '
  target=$1 log=$scratch/$1.log
  case $target in policy_*) share=$((runs / 10)) ;; *) share=$runs ;; esac
  # New inputs go to the first folder, which is thrown away; one that fails is left in rust/fuzz/artifacts.
  mkdir -p "$scratch/$target" "artifacts/$target"
  if ! "$built/$target" "$scratch/$target" "corpus/$target" -runs="$share" -seed=1 -max_len=8192 \
    -timeout=10 -rss_limit_mb=2048 -artifact_prefix="artifacts/$target/" >"$log" 2>&1; then
    { tail -n 40 "$log"; echo "fuzz target $target failed; its input is in rust/fuzz/artifacts/$target"; } >&2
    exit 1
  fi
  echo "$target: $(grep -o "Done [0-9]* runs in [0-9]* second.*" "$log" || tail -n 1 "$log")"
' fuzz
