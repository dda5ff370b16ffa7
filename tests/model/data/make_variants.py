#!/usr/bin/env python3
"""Writes variants.json: logits of tiny random decoders by Hugging Face transformers (needs torch and transformers).

The weights are not stored: test_variants.c makes the same ones. Element i of tensor NAME is
    (u - 0.5) * 2 * amplitude + offset,  u = (splitmix64 output i >> 11) * 2^-53,  state = FNV-1a 64 of NAME,
rounded to float32 and then to the dtype; amplitude and offset by kind: norm weights 0.3 and 1, embedding 1 and 0,
biases 0.4 and 0, matrices 3 / sqrt(columns) and 0.

Run: python3 make_variants.py > variants.json
"""
import json, math
import numpy as np
import torch
import transformers

SIZES = {"hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 101,
         "num_hidden_layers": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu",
         "bos_token_id": 1, "eos_token_id": 2}
FAMILY = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
          "Qwen3ForCausalLM": "qwen3"}


def case(name, architecture, dtype="F32", shard_limit=0, **config):
    return {"name": name, "dtype": dtype, "shard_limit": shard_limit,
            "config": {"architectures": [architecture], "model_type": FAMILY[architecture], **SIZES, **config}}


CASES = [
    case("llama-plain-f16-one-key-head", "LlamaForCausalLM", "F16", num_key_value_heads=1, tie_word_embeddings=True),
    case("llama-rope-llama3-bf16", "LlamaForCausalLM", "BF16", tie_word_embeddings=True, rope_theta=500.0,
         rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 128}),
    case("llama-rope-linear-new-spelling-all-biases-untied", "LlamaForCausalLM", attention_bias=True, mlp_bias=True,
         tie_word_embeddings=False, rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 1000.0}),
    case("mistral-window-head-dim-apart", "MistralForCausalLM", "BF16", sliding_window=7, head_dim=10,
         tie_word_embeddings=False),
    case("mistral-no-window", "MistralForCausalLM", sliding_window=None, tie_word_embeddings=True),
    case("qwen2-biases-window-from-layer-1", "Qwen2ForCausalLM", "BF16", use_sliding_window=True, sliding_window=5,
         max_window_layers=1, num_hidden_layers=3, tie_word_embeddings=True, rope_theta=1000000.0),
    case("qwen2-window-switched-off", "Qwen2ForCausalLM", use_sliding_window=False, sliding_window=5,
         max_window_layers=0, tie_word_embeddings=False),
    case("qwen3-norms-layer-types-sharded", "Qwen3ForCausalLM", "F16", shard_limit=9000, head_dim=16,
         num_hidden_layers=3, attention_bias=False, use_sliding_window=True, sliding_window=6, max_window_layers=3,
         layer_types=["sliding_attention", "full_attention", "sliding_attention"], tie_word_embeddings=False),
    case("qwen3-attention-bias", "Qwen3ForCausalLM", head_dim=8, attention_bias=True, tie_word_embeddings=True),
]


def splitmix(name, n):
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def tensor(name, shape, dtype):
    if name.endswith("norm.weight"):
        amplitude, offset = 0.3, 1.0
    elif name.endswith(".bias"):
        amplitude, offset = 0.4, 0.0
    elif name == "model.embed_tokens.weight":
        amplitude, offset = 1.0, 0.0
    else:
        amplitude, offset = 3.0 / math.sqrt(shape[1]), 0.0
    values = ((splitmix(name, math.prod(shape)) - 0.5) * 2 * amplitude + offset).astype(np.float32)
    t = torch.from_numpy(values).reshape(shape)
    return t.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]).float()


@torch.no_grad()
def logits_of(item, ids):
    config = transformers.AutoConfig.for_model(**item["config"])
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for name, value in model.named_parameters():
        value.copy_(tensor(name, tuple(value.shape), item["dtype"]))
    return model(torch.tensor([ids])).logits[0]


ids = [int(x) for x in splitmix("ids", 40) * 101]
for item in CASES:
    z = logits_of(item, ids)
    item["ids"] = ids
    item["logits"] = {str(row): [float(f"{v:.7g}") for v in z[row].tolist()] for row in (0, 11, 39)}
    print(item["name"], float(z.abs().max()), file=__import__("sys").stderr)
lines = ",\n ".join(json.dumps(item) for item in CASES)
print(f'{{"computed_by": "transformers {transformers.__version__}, torch {torch.__version__}, float32",\n"cases": [\n {lines}\n]}}')
