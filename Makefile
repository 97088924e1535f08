# make colorize               set up, and colorize a sample photograph
# make colorize PHOTO=my.jpg  … or your own picture or folder
# make serve                  set up, and start the page for pictures in the browser (SERVE="--lan": for a class)
#                             What follows installs PyTorch, once.
# make check                  a minute: lint, formatting, types and the fast tests
# make test                   all of it: that, every test but the browser's, and the notebooks twice
# make light-test             a part of it: colorizing in an environment without PyTorch
# make lab                    open the notebooks in JupyterLab
# make browser-test           use the page and a notebook in a browser (needs Chromium or Chrome)
# make cluster-test           two nodes of Ray on this machine, a worker and a driver that are killed (installs Ray)
# make notebooks              build the notebooks, run them for real and keep their outputs (pictures: COLORIZE_DATA)
# make colab                  build dist/colab/*.ipynb, notebooks with the package inside: upload one to Colab, run it
# make release                train the submission's recipes in full (a GPU, hours) and write their files to hand out
# make wheel                  build dist/colorize_utils-*.whl, weights included
# make clean                  remove what the others made, but no pictures and no weights

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
PIP := $(BIN)/python $(INSTALL)
LIGHT := .venv-light
MODEL ?=
STYLE ?=
# As many processes as there are cores, each with one thread: small networks gain nothing from a second one.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
NBVAL := -p no:python --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --nbval-kernel-startup-timeout=120

.PHONY: colorize serve check test light-test lab browser-test cluster-test notebooks colab release wheel clean

colorize: $(VENV)/installed
	$(BIN)/python -m colorize_utils $(if $(PHOTO),"$(PHOTO)",--sample) --overwrite $(if $(MODEL),--model "$(MODEL)") \
	    $(if $(STYLE),--style $(STYLE))

serve: $(VENV)/installed-app
	$(BIN)/python -m colorize_utils serve $(SERVE)

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) --dist worksteal -m "not slow"

test: $(VENV)/installed-dev light-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) --dist worksteal --cov --cov-report=term-missing:skip-covered
	# "Restart and run all", twice in a row: the second time the runs are there already.
	runs=$$(mktemp -d) && for time in first second; do \
	    COLORIZE_PROFILE=smoke COLORIZE_RUNS=$$runs MPLBACKEND=module://matplotlib_inline.backend_inline \
	    $(PYTEST) --dist loadscope $(NBVAL) -x notebooks || exit 1; done && rm -r $$runs

light-test: $(LIGHT)/installed
	$(LIGHT)/bin/python -m pytest --confcutdir=tests/light tests/light

lab: $(VENV)/installed-lab
	# By default Jupyter drops uploads of more than 10 MiB without a word.
	$(BIN)/jupyter lab --ServerApp.tornado_settings="{'websocket_max_message_size': 1000000000}" notebooks

browser-test: $(VENV)/installed-browser
	$(BIN)/python -m pytest tests/browser

cluster-test: $(VENV)/installed-cluster
	$(BIN)/python -m pytest tests/cluster

notebooks: $(VENV)/installed-dev
	$(BIN)/python notebooks/source/build.py address
	$(BIN)/python notebooks/source/build.py run

colab: $(VENV)/installed-dev
	$(BIN)/python notebooks/source/build.py colab

# A run that was stopped goes on. TRAIN="--epochs 2 …" changes the recipes, to try it out.
release: $(VENV)/installed-train
	for recipe in gan-l1 gan-mse wgan; do \
	    $(BIN)/python -m colorize_utils train $$recipe --resume -o runs/release/$$recipe $(TRAIN) && \
	    $(BIN)/python -m colorize_utils release $$recipe runs/release/$$recipe/best.safetensors || exit 1; done

wheel: $(VENV)/installed
	rm -rf build # where an earlier wheel's modules would still lie
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(LIGHT)/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python $(INSTALL) -e . pytest
	touch $@

$(VENV)/installed-train: $(VENV)/installed
	$(PIP) -e ".[train]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e ".[dev]"
	touch $@

$(VENV)/installed-browser: $(VENV)/installed-dev
	$(PIP) -e ".[app,lab,browser]"
	touch $@

$(VENV)/installed-app: $(VENV)/installed
	$(PIP) -e ".[app]"
	touch $@

$(VENV)/installed-cluster: $(VENV)/installed-dev
	$(PIP) -e ".[cluster]"
	touch $@

$(VENV)/installed-lab: $(VENV)/installed
	$(PIP) -e ".[lab]"
	touch $@

clean:
	rm -rf $(VENV) $(LIGHT) build dist/*.whl dist/colab *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
