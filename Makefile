# `make verify` and `make test` work from a bare clone with Python >= 3.11.
# Choose the torch build with TORCH, for example  make TORCH='torch==2.13.*' test
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch>=2.11
# Processes that share the tests.
WORKERS ?= 2
# A thread each: libraries that take all cores in every process wait for each other.
PYTEST  = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: verify test all-tests install clean FORCE

verify: install
	$(BIN)/bcpd verify

test: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

all-tests: install
	$(PYTEST) -m ''

install: $(STAMP)

# The stamp holds the requirement it was made from: another TORCH, or a changed pyproject.toml, installs again.
$(STAMP): pyproject.toml FORCE
	@if [ ! -e $@ ] || [ pyproject.toml -nt $@ ] || [ "$$(cat $@)" != '$(TORCH)' ]; then \
	  set -e; \
	  $(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"bcpd needs Python >= 3.11, but $(PYTHON) is {v.major}.{v.minor}; set PYTHON=...")'; \
	  [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	  echo '$(TORCH)' > $@; \
	fi

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

FORCE:
