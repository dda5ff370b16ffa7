/* Times the matrix products of the CUDA backend on the layer shapes of published models, beside the vendor's library on
 * the same shapes in the same run, and beside what an ideal dual path would take: the low part of the columns at the
 * low type's rate, the high part at the high type's, rates measured by the vendor's library. Prints a table; --json
 * writes every figure to a file.
 *
 * Usage: bench_cuda [--device N] [--model 8b|70b|tiny] [--tokens LIST] [--schemes LIST] [--rounds N] [--json FILE]
 * Lists are separated by ":" because scheme names have commas. With the emulated backend it runs to show that it
 * works; no times are printed then, because they would mean nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <sqf/format.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "format/partition.h"
#include "kernels/cuda/ops.h"
#include "reference.h"

enum { LIST = 32, ROUNDS_MOST = 64, COPIES_MOST = 64, GROUP = 128, GRAPH_MOST = 512 };

/* One linear layer of a model; q, k and v of a decoder read the same input and are three. */
typedef struct shape {
    const char *name;
    size_t rows, columns;
} shape;

typedef struct model {
    const char *name;
    shape shapes[4];
    size_t count;
} model;

static const model models[] = {
    {"8b", {{"q, o", 4096, 4096}, {"k, v", 1024, 4096}, {"gate, up", 14336, 4096}, {"down", 4096, 14336}}, 4},
    {"70b", {{"q, o", 8192, 8192}, {"k, v", 1024, 8192}, {"gate, up", 28672, 8192}, {"down", 8192, 28672}}, 4},
    {"tiny", {{"tiny", 96, 256}}, 1},
};

/* What the command line asks for. */
typedef struct settings {
    int device, rounds;
    const model *of;
    size_t tokens[LIST], token_count;
    const char *schemes[LIST];
    size_t scheme_count;
    const char *json;
} settings;

/* The device and what is measured once. */
typedef struct bench {
    const sqf_cuda_ops *ops;
    sqf_cuda_device *device;
    sqf_cuda_info info;
    settings set;
    sqf_error err;
    json_t *rows; /* every measurement */
} bench;

static void check(bench *b, sqf_status status)
{
    if (status != SQF_OK) {
        fprintf(stderr, "bench_cuda: %s\n", b->err.text);
        exit(1);
    }
}

/* ---- a layer of random codes ---- */

typedef struct layer_source {
    sqf_scheme scheme;
    sqf_cuda_segment *segments;
    size_t segment_count, columns;
    sqf_random random;
} layer_source;

static bool has_high_weights(const sqf_scheme *scheme)
{
    return scheme->weights.high != SQF_TYPE_NONE && scheme->weights.high_per_bank > 0;
}

/* Random codes, and scales about that of a trained layer. Of two parts every bank has its first columns high: where
 * they stand makes no difference to the speed. */
static sqf_status fill(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *err)
{
    layer_source *source = user;
    const sqf_weight_spec *w = &source->scheme.weights;
    (void)first, (void)err;
    for (size_t i = 0; i < count * source->columns; i++) {
        const int range = rows->mask || sqf_type_bits(w->low) <= 4 ? 7 : 127;
        const int code = (int)(sqf_random_unit(&source->random) * (2 * range + 1)) - range;
        const bool high = rows->mask && i % source->columns % w->bank < w->high_per_bank;
        if (sqf_weight_spec_is_dense(w)) {
            ((uint16_t *)rows->codes)[i] = (uint16_t)(0x3c00 + 16 * (code & 0x8007)); /* bf16 about 0.01 */
            continue;
        }
        ((int8_t *)rows->codes)[i] = (int8_t)(high ? 0 : w->low == SQF_TYPE_FP8 ? code & 0x57 : code);
        if (rows->mask) {
            rows->mask[i] = high;
            rows->high[i] = (int8_t)(high ? 17 * code : 0);
        }
    }
    for (size_t i = 0; rows->scales && i < count * source->segment_count; i++) {
        rows->scales[i] = 0.01f;
        if (rows->high_scales) {
            rows->high_scales[i] = 0.001f;
        }
    }
    return SQF_OK;
}

static sqf_cuda_form form_of(const sqf_scheme *scheme)
{
    const sqf_weight_spec *w = &scheme->weights;
    if (sqf_weight_spec_is_dense(w)) {
        return SQF_CUDA_BF16;
    }
    if (has_high_weights(scheme)) {
        return w->scales == SQF_SCALES_FREE ? SQF_CUDA_SPLIT : SQF_CUDA_BYTES;
    }
    return w->low == SQF_TYPE_FP8 ? SQF_CUDA_FP8 : sqf_type_bits(w->low) <= 4 ? SQF_CUDA_NIBBLES : SQF_CUDA_BYTES;
}

