"""Writes reference.json: what transformers says about the items beside it, by the rules of lm-eval.

    make_reference.py MODEL_DIRECTORY > reference.json

Needs torch and transformers; the tests need only the result. Nothing of lm-eval is used: its rules are written out here
once more. Contexts and continuations are encoded together, white space at the end of a context goes to the
continuation, an empty context is the BOS token, and examples are the first other items.
"""
import json
import os
import re
import sys

import torch
import transformers

here = os.path.dirname(os.path.abspath(__file__))
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])


def read(name):
    with open(os.path.join(here, name + ".jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encode(context, continuation):
    if context.rstrip() == "":
        return [tokenizer.bos_token_id], tokenizer.encode(context + continuation, add_special_tokens=False)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    ids = tokenizer.encode(context)
    return ids, tokenizer.encode(context + continuation)[len(ids):]


def score(context, continuation):
    head, tail = encode(context, continuation)
    with torch.no_grad():
        logits = model(torch.tensor([(head + tail)[:-1]])).logits[0].double()
    rows = torch.log_softmax(logits, -1)[-len(tail):]
    target = torch.tensor(tail)
    return rows.gather(1, target[:, None]).sum().item(), bool((rows.argmax(-1) == target).all())


def clean(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


def parts(name, item):
    """Contexts and continuations of the options, and the number of the right one."""
    if name == "continuation-mcq":
        return [item["ctx"]] * 4, item["endings"], item["label"]
    if name == "winogrande":
        return item["context_options"], [item["continuation"]] * 2, item["gold"]
    if name == "lambada":
        return [item["context"]], [item["continuation"]], 0
    if name == "hellaswag":
        context = clean(item["activity_label"] + ": " + item["ctx_a"] + " " + item["ctx_b"].capitalize())
        return [context] * 4, [clean(e) for e in item["endings"]], int(item["label"])
    if name == "piqa":
        return [item["query"].strip() + "\nAnswer:"] * len(item["choices"]), item["choices"], item["gold"]
    return ["Question: " + item["question"] + "\nAnswer:"], [item["answer"]], 0


def examples(name, items, index, count):
    text = ""
    for item in [i for i in items if i != items[index]][:count]:
        contexts, continuations, gold = parts(name, item)
        text += contexts[gold] + " " + continuations[gold] + "\n\n"
    return text


def generate(prompt, new):
    ids = tokenizer.encode(prompt)
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                         max_new_tokens=new, do_sample=False)[0][len(ids):]
    text = tokenizer.decode(out, skip_special_tokens=True)
    for stop in ["Question:", "</s>", "<|im_end|>"]:
        text = text.split(stop)[0]
    return text


def main():
    tasks = []
    for name, shots in (("continuation-mcq", 0), ("continuation-mcq", 2), ("winogrande", 0), ("winogrande", 2),
                        ("lambada", 0), ("hellaswag", 0), ("piqa", 0), ("piqa", 1), ("gsm8k", 2)):
        items, rows = read(name), []
        for index, item in enumerate(items):
            prefix = examples(name, items, index, shots)
            contexts, continuations, _ = parts(name, item)
            if name == "gsm8k":
                rows.append({"generation": generate(prefix + contexts[0], 48)})
                continue
            scores = [score(prefix + a, " " + b) for a, b in zip(contexts, continuations)]
            rows.append({"log_likelihoods": [round(s, 9) for s, _ in scores], "greedy": scores[0][1]})
        tasks.append({"name": name, "few_shot": shots, "items": rows})
    json.dump({"transformers": transformers.__version__, "tasks": tasks}, sys.stdout, indent=1)
    print()


main()
