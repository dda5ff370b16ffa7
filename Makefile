# The front door. Each target wraps a CMake preset; `make help` lists them.
.PHONY: all help packages cuda cuda-report cuda-bench demo findings findings-short test test-levels lint format bench fuzz asan tsan coverage valgrind docs install clean

PRESET := $(if $(CI),ci,release)
PREFIX ?= /usr/local
JOBS   ?= $(shell nproc)

all: packages build/build.ninja
	@cmake --build build --parallel $(JOBS)

help:
	@echo "make            build build/bin/sqf and the library"
	@echo "make demo       quantize the demo model under every scheme and print the table"
	@echo "make cuda       build libsqf_cuda for GPUs (nvcc);  make cuda-report: registers and spills of its kernels"
	@echo "make cuda-bench check and time everything on a GPU: one file to send back"
	@echo "make findings   measure the grids of findings/ on the demo model; make findings-short: with one seed"
	@echo "make test       build and run all tests;  make test-levels: once for each CPU level"
	@echo "make bench      time the kernels and GPTQ on this machine"
	@echo "make fuzz       run each fuzz target for a minute (clang)"
	@echo "make asan|tsan  run the tests under sanitizers;  make valgrind, make coverage"
	@echo "make format     clang-format everything;  make lint checks it"
	@echo "make docs       write docs/cli.md from the program's option tables"
	@echo "make install PREFIX=/usr/local"

packages:
	@scripts/install-packages

# Configuring again is cheap and follows a changed preset (CI turns warnings into errors).
build/build.ninja: CMakeLists.txt CMakePresets.json | packages
	@cmake --preset $(PRESET) >build-configure.log 2>&1 || { cat build-configure.log; rm -f build-configure.log; exit 1; }
	@rm -f build-configure.log

demo: packages build/build.ninja
	@echo "Building sqf"
	@cmake --build build --parallel $(JOBS) --target sqf >build/demo-build.log || { cat build/demo-build.log; exit 1; }
	@scripts/demo

# Beside the library, so that sqf finds it: build/bin/sqf looks in build/lib.
cuda: packages build/build.ninja
	@cmake --build build --parallel $(JOBS) --target sqf_cuda || { echo "make cuda needs nvcc (CUDA 12.8 or later) in PATH or /usr/local/cuda/bin" >&2; exit 1; }
	@echo "build/lib/libsqf_cuda.so"

cuda-report: cuda
	@scripts/cuda-report build

cuda-bench: cuda
	@cmake --build build --parallel $(JOBS) --target sqf bench_cuda bench_make-checkpoint \
	    test_device_products test_engine_device test_device_cache test_device test_device_schemes
	@bench/cuda/run

findings findings-short: packages build/build.ninja
	@cmake --build build --parallel $(JOBS) --target sqf >build/findings-build.log || { cat build/findings-build.log; exit 1; }
	@scripts/findings $(if $(filter findings-short,$@),short)

test: all
	@ctest --test-dir build --output-on-failure --parallel $(JOBS)

test-levels: all
	@scripts/test-levels

lint: packages
	@scripts/format --check

format: packages
	@scripts/format

bench: all
	@cmake --build build --parallel $(JOBS) --target bench_kernels bench_gptq
	@build/bench/bench_kernels
	@build/bench/bench_gptq

fuzz: packages
	@scripts/fuzz

asan tsan: packages
	@cmake --preset $@ >/dev/null
	@cmake --build build-$@ --parallel $(JOBS)
	@ctest --test-dir build-$@ --output-on-failure --parallel $(JOBS)

valgrind: all
	@scripts/valgrind

coverage: packages
	@scripts/coverage

docs: all
	@build/bin/sqf help --markdown >docs/cli.md

install: all
	@cmake --install build --prefix $(PREFIX)

clean:
	@rm -rf build build-* demo-output findings-output