/* Segments of constant scales: the weights' groups, cut at the border of a static mask. */
static void make_segments(layer_source *source, size_t columns, size_t border)
{
    const size_t group = source->scheme.weights.group > 0 ? source->scheme.weights.group : GROUP;
    source->segment_count = 0;
    for (size_t begin = 0; begin < columns;) {
        size_t end = (begin / group + 1) * group;
        end = begin < border && end > border ? border : end;
        end = end > columns ? columns : end;
        source->segments[source->segment_count++] =
            (sqf_cuda_segment){(uint32_t)begin, (uint32_t)end, 0, begin >= border};
        begin = end;
    }
}

static sqf_cuda_linear *make_layer(bench *b, const sqf_scheme *scheme, shape s, uint64_t seed)
{
    const sqf_act_spec *a = &scheme->activations;
    const sqf_weight_spec *w = &scheme->weights;
    layer_source source = {.scheme = *scheme, .columns = s.columns, .random = {seed}};
    int32_t *channels = NULL;
    size_t border = s.columns;
    check(b, SQF_ALLOC(&source.segments, s.columns / 16 + 2, "segments", &b->err));
    if (sqf_act_spec_is_split(a) && a->mask == SQF_MASK_STATIC) {
        const size_t banks = s.columns / a->bank, low = a->bank - a->high_per_bank;
        border = banks * low;
        check(b, SQF_ALLOC(&channels, s.columns, "channels", &b->err));
        for (size_t k = 0; k < s.columns; k++) { /* the first of every bank are high */
            const size_t bank = k / a->bank, in = k % a->bank;
            const size_t at =
                in < a->high_per_bank ? border + bank * a->high_per_bank + in : bank * low + in - a->high_per_bank;
            channels[at] = (int32_t)k;
        }
    }
    make_segments(&source, s.columns, border);
    const bool split = form_of(scheme) == SQF_CUDA_SPLIT;
    const sqf_cuda_linear_spec spec = {.name = s.name,
                                       .rows = s.rows,
                                       .columns = s.columns,
                                       .form = form_of(scheme),
                                       .split_unit_high = split ? 64 / w->bank * w->high_per_bank : 0,
                                       .segments = source.segments,
                                       .segment_count = source.segment_count,
                                       .activations = *a,
                                       .channels = channels,
                                       .border = border,
                                       .fill = fill,
                                       .user = &source};
    sqf_cuda_linear *linear;
    check(b, b->ops->linear_create(b->device, &spec, &linear, &b->err));
    free(source.segments);
    free(channels);
    return linear;
}

/* ---- time ---- */

typedef struct timing {
    double least, median; /* seconds */
} timing;

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A scheme and a shape, in as many copies as fill the second-level cache twice: a product must find its weights in
 * memory, as in a model. */
typedef struct subject {
    sqf_scheme scheme;
    shape s;
    sqf_cuda_linear *copies[COPIES_MOST];
    size_t copy_count;
    sqf_cuda_input *input;
    float *x, *y; /* device memory */
} subject;

static void queue_products(bench *b, const subject *self, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check(b, b->ops->linear_forward(b->device, self->copies[i % self->copy_count], self->input, self->y,
                                        SQF_CUDA_SET, &b->err));
    }
}

/* Of `count` recorded operations, replayed as a graph: the gaps between launches do not count. */
static timing time_graph(bench *b, sqf_cuda_graph *graph, size_t count)
{
    double times[ROUNDS_MOST];
    check(b, b->ops->graph_run(b->device, graph, &b->err)); /* once to warm up */
    for (int r = 0; r < b->set.rounds; r++) {
        check(b, b->ops->mark(b->device, 0, &b->err));
        check(b, b->ops->graph_run(b->device, graph, &b->err));
        check(b, b->ops->mark(b->device, 1, &b->err));
        check(b, b->ops->elapsed(b->device, &times[r], &b->err));
        times[r] /= (double)count;
    }
    qsort(times, (size_t)b->set.rounds, sizeof *times, compare);
    return (timing){times[0], times[b->set.rounds / 2]};
}

static timing time_products(bench *b, const subject *self)
{
    const size_t count = b->info.emulated ? 1 : self->copy_count * 4 > GRAPH_MOST ? GRAPH_MOST : self->copy_count * 4;
    sqf_cuda_graph *graph;
    queue_products(b, self, 1); /* buffers grow here */
    check(b, b->ops->finish(b->device, &b->err));
    check(b, b->ops->graph_begin(b->device, &b->err));
    queue_products(b, self, count);
    check(b, b->ops->graph_end(b->device, &graph, &b->err));
    const timing t = time_graph(b, graph, count);
    b->ops->graph_destroy(b->device, graph);
    return t;
}

