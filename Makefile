# Everything a user, a developer and CI call. Needs Python 3.11+ (with venv), make, a package index.

PYTHON ?= python3
# 1: with the packages for NVIDIA GPUs (some GB), in an environment of their own: two builds of ONNX
# Runtime don't go together.
GPU    ?=
VENV   ?= $(if $(GPU),.venv-gpu,.venv)
LOCK   := $(if $(GPU),requirements-gpu.lock,requirements.lock)
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
INPUT  ?=
OUTPUT ?=
ARGS   ?=
NVCC   ?= nvcc

SEED    ?= 1
MINUTES ?= 2

# What checks and measures a GPU; an interpreter that has all packages may be named instead.
GPU_PYTHON ?=
NOW        := $(shell date -u +%Y-%m-%dT%H-%M-%SZ)

.PHONY: help setup run check kernels format tools test bench chaos lock clean
.PHONY: gpu-setup gpu-check gpu-bench

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(STAMP)  ## Install everything into .venv, from the lock file with hashes (GPU=1: .venv-gpu)

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dualface needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "This Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
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

check: setup  ## Format, lint, types, import contracts, CUDA kernels where there is nvcc or NVRTC
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory kernels

# For one architecture of each generation that this nvcc knows, from Turing (7.5) on; the outcome is
# thrown away. Without nvcc by NVRTC, which is a package of GPU=1: too large to install for all.
COMPILES := $(or $(GPU_PYTHON),$(wildcard .venv-gpu/bin/python),$(BIN)/python)

kernels:
	@command -v $(NVCC) >/dev/null || { $(COMPILES) -m tests.cuda.nvrtc; exit $$?; }; \
	for each in $$($(NVCC) --list-gpu-arch | sed -nE 's/^compute_(75|[89]0|1[0-9]0)$$/\1/p'); do \
	  code="$$code -gencode arch=compute_$$each,code=sm_$$each"; \
	done; \
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT; \
	find services shared -name '*.cu' -print0 | xargs -0 -r -n 1 -P "$$(nproc)" $(NVCC) -std=c++17 \
	  -Werror all-warnings $$code -fatbin -odir "$$folder" && echo "CUDA kernels compile"

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Programs that some tests drive, and the Debian packages that bring them.
TOOLS := curl:curl chromium:chromium promtool:prometheus openssl:openssl cc:gcc g++:g++

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

# Hundreds of processes begin in there: none compiles what another has.
test: setup tools  ## The whole test suite
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: setup  ## Speed against one ffmpeg process, in the same run
	$(BIN)/python -m benchmarks.two_cores $(if $(INPUT),--input "$(INPUT)") $(ARGS)

chaos: setup  ## Faults at random against a stack of its own; SEED, MINUTES
	$(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES) $(ARGS)

gpu-setup:
	@$(if $(GPU_PYTHON),,$(MAKE) --no-print-directory setup GPU=1)

gpu-check: gpu-setup  ## On a machine with an NVIDIA GPU: what only a GPU can show
	@mkdir -p out
	@bash -o pipefail -c 'REQUIRE_GPU=1 $(or $(GPU_PYTHON),.venv-gpu/bin/python) -m pytest -m gpu --timeout 600 \
	  -p no:cacheprovider $(ARGS) 2>&1 | tee out/gpu-check-$(NOW).txt'

gpu-bench: gpu-setup  ## And how fast it is there: files in out/
	@mkdir -p out
	$(or $(GPU_PYTHON),.venv-gpu/bin/python) -m benchmarks.gpu --out out/gpu-bench-$(NOW) $(ARGS)

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --quiet

lock: setup  ## Renew the lock files (no registry address gets into them)
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	@# Of the images: the same versions, without tools for development.
	$(COMPILE) pyproject.toml -c requirements.lock --extra traces -o requirements-runtime.lock
	$(COMPILE) pyproject.toml -c requirements.lock --extra traces --extra gpu \
	  --override deploy/docker/gpu-overrides.txt -o deploy/docker/requirements-gpu.lock
	@# Of machines with a GPU: the same versions, CUDA's own libraries with them.
	$(COMPILE) pyproject.toml -c requirements.lock --extra dev --extra gpu --extra cuda \
	  --override deploy/docker/gpu-overrides.txt -o requirements-gpu.lock
	$(COMPILE) deploy/docker/build.txt -c requirements.lock -o deploy/docker/requirements-build.lock

clean:  ## Remove what setup made
	rm -rf .venv .venv-gpu
