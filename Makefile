# Two commands matter: `make demo` and `make test`. Both set up everything they need, once.
PYTHON_ENV := .venv/bin
# without it every process would compile torch again: three seconds each
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check lint types faults bench clean
help:
	@echo "make demo    the main job on the embedded default: scenes, two teachers, one student (CPU, no downloads)"
	@echo "make test    the tests"
	@echo "make check   formatting, lint, types, tests"
	@echo "make faults  the table of faults (long)     make bench  the table of speeds (long)"
	@echo "make clean   remove .venv and caches; runs/ stays"

setup:
	@.ci/setup

demo: setup
	@$(PYTHON_ENV)/unicscale demo

test: setup
	$(PYTHON_ENV)/python -m pytest -m "not slow"

lint: setup
	$(PYTHON_ENV)/ruff format --check .
	$(PYTHON_ENV)/ruff check .

types: setup
	$(PYTHON_ENV)/pyright

check: lint types test

faults: setup
	$(PYTHON_ENV)/python -m tests.faults

ROWS := step plan engines loader checkpoint evaluate teachers components resume dry_runs three_teachers
bench: setup
	for row in $(ROWS); do $(PYTHON_ENV)/python benchmarks/$$row.py || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
