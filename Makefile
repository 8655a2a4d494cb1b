# Two commands need nothing but python3 and make:
#   make demo    install into .venv and distil the embedded chest X-rays
#   make test    install what tests need and run every check
#   make docs    build the documentation into build/docs
# On a machine with a GPU, with meddistill and a PyTorch for it installed:
#   make gpu PYTHON=… DATA=…    check the engine and the teachers there, then measure them; DATA: chest X-rays of 112 pixels
# Its parts: gpu-check (needs pytest), gpu-engine, gpu-traces, gpu-compiled, gpu-kernels (needs Triton), gpu-run,
# gpu-teachers, gpu-target. Each checks what it measures, and one that fails keeps none of the others from its turn.
# Variables: PYTHON (interpreter that makes .venv), OUT (folder of the demo), PIP_FLAGS (more flags for pip).

PYTHON ?= python3
OUT ?= meddistill-demo
PIP_FLAGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# Never without the constraints: an unpinned torch is replaced by the newest release and its GPU libraries. The build
# backend is pinned by them too, hence no build isolation, which would fetch another one.
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
INPUTS := pyproject.toml constraints.txt
# One thread a process: the processes share the cores, and the sums are the same on every machine.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
GPU_PARTS := gpu-check gpu-engine gpu-traces gpu-compiled gpu-kernels gpu-run gpu-teachers $(if $(DATA),gpu-target)
.PHONY: help demo test docs wheel lint format clean gpu gpu-check gpu-engine gpu-traces gpu-compiled gpu-kernels gpu-run gpu-teachers gpu-target

help:
	@echo "make demo    distil the embedded chest X-rays, train from the result, print one table"
	@echo "make test    every check: style, types, layers, wheel, documentation, tests"
	@echo "make docs    build the documentation into build/docs; a broken link fails"
	@echo "make lint    style, types and layers only        make format  put the code in style"
	@echo "make wheel   build the wheel and try it alone    make clean   remove .venv and caches"
	@echo "make gpu     on a GPU: check engine and teachers against float64, then measure them"

demo: $(VENV)/.core
	@$(BIN)/meddistill demo --out $(OUT)

test: lint wheel docs
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports

wheel: $(VENV)/.dev
	@$(ONE_THREAD) PIP_FLAGS="$(PIP_FLAGS)" $(BIN)/python .ci/check_wheel.py

docs: $(VENV)/.dev
	@$(ONE_THREAD) $(BIN)/python .ci/check_docs.py

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

gpu:
	@failed=; for part in $(GPU_PARTS); do $(MAKE) $$part || failed="$$failed $$part"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

gpu-check:
	@$(PYTHON) -m pytest -q -rs tests/pipeline/test_on_a_device.py
	@$(PYTHON) benchmarks/gpu.py --only check

gpu-engine:
	@$(PYTHON) benchmarks/gpu.py

gpu-traces:
	@$(PYTHON) benchmarks/gpu.py --only recipes --traces 10 --students 1 8 16

# Compiling takes minutes for every number of students and precision, hence few of them.
gpu-compiled:
	@$(PYTHON) benchmarks/gpu.py --only recipes --compiled --students 23 64

gpu-kernels:
	@$(PYTHON) benchmarks/gpu.py --only kernels
	@$(PYTHON) benchmarks/gpu.py --only recipes --kernels --students 1 8 23
	@$(PYTHON) benchmarks/gpu.py --only recipes --kernels --compiled --students 23 64

gpu-run:
	@$(PYTHON) benchmarks/whole_run.py
	@$(PYTHON) benchmarks/whole_run.py --compiled --students 23

gpu-teachers:
	@$(PYTHON) benchmarks/teachers.py --device cuda --at-once 32 --teachers 32

gpu-target:
	@$(PYTHON) benchmarks/teachers.py --device cuda --arithmetic bfloat16 --rounds 0 --target --data $(DATA)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "meddistill needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made $(INPUTS)
	@echo "installing meddistill into $(VENV) (PyTorch is large: the first time takes minutes)"
	@$(INSTALL) hatchling editables
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "installing what the checks need"
	@$(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@
