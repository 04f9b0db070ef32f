# The whole set-up, from nothing: one virtual environment, .venv. Beside a sourced ROS 2 it uses
# the installation's rclpy and messages; elsewhere it takes them from PyPI, of the release kilted
# or, by ROS_RELEASE=jazzy and in an environment of its own, of jazzy.

PYTHON ?= python3
ROS_RELEASE ?= kilted
RELEASE_CONSTRAINTS := $(if $(filter-out kilted,$(ROS_RELEASE)),config/constraints-$(ROS_RELEASE).txt)
VENV := .venv$(if $(RELEASE_CONSTRAINTS),-$(ROS_RELEASE))
BIN := $(VENV)/bin
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

ROS := $(shell [ -n "$${ROS_DISTRO:-}" ] && $(PYTHON) -c 'import rclpy' 2>/dev/null && echo "$$ROS_DISTRO")
# Its name tells what the environment was made for: sourcing another ROS 2 makes it anew.
STAMP := $(VENV)/installed-$(or $(ROS),pypi)

.DEFAULT_GOAL := help
.PHONY: help venv demo docs test test-benchmarks test-docs test-slow coverage lint build colcon clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make the virtual environment .venv; the other targets do so too

demo: $(STAMP) ## Drive through changing weather, segmented over DDS; leaves demo_report/
	$(BIN)/ptdiffseg demo --out demo_report

docs: $(STAMP) ## Build the site of docs/ into site/; a warning fails it
	$(BIN)/mkdocs build --strict --quiet

# Tests start a hundred processes: without compiled files each compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

# First what may share the machine, then what measures time, of which only the files are imported;
# $(1) says what to test, $(2) where to look for such files. flake8 and pep257 run in make colcon:
# ruff has nearly all their rules.
pytest = failed=0; set -x; \
	$(BIN)/python -m pytest $(1) -n auto --dist loadfile --no-loadscope-reorder \
		-m 'not real_size and not real_time and not flake8 and not pep257' || failed=1; \
	$(BIN)/python -m pytest -m 'not real_size and real_time' \
		$$(grep -rl --include='test_*.py' 'mark\.real_time' $(2)) || failed=1; \
	exit $$failed

test: lint ## Lint, then test the package; without test-benchmarks, test-docs and test-slow
	@$(call pytest,--ignore test/benchmarks --ignore test/docs,--exclude-dir=benchmarks --exclude-dir=docs test)

test-benchmarks: $(STAMP) ## Test the benchmarks: claims, streams, soak
	@$(call pytest,test/benchmarks,test/benchmarks)

test-docs: docs ## Build the site, run the commands of the tutorials, check links and figures
	$(BIN)/python -m pytest test/docs

test-slow: $(STAMP) ## Test Stable Diffusion at its real size: 16 GiB of memory, many minutes
	$(BIN)/python -m pytest -m real_size

coverage: $(STAMP) ## Run make test and show the lines of the package that no test reaches
	$(BIN)/coverage erase  # colcon brings coverage
	@# Measuring slows processes down: a bound of time that fails does not hide the report.
	failed=0; \
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/.coverage \
		$(MAKE) test || failed=1; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$failed

lint: $(STAMP) ## Check style and types (ruff, mypy)
	$(BIN)/ruff check .
	$(BIN)/mypy

build: $(STAMP) ## Build with colcon, as in a workspace
	$(BIN)/colcon build --base-paths .

colcon: build ## Run the quick tests through colcon, and see that it ran some
	$(BIN)/colcon test --base-paths . --event-handlers console_cohesion+ \
		--pytest-args -m linter
	$(BIN)/colcon test-result --all --verbose | tee build/test_summary.txt
	@grep -Eq '^Summary: [1-9]' build/test_summary.txt || { echo 'colcon ran no test' >&2; exit 1; }

clean: ## Remove the environment and all that was built
	rm -rf .venv .venv-* build install log site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

$(RELEASE_CONSTRAINTS):
	@echo "ROS_RELEASE is $(ROS_RELEASE): allowed are kilted and jazzy." >&2; exit 1

$(STAMP): setup.py config/constraints.txt $(RELEASE_CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo \
		"Python 3.10 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		"Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@[ -n "$(ROS)" ] || $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || { echo \
		"PyPI has ROS 2 for Python 3.10 to 3.13; $(PYTHON) is $$($(PYTHON) --version)." \
		"Name another (make PYTHON=python3.12 $(MAKECMDGOALS)) or source a ROS 2." >&2; exit 1; }
	@[ -z "$(ROS)" -o -z "$(RELEASE_CONSTRAINTS)" ] || { echo \
		"ROS_RELEASE is for shells where no ROS 2 is sourced; $(ROS) is." >&2; exit 1; }
	@[ -n "$(ROS)" -o -z "$${ROS_DISTRO:-}" ] || { echo \
		"ROS 2 $$ROS_DISTRO is sourced, but $(PYTHON) cannot import its rclpy." \
		"Name the Python that it was made for (make PYTHON=/usr/bin/python3 $(MAKECMDGOALS))" \
		"or use a shell where no ROS 2 is sourced." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		"$(PYTHON) cannot make virtual environments: install the package python3-venv" \
		"(sudo apt install python3-venv) and try again." >&2; exit 1; }
	@[ -e $(STAMP) ] || $(PYTHON) -m venv --clear $(if $(ROS),--system-site-packages) $(VENV)
	@echo "Installing into $(VENV) with $(or $(ROS:%=ROS 2 %),ROS 2 $(ROS_RELEASE) from PyPI): some minutes ..."
	@if [ -n "$(ROS)" ]; then \
		grep -E '^(torch|diffusers|transformers|tokenizers|huggingface_hub|safetensors|accelerate|openvino)=' \
			config/constraints.txt; \
		$(PYTHON) -c 'import numpy; print(f"numpy=={numpy.__version__}")'; \
	elif [ -n "$(RELEASE_CONSTRAINTS)" ]; then \
		grep -v '^ros-' config/constraints.txt; cat $(RELEASE_CONSTRAINTS); \
	else cat config/constraints.txt; fi > $(VENV)/constraints.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt \
		-e '.[demo,docs,openvino,tensorboard,test,train$(if $(ROS),,$(comma)ros)]'
	@touch $(STAMP)

comma := ,
