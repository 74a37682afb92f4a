#!/usr/bin/env bash
# Makes the environments of the peers beside this file: .venv-pfl and .venv-flower, or those of the peers that are named.
#
#     benchmarks/setup.sh
#     benchmarks/setup.sh blazefl       # needs Python 3.12
#
# They need the same PyTorch as FedLens, so that the arithmetic is the same; uv links the files from its cache.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/../.venv/bin:$PATH" # uv comes with the environment of `make demo` or `make test`
[ $# -gt 0 ] || set -- pfl flower
for peer in "$@"; do
    python=3.11
    [ "$peer" != blazefl ] || python=3.12
    [ -x ".venv-$peer/bin/python" ] || uv venv --quiet --python "$python" ".venv-$peer"
    uv pip install --quiet --python ".venv-$peer/bin/python" --requirements "requirements-$peer.txt"
done
