#!/bin/sh
# sqf quantize --device cuda (executed by the emulation) beside the CPU: the same bytes where nothing is summed up in
# another order, else codes that differ, counted, and models that are as good.
# usage: SQF_EMULATED=LIBRARY test_quantize_device.sh SQF SOURCE
emulated=$SQF_EMULATED
unset SQF_DEVICE SQF_CUDA_LIBRARY CUDA_VISIBLE_DEVICES
[ -n "$emulated" ] || exit 77
export SQF_CUDA_LIBRARY="$emulated"
. "$(dirname "$0")/check.sh"
text=$model/text/eval.txt calib=$model/text/calib.txt

# quantize LAYERS ...: the others, a range as in [2-3], are left alone
quantize() {
    others=$1
    shift
    "$sqf" quantize "$model" --calib "$calib" --calib-samples 2 --calib-length 32 --ignore "re:.*layers\\.$others\\..*" \
        --force "$@"
}

perplexity() {
    expect 0 "*" "" "$sqf" eval "$1" --text "$text" --window 128 --max-tokens 4096 --json -q
    member perplexity
}

# without calibration every row is rounded by itself
for scheme in w4a16 w-sq5-a8; do
    expect 0 "*" "" "$sqf" quantize "$model" -o cpu --scheme $scheme --calib none --clip mse --force -q
    expect 0 '*"device": "cuda:0: *' "" \
        "$sqf" quantize "$model" -o gpu --scheme $scheme --calib none --clip mse --force --json -q --device cuda
    cmp cpu/model.safetensors gpu/model.safetensors || complain "$scheme without calibration: other bytes"
done

# Sums of the forward pass and of the Hessian in another order move a few weights of the first layer across a boundary;
# in later layers, which read what came of that, GPTQ carries each of them on through its row. The CPU's own codes
# differ as much with another kernel of its BLAS (OPENBLAS_CORETYPE).
others="[2-3]"
for scheme in w4a8 w4a-sq6 w-sq5-a8; do
    expect 0 "*" "" quantize "$others" -o cpu --scheme $scheme -q
    expect 0 "*calibrated on 64 tokens*" "*cuda:0: * calibration, factors and rounding*layer 4 of 4*" \
        quantize "$others" -o gpu --scheme $scheme --device cuda
    expect 0 "*" "*" "$sqf" compare cpu gpu
    first=$(sed -n 's/^model\.layers\.0\..* \([0-9]*\) codes and.*/\1/p' "$scratch/out" | awk '{ n += $1 } END { print n }')
    all=$(sed -n 's/^\([0-9]* of [0-9]* codes and [0-9]* scales\) differ/\1/p' "$scratch/out")
    cpu=$(perplexity cpu) gpu=$(perplexity gpu)
    echo "$scheme: $first codes of layer 0 differ, of all layers $all; perplexity $cpu on the CPU, $gpu"
    is "$first * 200 < 786432"
    is "($gpu / $cpu - 1) ^ 2 < 0.02 ^ 2"
    others="[1-3]"
done

# the same again is the same, whatever the order in which threads run
expect 0 "*" "" env SQF_EMULATION_SEED=7 "$sqf" quantize "$model" --calib "$calib" --calib-samples 2 --calib-length 32 \
    --ignore "re:.*layers\\.[1-3]\\..*" -o again --scheme w-sq5-a8 --device cuda -q
cmp gpu/model.safetensors again/model.safetensors || complain "a second run gives other bytes"

# 3.1 MB of weights in a layer, more than as much again for its sums or its rounding; said before anything is computed
expect_error 1 '*cuda:0: needs * MB (weights 3.1, *, buffers *), 6.0 MB are free: * MB short' \
    env SQF_EMULATION_MEMORY=6000000 "$sqf" quantize "$model" -o none --calib "$calib" --calib-samples 2 \
    --calib-length 32 --scheme w4a8 --device cuda -q
[ ! -e none ] || complain "a refusal leaves an output"

# corrections and rotations see the host's copies of what the device computes
expect 0 "*" "*" "$sqf" quantize "$model" -o corrected --calib "$calib" --calib-samples 2 --calib-length 32 \
    --scheme w4a4 --compensate gptq-model --rotate pca --ignore 're:.*layers\.[1-3]\..*' --device cuda -q
expect 0 "corrected: ok, *" "" "$sqf" inspect corrected --check
finish