static timing time_prepare(bench *b, const subject *self, size_t tokens)
{
    const size_t count = b->info.emulated ? 1 : 16;
    sqf_cuda_graph *graph;
    check(b, b->ops->graph_begin(b->device, &b->err));
    for (size_t i = 0; i < count; i++) {
        check(b, b->ops->input_prepare(b->device, self->input, self->copies[0], self->x, NULL, tokens, &b->err));
    }
    check(b, b->ops->graph_end(b->device, &graph, &b->err));
    const timing t = time_graph(b, graph, count);
    b->ops->graph_destroy(b->device, graph);
    return t;
}

/* ---- the vendor's library and the ideal ---- */

/* Seconds by type for one shape and number of tokens; 0 = there is none. */
typedef struct vendor {
    timing by_type[REFERENCE_TYPES];
} vendor;

static vendor time_vendor(const bench *b, shape s, size_t tokens)
{
    vendor v = {0};
    for (int type = 0; type < REFERENCE_TYPES && !b->info.emulated; type++) {
        timing *t = &v.by_type[type];
        if (!reference_seconds((reference_type)type, tokens, s.rows, s.columns, b->set.rounds, &t->least, &t->median)) {
            *t = (timing){0};
        }
    }
    return v;
}

/* Seconds that products of the two types would take for all columns, at measured rates; INT4 half of INT8 where the
 * hardware has it. 0 = no rate is known. */
static double rate_seconds(const bench *b, const vendor *v, sqf_type weight, sqf_type activation)
{
    const unsigned wb = sqf_type_bits(weight), ab = sqf_type_bits(activation), bits = wb > ab ? wb : ab;
    const bool integers = weight <= SQF_TYPE_INT8 && activation <= SQF_TYPE_INT8;
    if (bits > 8) {
        return v->by_type[REFERENCE_BF16].median;
    }
    if (integers && bits <= 4 && b->info.native_int4) {
        return v->by_type[REFERENCE_INT8].median / 2;
    }
    return v->by_type[integers ? REFERENCE_INT8 : REFERENCE_FP8].median;
}

static double ideal_seconds(const bench *b, const vendor *v, const sqf_scheme *scheme)
{
    const sqf_act_spec *a = &scheme->activations;
    const sqf_weight_spec *w = &scheme->weights;
    const double share = sqf_act_spec_is_split(a) ? (double)a->high_per_bank / a->bank : 0;
    const sqf_type weight = has_high_weights(scheme) ? w->high : w->low;
    const double low = rate_seconds(b, v, weight, a->low);
    const double high = share > 0 ? rate_seconds(b, v, weight, a->high) : low;
    const double passes = form_of(scheme) == SQF_CUDA_SPLIT ? 2 : 1;
    return low > 0 && high > 0 ? passes * ((1 - share) * low + share * high) : 0;
}

/* ---- one row of the table ---- */

static void print_ratio(double above, double below)
{
    if (above > 0 && below > 0) {
        printf(" %7.2f", above / below);
    } else {
        printf(" %7s", "-");
    }
}

/* Bytes a second that memory gives at most: the clock, two transfers a cycle, and the width of the bus. */
static double memory_rate(const sqf_cuda_info *info)
{
    return 2e3 * info->memory_clock_khz * info->memory_bus_bits / 8;
}

