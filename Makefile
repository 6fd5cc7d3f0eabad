# The first target that needs it makes .venv; later ones reuse it. PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin
BUILD := setuptools pybind11 ninja
# Most of what is installed is never imported: what is, Python compiles then, whatever the surroundings say.
PIP := $(BIN)/pip install --disable-pip-version-check -q --no-compile
unexport PYTHONDONTWRITEBYTECODE
MAKEFLAGS += -j2  # libraries are installed while the extension compiles

.PHONY: venv demo test lint bench cuda-check sanitize clean

venv: .venv/ready

.venv/tools: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt $(BUILD)
	touch $@

# First, alone, and exactly as pinned: a looser request for torch would bring gigabytes of CUDA libraries.
.venv/torch: .venv/tools
	$(PIP) $$(grep '^torch==' constraints.txt)
	touch $@

.venv/compiled: .venv/tools setup.py
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

.venv/ready: .venv/torch .venv/compiled pyproject.toml
	$(PIP) -c constraints.txt --no-build-isolation -e .
	touch $@

.venv/libraries: .venv/torch
	$(PIP) -r constraints.txt
	touch $@

.venv/tested: .venv/libraries .venv/compiled pyproject.toml
	$(PIP) -c constraints.txt --no-build-isolation -e ".[test,lint]"
	touch .venv/ready $@

# Trains the built-in recipe in runs/shapes; again, it says that it is complete, and CLIPS=40000 goes on. Where there is no
# GPU to try, it does not wait for nvcc either.
demo: export VGEN_FAST_CUDA ?= $(if $(shell command -v nvidia-smi),auto,0)
demo: venv
	$(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/python -m vgen_fast.train $(if $(CLIPS),--clips $(CLIPS))

# Rebuilds what changed in csrc. Two processes of one thread each: of threads that wait for each other, turning, more
# than there are cores stop each other.
test: .venv/tested
	$(BIN)/python setup.py -q build_ext --inplace
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m compileall -q vgen_fast kernels tests benchmarks examples setup.py

bench: .venv/tested
	$(BIN)/python setup.py -q build_ext --inplace
	THP_MEM_ALLOC_ENABLE=1 $(BIN)/python benchmarks/ops.py --table
	$(BIN)/python benchmarks/picture.py

# On a machine with a GPU; installs nothing from the network. Without .venv it uses the machine's own python3.
cuda-check:
	$$(test -x $(BIN)/python && echo $(BIN)/python || echo python3) benchmarks/cuda_check.py

# The C++ of a copy of the tree under address and undefined-behaviour sanitizers.
sanitize: .venv/tested
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r csrc kernels tests vgen_fast setup.py pyproject.toml README.md LICENSE build/sanitize
	rm -f build/sanitize/vgen_fast/_C*.so
	cd build/sanitize && VGEN_FAST_SANITIZE=1 VGEN_FAST_CUDA=0 $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd build/sanitize && LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(CURDIR)/$(BIN)/python tests/every_isa.py -x tests/ops/test_ops.py -k "cpp and not gpu"

clean:
	rm -rf .venv build dist *.egg-info vgen_fast/_C*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
