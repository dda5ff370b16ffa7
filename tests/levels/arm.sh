#!/bin/sh
# Builds the kernels and check_levels for Arm with a cross compiler and runs them under an emulator, as a processor
# with NEON alone, with dot products and with i8mm: each must have that level as its best, agree with its scalar
# kernels, and give the bytes that they have on this machine. Exit code 77 (skipped) without compiler or emulator.
# usage: arm.sh SOURCE CHECK_LEVELS
set -eu
source=$1
native=$2
compiler=$(command -v aarch64-linux-gnu-gcc) || { echo "aarch64-linux-gnu-gcc is missing: skipped"; exit 77; }
emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64) ||
    { echo "qemu-aarch64-static is missing: skipped"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The flags of src/CMakeLists.txt. Every file of cpu/ must compile: those of other processors to nothing.
flags="-std=c11 -O2 -D_POSIX_C_SOURCE=200809L -DSQF_ARCH_ARM=1 -DSQF_ARCH_X86=0 -fno-math-errno -ffp-contract=off
    -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Werror -Wno-psabi
    -ffunction-sections -I$source/src -I$source/include"
for file in "$source"/src/kernels/dispatch.c "$source"/src/kernels/cpu/*.c "$source"/src/format/*.c \
    "$source"/tests/levels/*.c; do
    level=
    case $file in
    *_dotprod.c) level=-march=armv8.2-a+dotprod ;;
    *_i8mm.c) level=-march=armv8.2-a+dotprod+i8mm ;;
    esac
    # shellcheck disable=SC2086 # lists of flags
    "$compiler" $flags $level -c "$file" -o "$scratch/$(echo "$file" | tr / _).o"
done
# The instructions of a level stand in its files alone, and in its tile.
for file in "$scratch"/*.o; do
    found=$(aarch64-linux-gnu-objdump -d --no-show-raw-insn "$file" |
        awk '$2 ~ /^(s|u|us|su|bf)(dot|mmla)$/ {print $2}' | sort -u | tr '\n' ' ')
    case "${file##*_}:$found" in
    *:) right=yes ;;
    "dotprod.c.o:sdot " | "i8mm.c.o:smmla " | "i8mm.c.o:sdot smmla ") right=yes ;;
    *) right=no ;;
    esac
    case "$file" in
    *tile_dotprod.c.o | *tile_i8mm.c.o) [ -n "$found" ] || right=no ;;
    esac
    [ $right = yes ] || { echo "FAILED: $file: instructions '$found'"; exit 1; }
done
# Functions that nothing here calls are left out, and with them what they would need of the rest of the library.
"$compiler" -static -Wl,--gc-sections "$scratch"/*.o -lm -lpthread -o "$scratch/check_levels"

SQF_NO_TRAP=1 "$native" >"$scratch/native" 2>/dev/null
for processor in cortex-a53:neon cortex-a76:dotprod max:i8mm; do
    echo "as ${processor%:*}:"
    "$emulator" -cpu "${processor%:*}" "$scratch/check_levels" "${processor#*:}" >"$scratch/found" ||
        { cat "$scratch/found"; exit 1; }
    diff "$scratch/native" "$scratch/found" || { echo "FAILED: bytes differ from those of this machine"; exit 1; }
done
