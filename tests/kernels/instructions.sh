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
    /file format/ {
        sub(/: *file format.*/, "")
        name = $0
        files++
        level = name ~ /_vbmi2\.c\.o$/ ? 4 : name ~ /_avx512\.c\.o$/ ? 3 : name ~ /_avxvnni\.c\.o$/ ? 2 : name ~ /_avx2\.c\.o$/
        next
    }
    NF < 2 { next }
    {
        vex = $2 ~ /^\{vex\}/ # how the listing marks what AVX-512 could do too
        vector = vex || $2 ~ /^v[a-z]/ || $2 ~ /%[yz]mm/ # every instruction of AVX and later
        bits = $2 ~ /^(popcnt|lzcnt|pext|pdep|andn|bextr|sarx|shlx|shrx|mulx|rorx) / # came with AVX2 at the latest
        wide = $2 ~ /%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])/ # registers that came with AVX-512
        vnni = $2 ~ /vpdp(busd|wssd)/
        vbmi = $2 ~ /^v(perm[it2]*b|pmultishiftqb|pexpand[bw]|pcompress[bw]|psh[lr]d[vwdq]*) /
        found[level] += level == 1 ? vector : level == 2 ? vex && vnni : level == 3 ? wide : vbmi
    }
    (level == 0 && (vector || bits)) || (level < 3 && wide) || (vnni && (level < 2 || (level == 2) != vex)) ||
        (vbmi && level < 4) { print "FAILED: " name ": " $0; failures++ }
    END {
        print files " files; instructions of AVX2: " found[1] + 0 ", AVX-VNNI: " found[2] + 0 ", AVX-512: " found[3] + 0 \
            ", VBMI: " found[4] + 0
        for (i = 1; i <= 4; i++) {
            failures += found[i] == 0 # none found: the listing was not understood
        }
        exit failures > 0
    }' "$listing" >"$listing.report" || { head -20 "$listing.report"; exit 1; }
cat "$listing.report"
