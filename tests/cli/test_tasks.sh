#!/bin/sh
# eval --tasks, --items, --resume, --reference, --generation and --list-tasks on the demo model and made-up items.
. "$(dirname "$0")/check.sh"
data=$source/tests/tasks/data

expect 0 "model *bootstrap      1000 resamples, seed 1234*continuation-mcq: 6 items*acc *%*acc_norm*lambada: 6 items*acc*perplexity*" \
    "*" "$sqf" eval "$model" --tasks "$data/continuation-mcq.jsonl" "$data/lambada.jsonl"
expect 0 "*" "" "$sqf" eval "$model" --tasks "$data/continuation-mcq.jsonl" --tasks "$data/lambada.jsonl" \
    --items items.jsonl --json -q
expect_members model scheme seed resamples tasks threads cpu_level
for name in name items acc acc_norm acc_error acc_norm_error acc_error_analytic acc_bytes perplexity tokens_reused; do
    grep -q "^      \"$name\": " "$scratch/out" || complain "JSON: task member $name is missing"
done
[ "$(wc -l <items.jsonl)" -eq 12 ] || complain "items: $(wc -l <items.jsonl) lines, expected 12"
[ "$(grep -c '"log_likelihoods":\[-.*"chosen":' items.jsonl)" -eq 6 ] || complain "items: members are missing"
expect_error 1 "items.jsonl: exists; *" "$sqf" eval "$model" --tasks "$data/lambada.jsonl" --items items.jsonl -q

# a run that was cut: four whole lines and a part of one
head -c "$(head -4 items.jsonl | wc -c)" items.jsonl >cut.jsonl
printf '{"task":"contin' >>cut.jsonl
expect 0 "*" "" "$sqf" eval "$model" --tasks "$data/continuation-mcq.jsonl" "$data/lambada.jsonl" --resume cut.jsonl --json -q
cmp -s items.jsonl cut.jsonl || complain "resume: the items differ from those of a whole run"
grep -q '"resumed": 4,' "$scratch/out" || complain "resume: expected 4 resumed items"
sed -i 's/"models":"./"models":"x/' cut.jsonl
expect_error 1 "cut.jsonl: line 1: computed with other models: models x*, expected *" \
    "$sqf" eval "$model" --tasks "$data/lambada.jsonl" --resume cut.jsonl -q

# threads do not matter, limits leave the rest as it is
expect 0 "*" "" "$sqf" eval "$model" --tasks "$data/continuation-mcq.jsonl" --limit 3 --threads 1 --items three.jsonl -q
head -3 items.jsonl | cmp -s - three.jsonl || complain "--limit or --threads changed an item"

# the model against itself
expect 0 "*+0.00 % +- 0.00, 0 gained, 0 lost, p = 1 (McNemar, exact): not significant*" "*" \
    "$sqf" eval "$model" --reference "$model" --tasks "$data/winogrande.jsonl"
expect 0 "*equal until    token 8.00 +- 0.00*same top token 100.00 %*all    8 equal 100.00 %*" "*" \
    "$sqf" eval "$model" --reference "$model" --text "$model/text/eval.txt" --generation 8 --prompts 3 --prompt-tokens 16
expect 0 "*" "" "$sqf" eval "$model" --reference "$model" --text "$model/text/eval.txt" --generation 4 --prompts 2 --json -q
expect_members first_divergence divergence_rate teacher_top nll reference_nll nll_difference lengths

# generated answers, with examples
expect 0 "*gsm8k: 2 items, 1 example*acc *acc_flexible*" "*" \
    "$sqf" eval "$model" --tasks "$data/gsm8k.jsonl" --limit 2 --few-shot 1 --max-new 8
expect_error 1 "$data/gsm8k.jsonl: 4096 new tokens, expected fewer than the 2048 positions of $model" \
    "$sqf" eval "$model" --tasks "$data/gsm8k.jsonl" --max-new 4096 -q

# what --list-tasks prints is read as a task file
expect 0 "*name: winogrande*" "" "$sqf" eval --list-tasks
sed -n '/^name: winogrande/,$p' "$scratch/out" >task.yaml
cp "$data/winogrande.jsonl" pairs.jsonl
expect 0 "*pairs: 4 items*" "*" "$sqf" eval "$model" --tasks pairs.jsonl --task-file task.yaml
expect 0 "*" "" "$sqf" eval --list-tasks --json
expect_members tasks

expect_error 1 "pairs.jsonl: no built-in task *" "$sqf" eval "$model" --tasks pairs.jsonl -q
expect_error 2 "eval: --text is missing*" "$sqf" eval "$model"
expect_error 2 "--text: expected without --tasks*" "$sqf" eval "$model" --text a --tasks b
expect_error 2 "eval: expected MODEL*" "$sqf" eval --tasks b
expect_error 2 "b: unexpected*" "$sqf" eval "$model" b --text a
expect_error 2 "--limit: not an option*" "$sqf" eval "$model" --text a --limit 3
expect_error 2 "--window: not an option*" "$sqf" eval "$model" --tasks a --window 3
expect_error 2 "--generation: expected with --text and --reference" "$sqf" eval "$model" --text a --generation 3
expect_error 1 "nowhere.jsonl: *" "$sqf" eval "$model" --tasks nowhere.jsonl -q
finish
