# make demo: install and certify the digits.  make test: install and run the whole suite.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# torch goes in first and alone, so that its CPU build is taken where one lies at hand.
INSTALL = $(PIP) install -c constraints.txt torch && $(PIP) install -c constraints.txt -e

TWINS := tests/kernels/test_noise.py tests/kernels/test_integer_noise.py tests/kernels/test_counting.py tests/bounds
COVERAGE := --cov --cov-fail-under=95
TWO := -n 2 --dist loadfile

.PHONY: demo test lint docs packages licences bench study study-fashion fuzz clean

demo: .venv/demo
	@$(BIN)/tcertify demo

# The suite as users run it, then the compiled code as plain Python, where coverage can see it.
test: .venv/test
	$(BIN)/python -m pytest $(TWO) --cov --cov-report=
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest $(TWO) -q $(TWINS) -k "not shim and not sm_" --cov-append $(COVERAGE)

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict tests/user_script.py
	$(BIN)/basedpyright --level error tests/user_script.py
	$(BIN)/lint-imports
	$(BIN)/codespell *.md docs tcertify adre_train kernels

# The site, in docs/_build/html. A warning, such as a broken reference or a page in no list, fails.
docs: .venv/docs
	$(BIN)/python -m sphinx -q -n -W --keep-going docs docs/_build/html

# Each extra from the wheel, in environments of its own, for each Python that is at hand.
packages: .venv/test
	$(BIN)/python tests/packages.py

licences: .venv/docs
	$(BIN)/pip-licenses --with-urls --order license

bench: .venv/test
	$(BIN)/python -m pytest benchmarks --benchmark-enable

study: .venv/test
	$(BIN)/python -m benchmarks.study

study-fashion: .venv/test
	$(BIN)/python -m benchmarks.study fashion-mnist

# Every parser against damaged files, with many examples each, within an hour.
fuzz: .venv/test
	HYPOTHESIS_PROFILE=thorough timeout 3600 $(BIN)/python -m pytest -q tests/fuzz --timeout 1800

clean:
	rm -rf .venv build dist docs/_build

.venv/demo .venv/test .venv/lint .venv/docs: .venv/%: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing tcertify[$*] into .venv ..."
	@$(INSTALL) ".[$*]"
	@touch $@
