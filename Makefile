# The verbs of the project; every one sets up .venv first and works on a fresh Debian or Ubuntu with Python 3.11.
.PHONY: help setup demo test test-fast lint type bench docs lock clean
.DEFAULT_GOAL := help
BIN := .venv/bin
# One thread a process: two test workers and two simulation workers share two cores.
export OMP_NUM_THREADS ?= 1
export SDL_VIDEODRIVER ?= dummy
export TOKENIZERS_PARALLELISM ?= false

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup:  ## make .venv and install the locked packages
	@bash requirements/setup.sh

demo: setup  ## collect, train, evaluate and report on an embedded task (under 15 minutes on two cores)
	@OMP_NUM_THREADS= $(BIN)/robopolicy demo

test:  ## the whole suite
	@WITH_BROWSER=1 WITH_ROS=1 bash requirements/setup.sh
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --durations 15

test-fast: setup  ## the suite without its slow part
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow"

lint: setup  ## ruff: style and mistakes
	$(BIN)/ruff check robopolicy tests benchmarks
	$(BIN)/ruff format --check robopolicy tests benchmarks

type: setup  ## mypy over the package
	$(BIN)/mypy

bench: setup  ## side-by-side speed figures against LeRobot, as JSON and a table
	@OMP_NUM_THREADS= $(BIN)/robopolicy bench --out runs/bench

docs: setup  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q && echo "site/index.html"

lock:  ## resolve requirements/all.in again (needs uv)
	uv pip compile -q requirements/all.in --override requirements/overrides.txt --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url -o requirements/lock.txt

clean:  ## remove what make made (runs/ stays)
	rm -rf .venv site dist build .pytest_cache .mypy_cache .ruff_cache
