#!/bin/sh
# From calibration to text with the kernels that SQF_CPU names: the same bytes and figures as with the machine's best.
# usage: SQF_CPU=LEVEL level.sh SQF SOURCE; run by at_level.sh
level=$SQF_CPU
. "$(dirname "$0")/check.sh"

# make LEVEL: quantizes, measures and runs in the working directory.
make() {
    export SQF_CPU="$1"
    expect 0 "*" "" "$sqf" quantize "$model" -o model --scheme w-sq5-a-sq5 --quiet \
        --calib "$model/text/calib.txt" --calib-samples 2 --calib-length 96
    expect 0 "*" "" "$sqf" eval model --text "$model/text/eval.txt" --window 64 --max-tokens 192 --json -q
    is "$(member perplexity) > 20 && $(member perplexity) < 80"
    grep -v -e '"seconds"' -e '"tokens_per_s"' -e '"cpu_level"' "$scratch/out" >eval
    expect 0 "*" "" "$sqf" run model -p "The captain looked at the map" -n 16 --temp 0 -q
    cp "$scratch/out" text
}

expect 0 "*cpu level  $level *" "" env SQF_CPU="$level" "$sqf" version
mkdir asked best
cd asked && make "$level"
cd ../best && make "" # empty: the program chooses
cd ..
for file in model/model.safetensors eval text; do
    cmp "asked/$file" "best/$file" || complain "$level: $file differs from that of the best level"
done
finish
