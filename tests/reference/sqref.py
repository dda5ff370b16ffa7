#!/usr/bin/env python3
"""Independent numpy reference of the SQ-format page (sq-format.md): perplexity of a small Llama under a scheme.

Quantization is simulated: every quantized value is replaced by its exact dequantized value and products are done
in float32. Weight quantization (GPTQ walk, scales, rounding) is done in float64.

  python3 sqref.py --scheme 'W4A(SQ5)' [--act-importance l2] ...      prints one JSON object

Scheme names: BF16, W8A8, W4A16, W4A(SQ6), W(SQ5)A8, W(SQ5)A(SQ5), W(64-(8/2)-0.75)A8, W(64-(fp8/fp4)-0.75)A8,
2:4-W8A8, MXFP4, NVFP4, MXFP6A16, W(MXFP4)A(MXFP8), W(MXFP4)A(32-(mxfp8/mxfp4)-0.75) ...
"""
import argparse, json, math, re, struct, sys, time
import numpy as np

MODEL = 'models/demo'  # relative to the repository's root

# ------------------------------------------------------------------------------------------------ element types

QMAX = {'int8': 127, 'int6': 31, 'int5': 15, 'int4': 7, 'int3': 3, 'int2': 1, 'fp4': 6.0, 'fp8': 448.0,
        'fp6': 7.5, 'fp6e3m2': 28.0, 'fp8e5m2': 57344.0}

# block formats: element type, block, scale type
BLOCKS = {'mxfp4': ('fp4', 32, 'e8m0'), 'mxfp6': ('fp6', 32, 'e8m0'), 'mxfp6e3m2': ('fp6e3m2', 32, 'e8m0'),
          'mxfp8': ('fp8', 32, 'e8m0'), 'mxfp8e5m2': ('fp8e5m2', 32, 'e8m0'), 'nvfp4': ('fp4', 16, 'fp8')}


def round_fp4(v):
    """E2M1, nearest, ties to the even code, saturating."""
    a = np.minimum(np.abs(v), 6.0)
    step = np.where(a < 2, 0.5, np.where(a < 4, 1.0, 2.0))
    return np.copysign(np.rint(a / step) * step, v)


def round_fp8(v):
    """E4M3, nearest even, saturating at 448; smallest normal 2^-6, subnormal step 2^-9."""
    a = np.minimum(np.abs(v), 448.0)
    e = np.floor(np.log2(np.maximum(a, 2.0 ** -6)))
    step = 2.0 ** (e - 3)
    return np.copysign(np.minimum(np.rint(a / step) * step, 448.0), v)


def grid_of(exponent_bits, fraction_bits, largest):
    """All non-negative values of a small float, in the order of their codes."""
    bias = 2 ** (exponent_bits - 1) - 1
    codes = range(2 ** (exponent_bits + fraction_bits))
    values = [(c % 2 ** fraction_bits) * 2.0 ** (1 - bias - fraction_bits) if c >> fraction_bits == 0 else
              (1 + (c % 2 ** fraction_bits) / 2 ** fraction_bits) * 2.0 ** ((c >> fraction_bits) - bias) for c in codes]
    return np.array([v for v in values if v <= largest])


GRIDS = {'fp6': grid_of(2, 3, 7.5), 'fp6e3m2': grid_of(3, 2, 28.0), 'fp8e5m2': grid_of(5, 2, 57344.0)}


def round_to_grid(v, grid):
    """Nearest value of a sorted grid, ties to the even code, saturating."""
    a = np.minimum(np.abs(v), grid[-1])
    up = np.clip(np.searchsorted(grid, a), 1, len(grid) - 1)
    lower, upper = grid[up - 1], grid[up]
    take_upper = (a - lower > upper - a) | ((a - lower == upper - a) & (up % 2 == 0))
    return np.copysign(np.where(take_upper, upper, lower), v).astype(v.dtype)


def encode(v, typ):
    """v already divided by the scale -> nearest representable value."""
    if typ in GRIDS:
        return round_to_grid(v, GRIDS[typ])
    if typ == 'fp4':
        return round_fp4(v)
    if typ == 'fp8':
        return round_fp8(v)
    return np.clip(np.rint(v), -QMAX[typ], QMAX[typ])


def dequant(x, s, typ):
    """Quantize x with scale s (broadcast) and give the dequantized value; s = 0 gives 0."""
    safe = np.where(s > 0, s, 1)
    return np.where(s > 0, encode(x / safe, typ) * s, 0)


