# One-word verbs; each says what it does in docs/ARCHITECTURE.md and CONTRIBUTING.md.
PY := .venv/bin/python
PORT ?= 8000
BIREFNET ?= none
MINUTES ?= 10
LEAK_MINUTES ?= 45

EXAMPLES ?= 100

.PHONY: setup demo serve doctor test lint types check sdl audit bench load fuzz schemathesis chaos proof weights lock release
.DEFAULT_GOAL := demo

setup:
	@bash scripts/setup.sh

weights: setup
	@$(PY) -m scripts.weights

demo: setup
	@$(PY) -m scripts.demo

serve: setup
	@.venv/bin/uvicorn main:app --port $(PORT)

doctor: setup
	@$(PY) -m scripts.doctor

test: setup
	@bash scripts/test_tools.sh
	@$(PY) -m scripts.weights || echo "!! no ISNet weights: the tests that need them will be skipped"
	@$(PY) -m pytest -n 2 --dist loadfile

lint: setup
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

types: setup
	@.venv/bin/mypy .

check: lint types

sdl: setup
	@$(PY) -m scripts.sdl
	@bash scripts/validate_sdl.sh

audit: setup
	@$(PY) -m scripts.audit

bench: setup
	@for each in knockout png upscale isnet local_models edges triage ranking print_check renderings providers soak shots; do $(PY) -m bench.$$each || exit 1; done

load: setup
	@$(PY) -m bench.load --minutes $(MINUTES) --leak-minutes $(LEAK_MINUTES)

fuzz: setup
	@$(PY) -W ignore -m fuzz --minutes $(MINUTES)

schemathesis: setup
	@$(PY) -m fuzz.api --examples $(EXAMPLES)

proof: setup
	@$(PY) -m scripts.build_without_docker --build-arg BIREFNET=$(BIREFNET)
	@$(PY) -m scripts.prove_image

chaos: setup
	@$(PY) -m scripts.chaos

release: setup
	@$(PY) -m scripts.release

lock:
	@for each in requirements requirements-dev requirements-sbom requirements-load; do \
	  .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    $(LOCK_FLAGS) -o $$each.txt $$each.in || exit 1; done
	@.venv/bin/uv pip compile -q --python-platform x86_64-manylinux_2_28 --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --excludes requirements-gpu-without.in \
	  $(LOCK_FLAGS) -o requirements-gpu.txt requirements-gpu.in
