# Every command a developer or a CI machine runs. Needs make and Python 3.11 or later;
# everything else is installed into $(VENV). Stamp files make a second run start at once.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV ?= .venv
PYTEST_ARGS ?=
# Processes of `make test`; each has one thread and takes whole files.
WORKERS ?= 2
PYTHON_TESTS ?= tests/test_properties.py
EXPERIMENTS ?= blankets celeba spurious mnist cifar kfac text faces reid

BIN := $(VENV)/bin
# Compiling every file of torch takes pip a minute; the few that are imported are compiled then, and kept.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile \
	--constraint constraints.txt --editable

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint slow gpu coverage docs figures bench-quick bench paper clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.core  ## select the Markov blanket of a real data set
	@$(BIN)/python -m codec

test: $(VENV)/.test lint  ## lint, types, layers, tests and doctests (what CI runs)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.test  ## ruff, format check, mypy and import layers alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/.test  ## the tests marked slow: every seed, large data, memory limits
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

gpu: $(VENV)/.test  ## the tests and the benchmark that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/unlearn $(PYTEST_ARGS)
	$(BIN)/python benchmarks/bench_gpu.py

# Coverage cannot see into compiled kernels: the property tests run them once as plain Python.
coverage: $(VENV)/.test  ## branch coverage of everything, kernels included
	NUMBA_DISABLE_JIT=1 CODEC_TESTS_EXAMPLES=10 $(BIN)/python -m pytest --cov --cov-report= \
		--cov-fail-under=0 --timeout=1800 $(PYTHON_TESTS)
	$(BIN)/python -m pytest --cov --cov-append --cov-report=term $(PYTEST_ARGS)

docs: $(VENV)/.docs  ## build the documentation, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

figures: $(VENV)/.docs  ## draw the figures of the README and the docs anew
	for script in docs/figures/*.py; do MPLBACKEND=Agg $(BIN)/python $$script || exit 1; done

bench-quick: $(VENV)/.test  ## the benchmarks on small data, in seconds
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script --quick || exit 1; done

bench: $(VENV)/.test  ## the benchmarks in full; writes benchmarks/results
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# `make paper FULL=1` takes the full settings and writes benchmarks/results/paper; a script that fails does not stop the rest.
paper: $(VENV)/.test  ## the paper's experiments, small, and one page with all of them; FULL=1: in full
	@failed=""; for name in $(EXPERIMENTS); do script=benchmarks/paper/$$name.py; \
		[ ! -f $$script ] || $(BIN)/python $$script $(if $(FULL),,--quick) || failed="$$failed $$name"; done; \
		$(BIN)/python benchmarks/paper/report.py $(if $(FULL),,--quick) || exit 1; \
		[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

clean:  ## remove what the commands above created
	rm -rf $(VENV) build/paper* docs/_build docs/api/generated .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis .coverage htmlcov

# ---------------------------------------------------------------- the environment
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "codec needs Python 3.11 or later; say which one: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@echo "creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { \
		echo "no virtual environment could be made; on Debian: apt-get install python3-venv" >&2; \
		exit 1; }
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing codec into $(VENV) (a minute or two, once) ..."
	@$(INSTALL) .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing codec and its test and lint tools into $(VENV) (some minutes, once) ..."
	@$(INSTALL) '.[test,lint]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing codec and its documentation tools into $(VENV) ..."
	@$(INSTALL) '.[docs]'
	@touch $@ $(VENV)/.core
