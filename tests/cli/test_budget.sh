#!/bin/sh
# sqf quantize with a target: what is chosen keeps it, is said, and is repeated by the recipe; refusals are one line.
. "$(dirname "$0")/check.sh"
calib=$model/text/calib.txt

budget() {
    "$sqf" quantize "$model" --calib "$calib" --calib-samples 4 --calib-length 128 --held-out-windows 6 "$@"
}

# inner NAME: a number of the member "budget" of the last JSON output.
inner() {
    sed -n "s/^    \"$1\": //p" "$scratch/out" | head -1 | sed 's/,$//'
}

# a loss that lies between those of the candidates: verified, and cheaper than the better candidate alone
expect 0 "*chosen*held-out tokens*predicted cost*" "*" \
    budget -o loss --target-loss 5% --candidates "w4a8 mask=l2, w4a4 act_scale=token|group"
for file in budget.json recipe.yaml report.json model.safetensors; do
    [ -s "loss/$file" ] || complain "loss/$file is missing"
done
expect 0 "*" "" budget -o again --target-loss 0.05 --candidates "w4a8 mask=l2, w4a4 act_scale=token|group" \
    --sensitivity loss/budget.json --threads 1 --json -q
is "$(inner loss) <= 0.05 && $(inner measured) == 0"
is "$(inner cost) < $(inner reference_cost)"
cmp loss/model.safetensors again/model.safetensors || complain "the measurements do not repeat the choice"

# the recipe with what report.json says of the calibration text makes the same bytes
tokens=$(sed -n 's/.*"text_tokens": \([0-9]*\).*/\1/p' loss/report.json)
expect 0 "*" "" "$sqf" quantize "$model" -o repeated --recipe loss/recipe.yaml --calib "$calib" --calib-samples 4 \
    --calib-length 128 --calib-tokens "$tokens" -q
cmp loss/model.safetensors repeated/model.safetensors || complain "the recipe gives other bytes"

# as fast as a scheme, and no larger (parts of a group count as groups)
expect 0 "*" "" budget -o fast --target-speed w4a-sq6 --target-bits w4a-sq6 --measure slope --json -q \
    --candidates "w4a8, w4a-sq6 mask=l2 quota=equal, w4a4, w8a8"
is "$(inner cost) < 0.83 && $(inner bits) < 4.15 && $(inner loss) < 0.2"

# what cannot be
expect_error 1 "budget: a loss of 1e-05 %: expected at least *the best found*" budget -o bad --target-loss 0.00001% \
    --candidates w4a4 -q
expect_error 1 "budget: a speed of 9 *expected at most 1.88*" budget -o bad --target-speed 9 --candidates "w4a4,w4a8" -q
expect_error 1 "budget: 3 stored bits: expected at least 4.125*" budget -o bad --target-bits 3 --candidates "w4a4" -q
expect_error 1 "candidate 'w4a9'*" budget -o bad --target-bits 5 --candidates w4a9 -q
expect_error 1 "nowhere.json: *" budget -o bad --target-bits 5 --sensitivity nowhere.json -q
expect_error 2 "--target-loss much: *" budget -o bad --target-loss much
expect_error 2 "--target-speed w4b4: *" budget -o bad --target-speed w4b4
expect_error 2 "quantize: a target needs calibration text*" "$sqf" quantize "$model" -o bad --target-bits 5 --calib none
[ ! -e bad ] || complain "a refused output exists"
finish
