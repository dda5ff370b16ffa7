#!/bin/sh
# Sweeps: what is done is not done again, results do not depend on how many run at a time, mistakes are named; and the
# report of them, as far as it can be checked without a browser.
. "$(dirname "$0")/check.sh"

cat >common.yaml <<END
model: $model
calib: $model/text/calib.txt
samples: 2
length: 32
text: $model/text/eval.txt
window: 64
max_tokens: 256
calib_random: yes
END
{
    cat common.yaml
    cat <<'END'
title: A <trial> & more
seed: [0, 1]
grids:
  - name: banks
    question: Which bank?
    scheme: W(SQ6)A16
    bank: [32, 64]
    sparsity: [0.5, 0.75]
    kl: no
  - name: list
    points:
      - scheme: W4A8
      - {scheme: w4a16, compensate: none, overrides: [{match: '.*down_proj', scheme: W8A16}]}
END
} >grid.yaml

# What a line says but for how long it took.
figures() {
    sed -E 's/"(eval_seconds|quantize_seconds|seconds|processor_seconds|peak_memory_bytes)":[^,}]*[,}]//g' "$1" | sort
}

# One at a time and several at a time give the same lines.
expect 0 '*serial.jsonl: 12 points, 0 of them done before, 0 copied from another grid, 12 measured, 0 failed' '*' \
    "$sqf" sweep grid.yaml -o serial.jsonl --jobs 1 --threads 2
expect 0 '' '*' "$sqf" sweep grid.yaml -o parallel.jsonl --jobs 3 --memory 1 --threads 3 --quiet
figures serial.jsonl >serial
figures parallel.jsonl >parallel
cmp -s serial parallel || complain "results of one job and of three differ: $(diff serial parallel | head -2)"
[ "$(wc -l <serial.jsonl)" -eq 12 ] || complain "expected 12 lines, found $(wc -l <serial.jsonl)"
for name in id grid settings recipe seed perplexity difference difference_error ratio_error kl same_top stored_bits \
    weights_equivalent_bits low_rate_share predicted_cost seconds peak_memory_bytes version; do
    grep -q "\"$name\":" serial.jsonl || complain "results: member $name is missing"
done
[ ! -e serial.jsonl.sweep-scratch ] || complain "quantized models were left behind"

# A reference that is run once gives what one that runs beside the model gives.
{ cat common.yaml && echo 'scheme: W(SQ6)A16' && echo 'kl: [yes, no]'; } >pair.yaml
expect 0 '*' '*' "$sqf" sweep pair.yaml -o pair.jsonl
[ "$(grep -o '"difference_error":[^,]*' pair.jsonl | uniq | wc -l)" -eq 1 ] || complain "paired errors differ"
[ "$(grep -c '"kl":null' pair.jsonl)" -eq 1 ] || complain "kl: expected in one of two lines"

# Nothing is measured twice; a torn line is; a grid of another name copies; a larger one adds.
cp serial.jsonl before.jsonl
expect 0 '*12 of them done before, 0 copied from another grid, 0 measured, 0 failed' '' \
    "$sqf" sweep grid.yaml -o serial.jsonl
cmp -s serial.jsonl before.jsonl || complain "a sweep with nothing to do changed the results"
head -c $(($(wc -c <serial.jsonl) - 100)) before.jsonl >torn.jsonl
expect 0 '*11 of them done before, 0 copied from another grid, 1 measured, 0 failed' '*the last line was torn*' \
    "$sqf" sweep grid.yaml -o torn.jsonl
figures torn.jsonl >torn
cmp -s serial torn || complain "results after a torn line differ"
sed 's/name: banks/name: others/; s/0.5, 0.75/0.5, 0.75, 0.875/' grid.yaml >more.yaml
expect 0 '*16 points, 4 of them done before, 8 copied from another grid, 4 measured, 0 failed' '*' \
    "$sqf" sweep more.yaml -o torn.jsonl
expect 0 '*to do*others: W(SQ6)A16 seed=9 bank=64 sparsity=0.75*' '' \
    "$sqf" sweep more.yaml -o torn.jsonl --list --set seed=8 --set seed=9

# A changed text makes other points of the same settings.
cp "$model/text/eval.txt" text.txt
{ cat common.yaml && echo 'scheme: W4A16'; } | sed "s,^text: .*,text: text.txt," >text.yaml
expect 0 '*1 measured*' '*' "$sqf" sweep text.yaml -o text.jsonl
{ echo "Once more." && cat "$model/text/eval.txt"; } >text.txt
expect 0 '*0 of them done before*1 measured*' '*' "$sqf" sweep text.yaml -o text.jsonl --set kl=yes

