/* The kernel tables of every level that runs here, on random arrays: each level must give the bytes of the scalar one.
 * Prints a digest of those bytes for each function, so that the output of two kinds of machine can be compared too.
 * A program of its own without any library, so that a cross compiler can build it and an emulator run it.
 *
 * usage: check_levels [BEST]    BEST is the level that must be the best one here */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/context.h>

#include "base/random.h"
#include "kernels/dispatch.h"
#include "trap.h"

enum { ROUNDS = 80, MOST_TOKENS = 13, MOST_COLUMNS = 1024, MOST_SEGMENTS = 3 };

/* FNV-1a */
static void digest_bytes(uint64_t *digest, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        *digest = (*digest ^ bytes[i]) * 0x100000001b3u;
    }
}

static void *allocate(size_t size)
{
    void *data = calloc(size ? size : 1, 1);
    if (!data) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return data;
}

static float random_float(sqf_random *random)
{
    return (float)(sqf_random_unit(random) * 8.0 - 4.0);
}

static float *random_floats(sqf_random *random, size_t n)
{
    float *x = allocate(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = random_float(random);
    }
    return x;
}

static uint8_t *random_bytes(sqf_random *random, size_t n)
{
    uint8_t *x = allocate(n);
    for (size_t i = 0; i < n; i++) {
        x[i] = (uint8_t)sqf_random_u64(random);
    }
    return x;
}

/* Lengths around the widths of vectors and of the 64 partial sums. */
static size_t random_length(sqf_random *random)
{
    return 1 + (size_t)sqf_random_below(random, sqf_random_below(random, 3) ? 40 : 300);
}

/* ---- the integer tile ---- */

/* A tile with its arrays: exactly as long as the contract says, so that a memory checker sees what reads beyond. */
typedef struct tile_case {
    sqf_segment segments[MOST_SEGMENTS];
    size_t padded, panels, tokens, segment_count;
    bool zeros;
    uint8_t *weights; /* NIBBLES or BYTES */
    int8_t *codes;
    float *scales, *act_scales, *out;
    int32_t *sums, *zero_points, *column_sums;
} tile_case;

static int random_code(sqf_random *random, bool extreme, int largest)
{
    if (extreme) {
        return sqf_random_below(random, 8) ? largest : -largest;
    }
    return (int)sqf_random_below(random, 2 * (uint64_t)largest + 1) - largest;
}

/* Codes stay 0 in the padding; the sums follow them. */
static void fill_codes(sqf_random *random, tile_case *c, bool extreme, int largest)
{
    for (size_t m = 0; m < c->tokens; m++) {
        for (size_t g = 0; g < c->segment_count; g++) {
            const sqf_segment *segment = &c->segments[g];
            const size_t at = m * c->segment_count + g;
            for (size_t k = segment->begin; k < segment->end; k++) {
                const int code = random_code(random, extreme, largest);
                c->codes[m * c->padded + segment->offset + k - segment->begin] = (int8_t)code;
                c->sums[at] += code;
            }
            c->act_scales[at] = random_float(random);
            c->zero_points[at] = (int32_t)sqf_random_below(random, 255) - 127;
        }
    }
}

static uint8_t random_weight(sqf_random *random, sqf_form form, bool extreme)
{
    if (form == SQF_FORM_BYTES) {
        return (uint8_t)(int8_t)random_code(random, extreme, 127);
    }
    const int low = random_code(random, extreme, SQF_NIBBLE_OFFSET) + SQF_NIBBLE_OFFSET;
    return (uint8_t)(low | (random_code(random, extreme, SQF_NIBBLE_OFFSET) + SQF_NIBBLE_OFFSET) << 4);
}