def block_scale(amax, typ, kind, unit):
    """The scale of blocks whose largest magnitudes are amax: a power of two by the rule of OCP MX, or unit * E4M3."""
    if kind == 'e8m0':
        safe = np.where(amax > 0, amax, 1)
        return np.where(amax > 0, 2.0 ** np.clip(np.floor(np.log2(safe)) - np.floor(np.log2(QMAX[typ])), -127, 127), 0)
    unit = np.where(unit > 0, unit, 1)
    code = round_fp8(amax / QMAX[typ] / unit)
    return np.where(amax > 0, np.maximum(code, 2.0 ** -9), 0) * unit


def block_unit(amax, typ, kind):
    """The float scale on top of E4M3 scales."""
    return amax / QMAX[typ] / 448.0 if kind == 'fp8' else np.ones_like(amax)


def store_scale(s, kind):
    return s.astype(np.float16).astype(s.dtype) if kind == 'fp16' else s


# ------------------------------------------------------------------------------------------------ schemes

SQ_SPARSITY = {'SQ6': 0.5, 'SQ5': 0.75, 'SQ4.5': 0.875}


def parse_side(txt, is_act):
    """'8' | '4' | '16' | '(SQ5)' | '(64-(8/2)-0.75)' -> dict or None (left in float)."""
    txt = txt.strip()
    if txt == '16':
        return None
    if txt.isdigit():
        return {'kind': 'uniform', 'type': 'int' + txt}
    txt = txt[1:-1]
    if txt.lower() in BLOCKS:
        typ, group, scale = BLOCKS[txt.lower()]
        return {'kind': 'uniform', 'type': typ, 'group': group, 'scale': scale}
    if txt in SQ_SPARSITY:
        return {'kind': 'sq', 'b': 16 if is_act else 64, 'high': 'int8', 'low': 'int4', 's': SQ_SPARSITY[txt]}
    m = re.fullmatch(r'(\d+)-\((\w+)/(\w+)\)-([\d.]+)', txt)
    if m[2] in BLOCKS:
        (high, group, scale), low = BLOCKS[m[2]], BLOCKS[m[3]][0]
        return {'kind': 'sq', 'b': int(m[1]), 'high': high, 'low': low, 's': float(m[4]), 'group': group, 'scale': scale}
    name = lambda t: 'int' + t if t.isdigit() else t
    return {'kind': 'sq', 'b': int(m[1]), 'high': name(m[2]), 'low': name(m[3]), 's': float(m[4])}


def parse_scheme(name):
    if name == 'BF16':
        return None, None
    m = re.fullmatch(r'((?:MX|NV)FP\w+?)(A16)?', name)
    if m:
        name = f'W({m[1]})A16' if m[2] else f'W({m[1]})A({m[1]})'
    nm = None
    m = re.match(r'(\d+):(\d+)-', name)
    if m:
        nm, name = (int(m[1]), int(m[2])), name[m.end():]
    m = re.fullmatch(r'W(\d+|\(.+\))A(\d+|\(.+\))', name)
    w, a = parse_side(m[1], False), parse_side(m[2], True)
    if nm:
        w = {'kind': 'nm', 'type': w['type'], 'keep': nm[0], 'M': nm[1]}
    return w, a


def bank_k(spec, size):
    k = round((1 - spec['s']) * spec['b'])
    if size == spec['b']:
        return k
    kk = math.floor(k * size / spec['b'] + 0.5)
    return max(kk, 1) if k >= 1 else 0


def spans(parts, size):
    """Cut consecutive parts into pieces of at most `size`, never straddling a part's border."""
    out, c = [], 0
    for n in parts:
        out += [(c + i, c + min(i + size, n)) for i in range(0, n, size)]
        c += n
    return out


def topk_mask(score, k):
    """True for the k largest of the last axis; ties: the lower index wins."""
    order = np.argsort(-score, axis=-1, kind='stable')[..., :k]
    m = np.zeros(score.shape, bool)
    np.put_along_axis(m, order, True, -1)
    return m


# ------------------------------------------------------------------------------------------------ weights

def cholesky_of_inverse(H, opt):
    """U upper with H^-1 = U^T U, and diag(H^-1); damping lambda = 0.01 mean(diag H), tenfold on failure."""
    H = H.copy()
    d = np.diag(H).copy()
    dead = d == 0
    H[dead, dead] = 1
    lam = 0.01 * np.mean(np.diag(H))
    for _ in range(4):
        try:
            L = np.linalg.cholesky(H + lam * np.eye(len(H)))
            Li = np.linalg.inv(L)
            Hinv = Li.T @ Li
            return np.linalg.cholesky(Hinv).T, np.diag(Hinv).copy(), dead
        except np.linalg.LinAlgError:
            print('damping raised tenfold', file=sys.stderr)
            lam *= 10
    raise SystemExit('H is not positive definite')


