# Every command of the project; `make help` lists them.
#
# A target NAME below is an artifact: table1 ... table9, fig1 ... fig26 and the others of sweeps/, or `all`.
#   SCALE=paper      the paper's protocol; size16, cpu or smoke: smaller, labelled, in a place of their own
#   DRY=1            list the runs and their cost, launch none
#   REFERENCES=1     with the dense and static runs that an accuracy figure offers
#   LAUNCHER=local   runs side by side: JOBS=2, or GPUS=0,1,2,3 with a run on each, PACK=4 with four on each
#   LAUNCHER=slurm   runs as SLURM jobs (docs/on-your-cluster.md); returns once they are in the queue
#   PROJECT, ENTITY  of W&B
#   PEERS="..."      a URL or path with {owner} and {name} in it, for `make parity`; GitHub's if not given
#   IN_PLACE=1       of resize-imagenet: replace the photographs themselves
#   WORKERS=2        processes that run the tests
#   DEVICE=cpu       for `make gpu-check`
#   OPTIONS="..."    further overrides of the training runs, such as OPTIONS="data_dir=/data"

PYTHON ?= python3
BIN := .venv/bin
SCALE ?= paper
RUNS_DIR ?= runs
RESULTS_DIR ?= results
DRY ?=
REFERENCES ?=
LAUNCHER ?= serial
JOBS ?=
GPUS ?=
PACK ?=
CPUS ?=
ARTIFACT ?= all
RUN ?=
OPTIONS ?=
PROJECT ?= sparse_train
ENTITY ?=
WORKERS ?= 2
DATA_DIR ?=
IN_PLACE ?=
DEVICE ?=
PEERS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install
REPORT := $(BIN)/python -m sparse_train.report
PYTEST = tests/scratch $(BIN)/python -m pytest --numprocesses "$$WORKERS" --dist loadfile --no-loadscope-reorder
COMPILE := uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

