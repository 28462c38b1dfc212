# The two commands that do all the set-up: make demo, make test. Both need Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make demo ARCHIVE=DIR runs on real slides; OPTIONS goes to `wsisum compress`, say OPTIONS="--mpp 0.25".
ARCHIVE ?=
OPTIONS ?=
DEMO := demo
# make bench SLIDES="FILE or FOLDER ..." LARGE="FOLDER ..." GROWTH="FOLDER ..." measures speed and writes
# docs/speed.md; GROWTH are slides timed once, and MPP is that of slides that state none.
SLIDES ?= $(wildcard ../shared/slides)
LARGE ?=
GROWTH ?=
MPP ?= 0.25
ROUNDS ?= 5
# Libraries that also read slides: installed beside the project, without what they depend on, so that none changes it.
# One that does not install is left out.
RIVALS := tiffslide fastslide cucim-cu12

.PHONY: demo test lint docs bench clean

demo: $(VENV)/installed
	@mkdir -p $(DEMO)
ifeq ($(ARCHIVE),)
	$(BIN)/python tests/support/draw.py $(DEMO)/archive
	@echo; echo "Two of the slides fail on purpose: one states no pixel size, one is corrupt."
endif
	$(BIN)/wsisum compress $(or $(ARCHIVE),$(DEMO)/archive) -o $(DEMO)/summaries $(OPTIONS) || test $$? -eq 1
	@summary=$$(find $(DEMO)/summaries -name '*.ozx' | sort | head -n 1); \
	test -n "$$summary" || { echo "no summary was written; see the lines above"; exit 1; }; \
	echo; echo "wsisum inspect $$summary"; $(BIN)/wsisum inspect "$$summary" --image $(DEMO)/picture.png
	@echo; echo "verify exits with 1 if any slide lacks a summary with the verdict PASS."
	$(BIN)/wsisum verify $(DEMO)/summaries --source $(or $(ARCHIVE),$(DEMO)/archive) || test $$? -eq 1
	@echo; echo "Summaries and report: $(DEMO)/summaries   Picture: $(DEMO)/picture.png"

test: $(VENV)/ready
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The schema, the table of keys and the command reference, from the code.
docs: $(VENV)/ready
	$(BIN)/python docs/generate.py

bench: $(VENV)/ready $(VENV)/rivals
	@test -n "$(SLIDES)" || { echo 'say which slides: make bench SLIDES="FILE or FOLDER ..."'; exit 1; }
	@mkdir -p build
	PYTHONPATH=$(abspath $(VENV)/rivals) $(BIN)/python tests/benchmarks/speed.py $(SLIDES) $(if $(LARGE),--large $(LARGE)) \
	  $(if $(GROWTH),--growth $(GROWTH)) $(if $(MPP),--mpp $(MPP)) --rounds $(ROUNDS) --page docs/speed.md --json build/speed.json

$(VENV)/rivals: | $(VENV)/ready
	@mkdir -p $@
	@for rival in $(RIVALS); do \
	  $(BIN)/pip install --quiet --no-deps --target $@ $$rival || echo "$$rival cannot be installed and is left out"; \
	done

lint: $(VENV)/ready
	$(BIN)/python docs/generate.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/benchmarks/mypy.ini

$(VENV)/ready: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "wsisum needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) -V); say make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build