def sq_scales(Wb, high, spec, opt):
    """Scales [N,1] of the low and the high part of one bank."""
    lo_max = np.max(np.where(high, 0, np.abs(Wb)), 1, keepdims=True)
    hi_max = np.max(np.where(high, np.abs(Wb), 0), 1, keepdims=True)
    ql, qh = QMAX[spec['low']], QMAX[spec['high']]
    s_lo = lo_max / ql
    if opt.scales == 'free':
        return store_scale(s_lo, opt.scale_type), store_scale(hi_max / qh, opt.scale_type)
    s_lo = store_scale(np.maximum(s_lo, hi_max / qh), opt.scale_type)
    ratio = np.where(hi_max > 0, qh * s_lo / np.where(hi_max > 0, hi_max, 1), 2.0 ** 30)
    n = np.clip(np.floor(np.log2(np.maximum(ratio, 2.0 ** -30))), 0, math.floor(math.log2(qh / ql)))
    return s_lo, s_lo * 2.0 ** -n


def quantize_weights(W, H, spec, parts, opt, rng, member_rows=None):
    """W [N,K] (smoothed, columns already in stored order), H of the same order or None -> dequantized W.
    member_rows: the rows of each of the matrices that are stacked in W."""
    W = W.astype(np.float64).copy()
    N, K = W.shape
    gptq = H is not None and opt.compensate == 'gptq'
    if H is not None:
        U, hinv, dead = cholesky_of_inverse(H, opt)
        W[:, dead] = 0
        denom = np.diag(U) ** 2 if opt.importance == 'obs' else hinv ** 2
    else:
        U, denom = None, np.ones(K)
    Q = np.zeros_like(W)
    size = spec['b'] if spec['kind'] == 'sq' else spec.get('group', opt.group)
    if 'scale' in spec:                                 # one float scale a matrix, of its original weights
        edges = np.cumsum([0] + (member_rows or [N]))
        tensor_max = np.concatenate([np.full((b - a, 1), np.max(np.abs(W[a:b]))) for a, b in zip(edges, edges[1:])])
        unit = block_unit(tensor_max, spec['type'], spec['scale'])
    for c0, c1 in spans(parts, size):
        B = W[:, c0:c1]                                 # a view: compensation inside the bank acts on W
        if spec['kind'] == 'sq':
            if opt.importance == 'gain':
                allh, alll = np.ones_like(B, bool), np.zeros_like(B, bool)
                ql = dequant(B, sq_scales(B, alll, spec, opt)[0], spec['low'])
                qh = dequant(B, sq_scales(B, allh, spec, opt)[1], spec['high'])
                score = ((B - ql) ** 2 - (B - qh) ** 2) / denom[c0:c1]
            elif opt.importance == 'magnitude':
                score = np.abs(B)
            elif opt.importance == 'random':
                score = rng.random(B.shape)
            else:
                score = B ** 2 / denom[c0:c1]
            high = topk_mask(score, bank_k(spec, c1 - c0))
            s_lo, s_hi = sq_scales(B, high, spec, opt)
        else:
            if spec['kind'] == 'nm' and opt.nm_scale == 'survivors':   # the other reading: provisional mask at group entry
                sc = (B ** 2 / denom[c0:c1]).reshape(N, -1, spec['M'])
                keep0 = topk_mask(sc, spec['keep']).reshape(N, -1)
                amax = np.max(np.abs(B) * keep0, 1, keepdims=True)
            else:
                amax = np.max(np.abs(B), 1, keepdims=True)
            s = block_scale(amax, spec['type'], spec['scale'], unit) if 'scale' in spec else \
                store_scale(amax / QMAX[spec['type']], opt.scale_type)
        E = np.zeros_like(B)
        for j in range(c1 - c0):
            w = B[:, j]
            if spec['kind'] == 'sq':
                q = np.where(high[:, j], dequant(w, s_hi[:, 0], spec['high']), dequant(w, s_lo[:, 0], spec['low']))
            else:
                q = dequant(w, s[:, 0], spec['type'])
                if spec['kind'] == 'nm':
                    if j % spec['M'] == 0:
                        m = min(spec['M'], c1 - c0 - j)
                        keep = topk_mask(B[:, j:j + m] ** 2 / denom[c0 + j:c0 + j + m], spec['keep'])
                    q = np.where(keep[:, j % spec['M']], q, 0)
            Q[:, c0 + j] = q
            if gptq:
                g = c0 + j
                e = (w - q) / U[g, g]
                E[:, j] = e
                B[:, j + 1:] -= np.outer(e, U[g, g + 1:c1])
        if gptq and c1 < K:
            W[:, c1:] -= E @ U[c0:c1, c1:]
    return Q


# ------------------------------------------------------------------------------------------------ activations

