# The two commands of the README. On Windows, run the commands below by hand.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Trained for the evaluation, each for so many steps of 8 images, which take a core two to four seconds each. They are
# better after more.
SPECIALISTS := unet unet-semantic deeplab deeplab-semantic
STEPS ?= 400
# Processes that evaluate.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")

.PHONY: demo test test-all lint evaluation clean

demo: .venv/.demo
	$(BIN)/vesalius demo --output demo

test: lint
	$(BIN)/python -m pytest -m "not long" --cov --cov-report=term

test-all: lint
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Real data, curated and measured under every protocol: hours, most of them to train what is compared with.
evaluation: .venv/.dev $(SPECIALISTS:%=evaluation/%/checkpoint)
	$(BIN)/vesalius evaluate benchmarks/every_protocol.toml --corpus evaluation/corpus -o evaluation/results \
		--workers $(WORKERS)
	$(BIN)/vesalius report evaluation/results

evaluation/corpus/corpus.json: | .venv/.dev
	mkdir -p evaluation
	$(BIN)/vesalius curate tests/corpus/real_data.toml --root "$(VESALIUS_DATA)" -o evaluation/corpus

evaluation/%/checkpoint: | evaluation/corpus/corpus.json
	sed "s/^steps = .*/steps = $(STEPS)/" src/vesalius/training/recipes/$*.toml > evaluation/$*.toml
	$(BIN)/vesalius train evaluation/$*.toml --corpus evaluation/corpus -o evaluation/$* \
		$$(test ! -e evaluation/$*/state.pt || echo --resume)

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
	rm -rf .venv demo evaluation build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
