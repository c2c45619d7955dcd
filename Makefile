# Requires make, git and Python 3.11-3.13 with venv. `make help` lists the targets.

# The first of these that has a supported version is used. PYTHON=/path/to/python overrides it.
PYTHON := python3 python3.13 python3.12 python3.11
BIN := .venv/bin
# Tests run in parallel. Each process needs about 3 GB.
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=worksteal --durations=10

.PHONY: help setup test test-slow attack test-pages docs check format lock sbom demo tables methods addons-test clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# No bytecode is compiled in advance: most modules are never used.
# Of the locks, every file must have the hash that stands there; then the project, of no index at all.
# $(call install,environment,lock,first minor version,last minor version,in words)
define install
	@for python in $(PYTHON); do \
	  "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, $3) <= sys.version_info[:2] <= (3, $4))' \
	    2>/dev/null && break; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "$1 needs Python $5 with venv (Debian: python3-venv). None of these has it: $(PYTHON)." >&2; \
	  echo "Install it, or pass its path: make PYTHON=/path/to/python3.$3" >&2; \
	  exit 1; \
	fi; \
	echo "Installing into $1 with $$python: some minutes, 3 GB."; \
	"$$python" -m venv $1 && \
	$1/bin/python -m pip install -qq --no-compile --require-hashes -r $2 && \
	$1/bin/python -m pip install -qq --no-compile --no-deps --no-build-isolation -e . && touch $1/installed
endef

.venv/installed: setup.py setup.cfg pyproject.toml requirements/dev.lock
	$(call install,.venv,requirements/dev.lock,11,13,3.11-3.13)

.venv-addons/installed: setup.py setup.cfg pyproject.toml requirements/addons.lock
	$(call install,.venv-addons,requirements/addons.lock,11,11,3.11)

.venv-lock/bin/uv:
	$(firstword $(PYTHON)) -m venv .venv-lock && .venv-lock/bin/python -m pip install -qq uv==0.13.9

# No header, no index: what made a lock, and from where, says nothing about what is in it.
LOCK := .venv-lock/bin/uv pip compile --quiet --no-python-downloads --generate-hashes \
	--no-header --no-annotate --no-emit-index-url setup.cfg
EVERYWHERE := --universal --python-version 3.11.5 -c constraints.txt

lock: .venv-lock/bin/uv ## write requirements/*.lock, after a change in setup.cfg or the constraints
	$(LOCK) $(EVERYWHERE) --extra search --extra serve -o requirements/runtime.lock
	$(LOCK) $(EVERYWHERE) --extra search --extra serve --extra gpu -o requirements/gpu.lock
	$(LOCK) $(EVERYWHERE) --extra test --extra dev --extra docs --extra search --extra serve \
	  --extra beam -o requirements/dev.lock
	$(LOCK) --python-version 3.11 --python-platform linux -c constraints-addons.txt \
	  --extra addons --extra test -o requirements/addons.lock

setup: .venv/installed ## create .venv with all dependencies; other targets run this first

test: setup ## run all tests except the slow ones and those in a browser
	$(BIN)/pytest $(PARALLEL) -m "not slow and not browser"

test-slow: setup ## run the slow tests
	$(BIN)/pytest $(PARALLEL) -m slow

attack: setup ## run the long attacks of tests/attacks; docs/reliability.md has their figures
	CVRL_TF_LONG_ATTACKS=1 $(BIN)/pytest --numprocesses=0 --timeout=3600 tests/attacks

test-pages: setup ## test the HTML pages that the commands write, in Chromium
	$(BIN)/pytest $(PARALLEL) -m browser

docs: setup ## build the documentation into site/
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs site

check: setup ## run formatter, linters and type checker without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/python .ci/structure.py
	$(BIN)/hadolint Dockerfile

format: setup ## format the code, and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sbom: setup ## write build/sbom.json, the software bill of materials of .venv (CycloneDX)
	mkdir -p build
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file build/sbom.json .venv

demo: setup ## run all steps on synthetic videos; results in runs/demo
	$(BIN)/python tools/demo.py --output=runs/demo

# $(call demo_records,folder,training videos,seed): writes synthetic videos as records
define demo_records
	$(BIN)/python tools/make_demo_videos.py --output=$1_videos --train_videos=$2 --seed=$3
	for split in train test; do \
	  $(BIN)/python tools/make_tfrecords.py --short_side=64 \
	    --input=$1_videos/$$split --output=$1 --split=$$split || exit 1; \
	done
endef

# $(call demo_tables,folder): flags of tables on such records
demo_tables = --output=$1 --data_dir=$1/demo --overlay=gin/common/demo --note="The videos are \
	synthetic: four shapes in three motions. The tables show that every protocol of the paper runs \
	and what comes out on such data, with an encoder for a laptop; nothing about real videos."

tables: setup ## fill the paper's four tables on synthetic videos, 40 minutes; runs/tables/report
	$(call demo_records,runs/tables/demo,1200,0)
	$(call demo_records,runs/tables/transfer_split1,240,1)
	$(call demo_records,runs/tables/transfer_split2,240,2)
	$(call demo_records,runs/tables/transfer_split3,240,3)
	$(BIN)/python tools/run_table.py --table=4 --seeds=3 $(call demo_tables,runs/tables)
	$(BIN)/python tools/run_table.py --table=1 --table=2 --table=3 --row=CVRL --row=SimCLR \
	  --row=Supervised --transfer_dir=runs/tables/transfer_split1 \
	  --transfer_dir=runs/tables/transfer_split2 --transfer_dir=runs/tables/transfer_split3 \
	  $(call demo_tables,runs/tables)

methods: setup ## compare all methods on synthetic videos, for hours; runs/methods/report
	$(call demo_records,runs/methods/demo,480,0)
	$(call demo_records,runs/methods/transfer_split1,240,1)
	$(BIN)/python tools/run_table.py --table=1 --table=2 --seeds=3 \
	  --transfer_dir=runs/methods/transfer_split1 $(call demo_tables,runs/methods)

addons-test: .venv-addons/installed ## test with TensorFlow 2.15 and TensorFlow Addons; Python 3.11
	.venv-addons/bin/pytest $(PARALLEL) -m "addons and not slow"

clean: ## remove environments and caches, but keep runs/
	rm -rf .venv .venv-addons .venv-lock .pytest_cache .ruff_cache .mypy_cache build site *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
