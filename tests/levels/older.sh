#!/bin/sh
# Runs the program and the kernels as older x86 processors, one with nothing beyond SSE4.2 and one that ends with AVX2:
# the right level is chosen and no instruction is illegal there. Exit code 77 (skipped) without the emulator.
# usage: older.sh SQF CHECK_LEVELS MODEL
set -eu
sqf=$1
check=$2
model=$3
emulator=$(command -v qemu-x86_64-static || command -v qemu-x86_64) ||
    { echo "qemu-x86_64-static is missing: skipped"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset SQF_CPU
"$sqf" quantize "$model" -o "$scratch/model" --scheme w4a8 --calib none --quiet

# run COMMAND...: as the processor, without the emulator's remarks on features that it has not.
run() {
    status=0
    SQF_NO_TRAP=1 "$emulator" -cpu "$processor" "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
    grep -v "TCG doesn't support" "$scratch/err" >&2 || true
    [ "$status" -eq 0 ] || { cat "$scratch/out"; echo "FAILED: $*: exit code $status as $processor"; exit 1; }
}

for pair in Nehalem:scalar Haswell:avx2; do
    processor=${pair%:*}
    level=${pair#*:}
    run "$check" "$level"
    run "$sqf" version
    grep -q "^cpu level  $level " "$scratch/out" || { cat "$scratch/out"; echo "FAILED: not $level"; exit 1; }
    said=$(grep -c "portable kernels" "$scratch/out" || true)
    [ "$said" -eq "$([ "$level" = scalar ] && echo 1 || echo 0)" ] ||
        { cat "$scratch/out"; echo "FAILED: $said remarks on portable kernels at level $level"; exit 1; }
    for each in "$model" "$scratch/model"; do
        run "$sqf" bench "$each" --prefill 12 --decode 2 --repetitions 1
    done
    echo "$processor: level $level"
done