static tile_case make_tile(sqf_random *random, sqf_form form)
{
    const bool narrow = sqf_random_below(random, 2), extreme = sqf_random_below(random, 3) == 0;
    tile_case c = {.segment_count = 1 + (size_t)sqf_random_below(random, MOST_SEGMENTS)};
    size_t begin = 0;
    for (size_t g = 0; g < c.segment_count; g++) {
        const size_t length = 1 + (size_t)sqf_random_below(random, sqf_random_below(random, 4) ? 40 : MOST_COLUMNS);
        c.segments[g] = (sqf_segment){.begin = begin, .end = begin + length, .offset = c.padded, .narrow = narrow};
        begin += length;
        c.padded += (length + SQF_SEGMENT_PAD - 1) / SQF_SEGMENT_PAD * SQF_SEGMENT_PAD;
    }
    c.panels = 1 + (size_t)sqf_random_below(random, SQF_BLOCK_PANELS);
    c.tokens = 1 + (size_t)sqf_random_below(random, MOST_TOKENS);
    c.zeros = sqf_random_below(random, 2);
    const size_t bytes = c.panels * c.padded / SQF_SEGMENT_PAD * sqf_form_step_bytes(form);
    const size_t scalars = c.tokens * c.segment_count, rows = c.panels * c.segment_count * SQF_PANEL_ROWS;
    c.weights = allocate(bytes);
    c.codes = allocate(c.tokens * c.padded);
    c.sums = allocate(scalars * sizeof *c.sums);
    c.zero_points = allocate(scalars * sizeof *c.zero_points);
    c.act_scales = allocate(scalars * sizeof *c.act_scales);
    c.column_sums = allocate(rows * sizeof *c.column_sums);
    c.scales = random_floats(random, rows);
    c.out = random_floats(random, c.tokens * SQF_BLOCK_ROWS);
    for (size_t i = 0; i < bytes; i++) {
        c.weights[i] = random_weight(random, form, extreme);
    }
    for (size_t i = 0; i < rows; i++) {
        c.column_sums[i] = (int32_t)sqf_random_below(random, 100001) - 50000;
    }
    fill_codes(random, &c, extreme, narrow ? 15 : 127);
    return c;
}

static void free_tile(tile_case *c)
{
    free(c->weights);
    free(c->codes);
    free(c->scales);
    free(c->act_scales);
    free(c->out);
    free(c->sums);
    free(c->zero_points);
    free(c->column_sums);
}

/* Random tiles of one form. UNSIGNED weights are nibbles that the level itself expands, in the order that it likes. */
static void check_tile(const sqf_kernels *kernels, sqf_random *random, sqf_form form, uint64_t *digest)
{
    for (int round = 0; round < ROUNDS; round++) {
        const sqf_form stored = form == SQF_FORM_UNSIGNED ? SQF_FORM_NIBBLES : form;
        tile_case c = make_tile(random, stored);
        const size_t steps = c.padded / SQF_SEGMENT_PAD;
        uint8_t *expanded = NULL;
        if (form == SQF_FORM_UNSIGNED) {
            expanded = allocate(c.panels * steps * sqf_form_step_bytes(form));
            kernels->expand_nibbles(c.weights, c.panels * steps, expanded);
        }
        const sqf_tile_job job = {.form = form,
                                  .weights = expanded ? expanded : c.weights,
                                  .panel_bytes = steps * sqf_form_step_bytes(form),
                                  .panels = c.panels,
                                  .scales = c.scales,
                                  .panel_scales = c.segment_count * SQF_PANEL_ROWS,
                                  .codes = c.codes,
                                  .code_stride = c.padded,
                                  .sums = c.sums,
                                  .act_scales = c.act_scales,
                                  .zeros = c.zeros ? c.zero_points : NULL,
                                  .column_sums = c.zeros ? c.column_sums : NULL,
                                  .segment_stride = c.segment_count,
                                  .segments = c.segments,
                                  .segment_count = c.segment_count,
                                  .tokens = c.tokens,
                                  .out = c.out};
        kernels->tile(&job);
        digest_bytes(digest, c.out, c.tokens * SQF_BLOCK_ROWS * sizeof *c.out);
        free(expanded);
        free_tile(&c);
    }
}

