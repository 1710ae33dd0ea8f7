# make run: calibrate this machine and report on DeepSeek-OCR.  make test: the test suite.
# make gpu: the checklist of an NVIDIA card.  make wheels: packages for a card without a network.
# make public: other people's measured tables, which benchmarks and regenerated cards read.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# A card's own Python has torch with CUDA; what else it lacks comes from wheels/, if that is there.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: run test check kernels gpu wheels public clean

run: $(READY)
	$(BIN)/python -m calib.run $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kernels: $(READY)
	$(BIN)/python -m kernels.resources --jobs 2 --write docs/kernels.md $(ARGS)

gpu:
	$(GPU_PYTHON) -m benchmarks.card $(ARGS)

wheels: $(READY)
	$(BIN)/python -m benchmarks.card.wheels --collect wheels

public: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[public]'

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info outputs multirun .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
