#!/usr/bin/env python3
"""Does SQ-format work under LoRA? docs/findings.md, question 4.

Adapters of rank 8 on every linear layer of the decoder are trained on one text and judged on another, held out one:
  float       on the original weights;
  merged      the same adapters added to the weights, which sqf then quantizes;
  beside      the same adapters in float beside a base that sqf quantized without them;
  trained on  new adapters trained on the quantized base (activations quantized too, gradients straight through).

  python3 findings/lora/lora.py MODEL TRAIN.txt TEST.txt --sqf build/bin/sqf [--steps 300] [--schemes W4A8,W4A4]
Needs torch, transformers and numpy. Smoothing is off, so that all four see the same inputs.
"""
import argparse, json, math, pathlib, re, shutil, subprocess, tempfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK, WINDOW, BATCH, TEST_TOKENS = 8, 512, 4, 32768


class Linear(torch.nn.Module):
    """A linear layer of dequantized weights with quantized inputs, and an adapter beside it."""

    def __init__(self, weight, activations=None, channels=None):
        super().__init__()
        self.weight, self.activations, self.channels = weight, activations, channels
        self.down = torch.nn.Parameter(torch.randn(RANK, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def quantized(self, x):
        if self.activations is None:
            return x
        out = torch.empty_like(x)
        for part, levels in zip(self.channels, self.activations):
            if len(part):
                values = x[..., part]
                scale = values.abs().amax(-1, keepdim=True).clamp_min(1e-30) / levels
                out[..., part] = torch.round(values / scale) * scale
        return x + (out - x).detach()

    def forward(self, x):
        return self.quantized(x) @ self.weight.T + x @ self.down.T @ self.up.T


def linear_names(model):
    return [n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Linear)) and "layers." in n]


def put(model, name, module):
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def with_adapters(directory, layer):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.requires_grad_(False)
    for name in linear_names(model):
        put(model, name, layer(name, model.get_submodule(name).weight.data))
    return model


def stored_linear(tensors, activations, name):
    """Uniform INT4 weights in groups of 128 stored columns, per docs/format.md section 7."""
    low = tensors[name + ".sq_low"].numpy()
    rows, columns = low.shape[0], low.shape[1] * 2
    codes = np.stack([low & 15, low >> 4], -1).reshape(rows, columns).astype(np.float32) - 7
    channels = tensors.get(name + ".sq_channels")
    channels = np.arange(columns) if channels is None else channels.numpy()
    scales = tensors[name + ".sq_scale_low"].float().numpy()
    share = activations[2]
    border = columns - int(round(columns * share))
    starts = [*range(0, border, 128), *range(border, columns, 128)]
    group = np.searchsorted(starts, np.arange(columns), side="right") - 1
    weight = np.empty((rows, columns), np.float32)
    weight[:, channels] = codes * scales[:, group]
    parts = torch.tensor(channels[:border].copy()), torch.tensor(channels[border:].copy())
    return Linear(torch.tensor(weight), activations[:2], parts)


def windows(tokenizer, path, limit=None):
    ids = tokenizer(pathlib.Path(path).read_text(), add_special_tokens=False)["input_ids"][:limit]
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def perplexity(model, text):
    with torch.no_grad():
        losses = [model(w[None], labels=w[None]).loss.item() for w in text]
    return math.exp(sum(losses) / len(losses))


def train(model, text, steps, seed=0):
    torch.manual_seed(seed)
    parameters = [p for n, p in model.named_parameters() if n.endswith((".up", ".down"))]
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        batch = text[torch.randint(len(text), (BATCH,), generator=order)]
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    return model


def sqf_quantize(arguments, directory, scheme, calibration, out):
    subprocess.run([arguments.sqf, "quantize", directory, "-o", out, "--scheme", scheme, "--calib", calibration,
                    "--calib-length", str(WINDOW), "--smooth", "off", "--mask", "l2", "--force", "--quiet"], check=True)
    return out


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "train", "test"):
        parser.add_argument(name)
    parser.add_argument("--sqf", default="build/bin/sqf")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--schemes", default="W4A8,W4A(SQ6),W4A(SQ5),W4A4")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    text, test = windows(tokenizer, arguments.train), windows(tokenizer, arguments.test, TEST_TOKENS)

    torch.manual_seed(0)
    model = with_adapters(arguments.model, lambda name, weight: Linear(weight))
    base = perplexity(model, test)
    train(model, text, arguments.steps)
    print(json.dumps({"base": base, "adapters on float": perplexity(model, test)}), flush=True)
    adapters = {n: model.get_submodule(n) for n in linear_names(model)}

    with tempfile.TemporaryDirectory() as scratch:
        merged = shutil.copytree(arguments.model, f"{scratch}/merged")
        tensors = load_file(f"{merged}/model.safetensors")
        for name, layer in adapters.items():
            weight = tensors[name + ".weight"]
            tensors[name + ".weight"] = (weight.float() + layer.up.data @ layer.down.data).to(weight.dtype)
        save_file(tensors, f"{merged}/model.safetensors", metadata={"format": "pt"})
        for scheme in arguments.schemes.split(","):
            share = {"SQ6": 0.5, "SQ5": 0.25}.get(next(iter(re.findall(r"SQ\d", scheme)), ""), 0.0)
            levels = (127, 127, 0.0) if scheme.endswith("A8") else (7, 127, share)

            def load(directory):
                stored = load_file(f"{directory}/model.safetensors")
                return with_adapters(arguments.model, lambda name, _: stored_linear(stored, levels, name))

            quantized = sqf_quantize(arguments, arguments.model, scheme, arguments.train, f"{scratch}/base")
            beside = load(quantized)
            row = {"scheme": scheme, "base quantized": perplexity(beside, test)}
            trained = train(load(quantized), text, arguments.steps)
            for name, layer in adapters.items():
                beside.get_submodule(name).load_state_dict(layer.state_dict(), strict=False)
            row["beside"] = perplexity(beside, test)
            row["trained on"] = perplexity(trained, test)
            row["merged"] = perplexity(load(sqf_quantize(arguments, merged, scheme, arguments.train,
                                                         f"{scratch}/q")), test)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
