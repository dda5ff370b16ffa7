# The tables of bench/peers. Input: the subjects, models first. The turns and the sizes are files of `scratch`.
function base(path) {
    sub(/\/+$/, "", path)
    sub(/.*\//, "", path)
    return path
}

# Values 1..n of a subject (and of another: their ratios, turn by turn) in ascending order, in `sorted`.
function collect(kind, a, b,    i, j, x) {
    for (i = 1; i <= rounds; i++) {
        x = rate[a, i, kind] / (b ? rate[b, i, kind] : 1)
        for (j = i - 1; j >= 1 && sorted[j] > x; j--)
            sorted[j + 1] = sorted[j]
        sorted[j + 1] = x
    }
}

function median(    middle) {
    middle = int((rounds + 1) / 2)
    return rounds % 2 ? sorted[middle] : (sorted[middle] + sorted[middle + 1]) / 2
}

function quote(text) {
    gsub(/\\/, "\\\\", text)
    gsub(/"/, "\\\"", text)
    return "\"" text "\""
}

# "key": [turn, turn, ...]
function list(key, kind, a, b,    i, text) {
    text = quote(key) ": ["
    for (i = 1; i <= rounds; i++)
        text = text (i > 1 ? ", " : "") sprintf("%.6g", rate[a, i, kind] / (b ? rate[b, i, kind] : 1))
    return text "]"
}

{
    n++
    name[n] = $2
    file[n] = base($3)
    program[n] = base($4)
    options[n] = $5
}

END {
    for (i = 1; i <= n; i++) {
        getline line < (scratch "/bytes")
        split(line, part, " ")
        per_weight[i] = part[1] / part[2]
    }
    while ((getline line < (scratch "/turns")) > 0) {
        split(line, part, " ")
        turn = ++turns[part[1]]
        rate[part[1], turn, "prefill"] = part[2]
        rate[part[1], turn, "decode"] = part[3]
    }
    printf "%s, %d threads, %d turns, %s\n\n", cpu, threads, rounds, date
    printf "%-44s %12s %22s %22s\n", "tokens/s: median (min)", "bytes/weight", "prefill " prefill, "decode " decode
    for (i = 1; i <= n; i++) {
        printf "%-44s %12.4f", name[i], per_weight[i]
        collect("prefill", i)
        printf " %12.2f (%7.2f)", median(), sorted[1]
        collect("decode", i)
        printf " %12.2f (%7.2f)\n", median(), sorted[1]
    }
    printf "\n%-57s %22s %22s\n", "ratio, turn by turn: median (min)", "prefill " prefill, "decode " decode
    for (m = 1; m <= models; m++) {
        best["prefill"] = best["decode"] = 0
        for (i = models + 1; i <= n; i++) {
            printf "%-57s", name[m] " / " name[i]
            for (k = 1; k <= 2; k++) {
                kind = k == 1 ? "prefill" : "decode"
                collect(kind, m, i)
                ratio[m, i, kind] = median()
                least[m, i, kind] = sorted[1]
                printf " %12.3f (%7.3f)", median(), sorted[1]
                if (!best[kind] || ratio[m, i, kind] < ratio[m, best[kind], kind])
                    best[kind] = i
            }
            printf "\n"
        }
        for (k = 1; k <= 2; k++) {
            kind = k == 1 ? "prefill" : "decode"
            i = best[kind]
            chosen[m, kind] = i
            printf "%s: fastest peer in %s: %s, %.3f times it (at least %.3f), %.4f against %.4f bytes a weight\n", \
                name[m], kind, name[i], ratio[m, i, kind], least[m, i, kind], per_weight[m], per_weight[i]
        }
    }
    if (json == "")
        exit 0
    printf "{\n  \"date\": %s,\n  \"cpu\": %s,\n  \"command\": %s,\n", quote(date), quote(cpu), quote(command) >json
    printf "  \"load\": %s,\n  \"threads\": %d,\n  \"rounds\": %d,\n", load, threads, rounds >json
    printf "  \"prefill\": %d,\n  \"decode\": %d,\n  \"subjects\": [\n", prefill, decode >json
    for (i = 1; i <= n; i++) {
        printf "    {\"name\": %s, \"file\": %s, \"program\": %s, \"options\": %s,\n", quote(name[i]), quote(file[i]), \
            quote(program[i]), quote(options[i]) >json
        printf "     \"bytes_per_weight\": %.6f,\n     %s,\n     %s}%s\n", per_weight[i], \
            list("prefill_tokens_per_s", "prefill", i), list("decode_tokens_per_s", "decode", i), i < n ? "," : "" >json
    }
    printf "  ],\n  \"ratios\": [\n" >json
    for (m = 1; m <= models; m++)
        for (i = models + 1; i <= n; i++) {
            printf "    {\"model\": %s, \"peer\": %s, \"fastest_in_prefill\": %s, \"fastest_in_decode\": %s,\n", \
                quote(name[m]), quote(name[i]), chosen[m, "prefill"] == i ? "true" : "false", \
                chosen[m, "decode"] == i ? "true" : "false" >json
            printf "     \"prefill_median\": %.6g, \"prefill_min\": %.6g, ", ratio[m, i, "prefill"], \
                least[m, i, "prefill"] >json
            printf "\"decode_median\": %.6g, \"decode_min\": %.6g}%s\n", ratio[m, i, "decode"], \
                least[m, i, "decode"], m < models || i < n ? "," : "" >json
        }
    printf "  ]\n}\n" >json
}
