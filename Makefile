# The commands to know. Each brings its environment along: .venv, or VENV=<folder>.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
# The extras timm and smp bring torchvision, whose registry build is for CUDA and does not load beside a CPU-only torch. They lie in a
# folder of their own, which only the tests of these extras look into (tests/conftest.py).
EXTRAS = $(VENV)/extras
DEMO = demo_out
DEMO_ENV = MML_DATA_PATH=$(DEMO)/data MML_RESULTS_PATH=$(DEMO)/results
# what is left out by default takes long or needs a device: make test PYTEST='-m slow'
PYTEST ?= -m "not slow and not chaos and not gpu"
# tests wait a lot (for imports, for Ray, for processes to end), so two files are worked on at a time
SIDE_BY_SIDE = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all check format bench docs clean

help:
	@echo "make demo      handwritten digits through five nested folds"
	@echo "make test      all fast tests          make test-all  the slow ones and the chaos suite too"
	@echo "make check     style, types, imports   make format    fix the style"
	@echo "make bench     benchmarks              make docs      the documentation, into site/"

$(INSTALLED): pyproject.toml constraints.txt tests/extras.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(EXTRAS) -r tests/extras.txt
	@touch $@

demo: $(INSTALLED)
	$(DEMO_ENV) $(BIN)/mml-ray create tasks=digits
	$(DEMO_ENV) $(BIN)/mml-ray train tasks=digits 'mode.subroutines=[train,predict,test]'

test: $(INSTALLED)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=20 $(PYTEST)

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	@for file in tests/benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site $(DEMO) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
