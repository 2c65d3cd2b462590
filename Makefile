# Every task of the project; the same names run locally and in CI. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .peers
# Keep compiled files: tests start many processes.
export PYTHONDONTWRITEBYTECODE :=
WAITING = $(shell $(BIN)/python -c "import os; print(1 + (os.cpu_count() or 1))")# processes for tests that mostly wait for servers

.DEFAULT_GOAL := help
.PHONY: help setup fmt lint types arch docs docs-check words wheel check test test-slow test-heavy test-all fault parity bench sbom demo clean

help: ## list the tasks
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,worker]"
	@touch $(STAMP)

setup: $(STAMP) ## make .venv with everything that tests and benchmarks need

fmt: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only -q .

lint: setup ## ruff: style, common mistakes, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

arch: setup ## imports go one way (the contracts in pyproject.toml)
	$(BIN)/lint-imports --no-cache

docs: setup ## regenerate the command reference and the JSON schemas
	$(BIN)/python -m tools.command_reference

docs-check: setup ## fail when the command reference or a schema is out of date
	$(BIN)/python -m tools.command_reference --check

words: setup ## retired words of the glossary: their count may only fall
	$(BIN)/python -m tools.plain_words --most 0

wheel: setup ## build the wheel, install it elsewhere, use it
	$(BIN)/python -m tools.check_wheel

check: lint types arch docs-check words wheel ## everything except the tests

test: setup ## the quick tests: each takes less than a second
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: setup ## the tests over a second: servers, whole models, many cases
	$(BIN)/python -m pytest -n $(WAITING) --dist worksteal -m "slow and not alone and not fault and not bench and not gpu" --timeout 600
	$(BIN)/python -m pytest -m "alone and not gpu" --timeout 600

test-heavy: setup ## the tests that take minutes: long property runs, full-size files, real words
	$(BIN)/python -m pytest -m "heavy and not gpu" --timeout 1200

fault: setup ## tests that kill processes, fill disks and cut networks
	$(BIN)/python -m pytest -m fault

# moshi asks for older versions of packages that it works with as they are; so without its dependencies, in a folder that only this task reads.
$(PEERS)/moshi: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --upgrade --target $(PEERS) moshi==0.2.13 einops==0.8.2 gguf==0.19.0 \
		moshi_mlx==0.3.0 mlx==0.26.5 mlx-cpu==0.26.5 rustymimi==0.4.1 bitsandbytes==0.50.2
	@touch $@

parity: $(PEERS)/moshi ## comparisons with torch, the moshi package and other peers
	PYTHONPATH=$(PEERS) $(BIN)/python -m pytest -m parity

test-all: setup ## every test this machine can run, the long property runs included
	DSMOPS_TEST_LONG=1 $(BIN)/python -m pytest -m "not bench" --timeout 1200

bench: setup ## measure against the peers, append to tests/bench/history.jsonl
	$(BIN)/python -m tests.bench

sbom: setup ## write dist/dsmops.cdx.json, what an installation with the worker holds (CycloneDX)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt cyclonedx-bom
	$(BIN)/python -m tools.sbom

demo: setup ## the whole loop on generated data, without a GPU or a network
	$(BIN)/python -m tools.demo

clean: ## remove what the tasks made, but not .venv
	rm -rf $(PEERS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
