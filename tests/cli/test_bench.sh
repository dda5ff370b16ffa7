#!/bin/sh
# The tools of bench/ on a tiny shape: checkpoints that sqf opens, the same weights as GGUF, and the table of peers with
# programs that only print.
. "$(dirname "$0")/check.sh"
BUILD=$(cd "$(dirname "$sqf")/.." && pwd)
export BUILD
make=$BUILD/bench/bench_make-checkpoint info=$BUILD/bench/bench_gguf-info

# ---- checkpoints

expect 0 "" "" "$make" tiny plain --gguf plain.gguf
expect 0 "*LlamaForCausalLM*2 layers*" "" "$sqf" inspect plain
expect 0 "*: ok, *" "" "$sqf" inspect plain --check
expect 0 "" "" "$make" tiny again --seed 1
cmp plain/model.safetensors again/model.safetensors || complain "the same seed gave other weights"
expect 0 "" "" "$make" tiny other --seed 2 --layers 1
cmp -s plain/model.safetensors other/model.safetensors && complain "another seed gave the same weights"
expect 0 "*1 layer*" "" "$sqf" inspect other
expect 2 "" "usage: make-checkpoint *llama-3.2-1b*" "$make" llama-9 new
expect 2 "" "usage: make-checkpoint *" "$make" tiny new --layers
expect 2 "" "usage: make-checkpoint *" "$make" tiny new --size 3
expect 1 "" "make-checkpoint: expected a whole number from 1 to 1000, found '0'" "$make" tiny new --layers 0
expect 1 "" "make-checkpoint: plain: *" "$make" tiny plain
# the published sizes: 1.24 billion weights, 0.97 of them in the decoder's layers
if [ "$(df -Pk . | awk 'END { print $4 }')" -gt 2000000 ]; then
    expect 0 "" "" "$make" llama-3.2-1b large --layers 1
    expect 0 "*" "" "$sqf" inspect large --json
    [ "$(member parameters)" = $((128256 * 2048 + 2048 + 60817408 + 2 * 2048)) ] || complain "1b: $(member parameters)"
    rm -r large
fi

# ---- GGUF: header, order and values

expect 0 "*" "" "$info" plain.gguf --list
cp "$scratch/out" list
grep -q '^tensor token_embd.weight 1 [0-9]* 256 1024$' list || complain "gguf: embedding"
grep -q '^tensor blk.1.ffn_down.weight 1 [0-9]* 512 256$' list || complain "gguf: ffn_down"
grep -q '^tensor output_norm.weight 0 [0-9]* 256$' list || complain "gguf: output_norm"
grep -q '^tensors 20$' list || complain "gguf: number of tensors"
[ "$(awk '$1 == "weights" { print $2 }' list)" = 1443072 ] || complain "gguf: number of weights"
awk '$1 == "tensor" && $4 % 32 { exit 1 }' list || complain "gguf: a tensor is not aligned"
for key in general.architecture llama.block_count llama.vocab_size llama.rope.freq_base tokenizer.ggml.model; do
    head -c 2000 plain.gguf | grep -q "$key" || complain "gguf: $key is missing"
done
expect 1 "" "gguf-info: plain/config.json: expected GGUF of version 2 or 3" "$info" plain/config.json
head -c 1000 plain.gguf >short.gguf
expect 1 "" "gguf-info: short.gguf: the file ends inside its header" "$info" short.gguf

