/* Contexts and the choice of kernels; each level's integer tile against the scalar one, bit for bit. */
#include "check.h"

#include <sqf/context.h>

#include "base/random.h"
#include "kernels/dispatch.h"

static void levels_end_with_scalar_and_can_be_asked_for(void **state)
{
    (void)state;
    const char *last = NULL;
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        sqf_error err;
        sqf_context *context;
        const sqf_context_options options = {.threads = 1, .cpu = *level};
        assert_ok(sqf_context_create(&options, &context, &err), &err);
        assert_string_equal(sqf_context_cpu(context), *level);
        sqf_context_destroy(context);
        last = *level;
    }
    assert_string_equal(last, "scalar");
}

static void an_unknown_level_lists_what_is_possible(void **state)
{
    (void)state;
    sqf_error err;
    sqf_context *context = (sqf_context *)&err;
    const sqf_context_options options = {.cpu = "avx9"};
    assert_fails(sqf_context_create(&options, &context, &err), SQF_E_SUPPORT, &err, "\"avx9\"");
    assert_null(context);
    assert_non_null(strstr(err.text, "scalar"));
}

static void the_environment_chooses_unless_the_caller_does(void **state)
{
    (void)state;
    sqf_error err;
    sqf_context *context;
    assert_int_equal(setenv("SQF_CPU", "scalar", 1), 0);
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    assert_string_equal(sqf_context_cpu(context), "scalar");
    sqf_context_destroy(context);

    assert_int_equal(setenv("SQF_CPU", "pentium", 1), 0);
    assert_fails(sqf_context_create(NULL, &context, &err), SQF_E_SUPPORT, &err, "SQF_CPU: \"pentium\"");
    const sqf_context_options options = {.cpu = "scalar"};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    sqf_context_destroy(context);

    assert_int_equal(setenv("SQF_CPU", "", 1), 0);
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    assert_string_equal(sqf_context_cpu(context), sqf_cpu_levels()[0]);
    sqf_context_destroy(context);
    assert_int_equal(unsetenv("SQF_CPU"), 0);
}

static void threads_default_to_one_a_processor(void **state)
{
    (void)state;
    sqf_error err;
    sqf_context *context;
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    const unsigned threads = sqf_context_threads(context);
    assert_true(threads >= 1 && threads <= (unsigned)sysconf(_SC_NPROCESSORS_CONF));
    assert_int_equal(sqf_context_products(context).dense, 0);
    sqf_context_destroy(context);
    const sqf_context_options options = {.threads = 3};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    assert_int_equal(sqf_context_threads(context), 3);
    sqf_context_destroy(context);
    sqf_context_destroy(NULL);
}

static void the_build_names_itself(void **state)
{
    (void)state;
    char expected[32];
    snprintf(expected, sizeof expected, "%d.%d.%d", SQF_VERSION_MAJOR, SQF_VERSION_MINOR, SQF_VERSION_PATCH);
    assert_string_equal(sqf_version(), expected);
    assert_non_null(strstr(sqf_blas_description(), "OpenBLAS"));
}

/* A random tile. Scales are powers of two and sums stay below 2^24, so that floats hold them exactly. */
typedef struct tile_case {
    sqf_segment segments[3];
    size_t padded;
    uint8_t *packed; /* UNSIGNED: nibbles, which each level expands in an order of its own */
    uint8_t *weights;
    int8_t *codes;
    float *scales, *act_scales, *out, *want;
    int32_t *sums;
    sqf_tile_job job;
} tile_case;

static size_t random_segments(sqf_random *random, tile_case *c, bool narrow)
{
    const size_t count = 1 + sqf_random_below(random, 3);
    size_t begin = 0;
    for (size_t g = 0; g < count; g++) {
        const size_t length = 1 + sqf_random_below(random, sqf_random_below(random, 4) ? 40 : 900);
        c->segments[g] = (sqf_segment){.begin = begin, .end = begin + length, .offset = c->padded, .narrow = narrow};
        begin += length;
        c->padded += (length + SQF_SEGMENT_PAD - 1) / SQF_SEGMENT_PAD * SQF_SEGMENT_PAD;
    }
    return count;
}