static void check_nibbles(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    check_tile(kernels, random, SQF_FORM_NIBBLES, digest);
}

static void check_unsigned(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    check_tile(kernels, random, SQF_FORM_UNSIGNED, digest);
}

static void check_bytes(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    check_tile(kernels, random, SQF_FORM_BYTES, digest);
}

/* ---- the vector functions ---- */

static void check_quantize(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    for (int round = 0; round < ROUNDS; round++) {
        const size_t n = random_length(random);
        float *x = random_floats(random, n), ends[3] = {kernels->absmax(x, n)};
        int8_t *codes = allocate(n);
        kernels->range(x, n, &ends[1], &ends[2]);
        const int32_t sum = kernels->quantize(x, n, 0.03f, -120.0f, 120.0f, round % 5, codes);
        digest_bytes(digest, ends, sizeof ends);
        digest_bytes(digest, &sum, sizeof sum);
        digest_bytes(digest, codes, n);
        free(x);
        free(codes);
    }
}

/* Stored halves are any bits but those of NaN, whose payload is nobody's promise. */
static void check_dots(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    for (int round = 0; round < ROUNDS; round++) {
        const size_t n = random_length(random), count = 1 + (size_t)sqf_random_below(random, 5);
        float *x = random_floats(random, n), *w = random_floats(random, n * count), *y = allocate(2 * n * sizeof *y);
        uint8_t *halves = random_bytes(random, 2 * n);
        for (size_t i = 0; i < n; i++) {
            halves[2 * i + 1] &= 0xbf; /* an exponent with its top bit off */
        }
        float out[8] = {kernels->dot_fp32(w, x, n), kernels->dot_bf16(halves, x, n), kernels->dot_fp16(halves, x, n)};
        kernels->dots(w, n, count, x, n, out + 3);
        kernels->from_bf16(halves, n, y);
        kernels->from_fp16(halves, n, y + n);
        kernels->weighted_sum(out, w, n, count, n, x);
        digest_bytes(digest, out, sizeof out);
        digest_bytes(digest, y, 2 * n * sizeof *y);
        digest_bytes(digest, x, n * sizeof *x);
        free(x);
        free(w);
        free(y);
        free(halves);
    }
}

static void check_panels(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    static const sqf_form forms[] = {SQF_FORM_NIBBLES, SQF_FORM_BYTES, SQF_FORM_BF16, SQF_FORM_FP16};
    for (int round = 0; round < ROUNDS; round++) {
        const sqf_form form = forms[round % 4];
        const size_t n = 1 + (size_t)sqf_random_below(random, 100);
        const size_t bytes = (n + SQF_SEGMENT_PAD - 1) / SQF_SEGMENT_PAD * sqf_form_step_bytes(form);
        uint8_t *weights = random_bytes(random, bytes);
        for (size_t i = 1; i < bytes && form >= SQF_FORM_BF16; i += 2) {
            weights[i] &= 0xbf;
        }
        for (size_t i = 0; i < bytes && form == SQF_FORM_NIBBLES; i++) {
            weights[i] &= 0x77;
        }
        float *x = random_floats(random, n), *scales = random_floats(random, SQF_PANEL_ROWS);
        float *out = random_floats(random, SQF_PANEL_ROWS), *tile = random_floats(random, n * SQF_BLOCK_ROWS);
        kernels->panel_dot(form, weights, n, x, scales, out);
        kernels->panel_dequantize(form, weights, n, scales, round % 3 == 0, tile);
        digest_bytes(digest, out, SQF_PANEL_ROWS * sizeof *out);
        digest_bytes(digest, tile, n * SQF_BLOCK_ROWS * sizeof *tile);
        free(weights);
        free(x);
        free(scales);
        free(out);
        free(tile);
    }
}

