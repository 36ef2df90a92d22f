#!/usr/bin/env bash
# Everything that is asked of the owner of a GPU, in at most eight minutes: tests, step times, memory, synchronisation.
#
#   pip install ".[cuda,test]" && benchmarks/gpu.sh            writes gpu.json and gpu.md
#   benchmarks/gpu.sh --device cpu --tiny --out DIR            the same path without a GPU: a rehearsal of minutes
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
