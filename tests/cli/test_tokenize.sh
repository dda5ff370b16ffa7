#!/bin/sh
# Text to ids and back, with the tokenizer's files alone.
. "$(dirname "$0")/check.sh"

mkdir tokenizer
cp "$model/tokenizer.json" "$model/tokenizer_config.json" tokenizer/
input=$scratch/input

printf 'Hello, world!' >"$input"
expect 0 "39 524 78 11 869 0" "" "$sqf" tokenize tokenizer
expect 0 "2046 39 524 78 11 869 0" "" "$sqf" tokenize tokenizer --special
expect 0 "*" "" "$sqf" tokenize tokenizer --json
expect_members ids count
[ "$(member count)" = 6 ] || complain "count: $(member count), expected 6"
printf '39 524 78\n11\t869 0\n' >"$input"
expect 0 "Hello, world!" "" "$sqf" tokenize tokenizer --decode
expect 0 '{*"text": "Hello, world!"*}' "" "$sqf" tokenize tokenizer --decode --json
: >"$input"
expect 0 "" "" "$sqf" tokenize tokenizer
expect 0 "" "" "$sqf" tokenize tokenizer --decode

# bytes come back as they went in, with and without special tokens
cp "$model/text/eval.txt" "$input"
printf '\t tabs \303\251\344\270\255\360\237\230\200 \n\n end  ' >>"$input"
for special in "" --special; do
    "$sqf" tokenize tokenizer $special <"$input" >ids
    "$sqf" tokenize tokenizer $special --decode <ids >back
    cmp "$input" back || complain "round trip $special"
done

# half a character is no valid text: JSON gets U+FFFD for each of its bytes, and what is valid around it stays
printf 'a\303\251\344\270\255\360\237\230\200' >"$input"
ids=$("$sqf" tokenize tokenizer <"$input")
echo "${ids% *}" >"$input"
expect 0 "{*\"text\": \"a$(printf '\303\251\344\270\255\357\277\275')*\"*}" "" "$sqf" tokenize tokenizer --decode --json

echo "1 2 x" >"$input"
expect_error 1 "standard input: byte 4: expected ids separated by blanks" "$sqf" tokenize tokenizer --decode
echo "1 -2" >"$input"
expect_error 1 "standard input: byte 2: expected ids*" "$sqf" tokenize tokenizer --decode
echo "1 99999999999" >"$input"
expect_error 1 "standard input: byte 2: expected ids*" "$sqf" tokenize tokenizer --decode
echo "1 2048" >"$input"
expect_error 1 "*2048*" "$sqf" tokenize tokenizer --decode
expect_error 1 "nowhere/tokenizer.json: *" "$sqf" tokenize nowhere
mkdir empty
expect_error 1 "empty/tokenizer.json: *" "$sqf" tokenize empty
finish
