# All targets install into .venv first, and again only when setup.cfg or the lock changes.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# exact versions with hashes; LOCK= (empty) installs the newest versions that setup.cfg allows
LOCK ?= requirements.lock
LOCK_FITS := import platform, sys; fits = (3, 11, 5) <= sys.version_info < (3, 13) and \
  (sys.platform, platform.machine()) == ("linux", "x86_64"); sys.exit(not fits)
COMPILE := $(VENV)/bin/uv pip compile setup.cfg --quiet --extra dev --generate-hashes \
  --python-version 3.11.5 --python-platform x86_64-manylinux_2_28 --no-python-downloads \
  --no-emit-index-url --annotation-style line --custom-compile-command \
  "make lock    (for CPython 3.11.5 to 3.12 on Linux x86_64)"
OUT ?= runs/quickstart
CITY ?= harborview
BASE := models/urbanln-base-synthetic
CODE := modeling_urbanln dataset_builders pipelines benchmarks examples demo tests train.py evaluate.py

export TOKENIZERS_PARALLELISM := false
# idle threads sleep: on a busy machine, spinning costs many times the work
export OMP_WAIT_POLICY := PASSIVE

define NEXT

Outputs (all from a synthetic city):
  $(OUT)/dataset              dataset with its card, README.md
  $(OUT)/model                model, for AutoModel.from_pretrained("$(OUT)/model")
  $(OUT)/embeddings/$(CITY)   one vector per region, Parquet
  $(OUT)/results/report.md    tables, scatter plots and maps

Next steps:
  0. Open the demo in a browser: make demo
  1. Train from CLIP's weights (needs the Hub):
     $(RUN) train.py --config configs/vitb16.yaml --dataset_name $(OUT)/dataset --output_dir runs/vitb16
  2. Import your own images (a folder and a CSV):
     $(RUN) -m dataset_builders.importers image_folder --help
  3. Predict indicators from your own photos and polygons:
     $(RUN) evaluate.py predict --help
  4. Simulate a larger city:
     $(RUN) -m dataset_builders.synthetic --output_dir runs/bigger --grid_size 80
endef
export NEXT

.PHONY: help install system quickstart base demo test test-slow test-newest test-minimum torture fuzz lint style types suite real benchmarks docs lock sbom clean

help:
	@echo "make quickstart   build a synthetic city, train a small model, embed, probe, report (minutes on 2 cores)"
	@echo "make demo         open the quickstart's results in a browser: map, search, your own images"
	@echo "make test         linter, type checker and test suite"
	@echo "make test-slow    slow tests"
	@echo "make fuzz         fuzz tests of all readers of external input (100,000 inputs)"
	@echo "make torture      fault injection into running commands (300 faults, 40 minutes on 2 cores)"
	@echo "make test-newest  test suite with the newest versions that setup.cfg allows; test-minimum: with the oldest"
	@echo "make base         train the small synthetic CLIP that the quickstart starts from (an hour)"
	@echo "make real         train and evaluate on real images (set URBANLN_SHARED_DATA to their folder)"
	@echo "make benchmarks   speed and memory benchmarks"
	@echo "make docs         build the documentation site in build/docs"
	@echo "make lint         ruff and mypy"
	@echo "make lock         update requirements.lock from setup.cfg; UPGRADE=--upgrade for newer versions"
	@echo "make sbom         CycloneDX list of the locked packages in build/sbom.cdx.json"
	@echo "make clean        remove runs and caches (not .venv)"

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "UrbanLN needs Python 3.11 or newer; got $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@if [ -n "$(LOCK)" ] && $(RUN) -c '$(LOCK_FITS)'; then \
	  echo "Installing the versions of $(LOCK)"; \
	  $(RUN) -m pip install --quiet --no-deps --require-hashes -r $(LOCK) && \
	  $(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .; \
	else \
	  echo "Installing the newest versions that setup.cfg allows (the lock is for Python 3.11 and 3.12 on Linux x86_64)"; \
	  $(RUN) -m pip install --quiet --upgrade pip && $(RUN) -m pip install --quiet --editable ".[dev]"; \
	fi
	@touch $@

# Installs a browser, on CI machines only; without one, its tests are skipped.
system: $(INSTALLED)
	@if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then \
	  apt-get update -q && apt-get install -y -q chromium chromium-driver || echo "No browser: its tests are skipped."; fi

