# The two commands of the README. On Windows, run the commands below by hand.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

demo: .venv/.demo
	$(BIN)/vesalius demo --output demo

test: lint
	$(BIN)/python -m pytest --cov --cov-report=term

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/.python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[onnx,demo]"
	touch $@

.venv/.dev: .venv/.demo pyproject.toml constraints.txt
	$(INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
