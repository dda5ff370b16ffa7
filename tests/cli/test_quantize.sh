#!/bin/sh
# The whole way: quantize the demo model, look at it, measure it, run it; refusals leave nothing behind.
. "$(dirname "$0")/check.sh"
text=$model/text/eval.txt calib=$model/text/calib.txt

quantize() {
    "$sqf" quantize "$model" --calib "$calib" --calib-samples 4 --calib-length 128 "$@"
}

expect 0 "sq6: * bits a weight stored*calibrated on 512 tokens*" "*" quantize -o sq6 --scheme w4a-sq6
for file in config.json model.safetensors tokenizer.json recipe.yaml report.json; do
    [ -s "sq6/$file" ] || complain "sq6/$file is missing"
done
expect 0 "sq6: ok, *" "" "$sqf" inspect sq6 --check
expect 0 "*W4A(SQ6)*" "" "$sqf" inspect sq6
expect 0 "*activation mask * channels on the high path*" "" "$sqf" inspect sq6 model.layers.0.mlp.down_proj
expect 0 "*" "" "$sqf" inspect sq6 model.layers.0.self_attn.q_proj.sq_low --json
expect_members name scheme long_scheme bits_stored high low_zero_share channels_high
expect 0 "*" "" "$sqf" eval sq6 --reference "$model" --text "$text" --window 128 --max-tokens 2048 --json -q
is "$(member ratio) > 1 && $(member ratio) < 1.5 && $(member kl) > 0 && $(member same_top) > 0.5"
grep -q '"integer_low": [1-9]' "$scratch/out" || complain "no product ran at the low rate"
expect 0 "?*" "" "$sqf" run sq6 -p "The captain" -n 8 --temp 0 -q
expect 0 "*unfolded*" "*" "$sqf" compare "$model" sq6 -q

# the same again is the same, whatever the number of threads; the recipe that was saved makes it too
expect 0 "*" "" quantize -o again --recipe sq6/recipe.yaml --threads 1 -q
cmp sq6/model.safetensors again/model.safetensors || complain "the recipe file gives other bytes"
expect 0 "*are identical;*0 of * codes and 0 scales differ" "*" "$sqf" compare sq6 again

# flags reach the recipe, and a W(SQ) model has its masks
expect 0 '*"scheme"*' "" \
    quantize -o wsq --scheme w-sq6-a8 --bank 32 --sparsity 0.75 --importance gain --smooth off --json -q
expect_members output seconds bits_per_weight weights_equivalent_bits file_bytes mean_output_error
is "$(member weights_equivalent_bits) == 5"
expect 0 "*weights held high * (25.00 %)*" "" "$sqf" inspect wsq model.layers.1.mlp.up_proj
expect 0 "*" "" "$sqf" quantize "$model" -o rtn --scheme w4a16 --calib none -q

# output matrix and embedding: one matrix of the tied model, or two
expect 0 "head: *; output matrix and embedding 4.125*" "*" quantize -o head --scheme w4a8 --lm-head w4a8
expect 0 "head: ok, *" "" "$sqf" inspect head --check
expect 0 "*output matrix W4A8, embedding W4A8; *" "" "$sqf" inspect head
expect 0 "*W4A8*low rate*" "" "$sqf" inspect head model.embed_tokens
expect 0 "*" "" "$sqf" eval head --reference "$model" --text "$text" --window 128 --max-tokens 2048 --json -q
is "$(member ratio) > 1 && $(member ratio) < 1.2"
expect 0 "*" "" quantize -o pair --scheme w4a8 --lm-head w4a-sq6 --embedding w8 --json -q
is "$(member vocabulary_weights) == 2 * 2048 * 256 && $(member vocabulary_bits_per_weight) > 6"
expect 0 "*" "" "$sqf" inspect pair --json
expect_members output_scheme embedding_scheme bits_per_parameter token_bytes output_cost
is "$(member token_bytes) < $(member weight_bytes)"
expect 0 "?*" "" "$sqf" run pair -p "The captain" -n 8 --temp 0 -q
expect_error 1 "lm_head: is on the ignore list*" quantize -o bad --scheme w4a8 --lm-head w4a8 --ignore lm_head
expect_error 2 "--lm-head bf16: expected auto, off or *" quantize -o bad --scheme w4a8 --lm-head bf16
expect_error 2 "--embedding w4a8: expected auto, off, or weights alone*" quantize -o bad --scheme w4a8 --embedding w4a8

