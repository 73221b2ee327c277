#!/bin/sh
# Everything that only a GPU can show: the tests in tests/gpu, then flux_full with these arguments.
#
# It needs no installed fluxserve, only a PYTHON with torch, transformers, accelerate, peft, safetensors, opencv,
# onnxruntime, huggingface_hub, numpy, pillow and pytest. diffusers is put into .gpu-packages where it is lacking; for a
# machine without a network, run `benchmarks/gpu.sh --fetch` elsewhere and take that folder along.
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
export PYTHONPATH="src:.:.gpu-packages${PYTHONPATH:+:$PYTHONPATH}"
fetch() {
    "$PYTHON" -m pip install --quiet --no-deps --target .gpu-packages --constraint constraints.txt diffusers
}
if [ "${1:-}" = --fetch ]; then
    fetch
    exit
fi
"$PYTHON" -c 'import diffusers' 2>/dev/null || fetch || exit 1

PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$PYTHON" -m pytest -c tests/gpu/bare.ini --rootdir=. --confcutdir=tests/gpu -m gpu tests/gpu
status=$?
"$PYTHON" -m benchmarks.flux_full "$@" || status=$?
exit $status
