# The habits of this project. `make` alone lists them.
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help set-up set-up-test demo test test-kernels test-kernels-short peers lint bench bench-quick picture doctor schema lock clean

help:  ## list the habits
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | awk -F '\t' '{printf "make %-18s %s\n", $$1, $$2}'

demo: set-up  ## spans and histograms of a throw-away PostgreSQL, in about 20 s
	.venv/bin/otel-usdt demo

test: lint peers  ## everything that CI runs: lint, types, all tests (as root)
	$(PYTHON) -m pytest

test-kernels-short: set-up-test  ## one exact session on Linux 6.1 and 6.12, in emulated machines (two minutes; part of make test)
	$(PYTHON) -m pytest tests/vm

test-kernels: set-up-test  ## the exactness tests under Linux 6.1 and 6.12, each with five- and four-level paging (half an hour each: emulated)
	@for kernel in 6.1 6.12; do tests/vm/run.sh $$kernel && tests/vm/run.sh $$kernel no5lvl || exit 1; done

peers: set-up-test  ## the tests' Collector, Jaeger, Tempo and Prometheus, built once and kept outside the checkout
	@tests/peers/build.sh

lint: set-up-test  ## ruff and mypy --strict
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

bench: set-up-test  ## every published figure (10 minutes, a quiet machine), docs/benchmarks.md written anew; fails when a floor is missed
	$(PYTHON) -m tests.bench --publish

bench-quick: set-up-test  ## the same in a minute, with wide margins, as the tests run it
	$(PYTHON) -m tests.bench --quick

picture: peers  ## the trace in docs/pipeline.md, drawn anew from Jaeger's API (as root)
	$(PYTHON) -m tests.peers.story docs/pictures

doctor: set-up  ## what this host can and cannot do
	.venv/bin/otel-usdt doctor

schema: set-up  ## write otel_usdt/config.schema.json anew from otel_usdt/config/
	$(PYTHON) -m otel_usdt.config > otel_usdt/config.schema.json.new
	mv otel_usdt/config.schema.json.new otel_usdt/config.schema.json

lock:  ## pin the newest versions that pyproject.toml allows
	scripts/lock.sh

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

set-up:
	@scripts/setup.sh run

set-up-test:
	@scripts/setup.sh test
