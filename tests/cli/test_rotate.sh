#!/bin/sh
# A rotated model: the same outputs, what inspect and compare say of it, refusals.
. "$(dirname "$0")/check.sh"
text=$model/text/eval.txt

expect 0 "*" "" "$sqf" quantize "$model" -o turned --scheme fp32 --rotate hadamard --calib none -q
expect 0 "*" "" "$sqf" eval turned --reference "$model" --text "$text" --window 128 --max-tokens 512 --json -q
is "$(member kl) < 1e-6 && $(member same_top) > 0.99"
expect 0 "*rotated: residual stream hadamard, values hadamard, input of down_proj hadamard (92160 float *" "" \
    "$sqf" inspect turned
expect 0 '*"rotation": *"residual": "hadamard"*"operations": 92160*' "" "$sqf" inspect turned --json
grep -q '"tie_word_embeddings": false' turned/config.json || complain "the output matrix is still tied"
expect 0 "turned: ok, *" "" "$sqf" inspect turned --check
expect_error 1 "turned: rotation: expected residual off, *" "$sqf" compare "$model" turned -q

# the same seed, the same bytes, and the saved recipe says it all
expect 0 "*" "" "$sqf" quantize "$model" -o again --recipe turned/recipe.yaml --calib none --threads 1 -q
cmp turned/model.safetensors again/model.safetensors || complain "the recipe file gives other bytes"
expect 0 "*" "" "$sqf" quantize "$model" -o other --recipe turned/recipe.yaml --calib none --seed 2 -q
cmp -s turned/model.safetensors other/model.safetensors && complain "another seed gives the same bytes"

# in blocks there is nothing to store and less to do
expect 0 "*" "" "$sqf" quantize "$model" -o blocks --scheme w8a8 --rotate-down blocks --calib none -q
expect 0 "*rotated: residual stream off, values off, input of down_proj blocks (24576 float *" "" "$sqf" inspect blocks
grep -q down_rotation blocks/model.safetensors && complain "blocks: a factor is stored"

expect_error 1 "*pca needs calibration text*" "$sqf" quantize "$model" -o bad --scheme w4a8 --rotate pca --calib none
expect_error 1 "*behind rotate_down*" "$sqf" quantize "$model" -o bad --scheme w4a8 --rotate hadamard --smooth 0.5 \
    --calib "$model/text/calib.txt" --calib-length 128
expect_error 2 "*rotate*spinning*" "$sqf" quantize "$model" -o bad --scheme w4a8 --rotate spinning --calib none
finish
