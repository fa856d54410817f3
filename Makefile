# Each target makes the virtual environment first if it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Of what `make chaos` draws.
SEED   ?= 0
# An index to take torch from, e.g. that of the builds without CUDA; empty: pip's own.
TORCH_INDEX ?=
# Processes of the fast suite: one more than two cores, since tests of Ray and of killed processes mostly wait.
WORKERS ?= 3
TORCH  := "torch>=2.13,<2.14" "torchvision>=0.28,<0.29"

.PHONY: demo paper install test test-slow chaos lint style types contracts docs bench clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) $(TORCH))
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

install: $(READY)         ## the virtual environment alone

demo: $(READY)            ## the whole main job on handwritten digits, no download
	$(BIN)/inference-graphs demo

# All 20,000 training images, all columns of every layer: 2.2 GB on disk.
paper: $(READY)           ## errors of words over K, layer and loss (IG Fig. 4 right): 20 to 60 minutes on 2 cores
	$(BIN)/inference-graphs sweep cifar10_resnet20 --words 10,25,50,100,200 \
	  --layers add1,add3,add5,add7,add8,add9 --set extract.columns_per_image=all --out runs/paper

lint: $(READY)            ## style, types and import contracts, beside each other
	@$(MAKE) --no-print-directory --jobs=2 types contracts style

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

test: lint                ## the fast suite: minutes on 2 cores
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)       ## the large real-data checks (tens of minutes)
	$(BIN)/python -m pytest -m "slow" --timeout=3600

chaos: $(READY)           ## 20 kills and other trouble on hosts with networks of their own; as root, 20 minutes at most
	$(BIN)/python -m tests.chaos --seed $(SEED)

docs: $(READY)            ## code, queries, links and commands of the pages
	$(BIN)/python -m pytest tests/test_documents.py

bench: $(READY)           ## prints ratios and appends them to tests/benchmarks/RESULTS.md
	$(BIN)/python -m tests.benchmarks

clean:                    ## the virtual environment and the caches; never a run folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
