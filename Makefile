# The study as a graph of files: a target is an executed notebook or the PDF of one profile.
# Written for GNU Make 3.81 (macOS) and newer. `make` alone lists the targets.

PROFILE ?= $(or $(PLANKTON_PROFILE),demo)
SEED    ?= $(or $(PLANKTON_SEED),0)
DATA    ?= $(PLANKTON_DATA)
PYTHON  ?= python3

NOTEBOOKS := $(sort $(basename $(notdir $(wildcard notebooks/[0-9][0-9]_*.ipynb))))

# --- the profile: its file, those it extends, its folder of results (one each seed) ----------------------------

PROFILES     := plankton_study/profiles
PROFILE_FILE := $(if $(filter %.toml,$(PROFILE)),$(PROFILE),$(PROFILES)/$(PROFILE).toml)
NAME         := $(basename $(notdir $(PROFILE_FILE)))$(if $(filter-out 0,$(SEED)),-seed$(SEED))
RESULTS      := paper/results/$(NAME)
DONE         := $(RESULTS)/notebooks

ifneq ($(words $(PROFILE)),1)
$(error PROFILE='$(PROFILE)' is not one word: make cannot follow a path with spaces, so rename or move that file)
endif
ifneq ($(shell printf '%s' '$(SEED)' | grep -xE '0|[1-9][0-9]*'),$(SEED))
$(error SEED=$(SEED) is not a whole number without leading zeros)
endif
ifeq ($(wildcard $(PROFILE_FILE)),)
$(error PROFILE=$(PROFILE): there is no file $(PROFILE_FILE); give one of \
  $(sort $(basename $(notdir $(wildcard $(PROFILES)/*.toml)))), or the path of a .toml file)
endif

# `extends` names a profile of the package, or a .toml file beside the one that says it; eight steps break any circle
PROFILE_CHAIN := $(sort $(shell f='$(PROFILE_FILE)'; for step in 1 2 3 4 5 6 7 8; do \
  [ -f "$$f" ] || break; echo "$$f"; \
  parent=$$(sed -n "s/^extends *= *[\"']\([^\"']*\)[\"'].*/\1/p" "$$f" | head -n 1); \
  case "$$parent" in ("") break ;; (/*.toml) f=$$parent ;; (*.toml) f=$$(dirname "$$f")/$$parent ;; \
  (*) f=$(PROFILES)/$$parent.toml ;; esac; done))

# --- the environment: an active one that holds every pin, otherwise .venv -------------------------------------

# `make PY=path/to/python` takes that interpreter as it is.
ifndef PY
ACTIVE := $(firstword $(VIRTUAL_ENV) $(CONDA_PREFIX))
ifneq ($(ACTIVE),)
PY := $(shell "$(ACTIVE)/bin/python" .ci/pins.py check >/dev/null 2>&1 && echo "$(ACTIVE)/bin/python")
endif
ifeq ($(PY),)
PY  := .venv/bin/python
ENV := .venv/.pins
endif
endif

# --- what every notebook may know -----------------------------------------------------------------------------

export PLANKTON_PROFILE := $(if $(filter %.toml,$(PROFILE)),$(abspath $(PROFILE)),$(PROFILE))
export PLANKTON_SEED    := $(SEED)
export PLANKTON_DATA    := $(if $(DATA),$(shell cd "$(DATA)" 2>/dev/null && pwd))
export PYTHONHASHSEED   := 0
# The package of this folder, whatever checkout the environment was made for: results go beside the
# code that made them.
export PYTHONPATH       := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export JUPYTER_PREFER_ENV_PATH := 1

ifneq ($(DATA),)
ifeq ($(PLANKTON_DATA),)
$(error DATA=$(DATA): there is no such folder; give the folder that holds the data sets)
endif
endif

# Revision and dirty flag are taken once, at the start; the prefix is empty only at the top of a repository, so
# that a copy inside somebody else's repository does not take over its revision.
ifeq ($(shell git rev-parse --show-prefix 2>&1),)
export PLANKTON_REVISION := $(shell git rev-parse --verify -q HEAD)
export PLANKTON_DIRTY    := $(if $(shell git status --porcelain | head -n 1),1,0)
else
export PLANKTON_REVISION :=
export PLANKTON_DIRTY    := 0
endif

# With -jN each kernel gets cores/N threads. A bare -j, which is also all that Make 3.81 shows of -jN, counts as
# one job for each core. These two are worked out only when a notebook runs.
CORES = $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
JOBS  = $(if $(filter -j%,$(MAKEFLAGS)),$(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(CORES)),1)
PLANKTON_THREADS ?= $(shell echo $$(($(CORES) > $(JOBS) ? $(CORES) / $(JOBS) : 1)))

# --- the graph ------------------------------------------------------------------------------------------------

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help env paper notebooks $(NOTEBOOKS) test lint unit nbval bench lab pdf compare site publish strip outputs pins \
        clean clean-cache clean-env clean-all FORCE

EXECUTED := $(NOTEBOOKS:%=$(DONE)/%.ipynb)

# What a notebook depends on follows from its imports and its metadata: rules that are written anew when either
# may have changed, and read by make before it starts.
DEPENDENCIES := .cache/dependencies.mk
SOURCES := $(shell find plankton_study -name '*.py' 2>/dev/null)
$(DEPENDENCIES): .ci/dependencies.py $(SOURCES) $(NOTEBOOKS:%=notebooks/%.ipynb)
	@mkdir -p $(@D) && $(PYTHON) .ci/dependencies.py > $@.partial && mv $@.partial $@
-include $(DEPENDENCIES)

# The verdicts of seed 0 join all seeds, so what their claims rest on is among what they are made of.
OTHER_SEEDS := $(if $(filter 0,$(SEED)),$(wildcard $(foreach k,results published,paper/$(k)/$(NAME)-seed*/values/claims.csv)))
$(DONE)/15_verdicts.ipynb: $(OTHER_SEEDS)

# New pins count as a change; the environment itself only has to be there.
$(EXECUTED): $(DONE)/%.ipynb: notebooks/%.ipynb $(PROFILE_CHAIN) environment.yml $(RESULTS)/.settings | $(ENV) $(DEPENDENCIES)
	@PLANKTON_THREADS=$(PLANKTON_THREADS) "$(PY)" notebooks/execute.py $< $@ --profile "$(PROFILE)" --seed $(SEED)

# Results of other data are out of date, although no file is newer. No DATA accepts any.
SETTINGS := profile=$(PLANKTON_PROFILE);$(if $(DATA),data=$(PLANKTON_DATA);)
ifeq ($(findstring $(SETTINGS),$(shell cat $(RESULTS)/.settings 2>/dev/null)),)
$(RESULTS)/.settings: FORCE
endif
$(RESULTS)/.settings:
	@mkdir -p $(@D) && printf '%s\n' "$(SETTINGS)" > $@

$(RESULTS)/paper.pdf: paper/build.py paper/paper.typ paper/style.typ paper/references.bib $(EXECUTED) | $(ENV)
	@"$(PY)" paper/build.py pdf $(NAME)

$(NOTEBOOKS): %: $(DONE)/%.ipynb

# --- the environment's recipe ---------------------------------------------------------------------------------

.venv/.pins: environment.yml pyproject.toml
	@if .venv/bin/python .ci/pins.py check >/dev/null 2>&1; then touch $@; exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 or newer: install one, or name yours, as in make PYTHON=python3.12 paper" >&2; exit 1; }; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make environments: install its venv package (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	echo "making .venv: some minutes, 2 GB of disk, several more with CUDA"; \
	.venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear .venv || exit 1; \
	.venv/bin/python .ci/pins.py list > .venv/requirements.txt && \
	.venv/bin/python -m pip install --disable-pip-version-check -r .venv/requirements.txt && touch $@ || { \
	  echo "error: the packages could not all be installed (the lines above say why); the same command goes on from there" >&2; exit 1; }

# --- targets to type ------------------------------------------------------------------------------------------

help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  make 01_data      run one notebook and what it needs; likewise: $(wordlist 2,99,$(NOTEBOOKS))"
	@echo "Settings: PROFILE=$(PROFILE) (or $(filter-out $(PROFILE),$(sort $(basename $(notdir $(wildcard $(PROFILES)/*.toml))))), or path/to/my.toml)"
	@echo "          SEED=$(SEED)  DATA=folder of data sets  LAB=options of JupyterLab  PYTHON=$(PYTHON)  PY=interpreter to use as it is"

env: $(ENV) ## make the environment (.venv), unless an active one holds every pin
	@echo "environment: $(PY)"

paper: $(RESULTS)/paper.pdf ## run what is out of date and typeset paper/results/<profile>/paper.pdf

notebooks: $(EXECUTED) ## run the notebooks that are out of date

pdf: $(ENV) ## typeset the stored results, live or else published, and run nothing
	@"$(PY)" paper/build.py pdf $(NAME)

compare: $(ENV) ## say of each published number whether the live run agrees with it
	@"$(PY)" paper/build.py compare $(NAME)

site: $(ENV) ## write the stored results, live or else published, as static pages to paper/site
	@"$(PY)" paper/build.py site $(NAME)

publish: $(ENV) ## copy a finished run to paper/published/<profile>
	@"$(PY)" paper/build.py publish $(NAME)

lab: $(ENV) ## open JupyterLab on the notebooks
	"$(PY)" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(LAB)

test: lint unit ## lint, unit tests, the smoke profile, and every notebook under nbval
	@$(MAKE) paper PROFILE=smoke SEED=0 DATA=
	@$(MAKE) nbval

lint: $(ENV) ## check style, and that notebooks are committed without bulky outputs
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m nbstripout --verify $(STRIP)

unit: $(ENV) ## run the unit tests
	"$(PY)" -m pytest tests

nbval: $(ENV) ## rerun the notebooks with the smoke profile and compare their checked cells
	PLANKTON_PROFILE=smoke PLANKTON_SEED=0 "$(PY)" -m pytest --nbval-lax --nbval-current-env -p no:cacheprovider \
	  $(wildcard notebooks/*.ipynb)

bench: $(ENV) ## measure speed, memory and scale, about 20 minutes; writes tests/benchmarks/
	PLANKTON_THREADS=$(PLANKTON_THREADS) OMP_NUM_THREADS=$(PLANKTON_THREADS) "$(PY)" tests/benchmarks/bench.py

# as in .pre-commit-config.yaml; the version of Python would change with every contributor
STRIP = --keep-count --keep-id --extra-keys metadata.language_info.version $(wildcard notebooks/*.ipynb)

strip: $(ENV) ## clear outputs of the notebooks, but for cells tagged keep_output
	"$(PY)" -m nbstripout $(STRIP)

outputs: $(ENV) ## run the notebooks in place with the smoke profile, to renew the outputs of their checked cells
	PLANKTON_PROFILE=smoke PLANKTON_SEED=0 "$(PY)" -m nbconvert --to notebook --execute --inplace $(wildcard notebooks/*.ipynb)
	"$(PY)" -m nbstripout $(STRIP)

pins: ## resolve pyproject.toml anew and write the exact pins of environment.yml
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	if ! command -v uv >/dev/null; then \
	  $(PYTHON) -m venv "$$tools" && "$$tools/bin/pip" install -q uv && PATH="$$tools/bin:$$PATH" || exit 1; fi && \
	$(PYTHON) .ci/pins.py refresh

clean: ## remove the live results of the profile
	rm -rf $(RESULTS)

clean-cache: ## remove every cached model and feature; downloads stay
	@[ -z "$$PLANKTON_CACHE" ] || echo "PLANKTON_CACHE=$$PLANKTON_CACHE is yours to empty; this empties .cache"
	@[ ! -d .cache ] || find .cache -mindepth 1 -maxdepth 1 ! -name downloads -exec rm -rf {} +

clean-env: ## remove .venv
	rm -rf .venv plankton_study.egg-info

clean-all: clean-env ## remove everything that make has made or downloaded
	rm -rf .cache paper/results paper/site .pytest_cache .ruff_cache .hypothesis
