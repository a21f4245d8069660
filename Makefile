# Everything a user, a developer and CI call. Needs Python 3.11+ (with venv), make, a package index.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
INPUT  ?=
OUTPUT ?=
ARGS   ?=

SEED    ?= 1
MINUTES ?= 2

.PHONY: help setup run check format tools test bench chaos lock clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(STAMP)  ## Install everything into .venv, from the lock file with hashes

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dualface needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "This Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

run: setup  ## A split-screen video of INPUT (default: a sample made on the spot) in OUTPUT
ifeq ($(INPUT),)
	@mkdir -p out
	@$(BIN)/dualface sample out/sample.mp4
	@$(BIN)/dualface run out/sample.mp4 --output "$(or $(OUTPUT),out/sample-split.mp4)" $(ARGS)
else
	@$(BIN)/dualface run "$(INPUT)" $(if $(OUTPUT),--output "$(OUTPUT)",--out out) $(ARGS)
endif

check: setup  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Programs that some tests drive, and the Debian packages that bring them.
TOOLS := curl:curl chromium:chromium promtool:prometheus openssl:openssl cc:gcc

tools:  ## What some tests drive beside Python packages, installed where that can be done
	@missing=""; \
	for each in $(TOOLS); do \
	  command -v $${each%%:*} >/dev/null || missing="$$missing $${each##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing$$missing, which some tests drive"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "Not here:$$missing. Tests that need them are skipped; on Debian: apt-get install$$missing"

test: setup tools  ## The whole test suite
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

bench: setup  ## Speed against one ffmpeg process, in the same run
	$(BIN)/python -m benchmarks.two_cores $(if $(INPUT),--input "$(INPUT)") $(ARGS)

chaos: setup  ## Faults at random against a stack of its own; SEED, MINUTES
	$(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES) $(ARGS)

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --quiet

lock: setup  ## Renew the lock files (no registry address gets into them)
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	@# Of the images: the same versions, without tools for development.
	$(COMPILE) pyproject.toml -c requirements.lock --extra traces -o requirements-runtime.lock
	$(COMPILE) pyproject.toml -c requirements.lock --extra traces --extra gpu \
	  --override deploy/docker/gpu-overrides.txt -o deploy/docker/requirements-gpu.lock
	$(COMPILE) deploy/docker/build.txt -c requirements.lock -o deploy/docker/requirements-build.lock

clean:  ## Remove what setup made
	rm -rf $(VENV)