quickstart: $(INSTALLED)
	$(RUN) -m dataset_builders.synthetic --output_dir $(OUT)/dataset --cities $(CITY) --grid_size 30 --street_views 1
	$(RUN) train.py --config configs/quickstart.yaml --dataset_name $(OUT)/dataset --output_dir $(OUT)/model
	$(RUN) evaluate.py embed --model_name_or_path $(OUT)/model --dataset_name $(OUT)/dataset --city $(CITY) --output_dir $(OUT)/embeddings --label urbanln
	$(RUN) evaluate.py embed --model_name_or_path $(OUT)/model --random_init --dataset_name $(OUT)/dataset --city $(CITY) --output_dir $(OUT)/embeddings --label random-init
	$(RUN) evaluate.py embed --model_name_or_path $(BASE) --dataset_name $(OUT)/dataset --city $(CITY) --output_dir $(OUT)/embeddings --label base-frozen
	$(RUN) evaluate.py embed --encoder colour_texture --dataset_name $(OUT)/dataset --city $(CITY) --output_dir $(OUT)/embeddings
	OMP_NUM_THREADS=1 $(RUN) evaluate.py probe --embeddings $(OUT)/embeddings/$(CITY)/*.parquet --dataset_name $(OUT)/dataset --city $(CITY) --output_dir $(OUT)/results --seeds 5 --probes ridge
	$(RUN) evaluate.py report --output_dir $(OUT)/results
	@echo "$$NEXT"

# Caption candidates of a few images for the captions tab of the demo
$(OUT)/captioned/README.md: | $(INSTALLED)
	$(RUN) -m dataset_builders.synthetic --output_dir $(OUT)/small_city --cities $(CITY) --grid_size 3 --street_views 1 --with_masks
	$(RUN) -m pipelines.captioning run configs/captioning/synthetic.yaml --dataset_name $(OUT)/small_city --output_dir $(OUT)/captions
	$(RUN) -m pipelines.captioning export configs/captioning/synthetic.yaml --dataset_name $(OUT)/small_city --output_dir $(OUT)/captions --dataset_dir $(OUT)/captioned

demo: $(INSTALLED) $(OUT)/captioned/README.md
	$(RUN) -m demo.app --dataset_name $(OUT)/dataset --encoder $(OUT)/model --embeddings $(OUT)/embeddings --results $(OUT)/results --captions $(OUT)/captioned --city $(CITY)

lint: style types

style: $(INSTALLED)
	$(RUN) -m ruff check $(CODE)
	$(RUN) -m ruff format --check $(CODE)

types: $(INSTALLED)
	$(RUN) -m mypy modeling_urbanln dataset_builders pipelines benchmarks examples demo
	$(RUN) -m mypy train.py
	$(RUN) -m mypy evaluate.py

# the type checker runs in parallel with the tests, as it uses one core only
test: system style
	@$(MAKE) --no-print-directory --jobs 2 types suite

# three workers on two cores, as some tests wait for servers or other processes
suite: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not real and not slow"

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m slow

# prints a table of accepted and rejected inputs per reader
fuzz: $(INSTALLED)
	URBANLN_FUZZ=100 OMP_NUM_THREADS=1 $(RUN) -m pytest tests/fuzz

torture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m tests.torture --faults 300 --output_dir runs/torture

# both in a new environment of their own (8 GB each)
test-newest:
	rm -rf .venv-newest
	@$(MAKE) --no-print-directory VENV=.venv-newest LOCK= suite

test-minimum: $(INSTALLED)
	rm -rf .venv-minimum
	@mkdir -p build
	$(COMPILE) --resolution lowest-direct --upgrade --output-file build/minimum.lock
	@$(MAKE) --no-print-directory VENV=.venv-minimum LOCK=build/minimum.lock suite

lock: $(INSTALLED)
	$(COMPILE) $(UPGRADE) --output-file requirements.lock

# the tool runs in its own environment because of its many dependencies
sbom: $(INSTALLED)
	@mkdir -p build
	$(VENV)/bin/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --output-reproducible --output-file build/sbom.cdx.json requirements.lock

real: $(INSTALLED)
	$(RUN) -m pytest -m real -s

benchmarks: $(INSTALLED)
	for name in training evaluation captioning geography inference; do \
	  OMP_NUM_THREADS=1 $(RUN) -m benchmarks.$$name || exit 1; done
	OMP_NUM_THREADS=1 $(RUN) -m examples.caption_truth

base: $(INSTALLED)
	$(RUN) -m examples.synthetic_base --output_dir $(BASE) --work_dir runs/base

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean:
	rm -rf runs build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
