# The study as a graph of files: the targets are the executed notebooks and the PDF of one profile.
# Works with GNU Make 3.81 (macOS) and newer. `make` alone lists the targets.

PROFILE ?= $(or $(PLANKTON_PROFILE),demo)
SEED    ?= $(or $(PLANKTON_SEED),0)
DATA    ?= $(PLANKTON_DATA)
PYTHON  ?= python3

NOTEBOOKS := $(sort $(basename $(notdir $(wildcard notebooks/[0-9][0-9]_*.ipynb))))

# --- the profile: its file, the files it extends, its folder of results (one per seed) -------------------------

# A value as one word of the shell, whatever it holds.
QUOTED = '$(subst ','\'',$(1))'

# Make cannot follow a path with blanks or quotes, so such a profile is read through a link. Its results have the name
# of the link, in which these characters are underscores; files that it extends are not watched.
AWKWARD := $(strip $(filter-out 1,$(words $(PROFILE))) $(foreach c,' " ( ) & ;,$(findstring $c,$(PROFILE))))
ifneq ($(AWKWARD),)
LINK := $(shell p=$(call QUOTED,$(PROFILE)); [ -f "$$p" ] || exit 0; \
  folder=$$(cd "$$(dirname "$$p")" && pwd); file=$$(basename "$$p"); \
  links=.cache/profiles/$$(printf '%s' "$$folder" | cksum | cut -d ' ' -f 1); mkdir -p "$$links"; \
  link=$$links/$$(printf '%s' "$${file%.toml}" | tr -c 'A-Za-z0-9_-' _).toml; \
  ln -sf "$$folder/$$file" "$$link" && echo "$$link")
ifeq ($(LINK),)
$(error PROFILE=$(PROFILE): there is no such file; give the path of a .toml file)
endif
override PROFILE := $(LINK)
endif

PROFILES     := plankton_study/profiles
PROFILE_FILE := $(if $(filter %.toml,$(PROFILE)),$(PROFILE),$(PROFILES)/$(PROFILE).toml)
NAME         := $(basename $(notdir $(PROFILE_FILE)))$(if $(filter-out 0,$(SEED)),-seed$(SEED))
RESULTS      := paper/results/$(NAME)
DONE         := $(RESULTS)/notebooks

ifneq ($(shell printf '%s' '$(SEED)' | grep -xE '0|[1-9][0-9]*'),$(SEED))
$(error SEED=$(SEED) is not a whole number without leading zeros)
endif
ifeq ($(wildcard $(PROFILE_FILE)),)
$(error PROFILE=$(PROFILE): there is no file $(PROFILE_FILE); give one of \
  $(sort $(basename $(notdir $(wildcard $(PROFILES)/*.toml)))), or the path of a .toml file)
endif

# `extends` names a profile of the package, or a .toml file relative to the profile; eight steps stop endless loops
PROFILE_CHAIN := $(sort $(shell f='$(PROFILE_FILE)'; for step in 1 2 3 4 5 6 7 8; do \
  [ -f "$$f" ] || break; echo "$$f"; \
  parent=$$(sed -n "s/^extends *= *[\"']\([^\"']*\)[\"'].*/\1/p" "$$f" | head -n 1); \
  case "$$parent" in ("") break ;; (/*.toml) f=$$parent ;; (*.toml) f=$$(dirname "$$f")/$$parent ;; \
  (*) f=$(PROFILES)/$$parent.toml ;; esac; done))

# --- the environment: an active one that holds every pin, otherwise .venv -------------------------------------

# `make PY=path/to/python` uses that interpreter without checks.
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

# --- variables for all notebooks ------------------------------------------------------------------------------

export PLANKTON_PROFILE := $(if $(filter %.toml,$(PROFILE)),$(abspath $(PROFILE)),$(PROFILE))
export PLANKTON_SEED    := $(SEED)
export PLANKTON_DATA    := $(if $(DATA),$(shell cd $(call QUOTED,$(DATA)) 2>/dev/null && pwd))
export PYTHONHASHSEED   := 0
# NumPy's idle threads sleep at once. Otherwise they keep a core busy for a while after each product, and torch's
# threads, which share the cores, wait for them: logistic probes took up to 30 times as long.
export OPENBLAS_THREAD_TIMEOUT ?= 4
# Use the package in this folder, even if the environment was made for another checkout: results are
# written next to the code that made them.
export PYTHONPATH       := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export JUPYTER_PREFER_ENV_PATH := 1

ifneq ($(DATA),)
ifeq ($(PLANKTON_DATA),)
$(error DATA=$(DATA): there is no such folder; give the folder that holds the data sets)
endif
endif

# Revision and dirty flag are determined once, at the start. The prefix is empty only at the top of a repository, so
# a copy inside another repository does not use that repository's revision. Only what shapes results makes a run dirty:
# your own profile or data beside the package does not. (The list is that of report/provenance.py.)
SHAPES_RESULTS := plankton_study notebooks paper environment.yml pyproject.toml Makefile
ifeq ($(shell git rev-parse --show-prefix 2>&1),)
export PLANKTON_REVISION := $(shell git rev-parse --verify -q HEAD)
export PLANKTON_DIRTY    := $(if $(shell git status --porcelain -- $(SHAPES_RESULTS) | head -n 1),1,0)
else
export PLANKTON_REVISION :=
export PLANKTON_DIRTY    := 0
endif

# With -jN each kernel gets cores/N threads. A bare -j counts as one job per core; Make 3.81 shows -jN as -j.
# CORES and JOBS are computed only when a notebook runs.
CORES = $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
JOBS  = $(if $(filter -j%,$(MAKEFLAGS)),$(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(CORES)),1)
PLANKTON_THREADS ?= $(shell echo $$(($(CORES) > $(JOBS) ? $(CORES) / $(JOBS) : 1)))

# --- the graph ------------------------------------------------------------------------------------------------

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help env paper names notebooks $(NOTEBOOKS) test lint unit nbval bench lab pdf compare site publish strip outputs pins \
        clean clean-cache clean-env clean-all FORCE

EXECUTED := $(NOTEBOOKS:%=$(DONE)/%.ipynb)

# The dependencies of a notebook follow from its imports and its metadata. Their rules are rewritten when either may
# have changed, and make reads them before it starts.
DEPENDENCIES := .cache/dependencies.mk
SOURCES := $(shell find plankton_study -name '*.py' 2>/dev/null)
$(DEPENDENCIES): .ci/dependencies.py $(SOURCES) $(NOTEBOOKS:%=notebooks/%.ipynb)
	@mkdir -p $(@D) && $(PYTHON) .ci/dependencies.py > $@.partial && mv $@.partial $@
ifneq ($(filter-out help env pins clean clean-% ,$(or $(MAKECMDGOALS),help)),)
-include $(DEPENDENCIES)
endif

# The verdicts of seed 0 combine all seeds, so they depend on the claims of the other seeds.
OTHER_SEEDS := $(if $(filter 0,$(SEED)),$(wildcard $(foreach k,results published,paper/$(k)/$(NAME)-seed*/values/claims.csv)))
$(DONE)/16_verdicts.ipynb: $(OTHER_SEEDS)

# New pins count as a change; the environment itself only has to exist.
$(EXECUTED): $(DONE)/%.ipynb: notebooks/%.ipynb $(PROFILE_CHAIN) environment.yml $(RESULTS)/.settings | $(ENV) $(DEPENDENCIES)
	@PLANKTON_THREADS=$(PLANKTON_THREADS) "$(PY)" notebooks/execute.py $< $@ --profile "$(PROFILE)" --seed $(SEED)

# Results from other data are out of date, although no file is newer. Without DATA, results from any data are accepted.
SETTINGS := profile=$(PLANKTON_PROFILE);$(if $(DATA),data=$(PLANKTON_DATA);)
ifeq ($(findstring $(SETTINGS),$(shell cat $(RESULTS)/.settings 2>/dev/null)),)
$(RESULTS)/.settings: FORCE
endif
$(RESULTS)/.settings:
	@mkdir -p $(@D) && printf '%s\n' $(call QUOTED,$(SETTINGS)) > $@

$(RESULTS)/paper.pdf: $(wildcard paper/*.py paper/*.typ paper/*.bib) $(EXECUTED) | $(ENV)
	@"$(PY)" paper/build.py pdf $(NAME)

$(NOTEBOOKS): %: $(DONE)/%.ipynb

# --- the environment's recipe ---------------------------------------------------------------------------------

.venv/.pins: environment.yml pyproject.toml
	@if .venv/bin/python .ci/pins.py check >/dev/null 2>&1; then touch $@; exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 or newer: install one, or name the one to use, as in make PYTHON=python3.12 paper" >&2; exit 1; }; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot create environments: install its venv package (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	echo "creating .venv: this takes some minutes and 2 GB of disk, several GB more with CUDA"; \
	.venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear .venv || exit 1; \
	.venv/bin/python .ci/pins.py list > .venv/requirements.txt && \
	.venv/bin/python -m pip install --disable-pip-version-check -r .venv/requirements.txt && touch $@ || { \
	  echo "error: not all packages could be installed (see the lines above); run the same command again to continue" >&2; exit 1; }

# --- targets to type ------------------------------------------------------------------------------------------

help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  make 01_data      run one notebook and those it needs; also: $(filter-out 01_data,$(NOTEBOOKS))"
	@echo "Settings: PROFILE=$(PROFILE) (or $(filter-out $(PROFILE),$(sort $(basename $(notdir $(wildcard $(PROFILES)/*.toml))))), or path/to/my.toml)"
	@echo "          SEED=$(SEED)  DATA=folder of data sets  LAB=options for JupyterLab  PYTHON=$(PYTHON)  PY=interpreter to use without checks"

env: $(ENV) ## create the environment (.venv), unless an active one satisfies every pin
	@echo "environment: $(PY)"

paper: $(RESULTS)/paper.pdf ## run notebooks that are out of date, typeset paper/results/<profile>/paper.pdf

# Images may have been named or added since the last call, which make cannot see: the notebook always runs.
names: ## name the images without a label; writes paper/results/<profile>/names/
	@rm -f $(DONE)/17_names.ipynb
	@$(MAKE) --no-print-directory 17_names
	@echo "names: $(RESULTS)/names/"

notebooks: $(EXECUTED) ## run the notebooks that are out of date

pdf: $(ENV) ## typeset the stored results (live, or else published) without running anything
	@"$(PY)" paper/build.py pdf $(NAME)

compare: $(ENV) ## check for each published number whether the live run agrees with it
	@"$(PY)" paper/build.py compare $(NAME)

site: $(ENV) ## write the stored results (live, or else published) as static pages to paper/site
	@"$(PY)" paper/build.py site $(NAME)

publish: $(ENV) ## copy a finished run to paper/published/<profile>
	@"$(PY)" paper/build.py publish $(NAME)

lab: $(ENV) ## open the notebooks in JupyterLab
	"$(PY)" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(LAB)

test: lint unit ## run lint, unit tests, the smoke profile, and every notebook under nbval
	@$(MAKE) -j2 paper PROFILE=smoke SEED=0 DATA=
	@$(MAKE) nbval

lint: $(ENV) ## check the style, and that notebooks contain no bulky outputs
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m nbstripout --verify $(STRIP)

unit: $(ENV) ## run the unit tests
	"$(PY)" -m pytest tests $(IN_PARALLEL)

nbval: $(ENV) ## rerun the notebooks with the smoke profile and compare their checked cells
	PLANKTON_PROFILE=smoke PLANKTON_SEED=0 "$(PY)" -m pytest --nbval-lax --nbval-current-env -p no:cacheprovider \
	  $(IN_PARALLEL) $(wildcard notebooks/*.ipynb)

# a worker for each core; tests of one file, and cells of one notebook, stay together
IN_PARALLEL = -n logical --maxprocesses 8 --dist loadscope

bench: $(ENV) ## measure speed, memory and scale, about 40 minutes; writes tests/benchmarks/
	PLANKTON_THREADS=$(PLANKTON_THREADS) OMP_NUM_THREADS=$(PLANKTON_THREADS) "$(PY)" tests/benchmarks/bench.py

# as in .pre-commit-config.yaml; the Python version is removed, since it would change with every contributor
STRIP = --keep-count --keep-id --extra-keys metadata.language_info.version $(wildcard notebooks/*.ipynb)

strip: $(ENV) ## clear the outputs of the notebooks, except in cells tagged keep_output
	"$(PY)" -m nbstripout $(STRIP)

outputs: $(ENV) ## run the notebooks in place with the smoke profile, to update the outputs of checked cells
	PLANKTON_PROFILE=smoke PLANKTON_SEED=0 "$(PY)" -m nbconvert --to notebook --execute --inplace $(wildcard notebooks/*.ipynb)
	"$(PY)" -m nbstripout $(STRIP)

pins: ## resolve pyproject.toml again and write the exact pins to environment.yml
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	if ! command -v uv >/dev/null; then \
	  $(PYTHON) -m venv "$$tools" && "$$tools/bin/pip" install -q uv && PATH="$$tools/bin:$$PATH" || exit 1; fi && \
	$(PYTHON) .ci/pins.py refresh

clean: ## remove the live results of the profile
	rm -rf $(RESULTS)

clean-cache: ## remove all cached models and features; keep downloads
	@[ -z "$$PLANKTON_CACHE" ] || echo "this empties .cache only; empty PLANKTON_CACHE=$$PLANKTON_CACHE yourself"
	@[ ! -d .cache ] || find .cache -mindepth 1 -maxdepth 1 ! -name downloads -exec rm -rf {} +

clean-env: ## remove .venv
	rm -rf .venv plankton_study.egg-info

clean-all: clean-env ## remove everything that make has created or downloaded
	rm -rf .cache paper/results paper/site .pytest_cache .ruff_cache .hypothesis
