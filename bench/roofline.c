/* A roofline model of the matrix products of SQ-format on GPUs: what each scheme can gain over W4A8, predicted from
 * published peak rates and from counts, before any kernel runs. docs/cuda.md explains the model and quotes the output;
 * bench_cuda measures the same figures on a card.
 *
 * Three things share a multiprocessor: tensor instructions at a rate for each pair of types; the float instructions
 * that turn integer sums into numbers once a segment of constant scales (2 a sum: a subtraction that ends the
 * conversion and a multiply-add with the weights' scale); and memory. The tensor time alone is the ideal dual path; the
 * largest of the three is what perfect overlap reaches, and tensor plus scales what no overlap at all gives.
 *
 * Usage: bench_roofline [8b|70b] [TOKENS] */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/format.h>

/* Peak rates without sparsity at boost clock, in 10^12 operations a second (a multiply-add is two), and 10^12 bytes a
 * second. 0: the tensor cores have no such type. Source: the makers' data sheets. */
typedef struct gpu {
    const char *name;
    double int4, int8, fp4, fp8, bf16, fp32, memory;
} gpu;

static const gpu gpus[] = {
    {"A100 SXM", 1248, 624, 0, 0, 312, 19.5, 2.039}, {"RTX 4090", 1321, 661, 0, 330, 165, 82.6, 1.008},
    {"L40S", 1466, 733, 0, 733, 362, 91.6, 0.864},   {"H100 SXM", 0, 1979, 0, 1979, 989, 67, 3.35},
    {"H200", 0, 1979, 0, 1979, 989, 67, 4.8},        {"B200", 0, 4500, 9000, 4500, 2250, 75, 7.7},
};

/* The linear layers of one decoder layer. */
typedef struct shape {
    double rows, columns;
} shape;

typedef struct model {
    const char *name;
    const char *description;
    shape linear[7];
} model;

static const model models[] = {
    {"8b",
     "Llama-3-8B",
     {{4096, 4096}, {1024, 4096}, {1024, 4096}, {4096, 4096}, {14336, 4096}, {14336, 4096}, {4096, 14336}}},
    {"70b",
     "Llama-3-70B",
     {{8192, 8192}, {1024, 8192}, {1024, 8192}, {8192, 8192}, {28672, 8192}, {28672, 8192}, {8192, 28672}}},
};

/* The first is what the others are compared with. The pairs have their low part at a type of twice the high one's rate.
 */
static const char *const schemes[] = {"W4A8",
                                      "W4A4",
                                      "W4A(SQ6)",
                                      "W4A(SQ5)",
                                      "W4A(SQ4.5)",
                                      "W8A8",
                                      "W(SQ5)A8",
                                      "W(SQ5)A8,scales=tied",
                                      "W4A16",
                                      "BF16",
                                      "W4A(16-(bf16/8)-0.75)",
                                      "W8A(16-(bf16/8)-0.75)",
                                      "low=fp8,group=128;low=fp8,high=bf16,bank=16,high_per_bank=4",
                                      "low=fp4,group=128;low=fp4,high=fp8,bank=16,high_per_bank=4"};

enum { SCHEMES = sizeof schemes / sizeof *schemes, SCALE_INSTRUCTIONS = 2, SCALES_OF_GROUP = 128 };

static bool is_integer(sqf_type type)
{
    return type >= SQF_TYPE_INT2 && type <= SQF_TYPE_INT8;
}

/* Products of a pair of types, 10^12 operations a second: the fastest instruction that computes them exactly. */
static double pair_rate(const gpu *card, sqf_type weight, sqf_type activation)
{
    const unsigned bits =
        sqf_type_bits(weight) > sqf_type_bits(activation) ? sqf_type_bits(weight) : sqf_type_bits(activation);
    if (bits > 8) {
        return card->bf16;
    }
    if (is_integer(weight) && is_integer(activation)) {
        return bits <= 4 && card->int4 > 0 ? card->int4 : card->int8;
    }
    if (bits <= 4 && card->fp4 > 0) {
        return card->fp4;
    }
    if (bits <= 4) { /* twice an fp4 is an integer */
        return card->int8;
    }
    return card->fp8 > 0 ? card->fp8 : card->bf16;
}