def quant_blocks(x, spec, static_high):
    """Blocks of stored channels (those of the low part, then those of the high part) with scales of their own."""
    y = np.empty_like(x)
    high = np.zeros(x.shape[1], bool) if static_high is None else static_high
    for part, typ in ((~high, spec.get('low', spec.get('type'))), (high, spec.get('high'))):
        ch = np.flatnonzero(part)
        if len(ch) == 0:
            continue
        unit = block_unit(np.max(np.abs(x[:, ch]), 1, keepdims=True), typ, spec['scale'])
        for i in range(0, len(ch), spec['group']):
            c = ch[i:i + spec['group']]
            s = block_scale(np.max(np.abs(x[:, c]), 1, keepdims=True), typ, spec['scale'], unit).astype(np.float32)
            y[:, c] = dequant(x[:, c], s, typ)
    return y


def quant_zero_rows(x, typ):
    """Codes from the lowest to the largest value of each row, which always holds 0, and a zero point."""
    top = QMAX[typ]
    low = -top if typ == 'int8' else -top - 1
    steps = np.float32(top - low)
    lo = np.minimum(np.min(x, -1, keepdims=True), np.float32(0))
    hi = np.maximum(np.max(x, -1, keepdims=True), np.float32(0))
    s = hi / steps - lo / steps
    safe = np.where(s > 0, s, np.float32(1))
    z = np.clip(np.rint(np.float32(low) - lo / safe), low, top)
    return (np.where(s > 0, np.clip(np.rint(x / safe) + z, low, top) - z, 0) * s).astype(np.float32)


def quant_int_rows(x, typ, opt, is_high=False):
    if opt.act_zero == 'point' or (opt.act_zero == 'low' and not is_high):
        return quant_zero_rows(x, typ)
    s = (np.max(np.abs(x), -1, keepdims=True) / np.float32(QMAX[typ])).astype(np.float32)
    if opt.act_scale == 'fp16':
        s = s.astype(np.float16).astype(np.float32)
    return dequant(x, s, typ).astype(np.float32)


def quant_acts(x, spec, static_high, opt):
    """x [T,K] float32 -> dequantized. One absmax scale a token, separately for the low and the high part."""
    if spec is None:
        return x
    if 'scale' in spec:
        return quant_blocks(x, spec, static_high)
    if opt.act_group and (spec['kind'] == 'uniform' or static_high is not None):   # a scale per group of stored channels
        high = np.zeros(x.shape[1], bool) if spec['kind'] == 'uniform' else static_high
        y = np.empty_like(x)
        for part, typ in ((~high, spec.get('low', spec.get('type'))), (high, spec.get('high'))):
            ch = np.flatnonzero(part)
            for i in range(0, len(ch), opt.act_group):
                c = ch[i:i + opt.act_group]
                y[:, c] = quant_int_rows(x[:, c], typ, opt, part is high)
        return y
    if spec['kind'] == 'uniform':
        return quant_int_rows(x, spec['type'], opt)
    if static_high is None:                                            # dynamic: per token and bank, top k by |x|
        K, b = x.shape[1], spec['b']
        if K % b:
            high = np.concatenate([topk_mask(np.abs(x[:, a:z]), bank_k(spec, z - a)) for a, z in spans([K], b)], 1)
        else:
            high = topk_mask(np.abs(x).reshape(len(x), -1, b), bank_k(spec, b)).reshape(x.shape)
    else:
        high = static_high
    lo, hi = np.where(high, np.float32(0), x), np.where(high, x, np.float32(0))
    y = np.empty_like(x)
    for a, z in spans([x.shape[1]], opt.act_group or x.shape[1]):      # groups only with dynamic masks, see above
        y[:, a:z] = quant_int_rows(lo[:, a:z], spec['low'], opt) + quant_int_rows(hi[:, a:z], spec['high'], opt, True)
    return y                                                           # disjoint supports: the sum is either


def channel_mask(st, W, spec, kind, rng):
    """Static mask of one input group; W = the stacked smoothed weights [N,K], st = statistics of x'."""
    col_l2 = np.sqrt(np.sum(W ** 2, 0))
    score = {'paper': lambda: np.abs(st['meanabs'] * np.sum(W, 0)),
             'l1': lambda: st['meanabs'] * np.sum(np.abs(W), 0),
             'l2': lambda: st['rms'] * col_l2,
             'max': lambda: st['max'],
             'maxl2': lambda: st['max'] * col_l2,
             'random': lambda: rng.random(W.shape[1])}[kind]()
    return np.concatenate([topk_mask(score[a:z], bank_k(spec, z - a)) for a, z in spans([len(score)], spec['b'])])


# ------------------------------------------------------------------------------------------------ model

