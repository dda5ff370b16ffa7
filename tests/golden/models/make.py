#!/usr/bin/env python3
"""Writes the golden models of this folder, and with reader.py what is expected of them (needs numpy).

Run: python3 make.py PATH/TO/sqf, in this folder. Only for a new version of the format, or to add a model: what is here
must stay readable for ever, so a run that changes the bytes of a model of version 1 shows a mistake of the program.
Exception: those that are calibrated; their codes may differ between kinds of CPU."""
import json, math, pathlib, shutil, struct, subprocess, sys, tempfile
import numpy as np
import reader

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 36, "intermediate_size": 45,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "num_hidden_layers": 1, "vocab_size": 64,
          "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
          "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
LAYER = "model.layers.0."
SHAPES = {"model.embed_tokens.weight": (64, 36), "model.norm.weight": (36,), LAYER + "input_layernorm.weight": (36,),
          LAYER + "post_attention_layernorm.weight": (36,), LAYER + "self_attn.q_proj.weight": (40, 36),
          LAYER + "self_attn.k_proj.weight": (20, 36), LAYER + "self_attn.v_proj.weight": (20, 36),
          LAYER + "self_attn.o_proj.weight": (36, 40), LAYER + "mlp.gate_proj.weight": (45, 36),
          LAYER + "mlp.up_proj.weight": (45, 36), LAYER + "mlp.down_proj.weight": (36, 45)}
CALIBRATION = "the wind went round the old house. it was late, and the lamp was low. who would come now? " * 6

# Name, recipe, and what it is here for. Together they have every tensor and every element type of the format.
MODELS = {
    "uniform": ("overrides from int2 to int6, fp16, bf16 and fp32 scales, scales a row; a module ignored", """
scheme: w4a8
bank_weights: 16
ignore: [model.layers.0.self_attn.o_proj]
overrides:
  - {match: '.*q_proj', low: int5, scale_type: bf16}
  - {match: '.*v_proj', low: int6, scale_type: fp32, bank_weights: row}
  - {match: '.*up_proj', low: int3}
  - {match: '.*down_proj', low: int2, bank_weights: 5}
"""),
    "vmask": ("sentinels in the low plane, free scales, tail banks", "scheme: w-16-8-4-0.75-a8\n"),
    "bitmask-tied": ("a mask plane, shifts, a packed high plane, groups of two banks, fp32 scales", """
scheme: w-8-6-3-0.75-a8
layout: bitmask
scales: tied
bank_weights: 16
scale_type: fp32
"""),
    "vmask-tied-int2": ("int2 under int8 with shifts, 4-bit activations in groups", """
scheme: w-16-8-2-0.75-a4
scales: tied
act_scale: group
"""),
    "fp8-fp4": ("fp4 under fp8, one of a bank even in short tails; bf16 scales; clipped fp8 inputs", """
scheme: w-16-fp8-fp4-0.9375-afp8
scale_type: bf16
act_clip: 0.9
"""),
    "half-high": ("bf16 and fp16 high elements, which have no scale; inputs as they are", """
scheme: w-16-bf16-4-0.875-a16
layout: bitmask
overrides:
  - {match: '.*mlp.*', high: fp16, layout: vmask}
"""),
    "pruned": ("2 of 4 in int4, 3 of 8 in fp8 and 1 of 4 in int8: no low plane", """
scheme: w4a8-2:4
overrides:
  - {match: '.*down_proj', scheme: 'wfp8a8-3:8'}
  - {match: '.*o_proj', scheme: 'w8a8-1:4'}
"""),
    "static-mask": ("a channel list: columns in two sections, where groups begin anew; a clipping ratio", """
scheme: w4-a-16-8-4-0.75
mask: random
bank_weights: 8
act_scale: group
act_clip: 0.9
overrides:
  - {match: '.*(o|down)_proj', act_scale: token}
"""),
    "dynamic-mask": ("both operands split, the inputs by size times column norm; scales a group", """
scheme: w-16-8-4-0.5-a-8-8-4-0.75
mask_mode: dynamic-weighted
act_scale: group
act_group: 8
overrides:
  - {match: '.*(o|down)_proj', mask_mode: dynamic}
"""),
    "static-scale": ("a channel list and scales from calibration; smoothed, with compensated errors", """
scheme: w4-a-8-8-4-0.75
act_scale: static
"""),
    "zero-point": ("zero points a token, a group, and in either part of static and dynamic masks", """
scheme: w4a4
act_zero_point: point
overrides:
  - {match: '.*o_proj', scheme: 'w-8-8-4-0.5-a8', act_zero_point: point, act_scale: group, act_group: 4}
  - {match: '.*(gate|up)_proj', scheme: 'w5-a-16-6-5-0.75', act_zero_point: low, mask: random, act_clip: 0.9}
  - {match: '.*down_proj', scheme: 'w4-a-8-fp8-4-0.75', act_zero_point: point, mask_mode: dynamic}
"""),
    "static-zero": ("scales and zero points from calibration, int8 and int6 over int4", """
scheme: w4-a-8-8-4-0.75
act_scale: static
act_zero_point: point
overrides:
  - {match: '.*down_proj', scheme: 'w4a6', act_zero_point: point, act_scale: static}
"""),
    "tied-vocabulary": ("one matrix for look-up and output: sentinels, a channel list, split inputs", """
scheme: w8a8
lm_head: w-16-8-4-0.75-a-8-8-4-0.5
mask: random
"""),
    "two-matrices": ("an output matrix with a mask plane, inputs split token by token; an embedding of its own", """
scheme: w8a8
lm_head: w-8-6-3-0.75-a-8-8-4-0.75
embedding: w5
mask_mode: dynamic
overrides:
  - {match: lm_head, layout: bitmask, scales: tied, mask_mode: dynamic-weighted}
  - {match: model.embed_tokens, bank_weights: 10}
"""),
}
CALIBRATED = ("static-scale", "static-zero")

