#!/usr/bin/env bash
# What a GPU does with this project, under 8 minutes: the tests marked gpu, then correctness against the CPU, images/s of
# ResNet-50 (forward alone, and with decoding and Zarr), the EM pass as a share of the fastest products, pairs/s counted on
# the GPU and by the cores, whose counts must be the same.
# Prints tables and appends them to tests/benchmarks/RESULTS.md. PYTHON: the interpreter, default .venv/bin/python.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
"$PYTHON" -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else "gpu_check: torch sees no GPU; install a CUDA build of torch on a machine that has one")'
"$PYTHON" -m pytest -q -m gpu tests
"$PYTHON" -m tests.benchmarks gpu extract counting
