#!/bin/sh
# Test beds: an outlier bed computes what the model computes, breaks without smoothing and is whole with it.
. "$(dirname "$0")/check.sh"
text=$model/text/eval.txt calib=$model/text/calib.txt

perplexity() {
    "$sqf" eval "$1" --text "$text" --window 128 --max-tokens 2048 --json -q >"$scratch/out" || complain "eval $1"
    member perplexity
}

quantize() {
    "$sqf" quantize "$1" -o quantized --scheme w4a4 --smooth "$2" --calib "$calib" --calib-samples 8 \
        --calib-length 128 -q --force >/dev/null || complain "quantize $1"
}

expect 0 "bed: 64 outlier channels in 4 layers, factors up to 64; 0 of * products rounded, *" "*" \
    "$sqf" bed outliers "$model" bed
expect 0 "*" "" "$sqf" bed outliers "$model" norms --inputs qkv,gate-up --layers 0-1,3 --channels 6 --json -q
expect_members model output layers channels factor changed inexact file_bytes
is "$(member layers) == 3 && $(member channels) == 36 && $(member inexact) == 0"
plain=$(perplexity "$model")
[ "$(perplexity bed)" = "$plain" ] || complain "the bed's perplexity is not $plain"
quantize "$model" 0.5
smooth=$(perplexity quantized)
quantize norms 0.5
[ "$(perplexity quantized)" = "$smooth" ] || complain "smoothing does not undo the outliers of norms"
quantize norms off
is "$(perplexity quantized) > 10 * $plain"

expect_error 1 "bed: exists already*" "$sqf" bed outliers "$model" bed
expect_error 1 "bed: channels: expected 1 to 256 for the input of qkv, found 257" \
    "$sqf" bed outliers "$model" bad --channels 257
expect_error 1 "bed: layers: expected 0 to 3, found 4" "$sqf" bed outliers "$model" bad --layers 2-4
expect_error 2 "--layers 3-1: *" "$sqf" bed outliers "$model" bad --layers 3-1
expect_error 2 "--inputs qkv,: *" "$sqf" bed outliers "$model" bad --inputs qkv,
expect_error 2 "bed outliers: expected MODEL and OUT, found 1 operands" "$sqf" bed outliers "$model"
expect_error 2 "bed corner: expected *" "$sqf" bed corner
expect_error 2 "bed outliers: --seeds belongs to bed layer" "$sqf" bed outliers "$model" bad --seeds 3
[ ! -e bad ] || complain "a bad bed was written"

# layer beds: a table or JSON, mistakes found before anything is measured, nothing left behind
layer() {
    "$sqf" bed layer --rows 16 --columns 64 --tokens 256 --outlier-share 0.03 --activations channels "$@"
}
mkdir temporary
TMPDIR=$PWD/temporary
export TMPDIR
expect 0 "channels activations, heavy weights, 16 x 64*W8A8 *W4A4 smooth=off *" "" \
    layer W8A8 "W4A4 smooth=off" --weights heavy --seeds 2
expect 0 "*" "" layer "W4A(SQ6) mask=l2" --json
expect_members rows columns tokens seed seeds points
[ "$(grep -c '"held_out_error":' "$scratch/out")" -eq 1 ] || complain "bed layer: no standard error"
[ -z "$(ls -A temporary)" ] || complain "bed layer: left behind: $(ls -A temporary)"
expect_error 1 "*'bnak'" layer "W4A4 bnak=4"
expect_error 1 "W4A4 smooth: expected a scheme, then key=value" layer "W4A4 smooth"
expect_error 1 "layer bed: *tokens: expected a multiple of 256*" layer W8A8 --tokens 300
expect_error 2 "bed layer: --factor belongs to bed outliers" layer W8A8 --factor 64
finish