static void check_maps(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    for (int round = 0; round < ROUNDS; round++) {
        const size_t n = random_length(random), power = (size_t)1 << sqf_random_below(random, 10);
        float *x = random_floats(random, n), *y = random_floats(random, n), *z = allocate(n * sizeof *z);
        float *rows = random_floats(random, power), out[3] = {kernels->sum_squares(x, n), kernels->maximum(y, n)};
        kernels->scale_gain(x, y, 1.25f, n, z);
        digest_bytes(digest, z, n * sizeof *z);
        kernels->silu_mul(x, y, n, z);
        digest_bytes(digest, z, n * sizeof *z);
        kernels->rotate(z, x, y, n / 2);
        kernels->add(x, z, n);
        kernels->scale(x, 0.7f, n);
        out[2] = kernels->exp_sum(y, out[1], n);
        kernels->hadamard(rows, power);
        digest_bytes(digest, x, n * sizeof *x);
        digest_bytes(digest, y, n * sizeof *y);
        digest_bytes(digest, out, sizeof out);
        digest_bytes(digest, rows, power * sizeof *rows);
        free(x);
        free(y);
        free(z);
        free(rows);
    }
}

/* Scores, weights and sums as attention chains them, over every type of the cache. */
static void check_attention(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    static const sqf_kv_type types[] = {SQF_KV_F32, SQF_KV_F16, SQF_KV_INT8};
    for (int round = 0; round < ROUNDS; round++) {
        const sqf_kv_type type = types[round % 3];
        const size_t panels = 1 + (size_t)sqf_random_below(random, SQF_SCORE_STRIDE / SQF_KV_PANEL);
        const size_t count = panels * SQF_KV_PANEL, width = SQF_KV_PANEL * (1 + (size_t)sqf_random_below(random, 8));
        const int rows = 1 + (int)sqf_random_below(random, SQF_ATTENTION_ROWS);
        float *query = random_floats(random, width * SQF_ATTENTION_ROWS), *scales = random_floats(random, count);
        float *keys = random_floats(random, width * count), *back = allocate(width * count * sizeof *back);
        float *out = allocate((size_t)rows * SQF_SCORE_STRIDE * sizeof *out), shrink[SQF_ATTENTION_ROWS];
        float *sums = random_floats(random, (size_t)rows * width), total[SQF_KV_PANEL] = {0};
        uint16_t *halves = allocate(width * count * sizeof *halves);
        kernels->to_halves(keys, width * count, halves);
        if (type != SQF_KV_F32) { /* any bytes are int8, and the upper byte of a half stays far from infinity */
            kernels->cached_floats(type, halves, width * count, back);
        }
        const void *stored = type == SQF_KV_F32 ? (const void *)keys : halves;
        const sqf_score_job score = {.query = query,
                                     .rows = rows,
                                     .dim = width,
                                     .keys = stored,
                                     .scales = round % 2 ? scales : NULL,
                                     .panels = panels,
                                     .out = out};
        kernels->scores(type, &score);
        for (int r = 0; r < rows; r++) {
            float largest = -1.0f;
            shrink[r] = kernels->softmax(out + r * SQF_SCORE_STRIDE, count, round % 2 ? scales : NULL, &largest, total);
        }
        const sqf_value_job value = {.weights = out,
                                     .shrink = shrink,
                                     .rows = rows,
                                     .width = width,
                                     .values = stored,
                                     .count = count,
                                     .sums = sums};
        kernels->weigh_values(type, &value);
        digest_bytes(digest, halves, width * count * sizeof *halves);
        digest_bytes(digest, back, width * count * sizeof *back);
        digest_bytes(digest, sums, (size_t)rows * width * sizeof *sums);
        digest_bytes(digest, total, sizeof total);
        free(query);
        free(scales);
        free(keys);
        free(back);
        free(out);
        free(sums);
        free(halves);
    }
}

