# make demo    the whole job on generated images: data, training, test, submission, overlays, report
# make test    lint and the test suite
# make test-slow    the tests that take minutes
# Each sets .venv up first, once.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# The first Python from 3.11 to 3.13 that runs; a name may be on the path and not run (pyenv).
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$name" && break; \
	done)

.PHONY: demo test test-slow install lint clean

demo: $(READY)
	$(BIN)/python tools/demo.py

test: lint
	$(BIN)/python -m pytest

test-slow: lint
	$(BIN)/python -m pytest -m slow -n 0 --timeout 3600

lint: $(READY)
	$(BIN)/ruff check .

install: $(READY)

$(READY): requirements.txt pyproject.toml packaging/opencv-python/pyproject.toml
	@test -n "$(PYTHON)" || { echo 'error: install Python 3.11, 3.12 or 3.13 first' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt
	@touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