# Variables go through the environment, so neither make nor a shell interprets their contents.
GIVEN := SCALE RUNS_DIR RESULTS_DIR DRY REFERENCES LAUNCHER JOBS GPUS PACK CPUS ARTIFACT RUN OPTIONS PROJECT ENTITY DATA_DIR IN_PLACE WORKERS PEERS DEVICE
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)
option = $(if $($(2)),--$(1)="$$$(2)")
WHERE := $(call option,scale,SCALE) $(call option,runs-dir,RUNS_DIR) $(call option,results-dir,RESULTS_DIR) $(if $(REFERENCES),--references)
LAUNCH := $(call option,launch,OPTIONS)
START := $(call option,launcher,LAUNCHER) $(call option,jobs,JOBS) $(call option,gpus,GPUS) $(call option,pack,PACK) $(LAUNCH)
WANDB := $(call option,project,PROJECT) $(call option,entity,ENTITY)
reproduce-% draw-% rerun-% status-% cancel-% watch-%: export NAME = $*

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast plan watch claims report docs dashboard wandb-sync wandb-backfill chaos trainers resize-imagenet bench bench-sparse bench-loader gpu-check parity lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / {sub("%", "NAME", $$1); printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with the exact versions of requirements.lock, and the project itself

.venv/ready: requirements-build.lock requirements.lock pyproject.toml
	@echo "installing requirements.lock into .venv: 5 GB with CUDA's libraries, a few minutes"
	$(PYTHON) -m venv .venv
	$(PIP) --quiet --require-hashes -r requirements-build.lock
	$(PIP) --require-hashes --no-build-isolation -r requirements.lock
	$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: setup ## train RigL on digits at four sparsities (3 to 8 minutes on one core), draw it into results/mine beside our numbers
	$(REPORT) reproduce quickstart $(WHERE) --results-dir results/mine

test: setup ## set up and run all tests (10 to 15 minutes on two cores)
	$(PYTEST)

test-fast: setup ## run the quick tests (one minute on two cores)
	$(PYTEST) -m "not slow"

reproduce-%: setup ## train an artifact's missing runs and draw it: make reproduce-table1, reproduce-fig26, reproduce-all
	$(REPORT) $(if $(DRY),plan,reproduce) "$$NAME" $(WHERE) $(START) $(if $(DRY),$(call option,cpus,CPUS))

draw-%: setup ## draw an artifact from the existing records
	$(REPORT) draw "$$NAME" $(WHERE)

rerun-%: setup ## train one committed run again and compare, bit for bit on the same hardware: make rerun-why-static SCALE=cpu
	$(REPORT) rerun "$$NAME" $(WHERE) $(call option,run,RUN) $(LAUNCH)

status-%: setup ## count an artifact's complete, running, failed, diverged and missing runs
	$(REPORT) status "$$NAME" $(WHERE)

cancel-%: setup ## take an artifact's jobs out of SLURM's queue
	$(REPORT) cancel "$$NAME" $(WHERE)

plan: setup ## count runs, GPU-hours and the time on GPUS GPUs: make plan ARTIFACT=table1 GPUS=8 CPUS=8 (for each)
	$(REPORT) plan "$$ARTIFACT" $(WHERE) $(call option,gpus,GPUS) $(call option,cpus,CPUS)

watch: setup ## show the progress of running sweeps; watch-table1: one artifact
	$(REPORT) watch $(WHERE)

watch-%: setup
	$(REPORT) watch "$$NAME" $(WHERE)

claims: setup ## judge the paper's claims on its own numbers and on ours and draw the README's picture
	$(REPORT) claims $(WHERE)

report: setup ## write results/report.html, every table, figure, claim and run for a browser, from committed records: REPOSITORY= ENTITY= PROJECT= (its links)
	$(REPORT) page $(call option,results-dir,RESULTS_DIR) $(call option,repository,REPOSITORY) $(WANDB)

docs: setup .venv/docs ## build the site of all pages, the API and the methods in build/site; beside results/report.html, if it exists
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs . build/site

.venv/docs: requirements-docs.lock .venv/ready
	$(PIP) --quiet --require-hashes -r requirements-docs.lock
	@touch $@

dashboard: setup ## build the W&B workspace and a W&B report for every table: PROJECT=sparse_train ENTITY=
	$(REPORT) dashboard $(WANDB)

wandb-sync: setup ## upload runs logged offline under RUNS_DIR to W&B, each once
	$(REPORT) wandb-sync $(call option,runs-dir,RUNS_DIR)

wandb-backfill: setup ## make W&B runs out of the committed records, each once: PROJECT=sparse_train ENTITY=
	$(REPORT) wandb-backfill $(call option,results-dir,RESULTS_DIR) $(WANDB)

chaos: setup ## fail each system call of a run that changes a file, and compare its end: results/reliability.md
	PYTHONPATH=tests $(BIN)/python -m support.chaos --report results/reliability.md

trainers: setup .venv/trainers/ready ## train in the loops of timm, accelerate, Lightning and Hugging Face: results/trainers.md
	PYTHONPATH=.venv/trainers $(BIN)/python -W ignore -m trainers --out "$$RESULTS_DIR/trainers.md"

.venv/trainers/ready: trainers/requirements.txt .venv/ready
	$(PIP) --quiet --no-deps --upgrade --target .venv/trainers -r trainers/requirements.txt
	@touch $@

resize-imagenet: setup ## write ImageNet's photographs with a shorter side of 256 pixels to DATA_DIR/resized-256; IN_PLACE=1 replaces them
	$(BIN)/python -m sparse_train.data.resize $(call option,data-dir,DATA_DIR) $(if $(IN_PLACE),--in-place)

bench: setup bench-sparse bench-loader ## time steps, mask updates and training: results/performance.md; DATA_DIR=data to train on CIFAR-100 too
	$(BIN)/python -m benchmarks $(call option,data-dir,DATA_DIR) --out "$$RESULTS_DIR/performance.md"

bench-sparse: setup .venv/peers/ready ## time sparse linear layers beside dense ones and SparseLab: results/sparse-training.md (4 minutes)
	PYTHONPATH=.venv/peers $(BIN)/python -m benchmarks.sparse $(call option,data-dir,DATA_DIR) --out "$$RESULTS_DIR/sparse-training.md"

bench-loader: setup ## time ImageNet's loader on photographs of real size: results/loader.md; DATA_DIR=data uses its imagenet/ (1 minute)
	$(BIN)/python -m benchmarks.loader $(call option,data-dir,DATA_DIR) --out "$$RESULTS_DIR/loader.md"

.venv/peers/ready: benchmarks/requirements.txt .venv/ready
	$(PIP) --quiet --no-deps --upgrade --target .venv/peers -r benchmarks/requirements.txt
	@touch $@

gpu-check: setup ## check a GPU in less than 8 minutes, without a data set: results/mine/gpu-check.json; DEVICE=cpu tests the check
	$(BIN)/python -m benchmarks.gpu_check $(call option,device,DEVICE)

parity: setup ## run others' mask updates and HAM beside ours: results/parity.md; PEERS says where their code is cloned from
	$(BIN)/python -m parity --out "$$RESULTS_DIR/parity.md"
	$(BIN)/python -m parity.methods --out "$$RESULTS_DIR/parity-methods.md"

lint: setup ## check the style
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .

format: setup ## fix the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## solve pyproject.toml anew into requirements.lock and those for building and the site (needs uv)
	$(COMPILE) pyproject.toml --extra wandb --extra dev --output-file requirements.lock
	$(COMPILE) --group build --output-file requirements-build.lock
	$(COMPILE) --group docs --constraint requirements.lock --output-file requirements-docs.lock

clean: ## remove the environment and caches; runs, data and results stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
