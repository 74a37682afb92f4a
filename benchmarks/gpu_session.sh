#!/usr/bin/env bash
# Everything that needs a GPU: the tests, the tables of gpu.py, clients together, and FedLens beside its peers; about a
# quarter of an hour. A step that is done is not done again, so the script may be stopped at any time and called once more;
# --afresh does all of it again.
#
#     benchmarks/gpu_session.sh             # PYTHON=... is the interpreter, .venv/bin/python without it
#     benchmarks/gpu_session.sh --small     # the least work, on the CPU: to see that every step starts
#
# A step's output lies in benchmarks/.gpu-session (GPU_SESSION=... chooses another folder), figures in benchmarks/results.
#
# The peers need interpreters of their own, PFL_PYTHON=... (pfl 0.6.0) and FLOWER_PYTHON=... (flwr 1.38.0 with ray 2.55.1);
# without these, those that benchmarks/setup.sh makes. A comparison whose peer is not there is left out, with a line.
# For a machine without internet, on one of the same system and version of Python that has it:
#
#     pip download --dest wheels --requirement benchmarks/requirements-pfl.txt      # the same with requirements-flower.txt
#
# and on the machine, in a new environment: pip install --no-index --find-links wheels --requirement benchmarks/requirements-pfl.txt
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

peer() { # name, module: whether its interpreter finds the module; a line if not
    local variable=${1^^}_PYTHON
    local interpreter=${!variable:-benchmarks/.venv-$1/bin/python}
    local look="import importlib.util, sys; sys.exit(importlib.util.find_spec('$2') is None)"
    "$interpreter" -c "$look" 2>/dev/null && return
    echo "beside $1: left out, $interpreter does not find $2; see the head of $0, or name another one in $variable"
    return 1
}

beside() { # step, seconds, options of speed.py
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" benchmarks/speed.py "$@"
}

if $small; then
    least=(--at-once --repetitions 1 --rounds 1 --warm-up 2)
    step tests 60 "$python" -m pytest -m gpu --collect-only -q tests/test_gpu.py
    step lenet 120 "$python" benchmarks/gpu.py --small
    peer pfl pfl && beside cifar 240 cifar-small "${least[@]}" --contenders fedlens pfl-2
    peer flower flwr && beside resnet18 240 resnet18-small "${least[@]}" --contenders fedlens flower-2
else
    step tests 270 "$python" -m pytest -m gpu -n 6 -q tests/test_gpu.py
    for network in resnet50 vit lenet; do # with a CUDA graph and without: 4, 2 and 25 steps a client
        step "$network" 70 "$python" benchmarks/gpu.py --networks "$network" --precisions bf16 --turns 2 --add --graph
    done
    for network in vit-lora mobilenetv3; do
        step "$network" 45 "$python" benchmarks/gpu.py --networks "$network" --precisions bf16 --turns 2 --add
    done
    step vectorized 30 "$python" benchmarks/vectorized.py --device cuda --clients 64 --stacks 8 16 32 64 --turns 3
    if peer pfl pfl; then
        bursts=(--device cuda --at-once --repetitions 3 --rounds 5)
        beside cifar 100 cifar "${bursts[@]}" --contenders fedlens fedlens-workers-4 bare pfl pfl-4 pfl-8
        beside cifar-together 100 cifar "${bursts[@]}" --save-as speed-cifar-together \
            --contenders fedlens-vectorized-50 fedlens-vectorized-10-workers-4 bare pfl-4 pfl-8
    fi
    if peer flower flwr; then
        bursts=(--device cuda --at-once --repetitions 2 --rounds 1 --warm-up 1)
        beside resnet18 100 resnet18-part "${bursts[@]}" --contenders fedlens fedlens-workers-4 flower-2 flower-4
        beside resnet18-shares 100 resnet18-part "${bursts[@]}" --save-as speed-resnet18-part-shares \
            --contenders fedlens-workers-6 flower-6 flower-12
    fi
fi
exit $failed
