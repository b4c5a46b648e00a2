# The two commands that need nothing but Python 3.10 to 3.13, pip and make:  make demo  and  make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all docs lint format clean

setup: $(STAMP)

# torch first, so that the pinned version is there before anything else asks for a torch.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else \
		"error: $(PYTHON) is Python %d.%d; ids3d needs 3.10 to 3.13: make $(MAKECMDGOALS) PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[capture,dev]'
	@touch $@

demo: setup
	$(BIN)/python launch.py --config configs/ids-llff.yaml $(ARGS)

# Two processes at once, of one thread each, which is faster than one of two.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-all: setup
	$(BIN)/python -m pytest

# The page of every setting, from the code, and the site with it: site/index.html, which needs no network to be read.
docs: setup
	$(BIN)/python -m ids3d.systems.settings_page docs/settings.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
