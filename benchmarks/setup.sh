#!/usr/bin/env bash
# Makes the environments of the two peers beside this file: .venv-pfl and .venv-flower.
# They need the same PyTorch as FedLens, so that the arithmetic is the same; uv links the files from its cache.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/../.venv/bin:$PATH" # uv comes with the environment of `make demo` or `make test`
for peer in pfl flower; do
    [ -x ".venv-$peer/bin/python" ] || uv venv --quiet --python 3.11 ".venv-$peer"
    uv pip install --quiet --python ".venv-$peer/bin/python" --requirements "requirements-$peer.txt"
done