expect 0 "bf16: *nothing quantized*" "*" "$sqf" quantize "$model" -o bf16 --scheme bf16
expect 0 "38 of 38 tensors are identical*" "" sh -c '"$1" compare "$2" bf16 | tail -1' - "$sqf" "$model"

# the saved recipe says what was said; --quiet leaves warnings out, which otherwise are talk
expect 0 "*" "sqf: warning: * not smoothed*" \
    quantize -o part --scheme w4a8 --smooth 0.6 --ignore "re:.*k_proj" --calib-samples 1
grep -qx "smooth: 0.6" part/recipe.yaml || complain "recipe.yaml: smooth is not 0.6"
expect 0 "*" "" quantize -o part --scheme w4a8 --ignore "re:.*k_proj" --calib-samples 1 -q --force

# what exists stays unless --force says otherwise
expect_error 1 "part: exists already*" quantize -o part --scheme w4a8 --ignore "re:.*k_proj"
expect_error 1 "rtn: *" "$sqf" quantize "$model" -o rtn --scheme w8a16 --calib none
cmp -s rtn/config.json sq6/config.json && complain "rtn was replaced"
expect 0 "*" "" "$sqf" quantize "$model" -o rtn --scheme w8a16 --calib none -q --force
expect 0 "*W8A16*" "" "$sqf" inspect rtn

# bad input: one line, exit 1, nothing left
printf 'too short' >short.txt
expect_error 1 "short.txt: *" "$sqf" quantize "$model" -o bad --scheme w4a8 --calib short.txt -q
expect_error 1 "nowhere.txt: *" "$sqf" quantize "$model" -o bad --scheme w4a8 --calib nowhere.txt
expect_error 1 "*4096*2048*" "$sqf" quantize "$model" -o bad --scheme w4a8 --calib "$calib" --calib-length 4096 -q
expect_error 1 "nowhere/*" "$sqf" quantize nowhere -o bad --scheme w4a8 --calib none
expect_error 1 "nowhere.yaml: *" "$sqf" quantize "$model" -o bad --recipe nowhere.yaml --calib none
printf 'scheme: w4a8\nbnak: 3\n' >bad.yaml
expect_error 1 "bad.yaml: *bnak*" "$sqf" quantize "$model" -o bad --recipe bad.yaml --calib none
expect_error 1 "*nowhere/bad*" "$sqf" quantize "$model" -o nowhere/bad --scheme w4a8 --calib none

# a signal stops it and nothing stays
"$sqf" quantize "$model" -o stopped --scheme w4a-sq6 --calib "$calib" --calib-length 512 -q 2>"$scratch/err" &
process=$!
sleep 0.3
if kill -INT $process 2>/dev/null; then
    wait $process
    code=$?
    [ $code -eq 130 ] || [ $code -eq 0 ] || complain "interrupted: exit code $code, expected 130"
    [ $code -eq 0 ] || [ "$(cat "$scratch/err")" = "sqf: interrupted" ] || complain "interrupted: $(cat "$scratch/err")"
fi
rm -rf stopped-finished
[ $code -eq 0 ] || [ ! -e stopped ] || complain "interrupted: the output exists"

# a damaged model is named
cp -r sq6 damaged
printf '\377' | dd of=damaged/model.safetensors bs=1 seek=300000 conv=notrunc 2>/dev/null
expect 1 "" "sqf: damaged/model.safetensors: *" "$sqf" inspect damaged --check
expect 1 '{*"ok": false*"problems": *"item":*"status": "SQF_E_HASH"*}' "sqf: damaged/model.safetensors: *" \
    "$sqf" inspect damaged --check --json
expect_error 1 "damaged/model.safetensors: *" "$sqf" eval damaged --text "$text" --window 128
left=$(ls -A | grep -E '^bad$|tmp|^\.' || true)
[ -z "$left" ] || complain "left behind: $left"
finish
