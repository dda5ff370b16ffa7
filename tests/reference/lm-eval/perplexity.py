"""Compares the perplexity of `sqf eval --text` with that of transformers: within 1e-4 relative.

    perplexity.py SQF MODEL_DIRECTORY TEXT WINDOW MAX_TOKENS
"""
import json
import math
import subprocess
import sys

import torch
import transformers

sqf, directory, path, window, most = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
command = [sqf, "eval", directory, "--text", path, "--window", str(window), "--max-tokens", str(most), "--json", "-q"]
ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
with open(path, encoding="utf-8") as file:
    ids = torch.tensor(tokenizer.encode(file.read(), add_special_tokens=False)[:most])
total, count = 0.0, 0
for begin in range(0, len(ids) - window + 1, window):
    part = ids[begin:begin + window]
    with torch.no_grad():
        rows = torch.log_softmax(model(part[None]).logits[0].double(), -1)
    total -= rows[:-1].gather(1, part[1:, None]).sum().item()
    count += window - 1
theirs = math.exp(total / count)
difference = ours["perplexity"] / theirs - 1
print(f"{count} tokens: sqf {ours['perplexity']:.8f}, transformers {theirs:.8f}, relative difference {difference:.2e}")
sys.exit(count != ours["scored_tokens"] or abs(difference) > 1e-4)
