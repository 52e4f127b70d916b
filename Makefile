# Every target installs what it needs. `make` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup wheels data sweep status cancel report sync publish pages reproduce atlas claims transfer
.PHONY: recipes probe dose models gold demo test check bench faults clean

SWEEP ?= quick
SET ?=
LAUNCHER ?= local
DATA ?= cifar10
STUDY ?= cues
PYTHON_VERSION ?= 3.12
ARGS ?=
# PYTHON=path: an interpreter that has all packages; .venv is neither created nor used
ifeq ($(origin PYTHON),command line)
python := "$(PYTHON)"
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
else
python := .venv/bin/python
endif

help: # the targets below, and what they cost
	@awk '/^## /{print substr($$0, 4)} match($$0, /:.*## /) && /^[a-z%-]+:/ {split($$0, part, ":"); printf "  make %-10s %s\n", part[1], substr($$0, RSTART + RLENGTH)}' Makefile

.PHONY: FORCE
.venv/ready: FORCE # the script does nothing when everything is up to date
	@env -u WHEELS -u SYSTEM_TORCH scripts/setup.sh $(if $(filter command line,$(origin PYTHON)),check $(python))


## Data and sweeps

setup: ## install the locked packages (1 to 3 min, 6 GB); without a network: make wheels, WHEELS=dir, SYSTEM_TORCH=1
	@scripts/setup.sh

data: export CROSSOVER_SET = $(if $(filter command line,$(origin SWEEP)),$(SET))
data: .venv/ready ## DATA=cifar10: fetch and cache a dataset (CIFAR-10: 170 MB); SWEEP=name: the datasets of a sweep, at its image size
	@$(python) scripts/$(if $(filter command line,$(origin SWEEP)),sweep.py sweep=$(SWEEP) data_only=true,data.py data=$(DATA)) $(ARGS)

sweep: export CROSSOVER_SET = $(SET)
sweep: .venv/ready ## SWEEP=quick: train what is left of a sweep, then report (quick: 5 min on 2 cores)
	@$(python) scripts/sweep.py sweep=$(SWEEP) launcher=$(LAUNCHER) $(ARGS)

status: .venv/ready ## runs of each sweep that are done, running, failed and left (1 s)
	@$(python) scripts/status.py $(ARGS)

cancel: .venv/ready ## SWEEP=cifar10: cancel the Slurm jobs of a sweep; its runs save their state (2 s)
	@$(python) scripts/status.py --cancel "$(SWEEP)" $(ARGS)

report: .venv/ready ## SWEEP=quick: write tables, figures and page from the records (10 s)
	@$(python) scripts/report.py 'name="$(SWEEP)"' $(ARGS)

sync: .venv/ready ## upload W&B runs that were logged offline (needs wandb login)
	@$(python) scripts/status.py --sync $(ARGS)

## Studies

publish: .venv/ready ## SWEEP=cues STUDY=cues: copy a report to results/ and its numbers to the README; make pages rebuilds its pages (1 s)
	@$(python) scripts/publish.py $(SWEEP) $(STUDY)

reproduce: .venv/ready ## STUDY=cues RUNS=3: repeat a published study, or some runs of it, and compare
	@$(python) scripts/study.py reproduce study=$(STUDY) $(if $(RUNS),runs=$(RUNS)) $(ARGS)

atlas: .venv/ready ## verdicts for all published learning curves on real images (1 min)
	@$(python) scripts/study.py atlas $(ARGS)

claims: .venv/ready ## the article's claims, each with its experiment, rule and verdict (25 min on 2 cores, estimated)
	@$(python) scripts/study.py claims $(ARGS)

transfer: .venv/ready ## STUDY=cues: pre-train at growing sizes, transfer to other tasks, report (cues: 25 min on 2 cores)
	@$(python) scripts/study.py transfer transfer=$(STUDY) $(ARGS)

recipes: .venv/ready ## a fair search for recipes: the same seeded trials for every model (5 min on 2 cores, estimated)
	@$(python) scripts/study.py recipes $(ARGS)

probe: .venv/ready ## SWEEP=quick: what the networks of a sweep have learned, one table (3 to 12 s per run and core)
	@$(python) scripts/study.py probe 'name="$(SWEEP)"' $(ARGS)

dose: .venv/ready ## SWEEP=ablate-dose: verdict and N* by dose of bias, a table and a figure (10 s)
	@$(python) scripts/study.py dose 'name="$(SWEEP)"' $(ARGS)

models: .venv/ready ## parameters and FLOPs of every model and matched pair (20 s)
	@$(python) scripts/models.py

pages: .venv/ready # STUDY=cues: rebuild the pages of a published study from its tables; STUDY= for all (20 s each)
	@$(python) scripts/publish.py --pages $(STUDY)

gold: .venv/ready # compare the published studies with published numbers and exact bounds (3 s)
	@$(python) scripts/study.py gold $(ARGS)

demo: .venv/ready # the article's demonstration of equivariance, one figure (30 s)
	@$(python) scripts/study.py demo $(ARGS)

## Development

test: .venv/ready ## the tests (4 min on 2 cores)
	@$(python) -m pytest $(ARGS)

test-%: .venv/ready ## test-slow (20 min), test-gpu, test-cluster (Slurm; root; 8 min), test-page (Chromium; 1 min), test-wandb (2 min)
	@! [ $* = page ] || ! command -v npm >/dev/null || npm install --silent --no-save --no-audit --no-fund --prefix .venv/axe axe-core@4.14.1
	@$(python) -m pytest $(if $(filter slow,$*),--dist worksteal,-n 0 $(wildcard tests/$*)) -rs -m $* $(ARGS)

test-wandb: .venv/openwandb/bin/openwandb
.venv/openwandb/bin/openwandb: | .venv/ready # a server that speaks W&B's protocol, in an environment of its own
	@$(python) -m venv --clear .venv/openwandb
	@.venv/openwandb/bin/python -m pip install --quiet --disable-pip-version-check openwandb==0.5.25

check: .venv/ready ## formatting, lint and types (1 min)
	@$(python) -m ruff format --check . && $(python) -m ruff check . && $(python) -m mypy

bench: .venv/ready ## our training against a plain loop and the idiomatic way (20 min); ARGS="only=[steady]"
	@$(python) -m benchmarks $(ARGS)

clean: ## remove outputs and caches of data (asks first); keeps .venv and raw data
	@read -r -p "Remove outputs/ and data/cache/? [y/N] " answer && [ "$$answer" = y ] && rm -rf outputs data/cache

wheels: .venv/ready # PYTHON_VERSION=3.12: collect wheels for a machine without a network; PLATFORM= SYSTEM_TORCH=1 HAVE=file
	@$(python) scripts/wheels.py --python $(PYTHON_VERSION) $(if $(PLATFORM),--platform $(PLATFORM)) \
		$(if $(SYSTEM_TORCH),--system-torch) $(if $(HAVE),--have $(HAVE)) --folder $(or $(WHEELS),wheels) $(ARGS)

faults: .venv/ready # inject 200 random faults into sweeps; no record may be lost or changed (10 min on 2 cores)
	@$(python) -m tests.faults --results results/faults $(ARGS)
