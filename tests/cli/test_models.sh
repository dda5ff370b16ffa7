#!/bin/sh
# eval, run, bench, inspect and compare on the demo model.
. "$(dirname "$0")/check.sh"
text=$model/text/eval.txt

expect 0 "model *perplexity *+-*products*dense 100.0 %*" "*" \
    "$sqf" eval "$model" --text "$text" --window 128 --max-tokens 600
expect 0 "*" "*" "$sqf" eval "$model" --text "$text" --window 128 --max-tokens 600 --json --quiet
expect_members perplexity perplexity_error nll nll_sum scored_tokens scored_bytes perplexity_per_byte windows products \
    seconds tokens_per_s
[ "$(member scored_tokens)" = 508 ] || complain "scored tokens: $(member scored_tokens), expected 4 * 127"
is "$(member perplexity) > 20 && $(member perplexity) < 80"
is "log($(member perplexity)) - $(member nll) < 1e-9 && $(member nll) - log($(member perplexity)) < 1e-9"
is "exp($(member nll_sum) / $(member scored_bytes)) / $(member perplexity_per_byte) - 1 < 1e-9"
plain=$(member perplexity)

# the same model as reference: no distance at all; threads do not matter
expect 0 "*" "" \
    "$sqf" eval "$model" --text "$text" --window 128 --max-tokens 600 --reference "$model" --threads 1 --json -q
expect_members kl kl_error same_top ratio ratio_error difference difference_error reference
is "$(member kl) == 0 && $(member same_top) == 1 && $(member ratio) == 1 && $(member ratio_error) == 0"
[ "$(member perplexity)" = "$plain" ] || complain "perplexity changed with --threads: $(member perplexity), $plain"

# llama.cpp scores window - window / 2 - 1 tokens of each window
expect 0 "*" "" "$sqf" eval "$model" --text "$text" --window 129 --max-tokens 520 --windowing llama.cpp --json -q
[ "$(member scored_tokens)" = 256 ] || complain "llama.cpp: scored tokens: $(member scored_tokens), expected 4 * 64"

# the four windows whose sums models/demo/reference.json gives; the text is not in the repository
heldout=$source/../shared/data/heldout/test.txt
if [ -r "$heldout" ]; then
    expect 0 "*" "" "$sqf" eval "$model" --text "$heldout" --window 512 --max-tokens 2048 --json -q
    nll=$(awk '/"first_4_windows_nll_sum"/ { on = 1; next } on && /]/ { print sum; exit } on { sum += $1 }' \
        "$model/reference.json")
    is "$(member nll_sum) / $nll < 1.00001 && $(member nll_sum) / $nll > 0.99999"
fi

# a text shorter than a window is one window, an incomplete last one is left out
printf 'It was a dark and stormy night' >short.txt
expect 0 "*" "" "$sqf" eval "$model" --text short.txt --json -q
[ "$(member windows)" = 1 ] || complain "short text: windows: $(member windows)"
printf 'a' >one.txt
expect_error 1 "one.txt: too little text: 1 token, expected at least 2" "$sqf" eval "$model" --text one.txt
expect_error 1 "short.txt: too little text: * expected at least 512" \
    "$sqf" eval "$model" --text short.txt --window 512 --windowing llama.cpp
expect_error 1 "$model: a window of 4096 tokens, expected at most the model's 2048 positions" \
    "$sqf" eval "$model" --text "$text" --window 4096
expect_error 1 "nowhere.txt: *" "$sqf" eval "$model" --text nowhere.txt
expect_error 1 ".: expected a file, found a directory" "$sqf" eval "$model" --text .
expect_error 1 "nowhere/*" "$sqf" eval nowhere --text "$text"

prompt='The captain looked at the map for a long time. Then he'
expect 0 "*" "prefill * tokens*stopped: length" "$sqf" run "$model" -p "$prompt" -n 8 --temp 0
greedy=$(cat "$scratch/out")
printf '%s' "$prompt" >prompt.txt
input=prompt.txt
expect 0 "$greedy" "" "$sqf" run "$model" -n 8 --temp 0 --quiet
input=
expect 0 "*" "" "$sqf" run "$model" -p "$prompt" -n 8 --temp 0 --logits --json -q
expect_members text ids stop prefill_seconds decode_tokens_per_s top
[ "$(grep -c '"logit"' "$scratch/out")" -eq 20 ] || complain "top: expected 20 logits"
[ " $(member text)" = " $greedy" ] || complain "run --json: text '$(member text)', expected '$greedy'"
first=$(sed -n '/"ids"/{n;s/[ ,]//g;p;}' "$scratch/out" | head -1)
top=$(sed -n 's/.*"id": \([0-9]*\),/\1/p' "$scratch/out" | head -1)
[ "$first" = "$top" ] || complain "the first greedy id is $first, the largest logit has $top"
expect 0 "*" "" "$sqf" run "$model" -p "$prompt" -n 0 --logits --json -q
grep -q '"ids": \[\]' "$scratch/out" || complain "-n 0: ids were drawn"
[ "$(grep -c '"logit"' "$scratch/out")" -eq 20 ] || complain "-n 0: expected 20 logits"
expect 0 "*" "" "$sqf" run "$model" -p "$prompt" -n 12 --temp 1 --seed 5 -q
drawn=$(cat "$scratch/out")
expect 0 "$drawn" "" "$sqf" run "$model" -p "$prompt" -n 12 --temp 1 --seed 5 -q --threads 1
input=$text
expect_error 1 "prompt: found * tokens, expected at most the model's 2048 positions" "$sqf" run "$model" -q
input=
expect_error 1 "nowhere/*" "$sqf" run nowhere -p x

