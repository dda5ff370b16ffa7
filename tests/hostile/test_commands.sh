#!/bin/sh
# Good models, bad circumstances: texts, recipes, tokenizers with expensive expressions, outputs that cannot be written,
# signals. usage: test_commands.sh SQF SOURCE
. "$(dirname "$0")/../cli/check.sh"
text=$model/text/eval.txt calib=$model/text/calib.txt

quantize() {
    "$sqf" quantize "$model" --scheme w8a16 --calib none -q "$@"
}

# repeat COUNT TEXT: the text so many times, without a line end
repeat() {
    awk -v n="$1" -v t="$2" 'BEGIN { for (i = 0; i < n; i++) printf "%s", t }'
}

# within SECONDS COMMAND...: as the command, but killed after so long
within() {
    seconds=$1
    shift
    timeout "$seconds" "$@"
}

nothing_left() {
    left=$(find . -name 'out*' | sort | tr '\n' ' ')
    [ -z "$left" ] || complain "$1: left behind: $left"
    rm -rf out*
}

# ---- texts ----
: >empty.txt
printf 'One.' >short.txt
printf 'Once \377\376 upon \300\200 a \355\240\200 time, \364\220\200\200 there was' >invalid.txt
repeat 50 'Once \303\50 upon a time there was. ' >>invalid.txt
printf 'Once\000upon\000a time there was a NUL, and another\000' >nul.txt
repeat 1000000 a >unbroken.txt
repeat 300000 ' ' >blanks.txt
repeat 200000 "'s" >quotes.txt
expect_error 1 "empty.txt: *" "$sqf" eval "$model" --text empty.txt --window 16
expect_error 1 "missing.txt: *" "$sqf" eval "$model" --text missing.txt --window 16
expect_error 1 ".: *a directory" "$sqf" eval "$model" --text . --window 16
expect_error 1 "*4096*2048*" "$sqf" eval "$model" --text "$text" --window 4096
expect 0 "*" "" "$sqf" eval "$model" --text short.txt --window 512 -q
expect 0 "*" "" "$sqf" eval "$model" --text invalid.txt --window 16 -q
expect 0 "*" "" "$sqf" eval "$model" --text nul.txt --window 16 -q
mkfifo pipe.txt
expect_error 1 "pipe.txt: *" within 10 "$sqf" eval "$model" --text pipe.txt --window 16
for name in unbroken blanks quotes; do
    input=$name.txt
    expect 0 "*" "" within 20 "$sqf" tokenize "$model" -q
    cp "$scratch/out" "$name.ids"
    input=$name.ids
    within 20 "$sqf" tokenize "$model" --decode -q <"$name.ids" >"$name.back" || complain "$name: decoding failed"
    cmp -s "$name.txt" "$name.back" || complain "$name: decoding gives another text"
done
input=
printf '5 7 4000000000\n' >bad.ids
printf '5 -7\n' >negative.ids
printf '5 seven\n' >words.ids
printf '99999999999999999999999999\n' >huge.ids
for name in bad negative words huge; do
    input=$name.ids
    expect_error 1 "*" "$sqf" tokenize "$model" --decode
done
input=

# ---- prompts ----
repeat 3000 'word ' >prompt.txt
input=prompt.txt
expect_error 1 "*2048*" "$sqf" run "$model" -n 4 -q
input=invalid.txt
expect 0 "*" "" "$sqf" run "$model" -n 2 -q
input=
expect_error 1 "*positions*" "$sqf" bench "$model" --prefill 4096 --decode 1 --repetitions 1

# ---- calibration ----
cal() {
    "$sqf" quantize "$model" -o out --scheme w4a8 --calib-samples 2 --calib-length 32 -q "$@"
}
expect_error 1 "short.txt: too little text*" cal --calib short.txt
expect_error 1 "empty.txt: too little text*" cal --calib empty.txt
expect_error 1 ".: *" cal --calib .
printf '{"text": "one"}\n{"text": 2}\n' >wrong.jsonl
printf '{"text": "one"}\n{"text": \n' >cut.jsonl
printf '{"other": "one"}\n' >other.jsonl
printf '[1, 2]\n' >array.jsonl
repeat 100000 '[' >deep.jsonl
printf '{"text": "one \377 two"}\n' >bytes.jsonl
for name in wrong cut other array deep bytes; do
    expect_error 1 "$name.jsonl: line *" cal --calib "$name.jsonl"
done
nothing_left calibration

# ---- recipes ----
recipe() {
    printf "$1" >recipe.yaml
    expect_error 1 "recipe.yaml: *" within 10 "$sqf" quantize "$model" -o out --recipe recipe.yaml --calib none -q
}
recipe ''
recipe '[]\n'
recipe 'scheme\n'
recipe 'scheme: [w4a8]\n'
recipe 'scheme: w4a8\nscheme: w8a8\n'
recipe 'scheme: w4a8\nbnak: 3\n'
recipe 'scheme: w99\n'
recipe 'scheme: w4a8\nclip: NaN\n'
recipe 'scheme: w4a8\noverrides: {match: x}\n'
recipe 'scheme: w4a8\noverrides:\n  - clip: mse\n'
recipe 'scheme: w4a8\noverrides:\n  - match: "("\n    clip: mse\n'
recipe 'scheme: w4a8\nignore: ["re:["]\n'
recipe 'scheme: w4a8\n\tclip: mse\n'
recipe 'scheme: w4a8\n---\nscheme: w4a8\n'
recipe 'a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\nscheme: w4a8\n'
recipe 'scheme: &s w4a8\nlow: *s\n'
recipe 'scheme: w4a8\nclip: \377\376\n'
{
    printf 'scheme: w4a8\nignore: '
    repeat 400000 '['
} >recipe.yaml
expect_error 1 "recipe.yaml: *" within 10 "$sqf" quantize "$model" -o out --recipe recipe.yaml --calib none -q
{
    printf 'scheme: w4a8\nignore: '
    repeat 100000 '{a: '
} >recipe.yaml
expect_error 1 "recipe.yaml: *" within 10 "$sqf" quantize "$model" -o out --recipe recipe.yaml --calib none -q
repeat 2000000 '# comment ' >recipe.yaml
expect_error 1 "recipe.yaml: *" within 10 "$sqf" quantize "$model" -o out --recipe recipe.yaml --calib none -q
nothing_left recipes