Q, V, DOWN = LAYER + "self_attn.q_proj", LAYER + "self_attn.v_proj", LAYER + "mlp.down_proj"
# About, model, what to change: a tensor, None for the header or config.json; offset in the tensor or text; new bytes or
# text. The tensor's hash is made meaningless, except at offset -1, the last byte.
BAD = [
    ("a byte that is not the one that was hashed", "vmask", Q + ".sq_high", -1, "01"),
    ("a bank with one sentinel too many", "vmask", Q + ".sq_low", 0, "FF"),
    ("a code of int8 without a value", "vmask", DOWN + ".sq_high", 14, "80"),
    ("a bank with too many ones", "bitmask-tied", V + ".sq_mask", 5, "FF"),
    ("a shift beyond the grid", "bitmask-tied", V + ".sq_shift", 2, "04"),
    ("a reserved bit behind the last code", "uniform", Q + ".sq_low", 22, "80"),
    ("a whole bank of sentinels of fp4", "fp8-fp4", Q + ".sq_low", 0, "88 88 88 88 88 88 88 88"),
    ("NaN in fp8", "fp8-fp4", Q + ".sq_high", 3, "7F"),
    ("infinity in bf16", "half-high", Q + ".sq_high", 2, "80 7F"),
    ("a scale with its sign bit set", "vmask", Q + ".sq_scale_high", 2, "00 80"),
    ("a channel twice", "static-mask", DOWN + ".sq_channels", 4, "00 00 00 00"),
    ("a column norm that is NaN", "dynamic-mask", Q + ".sq_column_norm", 8, "00 00 C0 7F"),
    ("a scale of the activations below zero", "static-scale", DOWN + ".sq_act_scale", 4, "00 00 80 BF"),
    ("a zero point that is no code of int4", "static-zero", Q + ".sq_act_zero", 0, "F7 FF FF FF"),
    ("a code of int4 without a value", "static-mask", Q + ".sq_low", 3, "FF"),
    ("channels that do not ascend", "static-mask", Q + ".sq_channels", 0, "04"),
    ("a bank without a channel in the high section", "static-mask", Q + ".sq_channels", 0,
     struct.pack("<36i", *range(36)).hex()),
    ("a hash of a tensor that the file does not have", "vmask", None, f'"hash.{Q}.sq_low"', f'"hash.{Q}.sq_lov"'),
    ("the mask is missing, another tensor is there", "bitmask-tied", None, f'"{Q}.sq_mask"', f'"{Q}.sq_mesk"'),
    ("another dtype than the format's", "vmask", None, f'"{Q}.sq_low":{{"dtype":"U8"', f'"{Q}.sq_low":{{"dtype":"I8"'),
    ("a later version", "vmask", "config.json", '"format_version": 1', '"format_version": 2'),
    ("another method", "vmask", "config.json", "sq-format", "sp-format"),
    ("a scheme that the tensors do not follow", "vmask", "config.json", "high_per_bank=4", "high_per_bank=5"),
    ("a scheme that nobody can read", "vmask", "config.json", "low=int4", "low=int7"),
    ("a module in overrides and in ignore", "uniform", "config.json", '"' + LAYER + 'self_attn.o_proj"', '"' + Q + '"'),
    ("an output matrix with a scheme of its own where embeddings are tied", "tied-vocabulary", "config.json",
     '"model.embed_tokens": "', '"lm_head"           : "'),
    ("an embedding with quantized inputs that makes no logits", "two-matrices", "config.json", "low=fp32",
     "low=int8"),
    ("a code of int5 without a value in an embedding", "two-matrices", "model.embed_tokens.sq_low", 0, "1F"),
    ("a bank with too many ones in an output matrix", "two-matrices", "lm_head.sq_mask", 1, "FF"),
    ("a module that the model does not have", "uniform", "config.json", "0.self_attn.o_proj", "0.self_attn.p_proj"),
]


