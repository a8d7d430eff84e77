# Everything a checkout needs, each target with its own set-up: Python 3.11 or 3.12, git and make
# are enough. `make` alone lists the targets.

VENV ?= .venv
VENV312 ?= .venv312
# Each worker of the tests compiles JAX programs: more of them than cores only adds memory.
WORKERS ?= 2
BIN = $(VENV)/bin
PINS = pyproject.toml constraints/py311.txt constraints/py312.txt launch/venv.sh
# What must hold on the newest JAX too (Python 3.12); those that exist.
NEWEST = $(wildcard tests/partitioning tests/models tests/objectives tests/pretrain/test_step*.py \
	tests/pretrain/test_state*.py tests/pretrain/test_optimizer*.py)

export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.PHONY: help install quickstart test test-slow test-312 bench docs lint format constraints clean
.DEFAULT_GOAL := help

help:
	@echo 'make quickstart   corpus, tokenizer, training, samples and a report, in minutes'
	@echo 'make test         format, lint, types and the fast tests'
	@echo 'make test-slow    kill tests and others that take minutes'
	@echo 'make test-312     model, partitioning and step tests on Python 3.12 and the newest JAX'
	@echo 'make bench        ratios against named peers; writes docs/performance.md'
	@echo 'make docs         the documentation site, into site/'
	@echo 'make lint         format, lint, types and shell scripts only'
	@echo 'make format       let ruff rewrite what it can'
	@echo 'make constraints  pin the versions that $(VENV) has now'
	@echo 'make clean        remove the virtual environments and caches, not the runs'

install: $(VENV)/installed

$(VENV)/installed: $(PINS)
	@bash launch/venv.sh $(VENV) dev,docs

$(VENV)/installed-bench: $(VENV)/installed
	@bash launch/venv.sh $(VENV) dev,docs,bench
	@touch $@

$(VENV312)/installed: $(PINS)
	@PYTHON=$(or $(PYTHON312),python3.12) bash launch/venv.sh $(VENV312) dev

quickstart: $(VENV)/installed
	$(BIN)/gesso quickstart

lint: $(VENV)/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/shellcheck launch/*.sh .ci/run $(wildcard benchmarks/*.sh)

format: $(VENV)/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test: lint
	$(BIN)/python -m pytest -m 'not slow' -n $(WORKERS) --dist loadfile --durations 10

test-slow: $(VENV)/installed
	GESSO_TEST_OPTIMIZED=1 $(BIN)/python -m pytest -m slow

test-312: $(VENV312)/installed
	$(VENV312)/bin/python -m pytest -m 'not slow' -n $(WORKERS) --dist loadfile $(NEWEST)

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'site/index.html'

constraints: $(VENV)/installed-bench
	$(BIN)/python constraints/freeze.py
	@touch $(VENV)/installed $(VENV)/installed-bench

clean:
	rm -rf $(VENV) $(VENV312) .cache site .ruff_cache .hypothesis *.egg-info