class Llama:
    def __init__(self, path):
        self.cfg = c = json.load(open(path + '/config.json'))
        with open(path + '/model.safetensors', 'rb') as f:
            n = struct.unpack('<Q', f.read(8))[0]
            head, base = json.loads(f.read(n)), 8 + n
            self.t = {}
            for k, v in head.items():
                if k == '__metadata__':
                    continue
                f.seek(base + v['data_offsets'][0])
                raw = np.frombuffer(f.read(v['data_offsets'][1] - v['data_offsets'][0]), '<u2')
                assert v['dtype'] == 'BF16'
                self.t[k] = (raw.astype(np.uint32) << 16).view(np.float32).reshape(v['shape'])
        self.heads, self.kv, self.hd = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim']
        self.eps = np.float32(c['rms_norm_eps'])
        self.layers = []
        for i in range(c['num_hidden_layers']):
            p = f'model.layers.{i}.'
            g = lambda s: self.t[p + s + '.weight'].copy()
            self.layers.append({
                'n1': g('input_layernorm'), 'n2': g('post_attention_layernorm'),
                'q': g('self_attn.q_proj'), 'k': g('self_attn.k_proj'), 'v': g('self_attn.v_proj'),
                'o': g('self_attn.o_proj'), 'gate': g('mlp.gate_proj'), 'up': g('mlp.up_proj'), 'down': g('mlp.down_proj')})
        self.embed = self.t['model.embed_tokens.weight']
        self.head = self.embed if c['tie_word_embeddings'] else self.t['lm_head.weight']
        self.norm = self.t['model.norm.weight']

    def rms(self, x, g):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps) * g

    def rope(self, x, L):                                              # x [B,H,L,hd], halves rotated as in HF
        h = self.hd // 2
        inv = 1.0 / self.cfg['rope_theta'] ** (np.arange(h) / h)
        ang = np.arange(L)[:, None] * inv
        c, s = np.cos(ang).astype(np.float32), np.sin(ang).astype(np.float32)
        a, b = x[..., :h], x[..., h:]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    def attention(self, q, k, v):                                      # [B,L,*] -> [B,L,heads*hd]
        B, L, _ = q.shape
        sp = lambda x, n: x.reshape(B, L, n, self.hd).transpose(0, 2, 1, 3)
        q, k, v = self.rope(sp(q, self.heads), L), self.rope(sp(k, self.kv), L), sp(v, self.kv)
        rep = self.heads // self.kv
        k, v = np.repeat(k, rep, 1), np.repeat(v, rep, 1)
        s = q @ k.transpose(0, 1, 3, 2) * np.float32(self.hd ** -0.5)
        s += np.triu(np.full((L, L), -np.inf, np.float32), 1)
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        return (s @ v).transpose(0, 2, 1, 3).reshape(B, L, -1)

    def layer(self, x, w, aq=None, record=None, chunk=4):
        """x [B,L,D] -> the layer's output. aq(group, x2d) quantizes inputs; record(group, x2d) sees the float inputs."""
        out = np.empty_like(x)
        for i in range(0, len(x), chunk):
            out[i:i + chunk] = self._layer(x[i:i + chunk], w, aq, record)
        return out

    def _layer(self, x, w, aq, record):
        B, L, D = x.shape

        def inp(group, a):
            a = a.reshape(B * L, -1)
            if record:
                record(group, a)
            return aq(group, a) if aq else a
        h = inp('qkv', self.rms(x, w['n1']))
        r = lambda y: y.reshape(B, L, -1)
        a = self.attention(r(h @ w['q'].T), r(h @ w['k'].T), r(h @ w['v'].T))
        x = x + r(inp('o', a) @ w['o'].T)
        h = inp('gu', self.rms(x, w['n2']))
        g = h @ w['gate'].T
        a = g / (1 + np.exp(-g)) * (h @ w['up'].T)
        if 'R' in w:
            a = a @ w['R']
        return x + r(inp('down', a) @ w['down'].T)

    def nll(self, x, ids):
        """x [B,L,D] final hidden states -> nll [B,L-1] of the tokens 1..L-1."""
        out = []
        for xb, t in zip(x, ids):
            z = (self.rms(xb[:-1], self.norm) @ self.head.T).astype(np.float64)
            m = z.max(-1)
            out.append(m + np.log(np.exp(z - m[:, None]).sum(-1)) - z[np.arange(len(t) - 1), t[1:]])
        return np.array(out)


GROUPS = {'qkv': ['q', 'k', 'v'], 'o': ['o'], 'gu': ['gate', 'up'], 'down': ['down']}


# ------------------------------------------------------------------------------------------------ rotations