/* Codes of one token, zeros in the padding, with their sums. */
static void random_codes(sqf_random *random, tile_case *c, size_t m, size_t count, bool extreme, int largest)
{
    for (size_t g = 0; g < count; g++) {
        int32_t sum = 0;
        for (size_t k = c->segments[g].begin; k < c->segments[g].end; k++) {
            const int any = (int)sqf_random_below(random, 2 * (uint64_t)largest + 1) - largest;
            const int code = extreme ? (sqf_random_below(random, 8) ? largest : -largest) : any;
            c->codes[m * c->padded + c->segments[g].offset + k - c->segments[g].begin] = (int8_t)code;
            sum += code;
        }
        c->sums[m * count + g] = sum;
        c->act_scales[m * count + g] = (float)(1 << g);
    }
}

static uint8_t random_weight(sqf_random *random, sqf_form form, bool extreme)
{
    const bool top = sqf_random_below(random, 8) != 0;
    if (form == SQF_FORM_BYTES) {
        const int any = (int)sqf_random_below(random, 255) - 127;
        return (uint8_t)(int8_t)(extreme ? (top ? 127 : -127) : any);
    }
    const unsigned low = extreme ? (top ? 14 : 0) : (unsigned)sqf_random_below(random, 15);
    const unsigned high = extreme ? (top ? 14 : 0) : (unsigned)sqf_random_below(random, 15);
    return (uint8_t)(low | high << 4);
}

static void make_tile(sqf_random *random, tile_case *c)
{
    static const sqf_form forms[] = {SQF_FORM_NIBBLES, SQF_FORM_UNSIGNED, SQF_FORM_BYTES};
    *c = (tile_case){0};
    const sqf_form form = forms[sqf_random_below(random, 3)];
    const bool narrow = sqf_random_below(random, 2), extreme = sqf_random_below(random, 4) == 0;
    const size_t count = random_segments(random, c, narrow), tokens = 1 + sqf_random_below(random, 20);
    const size_t panels = 1 + sqf_random_below(random, SQF_BLOCK_PANELS);
    const size_t panel_bytes = c->padded / SQF_SEGMENT_PAD * sqf_form_step_bytes(form);
    c->weights = malloc(panels * panel_bytes);
    c->codes = calloc(tokens * c->padded, 1);
    c->sums = malloc(tokens * count * sizeof *c->sums);
    c->act_scales = malloc(tokens * count * sizeof *c->act_scales);
    c->scales = malloc(panels * count * SQF_PANEL_ROWS * sizeof *c->scales);
    c->out = calloc(tokens * SQF_BLOCK_ROWS, sizeof *c->out);
    c->want = calloc(tokens * SQF_BLOCK_ROWS, sizeof *c->want);
    const size_t bytes = form == SQF_FORM_UNSIGNED ? panels * panel_bytes / 2 : panels * panel_bytes;
    c->packed = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) {
        c->packed[i] = random_weight(random, form, extreme);
    }
    for (size_t m = 0; m < tokens; m++) {
        random_codes(random, c, m, count, extreme, narrow ? 15 : 127);
    }
    for (size_t i = 0; i < panels * count * SQF_PANEL_ROWS; i++) {
        c->scales[i] = 0.5f;
    }
    c->job = (sqf_tile_job){.form = form,
                            .weights = c->weights,
                            .panel_bytes = panel_bytes,
                            .panels = panels,
                            .scales = c->scales,
                            .panel_scales = count * SQF_PANEL_ROWS,
                            .codes = c->codes,
                            .code_stride = c->padded,
                            .sums = c->sums,
                            .act_scales = c->act_scales,
                            .segment_stride = count,
                            .segments = c->segments,
                            .segment_count = count,
                            .tokens = tokens};
}

