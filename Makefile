# The targets install everything in .venv. You only need make and Python 3.10 or later.
PYTHON ?= python3
PORT ?= 8300
VENV := .venv
BIN := $(VENV)/bin
# pip would compile all packages one by one. Python compiles what is imported.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint .ci/constraints.txt

# Where it is set, as in some images, each process of the tests compiles all code again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run run-gunicorn free-port test quick bench bench-outages mutants soak check docs format constraints clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

run: $(VENV)/.run free-port  ## Serve the example on http://127.0.0.1:8300, or another port with PORT=8080
	$(BIN)/flask --app examples/comments run --port $(PORT)

run-gunicorn: $(VENV)/.run free-port  ## Serve it as in production: several workers, a real Redis; another port with PORT=8080
	REDIS_LINKS_URL=$${REDIS_LINKS_URL:-redis://localhost:6379/0} \
	REDIS_CONTENT_URL=$${REDIS_CONTENT_URL:-redis://localhost:6379/1} \
	REDIS_SESSIONS_URL=$${REDIS_SESSIONS_URL:-redis://localhost:6379/2} \
	$(BIN)/gunicorn --bind 127.0.0.1:$(PORT) --config examples/comments/gunicorn.conf.py 'examples.comments:create_app()'

free-port: $(VENV)/.run
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", int("$(PORT)")))' 2>/dev/null || \
	{ echo "Port $(PORT) is in use or invalid. Choose another one: make $(firstword $(MAKECMDGOALS)) PORT=8080" >&2; exit 1; }

test: $(VENV)/.test  ## Run the tests
	$(BIN)/python -m pytest --numprocesses 11 --dist worksteal -rfEsR $(if $(CI),--reruns 1) --cov --cov-fail-under=100 $(ARGS)

quick: $(VENV)/.test  ## Run the fast tests that need no server
	$(BIN)/python -m pytest --quiet -m "not server and not slow and not long and not chaos" $(ARGS)

bench: $(VENV)/.test  ## Measure how fast it is, beside redis-py alone (9 minutes)
	$(INSTALL) --group benchmarks
	$(INSTALL) --upgrade --target $(VENV)/hiredis --group hiredis
	PYTHONPATH=$(VENV)/hiredis $(BIN)/python -m tests.benchmarks.speed --hiredis $(VENV)/hiredis --directory docs

bench-outages: $(VENV)/.test  ## Measure how long requests wait in outages (13 minutes)
	$(INSTALL) --group benchmarks
	$(BIN)/python -m tests.benchmarks.outages --csv docs/measured/outages.csv

soak: $(VENV)/.test  ## Run the chaos tests for 13 minutes, and watch memory and open files
	$(BIN)/python -m tests.chaos.soak --csv docs/measured/soak.csv $(ARGS)

mutants: $(VENV)/.test  ## Change the code, and see whether a test fails; PART=spec for a part of it (hours)
	$(INSTALL) --group mutants
	$(BIN)/python -m tests.mutants $(PART) $(ARGS)

check: $(VENV)/.check  ## Run all checks: style, types, docs, package, every Python
	$(BIN)/tox run $(ARGS)

docs: $(VENV)/.run  ## Build the documentation: docs/_build/site/index.html
	$(INSTALL) --group docs
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build/site

format: $(VENV)/.check  ## Format the code
	$(BIN)/tox exec -e style -- ruff check --fix .
	$(BIN)/tox exec -e style -- ruff format .

constraints: $(VENV)/.check  ## Pin the development tools' newest versions
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-header --no-annotate \
	  $(addprefix --group ,tests integrations load upstream benchmarks mutants hiredis docs typing style package check pre-commit) --all-extras pyproject.toml | grep -vE '^(fakeredis|flask|redis|werkzeug)=' >.ci/constraints.txt

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .tox .mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist docs/_build

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml .ci/constraints.txt
	$(INSTALL) --editable '.[fakeredis]' --group examples
	touch $@

# What .run installs, too: one installation is a second faster than two.
$(VENV)/.test: $(VENV)/.venv pyproject.toml .ci/constraints.txt
	$(INSTALL) --editable '.[fakeredis]' --group tests
	touch $(VENV)/.run
	# Otherwise each process of the tests compiles the packages, and the tests.
	$(BIN)/python -m compileall -q $(VENV)/lib & \
	$(BIN)/python -m pytest --quiet --collect-only >/dev/null && wait
	touch $@

$(VENV)/.check: $(VENV)/.venv pyproject.toml .ci/constraints.txt
	$(INSTALL) --group check
	touch $@
