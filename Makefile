# One place for every command. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
TWO := -n 2 --dist worksteal --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu check bench clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP)  ## make .venv with everything, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Evervec needs Python 3.11 or newer; give one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: install  ## the whole story on real data of this machine, in ./demo
	$(BIN)/evervec demo demo

test: install  ## the tests that every change must pass (under 4 minutes on two cores)
	$(BIN)/python -m pytest $(TWO)

test-slow: install  ## crash, server and soak lanes (under 12 minutes)
	$(BIN)/python -m pytest $(TWO) -m slow

test-gpu: install  ## what needs a CUDA device
	$(BIN)/python -m pytest -m gpu

check: install  ## ruff, ruff format, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## measure against the plain script; rewrites tests/benchmarks/results.json
	$(BIN)/python -m tests.benchmarks.run

clean:  ## remove what these targets made
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
