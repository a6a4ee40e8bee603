# `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

# Many containers set this; with it, every process would spend seconds compiling torch again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo slurm-demo test test-faults check docs bench peers results gpu-check install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev,docs]' --constraint constraints.txt
	$(BIN)/python -c "import analysis.report, harness.run.cell, launch.tracking.sync"
	touch $@

# Plan, train, profile and score the demo grid on this machine, then write its report.
demo: install
	$(BIN)/python -m launch grid demo
	$(BIN)/python -m analysis report demo
	@echo
	@echo "MLflow: $(BIN)/python -m launch ui"

# The same on a real Slurm cluster of four nodes that is started on this machine. Needs Slurm's packages.
slurm-demo: install
	$(BIN)/python -m tests.slurm.demo

test: install check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# 24 cells on a real Slurm cluster with lost nodes, preemption and killed jobs: seven minutes, not part of `test`.
test-faults: install
	$(BIN)/python -m pytest -m faults

# Every table and number of RESULTS.md, from the archived records in results/.
results: install
	$(BIN)/python -m analysis results

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a website in build/site; a broken link is an error.
docs: install
	$(BIN)/mkdocs build --strict --site-dir build/site

# The cost of one gradient beside plain loops and, after `make peers`, torchdeq. The environment is the launcher's.
bench: install
	OMP_WAIT_POLICY=passive MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 \
		$(BIN)/python -m harness bench

# Can results and measurements on this GPU be trusted? Writes build/gpu-check.json and .md. On a CPU, as a trial of the
# code alone: JFBENCH_GPU_DRY_RUN=1 make gpu-check
gpu-check: install
	$(BIN)/python -m launch doctor --gpu || [ -n "$$JFBENCH_GPU_DRY_RUN" ]
	$(BIN)/python -m pytest -m gpu tests/gpu

peers: install
	$(BIN)/pip install --quiet --editable '.[peers]' --constraint constraints.txt

clean:
	rm -rf .venv build *.egg-info
