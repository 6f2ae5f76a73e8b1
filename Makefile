# make: the list of what there is. PYTHON names the Python of an environment that has the extra [test].
PYTHON ?= $(if $(wildcard .venv-test/bin/python),.venv-test/bin/python,python3)
BIN = $(dir $(shell command -v $(PYTHON)))
.DEFAULT_GOAL := help
.PHONY: help demo serve test test-some check format lint types spelling words docs docs-pages site bench clean lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## set up .venv, write the demo's media, run and search it
	./run_local.sh

serve: ## the page over the demo store
	./run_local.sh serve

test: ## set up .venv-test (9 GB) and run all tests
	./run_local.sh test

test-some: ## the tests of one file or name: make test-some T=tests/test_pack.py
	$(PYTHON) -m pytest -q $(T)

check: lint types spelling words docs ## all checks without tests

format: ## format the code and fix what ruff can fix
	$(BIN)ruff check --fix . && $(BIN)ruff format .

lint: ## ruff
	$(BIN)ruff check . && $(BIN)ruff format --check .

types: ## mypy --strict
	$(BIN)mypy

spelling: ## codespell
	$(BIN)codespell

words: ## banned turns of phrase in docs and in swept packages
	$(PYTHON) docs/check_words.py

docs: ## are the generated pages current, and do links lead somewhere?
	$(PYTHON) docs/draw_architecture.py --check
	$(PYTHON) docs/write_cli.py --check
	$(PYTHON) docs/site_pages.py --check
	$(PYTHON) -m cliploom schema --markdown | diff -u docs/spec.md -

docs-pages: ## write the generated pages again
	$(PYTHON) docs/draw_architecture.py
	$(PYTHON) docs/write_cli.py
	$(if $(wildcard docs/write_api.py),$(PYTHON) docs/write_api.py)
	$(PYTHON) docs/site_pages.py
	$(PYTHON) -m cliploom schema --markdown > docs/spec.md

site: ## build the documentation site into site/ (needs the extra [docs])
	$(BIN)mkdocs build --strict

bench: ## a benchmark: make bench B=pipeline; without B the list
	$(PYTHON) -m benchmarks $(B)

lock: ## write the lock files again from setup.py (needs uv)
	./run_local.sh lock

clean: ## remove what builds and tools left
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
