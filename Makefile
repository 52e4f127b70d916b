# Every target installs what it needs by itself. `make` lists them.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup data sweep status cancel report publish pages reproduce transfer gold atlas recipes dashboard sync test test-slow test-gpu bench check models demo claims probe dose clean

SWEEP ?= quick
SET ?=
LAUNCHER ?= local
DATA ?= cifar10
STUDY ?= cues
PYTHON_VERSION ?= 3.12
ARGS ?=
# PYTHON=path: an interpreter that has everything; .venv is neither made nor used
ifeq ($(origin PYTHON),command line)
python := "$(PYTHON)"
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
else
python := .venv/bin/python
endif

help: ## list the targets and what they cost
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: FORCE wheels
.venv/ready: FORCE # the script does nothing where nothing is to be done
	@env -u WHEELS -u SYSTEM_TORCH scripts/setup.sh $(if $(filter command line,$(origin PYTHON)),check $(python))

setup: ## install the locked packages into .venv (1 to 3 min, 6 GB); without a network: WHEELS=dir, SYSTEM_TORCH=1
	@scripts/setup.sh

wheels: .venv/ready ## PYTHON_VERSION=3.12: collect for a machine without a network; PLATFORM= SYSTEM_TORCH=1 HAVE=file
	@$(python) scripts/wheels.py --python $(PYTHON_VERSION) $(if $(PLATFORM),--platform $(PLATFORM)) \
		$(if $(SYSTEM_TORCH),--system-torch) $(if $(HAVE),--have $(HAVE)) --folder $(or $(WHEELS),wheels) $(ARGS)

data: .venv/ready ## DATA=cifar10: fetch and cache a dataset (CIFAR-10: 170 MB)
	@$(python) scripts/data.py data=$(DATA) $(ARGS)

sweep: export CROSSOVER_SET = $(SET)
sweep: .venv/ready ## SWEEP=quick: do what is left of a sweep, then report (quick: 5 min on 2 cores)
	@$(python) scripts/sweep.py sweep=$(SWEEP) launcher=$(LAUNCHER) $(ARGS)

status: .venv/ready ## what is done, running, failed and left of each sweep (1 s)
	@$(python) scripts/status.py $(ARGS)

cancel: .venv/ready ## SWEEP=cifar10: end the Slurm jobs of a sweep; its runs save what they have (2 s)
	@$(python) scripts/status.py --cancel "$(SWEEP)" $(ARGS)

report: .venv/ready ## SWEEP=quick: tables, figures and page from the records (10 s)
	@$(python) scripts/report.py 'name="$(SWEEP)"' $(ARGS)

publish: .venv/ready ## SWEEP=quick STUDY=cues: copy a report to results/ and its numbers to the README (1 s)
	@$(python) scripts/publish.py $(SWEEP) $(STUDY)

pages: .venv/ready ## STUDY=cues: pages of published studies, made again from their tables; STUDY= for all (20 s each)
	@$(python) scripts/publish.py --pages $(STUDY)

reproduce: .venv/ready ## STUDY=cues RUNS=3: repeat a published study, or some runs of it, and compare
	@$(python) scripts/reproduce.py study=$(STUDY) $(if $(RUNS),runs=$(RUNS)) $(ARGS)

transfer: .venv/ready ## STUDY=cues: pre-train at growing sizes, move the backbones to other tasks, report (cues: 25 min on 2 cores)
	@$(python) scripts/study.py transfer transfer=$(STUDY) $(ARGS)

gold: .venv/ready ## compare the published studies with published numbers and exact bounds (3 s)
	@$(python) scripts/gold.py $(ARGS)

atlas: .venv/ready ## what is known about real images: all published pairs through the engine (1 min)
	@$(python) scripts/atlas.py $(ARGS)

recipes: .venv/ready ## a fair search for recipes: the same seeded trials for every model (5 min on 2 cores, estimated)
	@$(python) scripts/study.py recipes $(ARGS)

dashboard: .venv/ready ## SWEEP=quick: W&B view and report of a sweep; OFFLINE=1: specs to files; TERMINAL=1: no browser (5 s)
	@$(python) scripts/dashboard.py "$(SWEEP)" $(if $(OFFLINE),--offline) $(if $(TERMINAL),--terminal) $(ARGS)

sync: .venv/ready ## upload the W&B runs that were logged offline and are not there yet (needs wandb login)
	@$(python) scripts/sync.py $(ARGS)

demo: .venv/ready ## does an operation follow a moving image? the article's demonstration, one figure (30 s)
	@$(python) scripts/study.py demo $(ARGS)

claims: .venv/ready ## the article's claims, each with its experiment, rule and verdict (15 min on 2 idle cores)
	@$(python) scripts/study.py claims $(ARGS)

probe: .venv/ready ## SWEEP=quick: what the networks of a sweep have learned, one table (3 s a run and core)
	@$(python) scripts/study.py probe 'name="$(SWEEP)"' $(ARGS)

dose: .venv/ready ## SWEEP=ablate-dose: verdict and N* by dose of bias, a table and a figure (10 s)
	@$(python) scripts/study.py dose 'name="$(SWEEP)"' $(ARGS)

models: .venv/ready ## parameters and FLOPs of every model and matched pair (20 s)
	@$(python) scripts/models.py

test: .venv/ready ## the tests (4 min on 2 cores)
	@$(python) -m pytest $(ARGS)

test-slow: .venv/ready ## the long tests: simulations, killed sweeps (15 min)
	@$(python) -m pytest -m slow $(ARGS)

test-gpu: .venv/ready ## the tests that need a CUDA device (2 min)
	@$(python) -m pytest -n 0 -m gpu tests/gpu $(ARGS)

.PHONY: test-cluster faults
test-cluster: .venv/ready ## the sweep on a real Slurm on this machine, which needs root and Debian's packages (10 min)
	@$(python) -m pytest -n 0 -m cluster -rs tests/cluster $(ARGS)

faults: .venv/ready ## 200 random faults done to sweeps: is any record lost or changed? (10 min on 2 cores)
	@$(python) -m tests.faults --results results/faults $(ARGS)

bench: .venv/ready ## ours against a plain loop and the idiomatic way (20 min); ARGS="only=[steady]"
	@$(python) -m benchmarks $(ARGS)

check: .venv/ready ## formatting, lint and types (1 min)
	@$(python) -m ruff format --check . && $(python) -m ruff check . && $(python) -m mypy

.PHONY: test-page
test-page: .venv/ready ## the report page in headless Chromium (apt-get install chromium; 1 min)
	@! command -v npm >/dev/null || npm install --silent --no-save --no-audit --no-fund --prefix .venv/axe axe-core@4.14.1
	@$(python) -m pytest -n 0 -m page tests/page $(ARGS)

clean: ## remove outputs and caches of data (asks first); keeps .venv and raw data
	@read -r -p "Remove outputs/ and data/cache/? [y/N] " answer && [ "$$answer" = y ] && rm -rf outputs data/cache
