# Everything from a fresh clone: `make demo`, `make gui`, `make test`. Needs make and Python 3.11 or newer.
# On Windows use the pip lines of README.md. Choose another Python with: make demo PYTHON=/path/to/python3

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$python"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2

.PHONY: demo gui test slow lint clean libraries
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(BIN)/python -m labctl demo $(ARGS)

gui: $(VENV)/.installed
	@$(BIN)/python -m labctl gui $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The suite comes last, so that its summary is what one sees.
test: lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS-1} QT_QPA_PLATFORM=$${QT_QPA_PLATFORM-offscreen} $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

# What takes more than a few seconds: a million exposures, a hundred kills, whole calibrations.
slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=$${OMP_NUM_THREADS-1} QT_QPA_PLATFORM=$${QT_QPA_PLATFORM-offscreen} $(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing labctl into $(VENV) (the first time takes some minutes)"
	@$(PIP) --editable .
	@$(MAKE) --no-print-directory libraries
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing labctl and its development tools into $(VENV) (the first time takes some minutes)"
	@$(PIP) --editable '.[dev]'
	@$(MAKE) --no-print-directory libraries
	@touch $@ $(VENV)/.installed

$(VENV)/bin/pip:
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "labctl needs Python 3.11 or newer: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no virtual environment could be made: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }

# OpenCV and Qt are linked against system libraries that a bare machine lacks.
libraries:
	@$(BIN)/python -m labctl doctor --libraries --install

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find labctl tests -name __pycache__ -type d -prune -exec rm -rf {} +
