# One Makefile: the README names these targets and .ci/run calls them.
PYTHON ?= python3
BIN := .venv/bin
# two at a time, file by file in the order in which tests are collected: long ones first
SIDE := -n 2 --dist loadfile --no-loadscope-reorder
# the seed from which a sweep goes on
FROM ?= 0
# Modules are compiled as they are first imported: most of those that are installed never are.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

# Wherever this was switched off, hundreds of processes of the tests would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo setup check test test-all faults notebooks figures bench sweep base all clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# Torch first, by its exact version, so that nothing later pulls another build in.
.venv/.sim: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch==2.13.0
	$(INSTALL) -e '.[sim]'
	touch $@

.venv/.dev: .venv/.sim
	$(INSTALL) -e '.[dev]'
	touch $@

demo: .venv/.sim  ## federated fine-tune over 8 silos in 4 languages, with a report
	$(BIN)/fl-sim run --set alone.adapt=false  # the demo is short

setup: .venv/.dev  ## everything that development needs

check: .venv/.dev  ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: .venv/.dev  ## the default tests, under ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE)

test-all: test  ## the slow ones too: whole studies, a browser, and Flower's own runtime
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE) -m '(slow or browser) and not superlink and not gpu'
	$(BIN)/python -m pytest $(SIDE) -m 'superlink and not gpu'

notebooks: .venv/.dev  ## run the notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --nbmake notebooks -m '' --nbmake-timeout=900

figures: .venv/.dev  ## print every measured figure, missed goals first
	$(BIN)/python -m benchmarks.figures

bench: .venv/.dev  ## speed and memory beside peers that are really run; an hour and more on two cores
	$(BIN)/fl-sim bench

faults: .venv/.dev  ## a thousand studies through drawn faults, as with every change
	$(BIN)/python -m benchmarks.faults --schedules 1000 --no-bugs --dry

sweep: .venv/.dev  ## 100,000 studies through drawn faults, on all cores, ten thousand after ten thousand
	for seed in $$(seq $(FROM) 10000 99999); do \
	  $(BIN)/python -m benchmarks.faults --seed $$seed --schedules 10000 --no-bugs || exit 1; done

base: .venv/.dev  ## train builtin:tiny anew from a folder of text: make base DATA=folder
	$(BIN)/python -m fl_client.bases.pretrain --data $(DATA) --out fl_client/bases/tiny

all: check demo notebooks test-all faults  ## what CI runs

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
