# Everything happens in .venv, made by scripts/bootstrap, and in the lab's roots (tests/lab/lab.py): not on the host.
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
LAB := $(PYTHON) tests/lab/lab.py
PURE_TESTS := tests/unit tests/property tests/golden
HOST_TESTS := $(PURE_TESTS) tests/system
LAB_PYTEST := pytest -p no:cacheprovider -c /src/pyproject.toml --rootdir /src
# Two processes for each release: most of the tests wait for servers.
LAB_TESTS := $(LAB_PYTEST) -n 2 --dist loadfile --no-loadscope-reorder --durations 10 /src/tests/e2e /src/tests/fault
ROOT := $(filter 0,$(shell id -u))

.DEFAULT_GOAL := help
.PHONY: help demo test lint quick unit try lab fault lab-prepare lab-bookworm lab-trixie venv coverage coverage-bookworm \
	coverage-trixie docs transcripts lock wheel clean

help:  ## This text
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 16

demo:  ## Show the whole job in a sandbox (real servers where they are installed)
	@scripts/bootstrap berkeleydb
	@.venv/bin/mailsni demo

test: venv  ## All checks and tests; those with real servers need root
	@$(if $(ROOT),:,echo "not root: the tests with real servers (make lab) are left out")
	@$(MAKE) --no-print-directory lint unit $(if $(ROOT),lab)

lint: venv  ## ruff, mypy and the import contracts
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check --quiet
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-logo --config .importlinter

quick: export MAILSNI_EFFORT ?= 0
quick: venv  ## The tests that start no process, with few random examples: seconds
	@$(PYTEST) -q -n 2 $(PURE_TESTS)

unit: venv  ## The tests that need no servers; root's run proves that they change nothing on a mail host
	$(PYTHON) -m tests.support.fake_mail_host $(PYTEST) -n 2 $(HOST_TESTS)

ON ?= bookworm
try: venv  ## One test on real servers: make try T=tests/e2e/test_apply.py::test_x [ON=trixie]
	@$(if $(T),,echo "make try T=tests/e2e/test_apply.py::test_x [ON=trixie]"; exit 2)
	@$(LAB) run $(ON) -- $(LAB_PYTEST) -q /src/$(T)

lab: lab-prepare  ## The tests with real servers, on both Debian releases side by side
	@echo "the tests with real servers on Debian 12 and 13, side by side; the output of each follows when it has ended"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lab-bookworm lab-trixie

lab-prepare: venv  ## Make the root file systems of the lab (once; a minute or two)
	@$(LAB) prepare bookworm trixie

# Some tests say the same on both releases and are shared out between them; MAILSNI_SHARED=0 runs all on both.
lab-bookworm lab-trixie: export MAILSNI_SHARED ?= 1
lab-bookworm: venv  ## The tests with real servers on Debian 12: Postfix 3.7, Dovecot 2.3
	$(LAB) run bookworm -- $(LAB_TESTS)

lab-trixie: venv  ## The tests with real servers on Debian 13: Postfix 3.10, Dovecot 2.4
	$(LAB) run trixie -- $(LAB_TESTS)

fault: lab-prepare  ## All faults on both releases (test shares them out); with MAILSNI_FAULTS=all, thousands: hours
	$(LAB) run bookworm -- $(LAB_PYTEST) /src/tests/fault
	$(LAB) run trixie -- $(LAB_PYTEST) /src/tests/fault

venv:
	@scripts/bootstrap

# Not a part of test: under measurement the tests take a quarter longer. The faults are left out, since they count
# system calls, and the measurement makes some of its own.
COVERAGE := .build/coverage
coverage: lab-prepare  ## Lines that the tests execute, without and with servers; fails below the floor in pyproject.toml
	rm -rf $(COVERAGE)
	-$(PYTHON) scripts/measure.py $(COVERAGE) $(PYTEST) -q -n 2 $(HOST_TESTS)
	-@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target coverage-bookworm coverage-trixie
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

coverage-bookworm coverage-trixie: export MAILSNI_SHARED ?= 1
coverage-bookworm coverage-trixie: coverage-%:
	$(LAB) run --output $(COVERAGE) $* -- python /src/scripts/measure.py /output \
		$(LAB_PYTEST) -q -n 2 --dist loadfile --no-loadscope-reorder /src/tests/e2e

docs: venv  ## Write the generated blocks of README.md and docs/
	$(PYTHON) scripts/docs.py

transcripts: venv  ## Record the transcripts in README.md and docs/ again, in the lab
	rm -rf .build/transcripts && mkdir -p .build/transcripts
	$(LAB) run --output .build/transcripts bookworm -- python -m scripts.transcripts
	$(PYTHON) scripts/docs.py --transcripts .build/transcripts

lock: venv  ## Write constraints.txt: the newest versions of all that is installed here and in the lab
	$(PYTHON) scripts/lock.py

wheel: venv  ## Build the wheel into .build
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir .build .

clean:  ## Remove what was made here (the lab's roots stay: see tests/lab/lab.py)
	rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