static void report(bench *b, const subject *self, size_t tokens, const vendor *v)
{
    char name[SQF_SCHEME_TEXT];
    sqf_scheme_print(&self->scheme, SQF_SPELLING_SHORT, name);
    const timing product = time_products(b, self), prepare = time_prepare(b, self, tokens);
    const double bytes = (double)b->ops->linear_bytes(self->copies[0]), ideal = ideal_seconds(b, v, &self->scheme);
    char kernels[SQF_CUDA_KERNELS];
    b->ops->linear_kernels(b->device, self->copies[0], tokens, kernels);
    const double work = 2.0 * (double)tokens * (double)self->s.rows * (double)self->s.columns;
    check(b, b->ops->finish(b->device, &b->err));
    if (b->info.emulated) {
        printf("%-9s %6zu %-26s %-13s ran\n", self->s.name, tokens, name, kernels);
        return;
    }
    printf("%-9s %6zu %-26s %-13s %10.2f %10.2f %9.2f %8.1f %7.0f", self->s.name, tokens, name, kernels,
           1e6 * product.least, 1e6 * product.median, 1e6 * prepare.median, 1e-12 * work / product.median,
           1e-9 * bytes / product.median);
    print_ratio(bytes / product.median, memory_rate(&b->info));
    print_ratio(ideal, product.median);
    print_ratio(v->by_type[REFERENCE_BF16].median, product.median);
    print_ratio(v->by_type[REFERENCE_INT8].median, product.median);
    print_ratio(v->by_type[REFERENCE_FP8].median, product.median);
    printf("\n");
    fflush(stdout);
    json_array_append_new(
        b->rows, json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "layer",
                           self->s.name, "rows", (json_int_t)self->s.rows, "columns", (json_int_t)self->s.columns,
                           "tokens", (json_int_t)tokens, "scheme", name, "kernels", kernels, "seconds_min",
                           product.least, "seconds_median", product.median, "prepare_seconds_median", prepare.median,
                           "weight_bytes", bytes, "ideal_seconds", ideal, "bf16_seconds_median",
                           v->by_type[REFERENCE_BF16].median, "int8_seconds_median", v->by_type[REFERENCE_INT8].median,
                           "fp8_seconds_median", v->by_type[REFERENCE_FP8].median));
}

/* ---- a shape: all schemes, all numbers of tokens ---- */

static void open_subject(bench *b, const char *scheme, shape s, subject *self)
{
    *self = (subject){.s = s, .copy_count = 1};
    check(b, sqf_scheme_parse(scheme, &self->scheme, &b->err));
    self->copies[0] = make_layer(b, &self->scheme, s, 1);
    const size_t bytes = b->ops->linear_bytes(self->copies[0]);
    size_t wanted = b->info.emulated ? 1 : 2 * (size_t)b->info.l2_bytes / bytes + 1;
    for (wanted = wanted > COPIES_MOST ? COPIES_MOST : wanted; self->copy_count < wanted; self->copy_count++) {
        self->copies[self->copy_count] = make_layer(b, &self->scheme, s, 1 + self->copy_count);
    }
    check(b, b->ops->input_create(b->device, &self->input, &b->err));
}

static void close_subject(bench *b, subject *self)
{
    b->ops->input_destroy(b->device, self->input);
    for (size_t i = 0; i < self->copy_count; i++) {
        b->ops->linear_destroy(b->device, self->copies[i]);
    }
}

/* Activations with a few large channels, as models have them. */
static void upload_input(bench *b, subject *self, size_t tokens)
{
    float *host;
    const size_t n = tokens * self->s.columns;
    sqf_random random = {7};
    check(b, SQF_ALLOC(&host, n, "activations", &b->err));
    for (size_t i = 0; i < n; i++) {
        host[i] = (float)(sqf_random_unit(&random) * 2 - 1) * (i % self->s.columns % 97 == 0 ? 8.0f : 1.0f);
    }
    check(b, b->ops->allocate(b->device, n * sizeof *host, (void **)&self->x, &b->err));
    check(b, b->ops->allocate(b->device, tokens * self->s.rows * sizeof *host, (void **)&self->y, &b->err));
    check(b, b->ops->upload(b->device, self->x, host, n * sizeof *host, &b->err));
    check(b, b->ops->finish(b->device, &b->err));
    free(host);
}

static void bench_shape(bench *b, shape s)
{
    vendor vendors[LIST];
    for (size_t t = 0; t < b->set.token_count; t++) {
        vendors[t] = time_vendor(b, s, b->set.tokens[t]);
    }
    for (size_t i = 0; i < b->set.scheme_count; i++) {
        subject self;
        open_subject(b, b->set.schemes[i], s, &self);
        for (size_t t = 0; t < b->set.token_count; t++) {
            upload_input(b, &self, b->set.tokens[t]);
            check(b, b->ops->input_prepare(b->device, self.input, self.copies[0], self.x, NULL, b->set.tokens[t],
                                           &b->err));
            report(b, &self, b->set.tokens[t], &vendors[t]);
            b->ops->release(b->device, self.x);
            b->ops->release(b->device, self.y);
        }
        close_subject(b, &self);
    }
}

/* ---- the command line ---- */

static void usage(const char *what)
{
    fprintf(stderr,
            "bench_cuda: %s\nusage: bench_cuda [--device N] [--model 8b|70b|tiny] [--tokens 1:16:4096] "
            "[--schemes W4A8:BF16] [--rounds N] [--json FILE]\n",
            what);
    exit(2);
}

