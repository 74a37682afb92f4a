#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes: the tests, then the tables of gpu.py. A step that is done is not done
# again, so the script may be stopped at any time and called once more; --afresh does all of it again.
#
#     benchmarks/gpu_session.sh             # PYTHON=... is the interpreter, .venv/bin/python without it
#     benchmarks/gpu_session.sh --small     # the least work, on the CPU: to see that every step starts
#
# A step's output lies in benchmarks/.gpu-session (GPU_SESSION=... chooses another folder), figures in benchmarks/results.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
session=${GPU_SESSION:-benchmarks/.gpu-session}
small=false
for option in "$@"; do
    case $option in
        --small) small=true ;;
        --afresh) rm -rf "$session" ;;
        *) echo "gpu_session.sh: unknown option $option; use --small or --afresh" >&2; exit 2 ;;
    esac
done
mkdir -p "$session"
failed=0

step() { # name, seconds that it may take, command
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    if [ -e "$session/$name.done" ]; then
        echo "$name: done before"
        return
    fi
    if timeout "$limit" "$@" >"$session/$name.log" 2>&1; then
        touch "$session/$name.done"
        echo "$name: done in $((SECONDS - began)) s"
    else
        failed=1
        echo "$name: failed after $((SECONDS - began)) s, or took longer than $limit s; $session/$name.log ends:"
        tail -n 15 "$session/$name.log"
    fi
}

if $small; then
    step tests 60 "$python" -m pytest -m gpu --collect-only -q tests/test_gpu.py
    step lenet 120 "$python" benchmarks/gpu.py --small
else
    step tests 270 "$python" -m pytest -m gpu -n 6 -q tests/test_gpu.py
    for network in resnet50 vit lenet; do # with a CUDA graph and without: 4, 2 and 25 steps a client
        step "$network" 70 "$python" benchmarks/gpu.py --networks "$network" --precisions bf16 --turns 2 --add --graph
    done
    for network in vit-lora mobilenetv3; do
        step "$network" 45 "$python" benchmarks/gpu.py --networks "$network" --precisions bf16 --turns 2 --add
    done
    step vectorized 30 "$python" benchmarks/vectorized.py --device cuda --clients 64 --stacks 8 16 32 64 --turns 3
fi
exit $failed
