# Needs Python 3.11 or later and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
MORE := $(shell $(PYTHON) -c "import os; print(1 + (os.cpu_count() or 1))")
# Flags for bench: see tests/benchmarks/bench.py --help.
BENCH_ARGS ?=
# Flags for teach: see tests/experiments/teach.py --help.
TEACH_ARGS ?=
# Flags for chaos: see tests/chaos/chaos.py --help.
CHAOS_ARGS ?=

# Seconds that each target is fuzzed for.
FUZZ_SECONDS ?= 60

# Debian's packages whose programs the tests drive: a browser, and a Prometheus.
PACKAGES := chromium prometheus

# Packages are installed beside the virtual environment, and lint runs beside the suite.
MAKEFLAGS += --jobs=3

.PHONY: demo test suite packages lint bench teach chaos fuzz cluster-demo clean

demo: $(VENV)/run.done
	rm -rf $(DEMO)
	$(BIN)/python jobs/mosaic_corpus.py --output $(DEMO)
	$(BIN)/mosaic-ray explain $(DEMO)/data/train-00003-of-00004.parquet:70
	@echo
	@echo "samples      $(DEMO)/data/"
	@echo "report       $(DEMO)/report.html"
	@echo "card         $(DEMO)/README.md"
	@echo "manifest     $(DEMO)/manifest.json"
	@echo "their source mosaic_ray/embedded/corpus/"

test: lint suite

# On all processors. What starts clusters and servers does so once a file, so a file stays together; and it waits a lot,
# so one more runs than there are processors.
suite: packages $(VENV)/test.done
	$(BIN)/python -m pytest --numprocesses $(MORE) --dist loadfile --no-loadscope-reorder

packages:
	@missing=; for package in $(PACKAGES); do command -v $$package >/dev/null || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
		as=; [ "$$(id -u)" = 0 ] || as=sudo; \
		$$as apt-get update -qq; \
		$$as env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test.done
	$(BIN)/python tests/benchmarks/bench.py $(BENCH_ARGS)

teach: $(VENV)/test.done
	$(BIN)/python tests/experiments/teach.py $(TEACH_ARGS)

chaos: $(VENV)/test.done
	$(BIN)/python -m tests.chaos.chaos $(CHAOS_ARGS)

fuzz: $(VENV)/test.done
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	for target in start jsonl array packing shapes file parquet; do \
		$(BIN)/python tests/fuzz/fuzz.py $$target --seconds $(FUZZ_SECONDS) || exit 1; \
	done

cluster-demo: $(VENV)/test.done
	$(BIN)/python -m infra.local.cluster_demo

$(VENV)/run.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test.done: $(VENV)/run.done
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) .bench .fuzz build *.egg-info