# numbers FILE OFFSET COUNT EXPONENT_BITS MANTISSA_BITS: 16-bit floats as decimals
numbers() {
    od -An -v -w2 -tu2 -j "$2" -N $((2 * $3)) "$1" | awk -v e="$4" -v m="$5" '{
        mantissa = $1 % 2^m; exponent = int($1 / 2^m) % 2^e; bias = 2^(e - 1) - 1
        x = exponent ? (1 + mantissa / 2^m) * 2^(exponent - bias) : mantissa / 2^m * 2^(1 - bias)
        printf "%.7f\n", ($1 >= 32768 ? -x : x) }'
}
data=$(($(od -An -tu8 -N 8 plain/model.safetensors) + 8))
# compare_rows TENSOR ROW GGUF_TENSOR GGUF_ROW: 256 columns each
compare_rows() {
    offset=$(head -c $data plain/model.safetensors | sed "s/.*\"$1\":[^}]*data_offsets\":\[\([0-9]*\),.*/\1/")
    numbers plain/model.safetensors $((data + offset + 512 * $2)) 256 8 7 >row
    numbers plain.gguf $(($(awk -v name="$3" '$2 == name { print $4 }' list) + 512 * $4)) 256 5 10 >gguf_row
    # the smallest numbers are rounded in fp16
    paste row gguf_row | awk '{ d = $1 - $2; if (d * d > 1e-14) bad++; sum += $2 * $2 }
        END { exit bad > 0 || sum / NR < 2e-4 || sum / NR > 6e-4 }' || complain "$1 row $2 is not $3 row $4"
}
compare_rows model.embed_tokens.weight 7 token_embd.weight 7
compare_rows model.layers.1.self_attn.v_proj.weight 5 blk.1.attn_v.weight 5
# rotated halves become neighbours: row 3 + 32 of head 1 stands at 2 * 3 + 1 of it
compare_rows model.layers.1.self_attn.q_proj.weight 99 blk.1.attn_q.weight 71
compare_rows model.layers.0.self_attn.k_proj.weight 3 blk.0.attn_k.weight 6
# ---- the script around it: quantize and time

expect 0 "*made-w4a8: *prefill *decode *made-w8a8: *prefill *decode *" "*" \
    sh "$source/bench/make-checkpoint" tiny made --scheme w4a8,w8a8 --layers 1
expect 0 "" "" sh "$source/bench/make-checkpoint" --scheme none tiny alone
expect 0 "*output matrix W4A8*" "" "$sqf" inspect made-w4a8
expect 0 "*output matrix W8A8*" "" "$sqf" inspect made-w8a8
expect 0 "*float-w4a8: *prefill *" "*" \
    sh "$source/bench/make-checkpoint" tiny float --lm-head off --scheme w4a8 --layers 1
expect 0 "*output matrix BF16*" "" "$sqf" inspect float-w4a8
[ -f alone/config.json ] && [ ! -e alone-w4a8 ] || complain "--scheme none"

# ---- peers: a program whose rates grow from turn to turn

mkdir peer
cat >peer/llama-bench <<'PEER'
#!/bin/sh
count=$(($(cat "$0.count" 2>/dev/null || echo 0) + 1))
echo $count >"$0.count"
echo "$*" >>"$0.log"
echo "a line of talk" >&2
cat <<END
[
  { "build_commit": "abc", "n_prompt": 8,
    "n_gen": 0,
    "avg_ts": $((1000 * count)).5
  },
  { "n_prompt": 0,
    "n_gen": 2,
    "avg_ts": $((100 * count))
  }
]
END
PEER
chmod +x peer/llama-bench
sed 's/1000/100000/' peer/llama-bench >peer/fast-bench
chmod +x peer/fast-bench
expect 0 "*2 threads, 3 turns*made-w4a8 *first plain *fast plain -fa 1*made-w4a8: fastest peer in prefill: fast plain -fa 1, *" "*" \
    sh "$source/bench/peers" --model made-w4a8 --llama-bench peer/llama-bench --name first --gguf plain.gguf \
    --llama-bench peer/fast-bench --name fast --extra "-fa 1" --gguf plain.gguf --prefill 8 --decode 2 --threads 2 \
    --rounds 3 --json peers.json