# A point that fails is named and tried again; the others go on.
{ cat common.yaml && echo 'scheme: W4A16' && echo 'length: [32, 999999]' | sed 's/999999/5000/'; } | sed '0,/^length: 32/{//d}' >fails.yaml
for round in first second; do
    found=0
    "$sqf" sweep fails.yaml -o fails.jsonl >out 2>err || found=$?
    [ "$found" -eq 1 ] || complain "$round sweep with a failing point: exit code $found"
    grep -q '^sqf: points: W4A16 length=5000: calibration: windows of 5000 tokens' err || complain "$round: $(cat err)"
done
[ "$(grep -c '"status":"done"' fails.jsonl)" -eq 1 ] || complain "fails: expected one point that is done"
[ "$(grep -c '"status":"failed","error":"calibration' fails.jsonl)" -eq 2 ] || complain "fails: expected two failures"

# A signal ends a sweep, its processes and its models; what is done stays.
"$sqf" sweep grid.yaml -o stopped.jsonl --jobs 2 >out 2>err &
pid=$!
while [ ! -s stopped.jsonl ] && kill -0 $pid 2>/dev/null; do sleep 0.1; done
kill -TERM $pid 2>/dev/null
found=0
wait $pid || found=$?
if [ "$found" -ne 0 ]; then # on a fast machine it may have ended before
    [ "$found" -eq 143 ] || complain "stopped sweep: exit code $found, expected 143: $(cat err)"
    [ ! -e stopped.jsonl.sweep-scratch ] || complain "stopped sweep: models were left behind"
fi
expect 0 '*12 points, *0 failed' '*' "$sqf" sweep grid.yaml -o stopped.jsonl
figures stopped.jsonl >stopped
cmp -s serial stopped || complain "results after a stop differ"

# Models are kept where that is asked for.
expect 0 '*' '*' "$sqf" sweep text.yaml -o kept.jsonl --keep models
id=$(sed 's/^{"id":"\([0-9a-f]*\)".*/\1/' kept.jsonl)
expect 0 '*' '*' "$sqf" inspect "models/$id" --check

# bad TEXT MESSAGE: a grid file that says TEXT beside what all need.
bad() {
    { cat common.yaml && printf '%b\n' "$1"; } >bad.yaml
    expect_error 1 "$2" "$sqf" sweep bad.yaml -o bad.jsonl
    [ ! -e bad.jsonl ] || complain "$1: a results file was left behind"
}
bad 'bonk: 1' "bad.yaml: line 9: unknown key 'bonk', see docs/sweep.md"
bad 'scheme: W4A8\nscheme: W4A4' 'bad.yaml: line 10: scheme: given twice'
bad 'scheme: W4A9' 'bad.yaml: line 1: points: W4A9: scheme *expected a type*'
bad 'scheme: W4A8\nbank: [64, x]' "bad.yaml: line 1: points: W4A8 bank=x: bank: expected a whole number*found 'x'"
bad 'scheme: W(SQ6)A8\nsparsity: 0.7' 'bad.yaml: line 1: points: W(SQ6)A8: sparsity: *'
bad 'scheme: W4A8\nseed: [1, -2]' "bad.yaml: line 10: seed: expected a whole number from 0 to *, found '-2'"
bad 'scheme: W4A8\nkl: perhaps' "bad.yaml: line 10: kl: expected yes or no, found 'perhaps'"
bad 'scheme: []' 'bad.yaml: line 9: scheme: expected at least one value, found an empty list'
bad 'scheme: {a: b}' 'bad.yaml: line 9: scheme: expected a scalar, found a map'
bad 'grids: 3' 'bad.yaml: line 9: grids: expected a list of maps, found a scalar'
bad 'grids: [{name: a, scheme: W4A8}, {name: a}]' "bad.yaml: line 9: the name 'a' is given twice"
bad 'points: [3]' 'bad.yaml: line 9: points: expected a map of settings, found a scalar'
bad 'scheme: W4A8\noverrides: [{scheme: W8A8}]' 'bad.yaml: line 10: overrides: match is missing'
bad 'scheme: W4A8\noverrides: [{match: "(", scheme: W8A8}]' 'bad.yaml: line 1: points: W4A8: regular expression *'
bad "seed: 0" 'bad.yaml: line 1: points: : scheme is missing'
bad 'scheme: W4A8\nignore: [re:]x' 'bad.yaml: line *: not YAML: *'
expect_error 1 '/nowhere: cannot open: *' "$sqf" sweep grid.yaml -o bad.jsonl /nowhere
expect_error 1 'nothing.yaml: cannot open: *' "$sqf" sweep nothing.yaml -o bad.jsonl
expect_error 2 '--set seed: expected KEY=VALUE' "$sqf" sweep grid.yaml -o bad.jsonl --set seed
expect_error 2 '--set bonk: unknown key*' "$sqf" sweep grid.yaml -o bad.jsonl --set bonk=1
expect_error 2 "--set seed: expected a whole number*found 'x'" "$sqf" sweep grid.yaml -o bad.jsonl --set seed=x
echo 'my notes' >notes.jsonl
expect_error 1 'notes.jsonl: line 1: not a result of sqf sweep*' "$sqf" sweep grid.yaml -o notes.jsonl
[ "$(cat notes.jsonl)" = 'my notes' ] || complain "a file of somebody else was changed"

# The report: files, figures by hand, markup.
expect 0 '*12 points, 6 groups, 2 grids, *0 failed' '' "$sqf" report serial.jsonl -o report
for name in index.html points.csv groups.csv tables.md heat-banks-.svg lines-banks-.svg rows-list.svg \
    front-predicted-cost.svg front-stored-bits.svg; do
    [ -s "report/$name" ] || complain "report: $name is missing"
done
[ "$(wc -l <report/points.csv)" -eq 13 ] || complain "points.csv: expected 13 lines"
[ "$(wc -l <report/groups.csv)" -eq 7 ] || complain "groups.csv: expected 7 lines"
# mean and standard error of the two seeds of one group, from the lines themselves
ratios=$(grep '"label":"W4A8 seed=' serial.jsonl | grep -o '"ratio":[^,]*' | cut -d : -f 2 | tr '\n' ' ')
column=$(head -1 report/groups.csv | tr ',' '\n' | grep -n '^loss_percent$' | cut -d : -f 1)
figures=$(grep ',W4A8,2,' report/groups.csv | cut -d , -f "$column,$((column + 1))" | tr ',' ' ')
echo "$ratios $figures" | awk '
    function near(a, b) { return (a - b) ^ 2 < 1e-10 }
    { exit !(near($3, 50 * ($1 + $2) - 100) && (near($4, 50 * ($1 - $2)) || near($4, 50 * ($2 - $1)))) }' ||
    complain "groups.csv: mean and error of W4A8 over its seeds with ratios $ratios: $figures"
grep -q '^## A <trial> & more: banks$' report/tables.md || complain "tables.md: heading"
grep -q 'A &lt;trial&gt; &amp; more' report/index.html || complain "index.html: text is not escaped"
grep -q '<tr id="row-5"' report/index.html || complain "index.html: a row of the table is missing"
if grep -Eo '(src|href)="[^"#][^"]*"|url\([^)]*\)|@import[^;]*' report/index.html | grep -v '="data:,"'; then
    complain "index.html refers to something outside of itself"
fi
if command -v xmllint >/dev/null; then
    for file in report/index.html report/*.svg; do
        xmllint --nonet --noout "$file" 2>err || complain "$file is not well-formed: $(head -1 err)"
    done
fi
if command -v node >/dev/null; then
    node "$source/tests/cli/page.test.js" "$source/cli/report/assets/page.js" >out 2>&1 || complain "page.js: $(cat out)"
fi
cat fails.jsonl >>both.jsonl
expect 0 '*1 points, 1 groups, 1 grids, *1 failed' '' "$sqf" report both.jsonl -o report
grep -q 'calibration: windows of 5000 tokens' report/index.html || complain "index.html: the failed point is missing"
expect 0 '*' '' "$sqf" report serial.jsonl -o report --axes seed,bank --json
expect_members output points groups grids figures failed

expect_error 1 'nothing.jsonl: cannot open: *' "$sqf" report nothing.jsonl -o report
expect_error 1 'notes.jsonl: line 1: not a result of sqf sweep*' "$sqf" report notes.jsonl -o report
expect_error 2 '--axes bank: expected two settings*' "$sqf" report serial.jsonl -o report --axes bank
: >empty.jsonl
expect_error 1 'empty.jsonl: expected results of points that are done, found none' "$sqf" report empty.jsonl -o report
finish
