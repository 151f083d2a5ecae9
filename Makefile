# Every command sets up what it needs, and is quick when nothing changed.
PROFILE ?= cpu# smoke, cpu, gpu or paper: the size of what the notebooks do
JOBS ?= 2# tests that run at a time

# A version manager may answer to a name without having the version behind it, so ask each in turn.
PYTHON ?= $(shell for name in python3.11 python3.12 python3 python; do \
	$$name -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	>/dev/null 2>&1 && echo $$name && break; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKED := codec_lib tests notebooks

# Threads that wait by spinning make two threads on a busy machine up to fifty times slower.
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONPATH :=

.DEFAULT_GOAL := help
.PHONY: help env test lint format check-style unit notebooks course student lab bench browser figures checkpoints lock clean

help: ## Show the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) \
		| awk 'BEGIN {FS = ":.*## "} {printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  PROFILE=smoke|cpu|gpu|paper chooses the size of the course (now $(PROFILE))."

env: $(STAMP) ## Make or update the environment in .venv (3 GB; minutes the first time)

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
		{ echo "make env: no Python 3.11 or 3.12 found; name one with make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the packages of requirements.lock"
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps -e .
	@! $(BIN)/python -m pip check | grep -v -e '^resemblyzer ' -e '^No broken'
	@touch $@

test: lint unit notebooks ## Run every check: style, tests, every notebook at the smoke profile

lint: $(STAMP) ## Check style, format and spelling
	@echo "== lint"
	@$(BIN)/ruff check $(wildcard $(CHECKED))
	@$(BIN)/ruff format --check $(wildcard $(CHECKED))
	@$(BIN)/codespell $(wildcard *.md docs codec_lib tests notebooks)

format: $(STAMP) ## Format the code and strip the notebooks' outputs
	@$(BIN)/ruff check --fix $(wildcard $(CHECKED))
	@$(BIN)/ruff format $(wildcard $(CHECKED))
	@$(BIN)/nbstripout --keep-id $(wildcard notebooks/*.ipynb)

unit: export OMP_NUM_THREADS := 1
unit: $(STAMP) ## Run the tests without the notebooks
	@echo "== tests and examples of the docstrings"
	@$(BIN)/pytest -q -n $(JOBS) --dist worksteal --doctest-modules --ignore tests/browser tests codec_lib

notebooks: export CODEC_PROFILE := smoke
notebooks: export CODEC_STATIC := 1
notebooks: export OMP_NUM_THREADS := 1
notebooks: $(STAMP) ## Run every notebook at the smoke profile
	@echo "== notebooks"
	@$(if $(wildcard notebooks/*.ipynb),$(BIN)/pytest -q -n $(JOBS) --nbmake \
		--nbmake-timeout=600 $(wildcard notebooks/*.ipynb),echo "no notebook yet")

course: $(STAMP) ## Run the notebooks in order at PROFILE; open build/course/index.html afterwards
	@$(BIN)/python -m codec_lib.course --profile $(PROFILE)

student: $(STAMP) ## Write the notebooks without their solutions to build/student
	@$(BIN)/python -m codec_lib.course student

lab: $(STAMP) ## Open the notebooks in JupyterLab
	@CODEC_PROFILE=$(PROFILE) $(BIN)/jupyter lab --notebook-dir=notebooks

bench: $(STAMP) ## Measure speed and memory against the PyPI packages (about ten minutes)
	@$(BIN)/codec-lib bench

browser: $(STAMP) ## Move sliders in JupyterLab and check the course's pages, in a Chromium on the path
	@$(BIN)/pytest -q -n 0 tests/browser

figures: $(STAMP) ## Draw the README's pictures anew
	@$(BIN)/python -m codec_lib.figures

checkpoints: $(STAMP) ## Verify the shipped checkpoints by their sha256
	@$(BIN)/python -m pytest -q tests/repo/test_checkpoints.py

lock: $(STAMP) ## Rewrite requirements.lock from the packages in .venv
	@{ echo "# Every package of the environment that pyproject.toml asks for. Written by: make lock"; \
	$(BIN)/pip freeze --all --exclude-editable | grep -viE '^(pip|codec[-_]lib)==|^#|@|file:' \
	| sed -E 's/^((nvidia|cuda|triton)[^;]*)$$/\1 ; platform_system == "Linux"/'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock && touch $(STAMP)

clean: ## Remove what commands made, except .venv, corpora and runs
	rm -rf build .pytest_cache .ruff_cache .hypothesis
	find codec_lib tests notebooks -name __pycache__ -prune -exec rm -rf {} +
