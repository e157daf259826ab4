# Two commands on a fresh machine with python3 and make: `make demo` and `make test`. Nothing is installed outside .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# Two keep a small machine busy without starving the servers that the tests start.
WORKERS ?= 2
RUFF_FOLDERS := $(wildcard src tests tools examples benchmarks)

export PATH := $(BIN):$(PATH)
# pyright's wrapper would otherwise look on the network for a newer release.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check static types gates unit bench kill fanout queues chaos effects inbound tasks

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## run the demo; DATABASE and REDIS_URL choose its servers
	python -m examples.channels $(if $(DATABASE),--database '$(DATABASE)') $(if $(REDIS_URL),--redis-url '$(REDIS_URL)')

test: static ## every gate and every test
	python -m pytest -n $(WORKERS) --dist loadgroup

check: $(STAMP) ## every gate and the unit tests, in under a minute
	@$(MAKE) --no-print-directory -j $(WORKERS) types gates unit

bench: $(STAMP) ## run the benchmarks
	python -m benchmarks

kill: $(STAMP) ## kill -9 200 times over 20,000 effects; DATABASE chooses an empty PostgreSQL one
	python -m tests.durability.kill --kills 200 --effects 20000 $(if $(DATABASE),--life 3 --database '$(DATABASE)')

queues: $(STAMP) ## compare delivery with three queues on PostgreSQL, in one run
	uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[contest]' || python -m pip install --quiet -c constraints.txt -e '.[contest]'
	python -m benchmarks.queues

effects: $(STAMP) ## measure delivery of effects: latency, throughput, idle cost, rescue; DATABASE as above
	python -m benchmarks.effects $(if $(DATABASE),--database '$(DATABASE)')

inbound: $(STAMP) ## measure webhooks and consumers
	python -m benchmarks.inbound

chaos: $(STAMP) ## ten minutes of kills and outages: 1,000 kills over 100,000 effects
	python -m tests.chaos.run --seconds 600 --kills 1000 --effects 100000

tasks: $(STAMP) ## 10,000 tasks, four workers, one killed; DATABASE chooses one (postgresql: a server of its own)
	python -m tests.tasks.many $(if $(DATABASE),--database '$(DATABASE)')

fanout: $(STAMP) ## 2,000 WebSockets, how late messages are, and 1,000 broken connections
	python -m benchmarks.fanout

static: $(STAMP)
	@$(MAKE) --no-print-directory -j $(WORKERS) types gates

types:
	pyright

gates:
	ruff check $(RUFF_FOLDERS)
	ruff format --check $(RUFF_FOLDERS)
	lint-imports
	python tools/tidy.py

unit:
	python -m pytest tests/unit -q

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet uv || echo "uv cannot be had here; pip does the same, more slowly"
	@if test -x $(BIN)/uv; then \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

.PHONY: lock
lock: $(STAMP) ## choose the versions anew and write constraints.txt
	uv pip compile --quiet --universal --no-header --no-annotate --no-emit-index-url --all-extras --upgrade \
		pyproject.toml -o constraints.txt
