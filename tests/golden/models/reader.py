"""Reads an SQ-format model directory and computes its logits, from docs/format.md alone: plain, slow, in numpy, and
without any code of the library. Section numbers are those of that page. Only Llama without biases and rope scaling.

Every matrix is dequantized, every input is quantized token by token and dequantized, and the product is in float64: the
exact value of section 8, whose integer sums are the same numbers."""
import json, math, pathlib
import numpy as np

BITS = {"int8": 8, "int6": 6, "int5": 5, "int4": 4, "int3": 3, "int2": 2, "fp4": 4, "fp8": 8, "none": 0}
LARGEST = {"int8": 127, "int6": 31, "int5": 15, "int4": 7, "int3": 3, "int2": 1, "fp4": 6, "fp8": 448}
DTYPES = {"U8": "u1", "I8": "i1", "I32": "<i4", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1"}
f32 = np.float32


def small_float(code, exponent_bits, fraction_bits, bias):
    """The value of a code of sign, exponent and fraction; subnormals where the exponent is 0."""
    sign = -1.0 if code >> (exponent_bits + fraction_bits) else 1.0
    exponent, fraction = (code >> fraction_bits) & (2**exponent_bits - 1), code & (2**fraction_bits - 1)
    scaled = fraction / 2**fraction_bits + (exponent > 0)
    return sign * scaled * 2.0 ** (max(exponent, 1) - bias)


FP4 = np.array([small_float(c, 2, 1, 1) for c in range(16)])
FP8 = np.array([small_float(c, 4, 3, 7) for c in range(256)])
GRIDS = {"fp4": np.arange(8), "fp8": np.arange(127)}  # codes of the values of 0 or more, ascending


def decode(codes, kind):
    """Codes to grid values (section 3)."""
    if kind in ("fp4", "fp8"):
        return (FP4 if kind == "fp4" else FP8)[codes]
    return codes.astype(np.int64) - LARGEST[kind]


def to_grid(x, scale, kind):
    """q of section 3 for float32 x, and how close x/S comes to the middle of two values, relative to it."""
    v = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
    if kind.startswith("int"):
        q = np.clip(np.rint(v), -LARGEST[kind], LARGEST[kind])
        margin = np.abs(np.abs(np.abs(v) - np.floor(np.abs(v))) - 0.5)
    else:
        values = np.abs(decode(GRIDS[kind], kind))
        middles = (values[1:] + values[:-1]) / 2
        a = np.abs(v).astype(np.float64)
        code = np.searchsorted(middles, a)  # at a middle: the lower code
        tie = (code < len(middles)) & (a == middles[np.minimum(code, len(middles) - 1)])
        q = np.copysign(values[code + (tie & (code % 2 == 1))], v)
        margin = np.min(np.abs(a[..., None] - middles), -1)
    return q, np.min(margin / np.maximum(np.abs(v), 1e-3), initial=1.0)


def to_codes(x, clip, kind, constants):
    """Codes less their zero point (section 5) for float32 x, the scale, and a margin as that of to_grid."""
    top = LARGEST[kind]
    lowest, margin = -top - (kind != "int8"), 1.0
    steps, low, high = f32(top - lowest), min(np.min(x), f32(0)), max(np.max(x), f32(0))
    scale, zero = constants or (clip * (high / steps - low / steps), 0)
    if not constants and scale > 0:
        exact = f32(lowest) - clip * low / scale
        zero = int(np.clip(np.rint(exact), lowest, top))
        if low < 0 < high:  # half of it: both ends of the range may move
            margin = abs(exact - np.floor(exact) - 0.5) / max(exact - lowest, 1e-3) / 2
    v = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
    q = np.where(scale > 0, np.clip(np.rint(v) + zero, lowest, top) - zero, 0)
    close = np.abs(np.abs(v) - np.floor(np.abs(v)) - 0.5)
    return q, scale, min(margin, np.min(close / np.maximum(np.abs(v), 1e-3)))


def load_tensors(path):
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + n + o for o in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            if entry["dtype"] == "BF16":
                values = (values.astype("<u4") << 16).view("<f4")
            tensors[name] = values
    return tensors


def fields(text):
    return dict(item.split("=") for item in text.split(","))


def parts(size, step, border):
    """Borders of the banks or groups of a row: they begin anew at the border (section 2)."""
    ends = []
    for begin, end in ((0, border), (border, size)):
        ends += [(a, min(a + step, end)) for a in range(begin, end, step)]
    return ends


def high_of(bank, size, k):
    return max(min(k, 1), (2 * k * size + bank) // (2 * bank))


def unpack(rows, bits, count):
    """Packed rows to codes [N, count] (section 7)."""
    stream = np.unpackbits(rows, axis=1, bitorder="little").astype(np.int64)
    return (stream[:, :bits * count].reshape(len(rows), count, bits) << np.arange(bits)).sum(-1)


class Linear:
    """A layer of `columns` inputs: its matrix [N, K] dequantized, in the order of the input channels, and how its input
    is quantized."""

    def __init__(self, tensors, name, columns, scheme):
        if name + ".weight" in tensors:
            self.weights, self.spec = tensors[name + ".weight"].astype(np.float64), None
            return
        get = lambda suffix: tensors.get(f"{name}.sq_{suffix}")
        w, self.spec = (fields(side) for side in scheme.split(";"))
        self.channels, self.norm, self.constants = get("channels"), get("column_norm"), get("act_scale")
        self.zeros = get("act_zero")
        self.k = int(self.spec.get("high_per_bank", 0))
        self.bank = int(self.spec.get("bank", 1))
        self.static = self.channels is not None
        order = self.channels if self.static else np.arange(columns)
        self.border = columns
        if self.static:
            self.border -= sum(high_of(self.bank, b - a, self.k) for a, b in parts(columns, self.bank, columns))
        self.order, self.group = order, columns if w["group"] == "row" else int(w["group"])
        stored = self.dequantize(get, w, columns)
        self.weights = np.empty_like(stored)
        self.weights[:, order] = stored

    def dequantize(self, get, w, columns):
        low, high, vmask = w["low"], w["high"], w.get("layout") == "vmask"
        rows = len(get("low") if low != "none" else get("high"))
        groups = parts(columns, self.group, self.border)
        width = np.array([b - a for a, b in groups])
        scale = lambda suffix: np.repeat(get(suffix).astype(np.float64), width, axis=1)
        mask, value = np.zeros((rows, columns), bool), np.zeros((rows, columns))
        if high != "none":
            if vmask:
                codes = unpack(get("low"), BITS[low], columns)
                mask = codes == (8 if low == "fp4" else 2 ** BITS[low] - 1)
            else:
                mask = np.unpackbits(get("mask"), axis=1, bitorder="little")[:, :columns].astype(bool)
            k, bank = int(w["high_per_bank"]), int(w["bank"])
            for a, b in parts(columns, bank, self.border):
                assert (mask[:, a:b].sum(1) == high_of(bank, b - a, k)).all()
        if low != "none":
            count = columns if high == "none" or vmask else columns - int(mask[0].sum())
            grid = decode(unpack(get("low"), BITS[low], count), low)
            value[~mask] = grid[~mask] if count == columns else grid.ravel()
            value[~mask] *= scale("scale_low")[~mask]
        if high != "none":
            plane, count = get("high"), int(mask[0].sum())
            if plane.dtype == np.uint8:
                plane = decode(plane if high == "fp8" else unpack(plane, BITS[high], count), high)
            value[mask] = plane.astype(np.float64).ravel()
            if w.get("scales") == "tied":
                value[mask] *= (scale("scale_low") / 2.0 ** scale("shift"))[mask]
            elif high not in ("fp16", "bf16"):
                value[mask] *= scale("scale_high")[mask]
        return value

    def high_channels(self, x):
        """The mask of the high channels of one token, and the relative gap at its edge."""
        high, gap = np.zeros(len(x), bool), 1.0
        if self.static:
            high[self.channels[self.border:]] = True
        elif self.k:
            size = np.abs(x) * (self.norm if self.norm is not None else f32(1))
            for a, b in parts(len(x), self.bank, len(x)):
                n = high_of(self.bank, b - a, self.k)
                rank = np.argsort(-size[a:b], kind="stable")
                high[a + rank[:n]] = True
                if n < b - a:
                    gap = min(gap, 1 - size[a + rank[n]] / size[a + rank[n - 1]])
        return high, gap

    def quantize(self, x):
        """One token: float32 [K] dequantized as section 5 says, and the margin to another result."""
        spec = self.spec
        high, margin = self.high_channels(x)
        whole = spec["scale"] != "group"
        size = len(x) if whole else self.group if spec["group"] == "weights" else int(spec["group"])
        groups = [(0, len(x))] if whole else parts(len(x), size, self.border)
        y, clips = np.zeros(len(x)), [f32(spec["clip"]), f32(spec.get("high_clip", spec["clip"]))]
        for a, b in groups:
            stored = self.order[a:b]
            for part, kind in enumerate((spec["low"], spec["high"])):
                chosen, clip = stored[high[stored] == part], clips[part]
                if kind == "none" or not len(chosen):
                    continue
                if kind.startswith("int") and spec.get("zero", "none") in ("point", "low" if part == 0 else "point"):
                    constants = None if self.zeros is None else (self.constants[part], int(self.zeros[part]))
                    q, scale, close = to_codes(x[chosen], clip, kind, constants)
                    y[chosen], margin = q * np.float64(scale), min(margin, close)
                    continue
                largest = np.max(np.abs(x[chosen]))
                scale = self.constants[part] if spec["scale"] == "static" else clip * largest / f32(LARGEST[kind])
                q, close = to_grid(x[chosen], scale, kind)
                y[chosen], margin = q * np.float64(scale), min(margin, close)
        return y, margin

    def apply(self, x, margins):
        if self.spec and self.spec["low"] != "fp32":
            rows = [self.quantize(row) for row in x.astype(f32)]
            margins += [margin for _, margin in rows]
            x = np.array([row for row, _ in rows])
        return x @ self.weights.T


def norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * weight


def rotate(x, positions, theta):
    """x [T, heads, D]; halves are rotated as in Hugging Face's Llama."""
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def logits(directory, ids):
    """Logits [T, V] of a Llama directory, and the margin: how much (relatively) an input of a layer has to change
    before another code is chosen for it."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    tensors = load_tensors(directory / "model.safetensors")
    block = config.get("quantization_config", {})
    margins, heads, kv, size = [], config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    def linear(name, columns):
        return Linear(tensors, name, columns, block.get("overrides", {}).get(name, block.get("scheme")))

    def vocabulary(name):  # the scheme of the linear layers does not speak of these two
        return Linear(tensors, name, config["hidden_size"], block.get("overrides", {}).get(name))

    x, t = vocabulary("model.embed_tokens").weights[ids], len(ids)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, tensors[at + "input_layernorm.weight"], config["rms_norm_eps"])
        run = lambda name, h: linear(at + name, h.shape[1]).apply(h, margins)
        q = rotate(run("self_attn.q_proj", h).reshape(t, heads, size), np.arange(t), config["rope_theta"])
        k = rotate(run("self_attn.k_proj", h).reshape(t, kv, size), np.arange(t), config["rope_theta"])
        v = run("self_attn.v_proj", h).reshape(t, kv, size)
        k, v = (np.repeat(z, heads // kv, axis=1) for z in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(size)
        scores[:, np.triu(np.ones((t, t), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v).reshape(t, heads * size)
        x = x + run("self_attn.o_proj", mixed)
        h = norm(x, tensors[at + "post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate = run("mlp.gate_proj", h)
        x = x + run("mlp.down_proj", gate / (1 + np.exp(-gate)) * run("mlp.up_proj", h))
    head = vocabulary("model.embed_tokens" if config["tie_word_embeddings"] else "lm_head")
    x = norm(x, tensors["model.norm.weight"], config["rms_norm_eps"])
    return head.apply(x, margins), min(margins, default=1.0)
