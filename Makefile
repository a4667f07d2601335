# make demo          train BLIP and fine-tuning on four variants of CartPole, and show what each has forgotten
# make demo-atari    the same on two Atari games
# make test          everything that CI runs
# All create .venv with the versions of constraints.txt on first use; a stamp makes the next time quick.

PYTHON ?= python3
WORKERS ?= 2
# Of each Atari game.
DEMO_STEPS ?= 20k

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-dev
DOCUMENTATION := $(VENV)/.installed-docs
WHEEL := $(VENV)/.wheel-checked
SHIPPED := $(shell find blip_rl agents envs -name '*.py' -o -name '*.toml' -o -name '*.html' -o -name '*.css')

.DEFAULT_GOAL := help
.PHONY: help demo demo-atari test check lint types imports unit wheel docs floors format hooks clean

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-10s %s\n", $$1, $$2 }'

demo: $(RUNTIME)  ## Train BLIP and fine-tuning on four variants of CartPole, and show what each has forgotten
	@echo "Two agents learn four variants of CartPole one after another: 2 to 3 minutes on two idle cores."
	@$(BIN)/python scripts/demo.py --games cartpole4

demo-atari: $(RUNTIME)  ## The same on two Atari games, too short to play them well
	@echo "Two agents learn two Atari games, $(DEMO_STEPS) steps each."
	@$(BIN)/python scripts/demo.py --games atari2 --steps $(DEMO_STEPS) --device auto

test: check unit wheel  ## Everything that CI runs

check: lint types imports  ## Format, lint, types and import contracts

lint: $(DEVELOPMENT)  ## Formatting and style, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEVELOPMENT)  ## mypy, strict
	$(BIN)/mypy

imports: $(DEVELOPMENT)  ## Who may import whom
	$(BIN)/lint-imports

# One thread each: the workers would otherwise fight for the same cores. A file at a time, so that what its tests share is made once.
unit: $(DEVELOPMENT)  ## Tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

wheel: $(WHEEL)  ## Build the wheel, install it elsewhere and use it

docs: $(DOCUMENTATION)  ## Build the documentation site in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

floors: $(DEVELOPMENT)  ## Install the lowest versions that pyproject.toml allows, and use every command with them
	$(BIN)/python scripts/check_floors.py

format: $(DEVELOPMENT)  ## Format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: $(DEVELOPMENT)  ## Check before every commit
	$(BIN)/pre-commit install

clean:  ## Remove the virtual environment and caches, not runs/
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "blip-rl needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }  # half an environment would pass for a whole one

# Order-only: the interpreter behind the link is as old as the system and says nothing about what is installed.
# On this file, too: it names the extras.
$(RUNTIME): pyproject.toml constraints.txt Makefile | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[control]'
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(RUNTIME)

$(DOCUMENTATION): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@ $(RUNTIME)

$(WHEEL): $(SHIPPED) pyproject.toml constraints.txt README.md scripts/check_wheel.py | $(DEVELOPMENT)
	$(BIN)/python scripts/check_wheel.py
	@touch $@
