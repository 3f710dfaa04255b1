PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
USABLE := .venv/.usable

BEAM := .venv-beam/.installed

.PHONY: help install lint test test-long test-beam quickstart bench bench-quick clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(USABLE) $@

# What a user installs, without the tools and peers of the tests.
$(USABLE): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[hub]'
	@touch $@

install: $(INSTALLED)  ## create .venv and install the package with its development tools

lint: $(INSTALLED)     ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint             ## lint, then the default test suite
	$(BIN)/python -m pytest -n 2

test-long: $(INSTALLED)  ## the tests behind the `long` marker
	$(BIN)/python -m pytest -m long

$(BEAM): pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check -e '.[beam]' pytest
	@touch $@

test-beam: $(BEAM)     ## the ImageNet-21k builder on Beam, in an environment of its own
	.venv-beam/bin/python -m pytest tests/test_datasets_imagenet21k.py

quickstart: $(USABLE)     ## fine-tune on embedded images, export, load through hub.KerasLayer
	@$(BIN)/bit-keras quickstart

bench: $(INSTALLED)    ## speed and memory beside every peer, into docs/benchmarks.md; half an hour
	$(BIN)/python -m benchmarks.speed

bench-quick: $(INSTALLED)  ## the same on small networks in five minutes, into runs/speed-quick
	$(BIN)/python -m benchmarks.speed --quick

clean:           ## remove .venv, runs and caches
	rm -rf .venv .venv-beam .venv-interop runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
