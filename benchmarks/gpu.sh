#!/usr/bin/env bash
# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# Test and measure on a GPU, in one call of at most eight minutes, without a network:
#
#     OUT=figures benchmarks/gpu.sh [WHEELS]
#
# WHEELS is a folder of the wheels that the machine's Python lacks. They are installed into the
# environment .venv-gpu, which also sees the machine's own packages, such as PyTorch. Fill it on a
# machine with a network and the same version of Python:
#
#     .venv/bin/pip freeze --exclude-editable | grep -Ev '^(torch|triton|nvidia-|openvino)' \
#         > wheels.txt && pip download --no-deps --dest WHEELS -r wheels.txt
#
# OUT gets steps.tsv (step, exit status, seconds), a log for each step, and JSON files as they are
# measured; tests.xml has the results of the tests that are marked `cuda`. A step that fails or runs
# out of time does not stop the next one. The exit status is 0 if all steps succeeded.
#
# GPU_DRY_RUN=1 runs every step with tiny models on the CPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

readonly OUT=${OUT:?is the folder for results}
readonly WHEELS=${1:-} DRY=${GPU_DRY_RUN:-} LIMIT_S=${GPU_LIMIT_S:-450}
mkdir -p "$OUT"
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1
python=${PYTHON:-python3}
failed=0

device=cuda engine=cuda_graph engines=all
more=() soak=(--minutes 0.5 --cameras 3 --rate 20) small=() frames=1000
if [ -n "$DRY" ]; then # a CPU has no graphs
    device=cpu engine=eager engines=naive
    more=(--frames 2) soak=(--minutes 0.2 --cameras 1 --rate 2 --size 48x64) small=(--small)
    frames=100
fi
export PTDIFFSEG_TEST_DEVICE=$device

# step NAME SECONDS COMMAND...: run a command for at most these seconds, and record the result.
step() {
    local name=$1 most=$2 begun=$SECONDS left=$((LIMIT_S - SECONDS)) status=124
    shift 2
    [ -z "$DRY" ] || most=$left
    if [ "$left" -gt 0 ]; then
        # SIGINT, so that Python ends the processes that it has started.
        timeout --signal=INT --kill-after=15 "$((most < left ? most : left))" "$@" \
            > "$OUT/$name.log" 2>&1
        status=$?
    fi
    printf '%s\t%d\t%d\n' "$name" "$status" "$((SECONDS - begun))" | tee -a "$OUT/steps.tsv"
    [ "$status" -eq 0 ] || failed=1
    return "$status"
}

bench() { # bench NAME ARGUMENTS...
    step "bench-$1" 75 "$python" -m ptdiffseg_ros.cli bench --device "$device" \
        --json "$OUT/bench-$1.json" --overwrite "${@:2}" "${more[@]}"
}

: > "$OUT/steps.tsv"
if [ -n "$WHEELS" ]; then
    step venv 30 "$python" -m venv --system-site-packages .venv-gpu &&
        python=.venv-gpu/bin/python
    step install 60 "$python" -m pip install --no-index --no-deps --quiet "$WHEELS"/*.whl
fi
step device 30 "$python" -c 'import torch; print(torch.__version__, torch.version.cuda,
    torch.cuda.is_available() and torch.cuda.get_device_name())'

# What has never run comes first.
step tests 150 "$python" -m pytest -m cuda -q -p no:cacheprovider \
    --junitxml "$OUT/tests.xml" test/model/test_cuda.py test/ros/test_cuda.py \
    test/train/test_pretrain.py

bench micro --engine "$engines"
bench micro-batches --engine "$engine" --batch 3 # three cameras

step tuning 40 "$python" -m benchmarks.stream --protocol cost --seeds 1 --device "$device" \
    --json "$OUT/tuning.json" --overwrite

step models 75 "$python" test/random_segmenters.py "$models" "${small[@]}"
for autoencoder in tiny own; do
    for folder in "$models/$autoencoder"-*; do
        size=${folder##*-}
        bench "$autoencoder-$size" --model "$folder" --size "$size" --engine "$engines"
    done
done

# The node's own process over DDS, without faults: overhead, age of masks, memory.
step soak 75 "$python" -m benchmarks.soak "${soak[@]}" --engine "$engine" --calm 1000 \
    --json "$OUT/soak.json" --log "$OUT/node.log" --overwrite
step memory 45 "$python" -m benchmarks.soak.memory --device "$device" --engine "$engine" \
    --frames "$frames" --json "$OUT/memory.json" --overwrite
exit "$failed"