def orthogonal(n, rng):
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def hadamard(n, rng):
    """Orthonormal with elements alike: Sylvester's doubling of 1 or of the matrix of order 12; else of a random odd factor."""
    if n % 2 == 0 and n not in (12,):
        half = hadamard(n // 2, rng)
        return np.block([[half, half], [half, -half]]) / math.sqrt(2)
    if n == 12:                                     # quadratic residues modulo 11, bordered
        squares = {i * i % 11 for i in range(1, 11)}
        chi = lambda a: 0 if a % 11 == 0 else 1 if a % 11 in squares else -1
        core = np.array([[chi(i - j) for j in range(11)] for i in range(11)])
        s = np.block([[np.zeros((1, 1)), np.ones((1, 11))], [-np.ones((11, 1)), core]])
        return (s + np.eye(12)) / math.sqrt(12)
    return np.eye(1) if n == 1 else orthogonal(n, rng)


def basis(kind, n, rng, aspec, covariance):
    """[n, n]: columns are the new channels."""
    if kind == 'random':
        return orthogonal(n, rng)
    if kind == 'hadamard':
        return rng.choice([-1.0, 1.0], (n, 1)) * hadamard(n, rng)
    vectors = np.linalg.eigh(covariance)[1]         # ascending variance
    high = np.zeros(n, bool)
    if aspec and aspec['kind'] == 'sq':
        for a, z in spans([n], aspec['b']):
            high[z - bank_k(aspec, z - a):z] = True
    out, low = np.empty((n, n)), int((~high).sum())
    out[:, ~high] = vectors[:, :low] @ orthogonal(low, rng)
    if low < n:
        out[:, high] = vectors[:, low:] @ orthogonal(n - low, rng)
    return out


def stream_covariance(m, x):
    """Second moments of the norms' outputs before their gains, over all layers of the original model."""
    total = 0
    for w in m.layers:
        rec = Stats()
        x = m.layer(x, w, record=rec)
        for g, gain in (('qkv', w['n1']), ('gu', w['n2'])):
            total = total + rec.g[g]['H'] / np.outer(gain, gain).astype(np.float64)
    return total


def rotate_model(m, opt, aspec, x, rng):
    """Turns residual stream, values and down_proj's input; x = calibration windows as rows of the embedding, or None.
    Weights stay the same function: the model's logits do not change."""
    D = m.embed.shape[1]
    Q = basis(opt.rotate, D, rng, aspec, stream_covariance(m, x) if opt.rotate == 'pca' else None)
    values = 'random' if opt.rotate == 'random' else 'hadamard'
    for w in m.layers:
        w.update({k: v.astype(np.float64) for k, v in w.items()})
        for n, g in (('q', 'n1'), ('k', 'n1'), ('v', 'n1'), ('gate', 'n2'), ('up', 'n2')):
            w[n] = w[n] * w[g] @ Q
        for n in ('o', 'down'):
            w[n] = Q.T @ w[n]
        w['n1'], w['n2'] = np.ones(D), np.ones(D)
        for h in range(m.heads):
            if h % (m.heads // m.kv) == 0:          # a basis for each key head
                R, g = basis(values, m.hd, rng, None, None), h // (m.heads // m.kv)
                w['v'][g * m.hd:(g + 1) * m.hd] = R.T @ w['v'][g * m.hd:(g + 1) * m.hd]
            w['o'][:, h * m.hd:(h + 1) * m.hd] = w['o'][:, h * m.hd:(h + 1) * m.hd] @ R
        w['R'] = hadamard(w['down'].shape[1], rng)
        w['down'] = w['down'] @ w['R']
        w.update({k: v.astype(np.float32) for k, v in w.items()})
    m.head = (m.head.astype(np.float64) * m.norm @ Q).astype(np.float32)
    m.embed = (m.embed.astype(np.float64) @ Q).astype(np.float32)
    m.norm = np.ones(D, np.float32)


# ------------------------------------------------------------------------------------------------ one layer

class Stats:
    """Statistics of the float inputs of the four groups (unsmoothed; smoothing is applied afterwards)."""

    def __init__(self):
        self.g = {}

    def __call__(self, group, a):
        s = self.g.setdefault(group, {'n': 0, 'max': 0, 'sumabs': 0, 'H': 0, 'keep': []})
        s['n'] += len(a)
        s['max'] = np.maximum(s['max'], np.abs(a).max(0).astype(np.float64))
        s['sumabs'] = s['sumabs'] + np.abs(a).sum(0, dtype=np.float64)
        s['H'] = s['H'] + (a.T @ a).astype(np.float64)
        if self.keep:
            s['keep'].append(a.copy())

    keep = False


def smooth_factors(m, w, st, opt):
    """t of each group. Default: everything from the original weights, before any folding."""
    rep = m.heads // m.kv
    w = {k: v.astype(np.float64) for k, v in w.items()}
    if not opt.smooth_on:
        return {g: np.ones(len(st[g]['max'])) for g in GROUPS}

    def t_of(g):
        amax = st[g]['max']
        wmax = np.max([np.abs(w[n]).max(0) for n in GROUPS[g]], 0)
        if g == 'o':
            grp = lambda v: v.reshape(m.kv, rep, m.hd)
            share = lambda v: np.repeat(grp(v).max(1, keepdims=True), rep, 1).reshape(-1)
            if opt.o_share == 'stats':
                amax, wmax = share(amax), share(wmax)
        t = np.maximum(amax, 1e-5) ** opt.alpha / np.maximum(wmax, 1e-5) ** (1 - opt.alpha)
        if g == 'o':
            t = share(t)
        return np.maximum(t, 1e-5)

    t = {}
    for g in ('down', 'o', 'gu', 'qkv'):
        if opt.smooth_groups and g not in opt.smooth_groups:
            t[g] = np.ones(len(st[g]['max']))
            continue
        t[g] = t_of(g)
        if opt.smooth_order == 'folded':                               # the other reading: later factors see folded rows
            if g == 'down':
                w['up'] = w['up'] / t[g][:, None]
            if g == 'o':
                w['v'] = w['v'] / t[g].reshape(m.kv, rep, m.hd)[:, 0].reshape(-1)[:, None]
    return t


def quantize_layer(m, w, x, wspec, aspec, opt, rng):
    """Layer weights w, calibration inputs x [B,L,D] -> (weights with dequantized values, activation quantizer)."""
    rec = Stats()
    rec.keep = opt.hessian == 'quantized'
    m.layer(x, w, record=rec)
    st = rec.g
    t = smooth_factors(m, w, st, opt)
    rep = m.heads // m.kv
    f = {k: v.astype(np.float64) for k, v in w.items()}
    mask_w = {}                                                        # for --mask-weights columns: without row folding
    for g, names in GROUPS.items():
        for n in names:
            f[n] = f[n] * t[g]
    mask_w = dict(f)
    f['n1'], f['n2'] = f['n1'] / t['qkv'], f['n2'] / t['gu']
    f['v'] = f['v'] / t['o'].reshape(m.kv, rep, m.hd)[:, 0].reshape(-1)[:, None]
    f['up'] = f['up'] / t['down'][:, None]
    if opt.norm_type == 'bf16':
        for n in ('n1', 'n2'):
            u = f[n].astype(np.float32).view(np.uint32)
            f[n] = ((u + 0x7fff + ((u >> 16) & 1)) >> 16 << 16).view(np.float32)
    if opt.perturb:
        for names in GROUPS.values():
            for n in names:
                f[n] = f[n] * (1 + opt.perturb * rng.standard_normal(f[n].shape))

    masks = {}
    for g, names in GROUPS.items():
        K = len(t[g])
        W = np.concatenate([f[n] for n in names], 0)
        s = {'meanabs': st[g]['sumabs'] / st[g]['n'] / t[g], 'max': st[g]['max'] / t[g],
             'rms': np.sqrt(np.diag(st[g]['H']) / st[g]['n']) / t[g]}
        perm, parts, high = np.arange(K), [K], None
        if aspec and aspec['kind'] == 'sq' and opt.act_mask == 'static':
            Wm = W if opt.mask_weights == 'folded' else np.concatenate([mask_w[n] for n in names], 0)
            high = channel_mask(s, Wm, aspec, opt.act_importance, rng)
            perm = np.concatenate([np.flatnonzero(~high), np.flatnonzero(high)])
            parts = [int((~high).sum()), int(high.sum())]
            parts = [p for p in parts if p]
        masks[g] = high
        if wspec:
            H = 2.0 / st[g]['n'] * st[g]['H'] / np.outer(t[g], t[g])
            if opt.hessian == 'quantized':
                H = 0
                for a in st[g]['keep']:
                    a = quant_acts((a / t[g]).astype(np.float32), aspec, high, opt)
                    H = H + (a.T @ a).astype(np.float64)
                H = 2.0 / st[g]['n'] * H
            Q = np.empty_like(W)
            Q[:, perm] = quantize_weights(W[:, perm], H[np.ix_(perm, perm)], wspec, parts, opt, rng,
                                          [len(f[n]) for n in names])
        else:
            Q = W
        r = 0
        for n in names:
            f[n] = Q[r:r + len(f[n])]
            r += len(f[n])
    f = {k: v.astype(np.float32) for k, v in f.items()}
    aq = (lambda g, a: quant_acts(a, aspec, masks[g], opt)) if aspec else None
    return f, aq


# ------------------------------------------------------------------------------------------------ driver

def tokens(path, limit=None):
    import tokenizers
    tok = tokenizers.Tokenizer.from_file(MODEL + '/tokenizer.json')
    ids = tok.encode(open(path, encoding='utf-8', newline='').read(), add_special_tokens=False).ids
    return np.array(ids[:limit])


def run(opt):
    t0 = time.time()
    m = Llama(MODEL)
    wspec, aspec = parse_scheme(opt.scheme)
    rng = np.random.default_rng(opt.seed)
    ids = tokens(opt.eval, opt.eval_tokens)
    L = opt.window
    ids = ids[:len(ids) // L * L].reshape(-1, L)
    if opt.rotate != 'off':
        c = tokens(opt.calib)
        windows = np.stack([c[i * (len(c) - opt.calib_len) // max(1, opt.calib_n - 1):][:opt.calib_len]
                            for i in range(opt.calib_n)])
        rotate_model(m, opt, aspec, m.embed[windows], rng)
    x = m.embed[ids]
    below8 = (wspec is not None and not (wspec['kind'] == 'uniform' and wspec['type'] in ('int8', 'fp8', 'fp8e5m2'))) or aspec is not None
    opt.smooth_on = {'auto': below8 and not opt.no_calib and opt.rotate == 'off', 'on': True, 'off': False}[opt.smooth]
    if wspec or aspec:
        if opt.no_calib:
            assert aspec is None or aspec['kind'] == 'uniform' or opt.act_mask == 'dynamic'
        else:
            c = tokens(opt.calib)
            N, CL = opt.calib_n, opt.calib_len
            xc = m.embed[np.stack([c[i * (len(c) - CL) // max(1, N - 1):][:CL] for i in range(N)])]
        for w in m.layers:
            if opt.no_calib:
                f = dict(w)
                for names in GROUPS.values():
                    for n in names:
                        if wspec:
                            f[n] = quantize_weights(w[n], None, wspec, [w[n].shape[1]], opt, rng).astype(np.float32)
                aq = (lambda g, a: quant_acts(a, aspec, None, opt)) if aspec else None
            else:
                f, aq = quantize_layer(m, w, xc, wspec, aspec, opt, rng)
                xc = m.layer(xc, f, aq)
            x = m.layer(x, f, aq)
    else:
        for w in m.layers:
            x = m.layer(x, w)
    n = m.nll(x, ids)
    n8 = n[:max(1, 8192 // L)]
    return {'scheme': opt.scheme, 'ppl': float(np.exp(n.mean())), 'ppl_8192': float(np.exp(n8.mean())),
            'scored': int(n.size), 'nll_sum': float(n.sum()), 'first_windows_nll_sum': [float(v.sum()) for v in n[:4]],
            'smooth': bool(opt.smooth_on), 'seconds': round(time.time() - t0, 1)}


def parser():
    p = argparse.ArgumentParser()
    a = p.add_argument
    a('--scheme', required=True)
    a('--eval', default=MODEL + '/text/eval.txt')
    a('--eval-tokens', type=int)
    a('--window', type=int, default=512)
    a('--calib', default=MODEL + '/text/calib.txt')
    a('--calib-n', type=int, default=32)
    a('--calib-len', type=int, default=512)
    a('--no-calib', action='store_true', help='RTN on the original weights, no smoothing')
    a('--smooth', choices=['auto', 'on', 'off'], default='auto')
    a('--alpha', type=float, default=0.5)
    a('--smooth-order', choices=['original', 'folded'], default='original')
    a('--smooth-groups', nargs='*', help='smooth only these of qkv o gu down')
    a('--o-share', choices=['max', 'stats'], default='max')
    a('--compensate', choices=['gptq', 'none'], default='gptq')
    a('--importance', choices=['obs', 'hinv', 'gain', 'magnitude', 'random'], default='obs')
    a('--scales', choices=['free', 'tied'], default='free')
    a('--scale-type', choices=['fp16', 'fp32'], default='fp16')
    a('--act-scale', choices=['fp32', 'fp16'], default='fp32')
    a('--act-group', type=int, default=0, help='activation scale per token and group of this many stored channels')
    a('--act-zero', choices=['none', 'point', 'low'], default='none', help='zero points of integer activations')
    a('--act-mask', choices=['static', 'dynamic'], default='static')
    a('--act-importance', choices=['paper', 'l1', 'l2', 'max', 'maxl2', 'random'], default='paper')
    a('--mask-weights', choices=['folded', 'columns'], default='folded')
    a('--hessian', choices=['float', 'quantized'], default='float')
    a('--nm-scale', choices=['all', 'survivors'], default='all')
    a('--norm-type', choices=['float', 'bf16'], default='float')
    a('--group', type=int, default=128)
    a('--rotate', choices=['off', 'hadamard', 'random', 'pca'], default='off')
    a('--perturb', type=float, default=0, help='relative noise on the weights: the noise floor of a scheme')
    a('--seed', type=int, default=0)
    return p


if __name__ == '__main__':
    print(json.dumps(run(parser().parse_args())))