/* Rounding of weights, the grids of small floats, and dynamic masks. */
static void check_rounding(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest)
{
    static const sqf_type types[] = {SQF_TYPE_INT4, SQF_TYPE_INT8, SQF_TYPE_FP4, SQF_TYPE_FP8, SQF_TYPE_FP6};
    for (int round = 0; round < ROUNDS; round++) {
        const size_t n = random_length(random), top = (size_t)sqf_random_below(random, n + 1);
        const bool small = round % 5 == 1 || round % 5 == 0;
        float *x = random_floats(random, n), *difference = random_floats(random, n), ends[2];
        float *low = allocate(n * sizeof *low), *high = allocate(n * sizeof *high);
        uint8_t *mask = allocate(n), *codes = allocate(n);
        int8_t *grid = allocate(n);
        double sums[2] = {1.0, 2.0};
        kernels->select_magnitudes(x, n, top, mask);
        kernels->part_maxima(x, mask, n, &ends[0], &ends[1]);
        kernels->round_codes(types[round % 5], x, n, 0.6f, small ? 8 : 0, round % 2 ? mask : NULL, codes, difference);
        kernels->square_sums(x, difference, n, &sums[0], &sums[1]);
        const int32_t sum = kernels->quantize_grid(x, n, 0.6f, 6.0f, 1.0f, 0.5f, 2.0f, grid);
        float *norm = random_floats(random, n);
        for (size_t i = 0; i < n; i++) {
            norm[i] += 4.0f; /* not negative */
        }
        kernels->split_top(x, round % 3 ? norm : NULL, n, top, low, high);
        digest_bytes(digest, ends, sizeof ends);
        digest_bytes(digest, mask, n);
        digest_bytes(digest, codes, n);
        digest_bytes(digest, difference, n * sizeof *difference);
        digest_bytes(digest, sums, sizeof sums);
        digest_bytes(digest, &sum, sizeof sum);
        digest_bytes(digest, grid, n);
        digest_bytes(digest, low, n * sizeof *low);
        digest_bytes(digest, high, n * sizeof *high);
        free(x);
        free(difference);
        free(norm);
        free(low);
        free(high);
        free(mask);
        free(codes);
        free(grid);
    }
}

static const struct {
    const char *name;
    void (*run)(const sqf_kernels *kernels, sqf_random *random, uint64_t *digest);
} checks[] = {
    {"tile, nibbles", check_nibbles},
    {"tile, expanded", check_unsigned},
    {"tile, bytes", check_bytes},
    {"quantization", check_quantize},
    {"dot products", check_dots},
    {"panels", check_panels},
    {"maps", check_maps},
    {"attention", check_attention},
    {"rounding", check_rounding},
};

/* All levels get the same numbers. */
static uint64_t run_check(size_t i, const sqf_kernels *kernels)
{
    sqf_random random = {i + 1};
    uint64_t digest = 0xcbf29ce484222325u;
    checks[i].run(kernels, &random, &digest);
    return digest;
}

static int check_level(const sqf_kernels *kernels)
{
    int failures = 0;
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (run_check(i, kernels) != run_check(i, sqf_kernels_find("scalar"))) {
            printf("FAILED: %s: %s differ from scalar\n", kernels->name, checks[i].name);
            failures++;
        }
    }
    fprintf(stderr, "%s: checked\n", kernels->name);
    return failures;
}

int main(int argc, char **argv)
{
    const char *const *levels = sqf_cpu_levels();
    int failures = 0;
    if (argc > 1 && strcmp(levels[0], argv[1]) != 0) {
        printf("FAILED: the best level is %s, expected %s\n", levels[0], argv[1]);
        failures++;
    }
    for (size_t i = 0; levels[i]; i++) {
        failures += check_level(sqf_kernels_find(levels[i]));
    }
    failures += trap_check(check_level);
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        printf("%-16s %016" PRIx64 "\n", checks[i].name, run_check(i, sqf_kernels_find("scalar")));
    }
    return failures > 0;
}
