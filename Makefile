# Two commands: `make demo` shows what edgevit does, `make test` checks that it does it.
# Each sets up .venv first, once.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The demo needs ONNX alone; the tests run every format (two gigabytes more).
EXTRAS := onnx,timm,hf,dev
INSTALLED_ALL := .venv/.installed-all
MORE_EXTRAS := tflite,coreml,nncf,cluster,runtime
DEMO := demo-out

.PHONY: demo test test-all lint clean

demo: $(INSTALLED)
	@$(BIN)/python examples/digits/write_images.py build/digits
	@$(BIN)/edgevit deploy timm:mobilevit_xxs \
		--weights examples/digits/mobilevit_xxs_digits.safetensors --num-classes 10 --name digits \
		--input-size 64 --resize 64x64 --interpolation bicubic --mean 0.5 --std 0.5 \
		--data build/digits/test --output $(DEMO) --force

# Many small graphs one after another: more threads than one cost more than they bring.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

# Everything, the tests marked `slow` as well.
test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(INSTALLED_ALL) build/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build/lint && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p edgevit
	cd build/lint && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

# The package as it is installed, export/, quant/ and profiles/ inside edgevit/: what the checks read.
.PHONY: build/lint
build/lint:
	@rm -rf $@ && mkdir -p $@/edgevit
	@ln -s $(CURDIR)/edgevit/* $(CURDIR)/export $(CURDIR)/quant $(CURDIR)/profiles $@/edgevit/

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgevit needs Python 3.11 or later; run: make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv || { echo "on Debian, the venv module is the package python3-venv"; exit 1; }
	@echo "installing into .venv (some minutes the first time)"
	@# torch first and by its exact version: a range lets pip choose a build of several gigabytes.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

$(INSTALLED_ALL): $(INSTALLED)
	@echo "installing the converters of TFLite and Core ML, NNCF, Ray and Zenoh"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(MORE_EXTRAS)]"
	@touch $@

clean:
	rm -rf .venv build $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