static void free_tile(tile_case *c)
{
    free(c->packed);
    free(c->weights);
    free(c->codes);
    free(c->sums);
    free(c->act_scales);
    free(c->scales);
    free(c->out);
    free(c->want);
}

static void run_tile(const sqf_kernels *kernels, tile_case *c, float *out)
{
    const size_t bytes = c->job.panels * c->job.panel_bytes;
    if (c->job.form == SQF_FORM_UNSIGNED) {
        kernels->expand_nibbles(c->packed, bytes / sqf_form_step_bytes(SQF_FORM_UNSIGNED), c->weights);
    } else {
        memcpy(c->weights, c->packed, bytes);
    }
    memset(out, 0, c->job.tokens * SQF_BLOCK_ROWS * sizeof *out);
    c->job.out = out;
    kernels->tile(&c->job);
}

static void integer_sums_agree_bit_for_bit(void **state)
{
    (void)state;
    sqf_random random = {test_seed("tile", 8)};
    for (int round = 0; round < 600; round++) {
        tile_case c;
        make_tile(&random, &c);
        run_tile(sqf_kernels_find("scalar"), &c, c.want);
        for (const char *const *level = sqf_cpu_levels(); *level; level++) {
            run_tile(sqf_kernels_find(*level), &c, c.out);
            if (memcmp(c.out, c.want, c.job.tokens * SQF_BLOCK_ROWS * sizeof *c.out) != 0) {
                fail_msg("%s: form %d, %zu panels, %zu tokens, %zu segments differ from scalar", *level,
                         (int)c.job.form, c.job.panels, c.job.tokens, c.job.segment_count);
            }
        }
        free_tile(&c);
    }
}

/* The scalar tile itself, against the sum written out for one panel of bytes. */
static void the_scalar_tile_is_the_sum_of_products(void **state)
{
    (void)state;
    int8_t codes[16] = {1, -2, 3, -4, 5, -6, 7, -8, 9, 10, 0, 0, 0, 0, 0, 0};
    uint8_t weights[256];
    float scales[SQF_PANEL_ROWS], out[SQF_BLOCK_ROWS] = {0};
    const sqf_segment segment = {.end = 10};
    const int32_t sum = 15;
    const float act_scale = 0.25f;
    for (size_t k = 0; k < 16; k++) {
        for (size_t r = 0; r < SQF_PANEL_ROWS; r++) {
            weights[k / 4 * 64 + r * 4 + k % 4] = (uint8_t)(int8_t)((int)r - (int)k);
            scales[r] = (float)(r + 1);
        }
    }
    const sqf_tile_job job = {.form = SQF_FORM_BYTES,
                              .weights = weights,
                              .panel_bytes = sizeof weights,
                              .panels = 1,
                              .scales = scales,
                              .panel_scales = SQF_PANEL_ROWS,
                              .codes = codes,
                              .code_stride = sizeof codes,
                              .sums = &sum,
                              .act_scales = &act_scale,
                              .segment_stride = 1,
                              .segments = &segment,
                              .segment_count = 1,
                              .tokens = 1,
                              .out = out};
    sqf_kernels_find("scalar")->tile(&job);
    for (size_t r = 0; r < SQF_PANEL_ROWS; r++) {
        int32_t want = 0;
        for (size_t k = 0; k < 10; k++) {
            want += codes[k] * ((int)r - (int)k);
        }
        assert_true(out[r] == 0.25f * (float)(r + 1) * (float)want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_end_with_scalar_and_can_be_asked_for),
        cmocka_unit_test(an_unknown_level_lists_what_is_possible),
        cmocka_unit_test(the_environment_chooses_unless_the_caller_does),
        cmocka_unit_test(threads_default_to_one_a_processor),
        cmocka_unit_test(the_build_names_itself),
        cmocka_unit_test(the_scalar_tile_is_the_sum_of_products),
        cmocka_unit_test(integer_sums_agree_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