[ "$(sort -u peer/llama-bench.log)" = "-m plain.gguf -p 8 -n 2 -r 1 -t 2 -o json" ] || complain "peers: options"
[ "$(wc -l <peer/fast-bench.log)" -eq 3 ] || complain "peers: turns"
grep -q -- '-o json -fa 1' peer/fast-bench.log || complain "peers: extra options"
grep -q '^first plain  *2\.00[0-9]*  *2000\.50 (1000\.50)  *200\.00 ( 100\.00)$' "$scratch/out" ||
    complain "peers: medians and minima: $(cat "$scratch/out")"
cp peers.json "$scratch/out"
expect_members date cpu command load threads rounds subjects ratios
grep -q '"prefill_tokens_per_s": \[1000.5, 2000.5, 3000.5\]' peers.json ||
    complain "peers: turns in the record"
grep -q "$scratch" peers.json && complain "peers: a directory of this machine is in the record"
expect 2 "" "peers: --gguf plain.gguf: expected --llama-bench before it" \
    sh "$source/bench/peers" --model made-w4a8 --gguf plain.gguf
expect 2 "" "peers: expected --model" \
    sh "$source/bench/peers" --llama-bench peer/llama-bench --gguf plain.gguf
expect 2 "" "peers: --rounds 0: *" sh "$source/bench/peers" --rounds 0
printf '#!/bin/sh\necho broken >&2\nexit 3\n' >peer/broken
chmod +x peer/broken
expect 1 "" "*broken*peers: peer/broken: failed" \
    sh "$source/bench/peers" --model made-w4a8 --llama-bench peer/broken --gguf plain.gguf --prefill 8 --decode 2 --rounds 1

# ---- scaling: every length, depth and batch with every number of threads

expect 0 "*made-w4a8: W4A8, KV cache f16*roofs, 1 thread: read*roofs, 2 threads: read*prefill of a prompt*decode after a depth*decode of a batch*" \
    "*" sh "$source/bench/scaling" made-w4a8 --prompts 16,64 --depths 0,40 --batches 1,3 --decode 4 --repetitions 1 \
    --sqf-extra "--kv f16" --output record/tiny --svg tiny.svg
found=$(awk '$5 ~ /^[0-9]/ && $1 ~ /^[12]$/ { printf "%s %s %s %s,", $1, $2, $3, $4 }' record/tiny.txt)
rows=
for t in 1 2; do rows="$rows$t 16 0 1,$t 64 0 1,$t 4 0 1,$t 4 40 1,$t 4 0 1,$t 4 0 3,"; done
[ "$found" = "$rows" ] || complain "scaling: the rows are $found"
# seconds allowed by the roofs, from the record's own figures: 3 sequences of 4 tokens, positions 3 * (1 + 2 + 3 + 4)
awk '{ text = $0; gsub(/"[a-z_]*":|[{},]/, "") }
    text ~ /"threads": 1, "read_gb_per_s"/ { read_roof = $2; float_roof = $3; bytes = $5 }
    text ~ /"threads": 1.*"batch": 3/ { on = 1; next }
    on { on = 0; found++
         bad += $2 / ((4 * bytes + 30 * 2 * 2 * 128) / read_roof * 1e-9) > 1.001
         bad += $4 / (2 * 30 * 4 * 64 / float_roof * 1e-9) > 1.001 }
    END { exit bad > 0 || found != 1 }' record/tiny.json || complain "scaling: what the roofs allow"
if command -v gnuplot >/dev/null; then
    grep -q 'sequences' tiny.svg || complain "scaling: the picture"
fi
expect 1 "" "*left out: prompt, 1 threads, 16 tokens, depth 0, batch 1: about * s*scaling: the budget is too small*" \
    sh "$source/bench/scaling" made-w4a8 --threads 1 --prompts 16 --depths 0 --batches 1 --budget 0 \
    --output record/none --svg none.svg
expect 2 "" "scaling: expected MODEL" sh "$source/bench/scaling"
expect 2 "" "scaling: --depths x: expected whole numbers" sh "$source/bench/scaling" made-w4a8 --depths x
finish
