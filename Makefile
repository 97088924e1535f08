# make colorize               set up, and colorize a sample photograph
# make colorize PHOTO=my.jpg  … or your own picture or folder
# make test                   set up, lint and run every test
# make wheel                  build dist/colorize_utils-*.whl, weights included
# make clean                  remove what the others made, but no pictures

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
MODEL ?=

.PHONY: colorize test wheel clean

colorize: $(VENV)/installed
	$(BIN)/python -m colorize_utils $(if $(PHOTO),"$(PHOTO)",--sample) --overwrite $(if $(MODEL),--model "$(MODEL)")

test: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest --cov=colorize_utils --cov-report=term-missing:skip-covered --cov-fail-under=90

wheel: $(VENV)/installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .coverage