/* Predicted seconds of all linear layers of one decoder layer. */
typedef struct prediction {
    double tensor, scales, memory;
} prediction;

/* Share of the columns whose activations are high, and of the weights. */
static double high_share(uint32_t bank, uint32_t high)
{
    return bank > 0 ? (double)high / bank : 0;
}

/* Tensor seconds of `products` multiply-adds. High weights of two parts with free scales are a pass of their own: both
 * parts take all columns, because their places differ from row to row. */
static double tensor_seconds(const gpu *card, const sqf_scheme *scheme, double products)
{
    const sqf_weight_spec *w = &scheme->weights;
    const sqf_act_spec *a = &scheme->activations;
    const double share = sqf_act_spec_is_split(a) ? high_share(a->bank, a->high_per_bank) : 0;
    const bool passes = w->high != SQF_TYPE_NONE && w->high_per_bank > 0;
    double seconds = 0;
    for (int part = passes && w->scales == SQF_SCALES_TIED ? 1 : 0; part <= (passes ? 1 : 0); part++) {
        const sqf_type weight = part ? w->high : w->low;
        seconds += 2e-12 * products * (1 - share) / pair_rate(card, weight, a->low);
        seconds += share > 0 ? 2e-12 * products * share / pair_rate(card, weight, a->high) : 0;
    }
    return seconds;
}

/* Stored bits of a weight on the device: codes and float32 scales of groups (tied: one set, bytes). */
static double device_bits(const sqf_scheme *scheme)
{
    const sqf_weight_spec *w = &scheme->weights;
    if (sqf_weight_spec_is_dense(w)) {
        return 16;
    }
    const double group = w->group > 0 ? w->group : SCALES_OF_GROUP, low = sqf_type_bits(w->low) <= 4 ? 4 : 8;
    if (w->high == SQF_TYPE_NONE) {
        return low + 32 / group;
    }
    return w->scales == SQF_SCALES_TIED ? 8 + 32 / group : low + 8 * high_share(w->bank, w->high_per_bank) + 64 / group;
}

/* One layer's product of `tokens` tokens. */
static void add_layer(const gpu *card, const sqf_scheme *scheme, shape s, double tokens, prediction *sum)
{
    const sqf_weight_spec *w = &scheme->weights;
    const sqf_act_spec *a = &scheme->activations;
    const bool dense = sqf_weight_spec_is_dense(w);
    const bool two = w->high != SQF_TYPE_NONE && w->high_per_bank > 0 && w->scales == SQF_SCALES_FREE;
    const double group = w->group > 0 ? w->group : SCALES_OF_GROUP;
    const double sums = dense ? 0 : s.rows * tokens * s.columns / group * (two ? 2 : 1);
    const double low = sqf_act_spec_is_float(a) ? 16 : sqf_type_bits(a->low), high = sqf_type_bits(a->high);
    const double share = sqf_act_spec_is_split(a) ? high_share(a->bank, a->high_per_bank) : 0;
    const double act_bits = (1 - share) * low + share * high;
    sum->tensor += tensor_seconds(card, scheme, s.rows * s.columns * tokens);
    sum->scales += SCALE_INSTRUCTIONS * sums / (card->fp32 * 1e12 / 2);
    sum->memory += (s.rows * s.columns * device_bits(scheme) / 8 + tokens * s.columns * act_bits / 8 +
                    tokens * s.rows * sizeof(float)) /
                   (card->memory * 1e12);
}

static prediction predict(const gpu *card, const sqf_scheme *scheme, const model *of, double tokens)
{
    prediction sum = {0};
    for (size_t i = 0; i < sizeof of->linear / sizeof *of->linear; i++) {
        add_layer(card, scheme, of->linear[i], tokens, &sum);
    }
    return sum;
}

static double largest(double a, double b)
{
    return a > b ? a : b;
}

static double overlapped(prediction p)
{
    return largest(largest(p.tensor, p.scales), p.memory);
}

static double serial(prediction p)
{
    return largest(p.tensor + p.scales, p.memory);
}

