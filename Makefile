# Needs Python 3.11 or later and make; everything else is set up here, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3.14 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check --no-input --quiet --no-deps

.PHONY: demo test lint bench format clean

demo: .venv/hub
	@exec $(BIN)/hub demo $(ARGS)

test: .venv/dev
	$(BIN)/pytest -n auto --dist loadfile $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	$(BIN)/hub bench fanout $(ARGS)
	$(BIN)/hub bench fanout --rate 500 --sets 200
	$(BIN)/hub bench connections
	$(BIN)/hub bench latency
	$(BIN)/hub bench publish
	$(BIN)/hub bench publish --lone
	$(BIN)/hub bench consume --beside tests/bench/faststream_consume.py
	$(BIN)/hub bench archive
	$(BIN)/hub bench archive --beside 1000
	$(BIN)/hub bench catch-up
	$(BIN)/hub bench replay
	$(BIN)/hub bench lookups
	$(BIN)/hub bench webhooks
	$(BIN)/hub bench reports
	$(BIN)/hub bench sync

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or later is needed; set PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/hub: requirements.lock pyproject.toml | .venv/bin/python
	@echo 'Installing the hub into .venv …'
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements-dev.lock .venv/hub
	@echo 'Installing what tests and checks need …'
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@
