# The tables of bench/scaling. Input: one line a measurement: kind, threads, tokens of a sequence, depth, batch, median
# and best tokens a second, products of linear layers, bytes of the cache for one position. Sizes and roofs are files of
# `scratch`; points for the picture are written there.
#
# What the roofs allow. Products of linear layers at the highest integer roof, those of attention (two a position, layer
# and channel of a head) at the float32 roof, one after the other; weights once a step and keys and values of every
# sequence at the read roof; arithmetic and reading at the same time, so that the longer of the two counts.
function limit(threads, kind, tokens, depth, batch, products, cache,    steps, positions, arithmetic, bytes) {
    steps = kind == "prompt" ? 1 : tokens
    # sum over the timed tokens of the positions that they see
    positions = batch * (tokens * depth + tokens * (tokens + 1) / 2)
    linear_seconds = products / (products_roof[threads] * 1e9)
    attention_seconds = 2 * positions * size["layers"] * size["heads"] * size["head_dim"] / (float_roof[threads] * 1e9)
    arithmetic = linear_seconds + attention_seconds
    # a prompt reads its cache from nearer memory while it computes
    bytes = steps * weights[threads] + (kind == "prompt" ? 0 : positions * cache)
    read_seconds = bytes / (read_roof[threads] * 1e9)
    bound = read_seconds > arithmetic ? "read" : "products"
    return batch * tokens / (read_seconds > arithmetic ? read_seconds : arithmetic)
}

function title(kind) {
    return kind == "prompt" ? "prefill of a prompt" : kind == "depth" ? "decode after a depth" : "decode of a batch"
}

BEGIN {
    while ((getline line < (scratch "/sizes")) > 0) {
        split(line, part, " ")
        size[part[1]] = part[2]
    }
    printf "%s: %s, KV cache %s\n%s, kernels %s, load %s, %s\n", name, scheme, kv, cpu, level, load, date
    printf "{\n  \"date\": \"%s\",\n  \"cpu\": \"%s\",\n  \"cpu_level\": \"%s\",\n  \"load\": %s,\n", date, cpu, level, load >json
    printf "  \"model\": \"%s\",\n  \"scheme\": \"%s\",\n  \"kv\": \"%s\",\n  \"roofs\": [", name, scheme, kv >json
    while ((getline line < (scratch "/roofs")) > 0) {
        split(line, part, " ")
        t = part[1]
        read_roof[t] = part[2]
        float_roof[t] = part[3]
        products_roof[t] = part[4] > 0 ? part[4] : part[3]
        weights[t] = part[5]
        printf "roofs, %d thread%s: read %.1f GB/s, float32 %.1f GMAC/s, products %.0f GMAC/s; %.3f GB of weights a token\n", \
            t, t == 1 ? "" : "s", read_roof[t], float_roof[t], products_roof[t], weights[t] * 1e-9
        printf "%s\n    {\"threads\": %d, \"read_gb_per_s\": %.6g, \"float_gmac_per_s\": %.6g, \"products_gmac_per_s\": %.6g," \
            " \"read_bytes\": %s}", roofs++ ? "," : "", t, read_roof[t], float_roof[t], products_roof[t], weights[t] >json
    }
    printf "\n  ],\n  \"results\": [" >json
}

{
    allowed = limit($2, $1, $3, $4, $5, $8, $9)
    if ($1 != kind) {
        printf "\n%-22s %7s %7s %7s %6s %10s %10s %10s %7s  %8s %10s %8s  %s\n", title($1), "threads", "tokens", "depth", \
            "batch", "tokens/s", "best", "allowed", "share", "read, ms", "linear, ms", "att., ms", "bound"
        kind = $1
    }
    printf "%-22s %7d %7d %7d %6d %10.2f %10.2f %10.2f %6.1f%%  %8.2f %10.2f %8.2f  %s\n", "", $2, $3, $4, $5, $6, $7, \
        allowed, 100 * $6 / allowed, read_seconds * 1e3, linear_seconds * 1e3, attention_seconds * 1e3, bound
    x = $1 == "prompt" ? $3 : $1 == "depth" ? $4 : $5
    print x, $6, allowed >(scratch "/" $1 "." $2)
    printf "%s\n    {\"test\": \"%s\", \"threads\": %d, \"tokens\": %d, \"depth\": %d, \"batch\": %d, \"median\": %.6g," \
        " \"best\": %.6g,\n     \"allowed\": %.6g, \"read_seconds\": %.4g, \"linear_seconds\": %.4g," \
        " \"attention_seconds\": %.4g, \"bound\": \"%s\"}", rows++ ? "," : "", $1, $2, $3, $4, $5, $6, $7, allowed, \
        read_seconds, linear_seconds, attention_seconds, bound >json
}

END { printf "\n  ]\n}\n" >json }
