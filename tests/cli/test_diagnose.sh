#!/bin/sh
# sqf diagnose: exit codes, the table, JSON.
unset SQF_CPU # a lower level than that of the machine is a finding of its own
. "$(dirname "$0")/check.sh"
text=$model/text/eval.txt calib=$model/text/calib.txt

quantize() {
    out=$1
    shift
    "$sqf" quantize "$model" -o "$out" --calib "$calib" --calib-samples 8 --calib-length 256 -q "$@" >/dev/null ||
        complain "quantize $out"
}

quantize sound --scheme w4a8
expect 0 "sound: healthy*perplexity *predicted cost *layer input *position *" "" \
    "$sqf" diagnose "$model" sound --text "$text" --window 128 --max-tokens 1024 -q
expect 0 "sound: healthy*predicted cost *" "" "$sqf" diagnose "$model" sound
expect 0 '*"healthy": true*' "" "$sqf" diagnose "$model" sound --json
expect_members original quantized text healthy tokens perplexity calibration_drift low_rate_share dense_share \
    float_share cost scale_cost cpu_level findings inputs damaged_tokens

# a finding is exit code 1, and what is said of it is printed; an error is one line and no object
quantize partly --scheme w4a8 --ignore 're:.*down_proj'
expect 1 "partly: not healthy*warning *left-dense *25.0 %*mend: *" "" "$sqf" diagnose "$model" partly
expect 1 '*"healthy": false*"kind": "left-dense"*' "" "$sqf" diagnose "$model" partly --json
expect 1 "*bad *collapse *responsible-input *" "" "$sqf" diagnose "$model" sound --text "$text" --window 128 \
    --max-tokens 512 --loss 0.01 --tokens 2 -q
expect 0 "*" "" "$sqf" diagnose "$model" sound --text "$text" --window 128 --max-tokens 512 --layers always --json -q
grep -q '"alone_kl": [0-9]' "$scratch/out" || complain "--layers always: nothing was swapped"
[ "$(grep -c '"restored_kl":' "$scratch/out")" -eq 16 ] || complain "--layers always: expected 16 inputs"

expect_error 1 "*expected a quantized model*" "$sqf" diagnose "$model" "$model"
expect_error 1 "nowhere.txt: *" "$sqf" diagnose "$model" sound --text nowhere.txt
expect_error 1 "calibration text: nowhere.txt: *" "$sqf" diagnose "$model" sound --text "$text" --window 128 \
    --max-tokens 512 --calib nowhere.txt -q
expect_error 2 "--layers some: *" "$sqf" diagnose "$model" sound --layers some
finish