def splitmix(name, n):
    """n numbers from -1 to 1 that belong to a name."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield ((z ^ z >> 31) >> 11) * 2.0**-52 - 1


def values(name, shape):
    u = list(splitmix(name, math.prod(shape)))
    if len(shape) == 1:  # inputs of the layer: some channels are far larger than others, as in real models
        large = (5, 17, 30) if name.startswith(LAYER) else ()
        return [(1 + 0.3 * x) * (6 if j in large else 1) for j, x in enumerate(u)]
    amplitude = 1 if "embed" in name else 2.5 / math.sqrt(shape[1])
    return [amplitude * x * (0.3 + abs(x) * abs(x)) for x in u]


def bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def write_original(directory):
    directory.mkdir(exist_ok=True)
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, shape in SHAPES.items():
        numbers = [bf16(x) for x in values(name, shape)]
        begin, data = len(data), data + struct.pack(f"<{len(numbers)}H", *numbers)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    alphabet = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", *" .,;:!?'\"-()\n0123456789", "th", "the",
                "he", "in", "an", "ou", " a", " w", "en", "er", "on", "la"]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    merges = ["t h", "th e", "h e", "i n", "a n", "o u", "e n", "e r", "o n", "l a"]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {token: i for i, token in enumerate(alphabet)}, "merges": merges}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None,
                 "added_tokens": [{"id": i, "content": alphabet[i], **special} for i in range(3)],
                 "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
                 "model": model}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, separators=(",", ":")) + "\n")


def quantize(sqf, name, recipe):
    with tempfile.TemporaryDirectory() as scratch:
        for file, text in (("recipe.yaml", recipe), ("calibration.txt", CALIBRATION)):
            (pathlib.Path(scratch) / file).write_text(text)
        text = ["calibration.txt", "--calib-samples", "8", "--calib-length", "32"]
        here = pathlib.Path.cwd()
        subprocess.run([sqf, "quantize", here / "original", "-o", here / name, "--recipe", "recipe.yaml", "-q",
                        "--force", "--calib", *(text if name in CALIBRATED else ["none"])], check=True, cwd=scratch)
    (pathlib.Path(name) / "report.json").unlink()  # it holds times


def expectation(name, about):
    """Logits for the tokens, of some sequences, whose codes depend least on rounding before the quantization."""
    best = None
    for attempt in range(60):
        ids = [int((u + 1) * 32) for u in splitmix(f"{name} {attempt}", 10)]
        found, margin = reader.logits(name, ids)
        if best is None or margin > best[0]:
            best = margin, ids, found
    margin, ids, found = best
    print(f"{name}: margin {margin:.1e}")
    assert margin > 3e-5, name  # docs/format.md section 12 promises that 1e-5 changes no code
    shifted = found - found.max(-1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    nll = -np.mean([log[i, ids[i + 1]] for i in range(len(ids) - 1)])
    top = sorted(range(len(found[-1])), key=lambda i: -found[-1][i])[:20]
    return {"model": name, "about": about, "calibrated": name in CALIBRATED, "ids": ids,
            "perplexity": float(f"{math.exp(nll):.9g}"), "top": [[i, float(f"{found[-1][i]:.9g}")] for i in top]}


def bad(about, model, where, at, new):
    """A row of bad.json: same-length edits of one file, each an offset from its beginning and bytes."""
    tensor = where if where and where != "config.json" else None
    file = "model.safetensors" if tensor or not where else where
    content, edits = (pathlib.Path(model) / file).read_bytes(), []
    if tensor:
        n = struct.unpack("<Q", content[:8])[0]
        begin, end = json.loads(content[8:8 + n])[tensor]["data_offsets"]
        new = bytes.fromhex(new)
        offset = 8 + n + (end if at < 0 else begin) + at
    else:
        offset, new = content.index(at.encode()), new.encode()
        new += content[offset + len(new):offset + len(at)]
        tensor = at.split('"')[1] if not where else None
    if at != -1 and tensor and f'"hash.{tensor}"'.encode() in content:  # becomes "xash.", a member without meaning
        edits.append([content.index(f'"hash.{tensor}"'.encode()) + 1, "78"])
    changed = [i for i, byte in enumerate(new) if content[offset + i] != byte]
    new = new[changed[0]:changed[-1] + 1]  # none changed: an error here
    edits.append([offset + changed[0], new.hex(" ").upper()])
    return {"about": about, "model": model, "file": file, "edits": edits}


def message(sqf, row):
    """What this program says of a bad directory, with MODEL for its path."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "model"
        shutil.copytree(row["model"], copy)
        content = bytearray((copy / row["file"]).read_bytes())
        for offset, new in row["edits"]:
            new = bytes.fromhex(new)
            content[offset:offset + len(new)] = new
        (copy / row["file"]).write_bytes(content)
        run = subprocess.run([sqf, "eval", copy, "--text", "/dev/null", "-q"], capture_output=True, text=True)
        lines = run.stderr.splitlines()
        assert run.returncode == 1 and len(lines) == 1, (row, run)
        return lines[0].removeprefix("sqf: ").replace(str(copy), "MODEL")


def rows_text(rows):
    return "[\n" + ",\n".join(" " + json.dumps(row) for row in rows) + "\n]\n"


sqf = str(pathlib.Path(sys.argv[1]).resolve())
write_original(pathlib.Path("original"))
rows = [expectation("original", "the checkpoint that the others were made from")]
for name, (about, recipe) in MODELS.items():
    quantize(sqf, name, recipe)
    rows.append(expectation(name, about))
pathlib.Path("good.json").write_text(rows_text(rows))
cases = [bad(*row) for row in BAD]
for row in cases:
    row["message"] = message(sqf, row)
pathlib.Path("bad.json").write_text(rows_text(cases))
