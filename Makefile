# Two commands: `make run` (the main job on an embedded default) and `make test` (everything).
# PYTHON chooses the interpreter that the virtual environment in .venv is made from.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# uv is installed into the environment itself, so that a machine needs nothing but Python, a C compiler and Rust.
UV     := UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON_DOWNLOADS=never $(BIN)/uv
BENCH   = PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python bench/beside.py --rounds $(ROUNDS) $(if $(SECONDS),--seconds $(SECONDS))
# More for `uv sync`: CI has `--group bench`, whose Envoy tunnels through a gateway in a test.
SYNC   ?=
RUST   := --manifest-path rust/Cargo.toml --workspace --exclude egress-dataplane --locked

# The tests start a gateway or the CLI a thousand times; without bytecode each of them compiles all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test setup need lint rust-test fuzz python-test bench docs clean

run: setup
	$(BIN)/python -m egress_gateway.demo

test: setup lint rust-test fuzz python-test

setup: $(BIN)/uv
	@$(UV) sync --frozen --all-extras $(SYNC) --quiet

$(BIN)/uv: | need
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

need:
	@sh tools/need.sh $(PYTHON)

# By the profile of the tests: what build scripts compile serves both.
lint:
	cargo fmt --manifest-path rust/Cargo.toml --all --check
	cargo clippy $(RUST) --profile test --all-targets --quiet -- -D warnings
	cargo clippy --manifest-path rust/Cargo.toml -p egress-dataplane --profile test --locked --quiet -- -D warnings
	cargo fmt --manifest-path bench/load/Cargo.toml --check
	cargo clippy --manifest-path bench/load/Cargo.toml --target-dir bench/load/target --locked --quiet -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy python/egress_gateway
	$(BIN)/python -m mypy.stubtest egress_core --ignore-missing-stub

rust-test:
	cargo test $(RUST) --quiet
	cargo test --manifest-path bench/load/Cargo.toml --target-dir bench/load/target --locked --quiet

# A fixed budget for each fuzz target: as many inputs, from the same seed.
fuzz:
	sh tools/fuzz.sh 500000

# Two at a time, as a gateway's start is mostly one process that waits for another; then those that measure rates.
python-test:
	$(BIN)/pytest -q -n 2 --dist worksteal -m 'not alone'
	$(BIN)/pytest -q -m alone

# All rows, and the page docs/benchmarks; or ROWS="connect bulk" ROUNDS=3 SECONDS=1, printed only unless WRITE=1.
PAGE   := docs/benchmarks
ROUNDS ?= 5

bench: setup
	@$(UV) sync --frozen --all-extras --group bench --quiet
ifdef ROWS
	$(BENCH) --rows "$(ROWS)" $(if $(WRITE),--write $(PAGE))
else
	mkdir -p build
	$(BIN)/pytest bench --benchmark-enable --benchmark-only --benchmark-json build/components.json
	$(BENCH) --components build/components.json --write $(PAGE)
endif

docs: setup
	$(BIN)/python -m egress_gateway.reference > docs/reference/config.md
	$(BIN)/python -c 'from egress_gateway.telemetry.metrics import reference; print(reference(), end="")' > docs/reference/metrics.md

clean:
	rm -rf $(VENV) build dist rust/target egress_core/*.so egress_core/*.c *.egg-info
