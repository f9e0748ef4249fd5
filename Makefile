# The commands that people use. Everything is set up on the first call and remembered by stamps; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMPS := $(VENV)/stamps

# Absolute, as cargo and the tests run in different directories.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
LOGS := $(TARGET)/test-logs
export CARGO_TARGET_DIR := $(TARGET)
export ROOST_BIN := $(TARGET)/release/roost
export S3_PROXY_BIN := $(TARGET)/release/s3-proxy

# `make test PYTEST="-k kill9"` runs some of the integration tests.
PYTEST ?=
DEMO ?=
BENCH ?=

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- Set-up

# Debian's names of what is missing on the machine: a linker for Rust, and Python's venv module.
MISSING = $(shell command -v cc >/dev/null || echo build-essential; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv)
AS_ROOT = $(shell test "$$(id -u)" = 0 || echo sudo -n)

.PHONY: system
system:
	@missing="$(MISSING)"; \
	if [ -n "$$missing" ]; then \
	  echo "== installing $$missing"; \
	  $(AS_ROOT) apt-get update -q && $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing || \
	  { echo "install these first, by hand: $$missing" >&2; exit 1; }; \
	fi
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }

$(VENV)/pyvenv.cfg: | system
	$(PYTHON) -m venv $(VENV)
	touch $@

$(STAMPS)/test: integration-tests/requirements.txt python-client/pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  -r integration-tests/requirements.txt -e 'python-client[test,lint,progress]'
	mkdir -p $(@D) && touch $@

$(STAMPS)/bench: benches/requirements.txt $(STAMPS)/test
	$(BIN)/pip install --quiet --disable-pip-version-check -r benches/requirements.txt
	mkdir -p $(@D) && touch $@

.PHONY: setup
setup: system $(STAMPS)/test ## Prepare Python's side, in .venv

.PHONY: build
build: system ## Build all executables, in the release profile
	cargo build --release --locked --workspace

# --- Tests. Each keeps its output, so that `test` can end with what the runners said last.

.PHONY: test
test: test-rust test-doc test-python test-integration ## Everything, from nothing: Rust, Python, real nodes with real S3
	@echo "== all passed"
	@grep -hE '^ *Summary \[|^test result: |^=*.*[0-9]+ passed' $(LOGS)/*.log

.PHONY: test-rust
test-rust: build
	@mkdir -p $(LOGS)
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --release --locked --workspace --no-tests=fail; \
	else \
	  cargo test --release --locked --workspace --lib --bins --tests; \
	fi 2>&1 | tee $(LOGS)/1-rust.log

.PHONY: test-doc
test-doc: build
	@mkdir -p $(LOGS)
	cargo test --release --locked --workspace --doc 2>&1 | tee $(LOGS)/2-doc.log

.PHONY: test-python
test-python: $(STAMPS)/test build
	@mkdir -p $(LOGS)
	cd python-client && $(BIN)/python -m pytest -q 2>&1 | tee $(LOGS)/3-python-client.log
	cd benches && $(BIN)/python -m pytest -q tests 2>&1 | tee $(LOGS)/4-benches.log

.PHONY: test-integration
test-integration: $(STAMPS)/test build ## Only the tests with real nodes
	@mkdir -p $(LOGS)
	cd integration-tests && $(BIN)/python -m pytest -q $(PYTEST) 2>&1 | tee $(LOGS)/5-integration.log

# --- To see it work

.PHONY: demo
demo: $(STAMPS)/bench build ## Serve, warm and read real data; cold, warm and direct side by side (DEMO="--scale 0.1")
	$(BIN)/python benches/demo.py $(DEMO)

.PHONY: bench
bench: $(STAMPS)/bench build ## All benchmarks, into benches/RESULTS.md (BENCH="warm plan" for some)
	$(BIN)/python benches/run.py $(BENCH)

# --- Style

.PHONY: lint
lint: $(STAMPS)/test ## Formatting, clippy, dependencies, ruff, mypy; changes nothing
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets --all-features -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
	  echo "cargo deny check bans sources licenses"; cargo deny --locked check bans sources licenses; \
	else \
	  echo "cargo-deny is not installed: deny.toml is not checked (cargo install --locked cargo-deny)"; \
	fi
	$(BIN)/ruff format --check python-client integration-tests benches
	$(BIN)/ruff check python-client integration-tests benches
	cd python-client && $(BIN)/mypy
	cd integration-tests && $(BIN)/mypy

.PHONY: fmt
fmt: $(STAMPS)/test ## Format Rust and Python
	cargo fmt --all
	$(BIN)/ruff check --select I --fix python-client integration-tests benches
	$(BIN)/ruff format python-client integration-tests benches

.PHONY: clean
clean: ## Delete what was built and set up here
	cargo clean
	rm -rf $(VENV) demo-data
	find . -name __pycache__ -not -path './target/*' -prune -exec rm -rf {} +