expect 0 "*" "" "$sqf" bench "$model" --prefill 16 --decode 4 --repetitions 2 --json -q
expect_members results roofs bits_per_weight weight_bytes read_bytes cpu threads
[ "$(sed -n '/"tokens_per_s"/,/]/p' "$scratch/out" | grep -c '^        [0-9]')" -eq 4 ] ||
    complain "bench: expected two repetitions of two tests"
grep -q '"roofs": null' "$scratch/out" || complain "bench: roofs were not asked for"
# bf16: the matrices are read as they are stored, all but the norms
is "$(member read_bytes) < $(member weight_bytes) && $(member read_bytes) > 0.99 * $(member weight_bytes)"
expect 0 "$model: BF16, * bits a weight*prefill * 16 tokens * 0 before *decode * 4 tokens *" "" \
    "$sqf" bench "$model" -p 16 -n 4 -r 2
expect 0 "$model: BF16, *decode * 1 tokens *" "" "$sqf" bench "$model" -p 0 -n 1 -r 1 --threads 1
# every length at every depth
expect 0 "*" "" "$sqf" bench "$model" -p 8,0,3 -n 2 -d 0,20 -r 1 -q
found=$(sed -n 's/^\(prefill\|decode\) *\([0-9]*\) tokens x \([0-9]*\) *\([0-9]*\) before.*/\1 \2 \3 \4/p' "$scratch/out" |
    tr '\n' ',')
[ "$found" = "prefill 8 1 0,decode 2 1 0,prefill 3 1 0,prefill 8 1 20,decode 2 1 20,prefill 3 1 20," ] ||
    complain "bench: the rows are $found"
# every batch with every length
expect 0 "*KV cache int8*2 tokens x 1 *2 tokens x 3 *1 tokens x 1 *1 tokens x 3 *" "" \
    "$sqf" bench "$model" -p 0 -n 2,1 -b 1,3 -r 1 --kv int8 -q
expect 0 "*" "" "$sqf" bench "$model" -p 0 -n 2 -b 3 -r 1 --kv f16 --json -q
expect_members kv cache_bytes results
[ "$(member cache_bytes)" = $((2 * 4 * 128 * 2)) ] || complain "bench: cache of f16: $(member cache_bytes)"
grep -q '"batch": 3' "$scratch/out" || complain "bench: the batch is missing"
expect_error 2 "--batch 0: expected up to 32 whole numbers from 1 to *" "$sqf" bench "$model" -b 0
expect 0 "*roofs: read * GB/s*of roof*of read*%*" "" "$sqf" bench "$model" -p 4 -n 1 -r 1 --roofs -q
for list in "" , 1, ,1 1,x -1 16777217 1,99999999999999999999; do
    expect_error 2 "--depth $list: expected up to 32 whole numbers from 0 to 16777216, separated by commas" \
        "$sqf" bench "$model" --depth "$list"
done
expect_error 1 "*2048*2060*" "$sqf" bench "$model" --prefill 60 -n 0 --depth 2000
expect_error 1 "*2048*4096*" "$sqf" bench "$model" --prefill 4096

expect 0 "*LlamaForCausalLM*4 layers*model.layers.3.mlp.down_proj.weight*256x768*BF16*" "" "$sqf" inspect "$model"
expect 0 "*model.norm.weight*256*" "" "$sqf" inspect "$model" model.norm.weight
expect 0 "*" "" "$sqf" inspect "$model" --json
expect_members architecture layers parameters weight_bytes tensors
[ "$(member parameters)" = 3672320 ] || complain "parameters: $(member parameters)"
expect 0 "*: ok, *" "" "$sqf" inspect "$model" --check
expect 0 "*" "*model.norm.weight: ok*tokenizer.json: ok" "$sqf" inspect "$model" --check --json --verbose
expect_members ok items tensors hashed bytes problems
expect_error 1 "$model: tensor model.nothing: *" "$sqf" inspect "$model" model.nothing

expect 0 "*are identical; relative error over all 0" "" "$sqf" compare "$model" "$model"
expect 0 '*"identical": true*' "" "$sqf" compare "$model" "$model" --json
expect_error 1 "nowhere/*" "$sqf" compare "$model" nowhere
finish