static void read_option(settings *set, const char *name, char *value)
{
    if (strcmp(name, "--device") == 0) {
        set->device = atoi(value);
    } else if (strcmp(name, "--rounds") == 0) {
        set->rounds = atoi(value);
    } else if (strcmp(name, "--json") == 0) {
        set->json = value;
    } else if (strcmp(name, "--model") == 0) {
        set->of = NULL;
        for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
            set->of = strcmp(value, models[i].name) == 0 ? &models[i] : set->of;
        }
    } else if (strcmp(name, "--tokens") == 0) {
        set->token_count = 0;
        for (char *word = strtok(value, ":"); word && set->token_count < LIST; word = strtok(NULL, ":")) {
            set->tokens[set->token_count++] = strtoul(word, NULL, 10);
        }
    } else if (strcmp(name, "--schemes") == 0) {
        set->scheme_count = 0;
        for (char *word = strtok(value, ":"); word && set->scheme_count < LIST; word = strtok(NULL, ":")) {
            set->schemes[set->scheme_count++] = word;
        }
    } else {
        usage("unknown option");
    }
}

static settings read_settings(int argc, char **argv)
{
    settings set = {.rounds = 7,
                    .of = &models[0],
                    .tokens = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192},
                    .token_count = 14,
                    .schemes = {"BF16", "W8A8", "W4A16", "W4A8", "W4A4", "W4A(SQ6)", "W4A(SQ5)", "W4A(SQ4.5)",
                                "W(SQ5)A8", "W(SQ5)A8,scales=tied", "W4A(16-(bf16/8)-0.75)", "W8A(16-(bf16/8)-0.75)",
                                "low=fp8,group=128;low=fp8,high=bf16,bank=16,high_per_bank=4"},
                    .scheme_count = 13};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 >= argc) {
            usage("an option without a value");
        }
        read_option(&set, argv[i], argv[i + 1]);
    }
    if (!set.of || set.rounds < 1 || set.rounds > ROUNDS_MOST || set.token_count == 0 || set.scheme_count == 0) {
        usage("a value out of range");
    }
    for (size_t t = 0; t < set.token_count; t++) {
        if (set.tokens[t] < 1 || set.tokens[t] > 1 << 20) {
            usage("a number of tokens out of range");
        }
    }
    return set;
}

static void print_header(const bench *b)
{
    const sqf_cuda_info *info = &b->info;
    printf("%s, compute capability %d.%d, %d multiprocessors at %.2f GHz, memory %.2f TB/s by its clock; driver %d, "
           "runtime %d; %s; %s\n",
           info->name, info->major, info->minor, info->multiprocessors, 1e-6 * info->clock_khz,
           1e-12 * memory_rate(info), info->driver_version, info->runtime_version, b->ops->description,
           reference_name());
    if (info->emulated) {
        return;
    }
    printf(
        "Products: minimum and median of %d rounds; input: quantizing it (median). Ratios: bytes of weights a second "
        "to the memory's rate;\nideal dual path, BF16, INT8 and FP8 of the vendor's library: their time over ours "
        "(above 1: "
        "ours is faster).\n",
        b->set.rounds);
    printf("%-9s %6s %-26s %-13s %10s %10s %9s %8s %7s %7s %7s %7s %7s %7s\n", "layer", "tokens", "scheme", "kernels",
           "least us", "median us", "input us", "Tops", "GB/s", "memory", "ideal", "BF16", "INT8", "FP8");
}

static void write_json(bench *b)
{
    json_t *all = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:i, s:O}", "device", b->info.name, "major",
                            b->info.major, "minor", b->info.minor, "multiprocessors", b->info.multiprocessors,
                            "clock_khz", b->info.clock_khz, "driver", b->info.driver_version, "backend",
                            b->ops->description, "vendor", reference_name(), "rounds", b->set.rounds, "rows", b->rows);
    if (!all || json_dump_file(all, b->set.json, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0) {
        fprintf(stderr, "bench_cuda: %s: cannot be written\n", b->set.json);
        exit(1);
    }
    json_decref(all);
}

int main(int argc, char **argv)
{
    bench b = {.ops = sqf_cuda_operations(), .set = read_settings(argc, argv), .rows = json_array()};
    check(&b, b.ops->open(b.set.device, &b.device, &b.err));
    check(&b, b.ops->info(b.device, &b.info, &b.err));
    print_header(&b);
    for (size_t i = 0; i < b.set.of->count; i++) {
        bench_shape(&b, b.set.of->shapes[i]);
    }
    if (b.set.json) {
        write_json(&b);
    }
    json_decref(b.rows);
    b.ops->close(b.device);
    return 0;
}