# ---- expressions that take exponential time in a backtracking engine ----
mkdir bomb
ln -s "$model"/*.json "$model"/model.safetensors bomb/
for expression in '(a+)+$' '(a|a)*b' '(a*)*b' '(?:a?){60}a{60}$' '(x+x+)+y|a'; do
    rm bomb/tokenizer.json
    awk -v e="$expression" '/"Regex":/ { print "     \"Regex\": \"" e "\""; next } { print }' \
        "$model/tokenizer.json" >bomb/tokenizer.json
    input=unbroken.txt
    within 60 "$sqf" tokenize bomb -q <unbroken.txt >"$scratch/out" 2>"$scratch/err"
    code=$?
    [ $code -eq 0 ] || { [ $code -eq 1 ] && [ "$(grep -c '^sqf: ' "$scratch/err")" -eq 1 ]; } ||
        complain "$expression: exit code $code: $(head -c 300 "$scratch/err")"
done
input=

# ---- outputs ----
mkdir exists
echo precious >exists/file
echo precious >file
expect_error 1 "exists: exists already*" quantize -o exists
expect_error 1 "file: exists already*" quantize -o file
[ "$(cat exists/file file | uniq)" = precious ] || complain "an existing output was touched"
expect_error 1 "*missing*" quantize -o missing/out
expect_error 1 "*" quantize -o file/out
expect_error 1 "*" quantize -o ''
expect_error 1 "*" quantize -o .
expect_error 1 "*" quantize -o /
expect_error 1 "*" quantize -o /proc/out
long=$(repeat 300 x)
expect_error 1 "*" quantize -o "$long"
cp -r "$model" copy
before=$(cat copy/* 2>/dev/null | cksum)
expect_error 1 "*apart from the input*" "$sqf" quantize copy -o copy --force --scheme w8a16 --calib none -q
expect_error 1 "*apart from the input*" "$sqf" quantize copy -o copy/out --scheme w8a16 --calib none -q
ln -s copy link
expect_error 1 "*" "$sqf" quantize copy -o link --force --scheme w8a16 --calib none -q
[ "$before" = "$(cat copy/* 2>/dev/null | cksum)" ] || complain "the input was changed"
[ -z "$(find copy -name '*part*' -o -name '*replaced*')" ] || complain "something is left beside the input"
nothing_left outputs

# a failing run with --force leaves the former output alone
sed 's/"hidden_act": "silu"/"hidden_act": "relu"/' copy/config.json >bad.json && cp bad.json copy/config.json
expect_error 1 "copy/config.json: *relu*" "$sqf" quantize copy -o exists --force --scheme w8a16 --calib none -q
[ "$(cat exists/file)" = precious ] || complain "--force lost the former output"

# ---- a full disk ----
# every file may be at most 1 MB: a write beyond it fails as on a full disk (the signal is ignored)
(
    trap '' XFSZ
    ulimit -f 2000
    "$sqf" quantize "$model" -o out --scheme w8a16 --calib none -q
) >"$scratch/out" 2>"$scratch/err"
code=$?
[ $code -eq 1 ] && [ "$(wc -l <"$scratch/err")" -eq 1 ] && grep -q '^sqf: out' "$scratch/err" ||
    complain "file too large: exit code $code: $(cat "$scratch/err")"
nothing_left "file too large"
for command in "eval $model --text $text --window 16 --max-tokens 32" "run $model -p Once -n 2" "inspect $model" \
    "tokenize $model" "compare $model $model" "schemes" "inspect $model --json" "help quantize"; do
    # shellcheck disable=SC2086
    "$sqf" $command -q <short.txt >/dev/full 2>"$scratch/err"
    code=$?
    [ $code -eq 1 ] && grep -q '^sqf: standard output: ' "$scratch/err" && [ "$(wc -l <"$scratch/err")" -eq 1 ] ||
        complain "/dev/full: $command: exit code $code: $(cat "$scratch/err")"
done
mkdir small
if mount -t tmpfs -o size=1m none small 2>/dev/null; then
    expect_error 1 "small/out*No space left*" quantize -o small/out
    [ -z "$(ls -A small)" ] || complain "full disk: left behind: $(ls -A small)"
    umount small
fi

# ---- signals: nothing is left, and the exit code says which ----
# stop SIGNAL CODE: interrupts a quantization that takes seconds as soon as its temporary directory exists
stop() {
    "$sqf" quantize "$model" -o out --scheme w4a-sq6 --calib "$calib" --calib-samples 64 --calib-length 512 --threads 1 \
        -q 2>"$scratch/err" &
    process=$!
    tries=0
    while [ -z "$(ls -d out.part-* 2>/dev/null)" ] && [ $tries -lt 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill "-$1" $process
    wait $process
    code=$?
    [ $code -eq "$2" ] || complain "$1: exit code $code, expected $2"
    [ "$(cat "$scratch/err")" = "sqf: interrupted" ] || complain "$1: $(cat "$scratch/err")"
    nothing_left "$1"
}
stop INT 130
stop TERM 143
finish