static void print_card(const gpu *card, const sqf_scheme *parsed, const model *of, double tokens)
{
    const prediction base = predict(card, &parsed[0], of, tokens), base_one = predict(card, &parsed[0], of, 1);
    printf("\n%s: INT4 %g, INT8 %g, FP4 %g, FP8 %g, BF16 %g, FP32 %g Tops; memory %g TB/s\n", card->name, card->int4,
           card->int8, card->fp4, card->fp8, card->bf16, card->fp32, card->memory);
    printf("%-26s %9s %9s %9s  %9s %10s %9s  %11s\n", "", "tensor us", "scales us", "memory us", "products",
           "overlapped", "serial", "one token");
    for (int i = 0; i < SCHEMES; i++) {
        const prediction p = predict(card, &parsed[i], of, tokens), one = predict(card, &parsed[i], of, 1);
        char name[SQF_SCHEME_TEXT];
        sqf_scheme_print(&parsed[i], SQF_SPELLING_SHORT, name);
        printf("%-26s %9.1f %9.1f %9.1f  %8.2fx %9.2fx %8.2fx  %10.2fx\n", name, 1e6 * p.tensor, 1e6 * p.scales,
               1e6 * p.memory, base.tensor / p.tensor, overlapped(base) / overlapped(p), serial(base) / serial(p),
               overlapped(base_one) / overlapped(one));
    }
}

/* What the products alone could gain over INT8 where low ones run `ratio` times as fast. */
static double dual_path_bound(double ratio, double high)
{
    return 1 / ((1 - high) / ratio + high);
}

/* The published figure beside the bounds that no dual path can pass. */
static void print_published(void)
{
    const double published = 1.71, of_w4a4 = 0.89;
    printf("\nPublished: static W4A(SQ6) prefill of Llama-3-70B 1.71x as fast as W4A8, 89 %% of what W4A4 gains.\n");
    for (int ratio = 2; ratio <= 4; ratio += 2) {
        printf("  INT4 at %d times the rate of INT8: W4A4 %.2fx; high shares of 1/2, 1/4, 1/8: %.2fx, %.2fx, %.2fx\n",
               ratio, dual_path_bound(ratio, 0), dual_path_bound(ratio, 0.5), dual_path_bound(ratio, 0.25),
               dual_path_bound(ratio, 0.125));
    }
    /* W4A4's gain g means that a part p of W4A8's time is products at twice the rate: 1 - p / 2 = 1 / g */
    const double gain = published / of_w4a4, part = 2 * (1 - 1 / gain);
    const double high = 2 * (1 - (1 - 1 / published) / part) - 1;
    printf(
        "  1.71 / 0.89 = %.2fx for W4A4: %.0f %% of W4A8's time are products at twice the rate; 1.71x is then reached "
        "with a high share of %.3f\n",
        gain, 100 * part, high);
}

int main(int argc, char **argv)
{
    const model *of = &models[0];
    const double tokens = argc > 2 ? atof(argv[2]) : 4096;
    for (size_t i = 0; argc > 1 && i < sizeof models / sizeof *models; i++) {
        of = strcmp(argv[1], models[i].name) == 0 ? &models[i] : of;
    }
    if (argc > 3 || !(tokens >= 1) || (argc > 1 && strcmp(argv[1], of->name) != 0)) {
        fprintf(stderr, "usage: bench_roofline [8b|70b] [TOKENS]\n");
        return 2;
    }
    sqf_scheme parsed[SCHEMES];
    for (int i = 0; i < SCHEMES; i++) {
        sqf_error err;
        if (sqf_scheme_parse(schemes[i], &parsed[i], &err) != SQF_OK) {
            fprintf(stderr, "bench_roofline: %s\n", err.text);
            return 1;
        }
    }
    printf(
        "%s, linear layers of one decoder layer, %g tokens. Speed as a multiple of W4A8's: products alone (the ideal\n"
        "dual path), products and scales overlapped, one after the other; and for one token (memory alone).\n",
        of->description, tokens);
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        print_card(&gpus[i], parsed, of, tokens);
    }
    print_published();
    return 0;
}
