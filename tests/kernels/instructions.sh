#!/bin/sh
# Instructions beyond the baseline stand in the files of their level alone, in everything that a build ships: a machine
# without them runs the others. Exit code 77 (skipped) without objdump.
# usage: instructions.sh LIBRARY.a OBJECT...
set -eu
command -v objdump >/dev/null || { echo "objdump is missing: skipped"; exit 77; }
listing=$(mktemp)
trap 'rm -f "$listing" "$listing.report"' EXIT
for file; do
    objdump -d --no-show-raw-insn "$file" >>"$listing"
done
awk -F '\t' '
    /file format/ { sub(/: *file format.*/, ""); name = $0; files++; next }
    NF < 2 { next }
    {
        vector = $2 ~ /^v[a-z]/ || $2 ~ /%[yz]mm/ # every instruction of AVX and later
        wide = $2 ~ /%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])/ # registers that came with AVX-512
        level = name ~ /_(avx512|vbmi2)\.c\.o$/ ? 2 : name ~ /_avx2\.c\.o$/ ? 1 : 0
        found[level] += level == 2 ? wide : vector
    }
    (level == 0 && vector) || (level == 1 && wide) { print "FAILED: " name ": " $0; failures++ }
    END {
        print files " files; instructions of AVX2: " found[1] + 0 ", of AVX-512: " found[2] + 0
        exit failures > 0 || found[1] == 0 || found[2] == 0 # none found: the listing was not understood
    }' "$listing" >"$listing.report" || { head -20 "$listing.report"; exit 1; }
cat "$listing.report"
