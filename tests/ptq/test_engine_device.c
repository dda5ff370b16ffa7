/* The operations of a device that quantization uses, against the CPU's code: sums, factors, rounding. SQF_CUDA_LIBRARY
 * names the library, SQF_DEVICE a device; without one that opens the tests are skipped. */
#include "gptq_variants.h"

#include "device/device.h"
#include "ptq/engine.h"
#include "ptq/triangular.h"

static const sqf_cuda_ops *ops;
static sqf_cuda_device *cuda;

static void *place(const void *from, size_t bytes)
{
    void *memory;
    sqf_error err = {0};
    assert_ok(ops->allocate(cuda, bytes, &memory, &err), &err);
    if (from) {
        assert_ok(ops->upload(cuda, memory, from, bytes, &err), &err);
    } else {
        assert_ok(ops->clear(cuda, memory, bytes, &err), &err);
    }
    return memory;
}

static void fetch(void *to, void *memory, size_t bytes)
{
    sqf_error err = {0};
    assert_ok(ops->download(cuda, to, memory, bytes, &err), &err);
    ops->release(cuda, memory);
}

/* ---- sums ---- */

/* Channel statistics are the CPU's bits; a Hessian's entries agree to the rounding of their sums. */
static void check_sums(sqf_random *random, size_t tokens, size_t n)
{
    sqf_error err = {0};
    sqf_statistics expected;
    float *x = make_inputs(random, 2 * tokens, n), *hessian = make_floats(n * n), *extremes = make_floats(3 * n);
    double *sums = make_array(3 * n, sizeof *sums);
    void *device_x = place(x, 2 * tokens * n * sizeof *x), *device_h = place(NULL, n * n * sizeof *hessian);
    void *device_e = place(NULL, 3 * n * sizeof *extremes), *device_s = place(NULL, 3 * n * sizeof *sums);
    assert_ok(sqf_statistics_create(n, true, &expected, &err), &err);
    for (size_t part = 0; part < 2; part++) {
        const float *window = (const float *)device_x + part * tokens * n;
        assert_ok(sqf_statistics_add(context, &expected, x + part * tokens * n, tokens, &err), &err);
        assert_ok(ops->hessian_add(cuda, window, tokens, n, 1.0f, device_h, &err), &err);
        assert_ok(ops->channels_add(cuda, window, tokens, n, device_e, device_s, &err), &err);
    }
    fetch(hessian, device_h, n * n * sizeof *hessian);
    fetch(extremes, device_e, 3 * n * sizeof *extremes);
    fetch(sums, device_s, 3 * n * sizeof *sums);
    assert_memory_equal(extremes, expected.max_abs, n * sizeof(float));
    assert_memory_equal(extremes + n, expected.lowest, n * sizeof(float));
    assert_memory_equal(extremes + 2 * n, expected.largest, n * sizeof(float));
    assert_memory_equal(sums, expected.sum_abs, n * sizeof(double));
    assert_memory_equal(sums + n, expected.sum, n * sizeof(double));
    assert_memory_equal(sums + 2 * n, expected.sum_square, n * sizeof(double));
    double worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i; j < n; j++) {
            const double size = sqrt(expected.sum_square[i] * expected.sum_square[j]);
            worst = fmax(worst, fabs((double)hessian[i * n + j] - (double)expected.hessian[i * n + j]) / size);
        }
    }
    print_message("Hessian of %zu channels, %zu tokens: largest difference %.2g\n", n, 2 * tokens, worst);
    assert_true(worst < 1e-6);
    ops->release(cuda, device_x);
    sqf_statistics_clear(&expected);
    free(x);
    free(hessian);
    free(extremes);
    free(sums);
}

static void test_sums_are_those_of_the_cpu(void **state)
{
    (void)state;
    sqf_random random = {test_seed("sums", 11)};
    check_sums(&random, 1, 1);
    check_sums(&random, 7, 33);
    check_sums(&random, 300, 64);
    check_sums(&random, 129, 257);
}

static void test_numbers_that_are_none_are_named(void **state)
{
    (void)state;
    enum { TOKENS_HERE = 5, N = 40 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sqf_random random = {test_seed("bad", 17)};
        sqf_statistics expected;
        sqf_error err = {0};
        double squares[N];
        float *x = make_inputs(&random, TOKENS_HERE, N);
        x[3 * N + 33] = bad[i];
        void *device_x = place(x, TOKENS_HERE * N * sizeof *x), *extremes = place(NULL, 3 * N * sizeof(float));
        double *sums = place(NULL, 3 * N * sizeof(double));
        assert_ok(ops->channels_add(cuda, device_x, TOKENS_HERE, N, extremes, sums, &err), &err);
        assert_ok(ops->download(cuda, squares, sums + 2 * N, sizeof squares, &err), &err);
        assert_ok(sqf_statistics_create(N, false, &expected, &err), &err);
        assert_fails(sqf_statistics_add(context, &expected, x, TOKENS_HERE, &err), SQF_E_VALUE, &err,
                     "channel 33 holds a NaN or an infinity");
        assert_fails(sqf_statistics_check(squares, N, &err), SQF_E_VALUE, &err,
                     "channel 33 holds a NaN or an infinity");
        sqf_statistics_clear(&expected);
        ops->release(cuda, device_x);
        ops->release(cuda, extremes);
        ops->release(cuda, sums);
        free(x);
    }
}

/* ---- factors ---- */

static double norm(const float *a, const float *b, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double d = (double)a[i] - (b ? (double)b[i] : 0.0);
        sum += d * d;
    }
    return sqrt(sum);
}

/* U beside the CPU's, by the norm of the difference. */
static void check_factor(sqf_random *random, size_t n)
{
    sqf_error err = {0};
    const size_t tokens = 2 * n + 10, bytes = n * n * sizeof(float);
    float *x = make_inputs(random, tokens, n), *u = make_floats(n * n);
    sqf_statistics statistics = make_statistics(context, x, tokens, n);
    sqf_factor factor;
    bool positive;
    assert_ok(sqf_factor_create(context, "layer", statistics.hessian, n, NULL, 0.01, &factor, &err), &err);
    double mean = 0.0;
    for (size_t j = 0; j < n; j++) {
        mean += (double)statistics.hessian[j * n + j] / (double)n;
    }
    for (size_t i = 0; i < n * n; i++) {
        u[i] = i % n >= i / n ? statistics.hessian[i] : NAN; /* nothing below the diagonal is read */
    }
    for (size_t j = 0; j < n; j++) {
        u[j * n + j] += (float)(0.01 * mean);
    }
    void *memory = place(u, bytes);
    assert_ok(ops->factor(cuda, memory, n, &positive, &err), &err);
    assert_true(positive);
    fetch(u, memory, bytes);
    for (size_t i = 0; i < n * n; i++) {
        assert_true(i % n >= i / n ? isfinite(u[i]) : u[i] == 0.0f);
    }
    const double off = norm(u, factor.upper, n * n) / norm(factor.upper, NULL, n * n);
    print_message("factor of %zu channels: relative difference %.2g\n", n, off);
    assert_true(off < 2e-5);
    sqf_factor_clear(&factor);
    sqf_statistics_clear(&statistics);
    free(x);
    free(u);
}

static void test_factors_are_those_of_the_cpu(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 31, 32, 33, 64, 257, 600};
    sqf_random random = {test_seed("factors", 12)};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_factor(&random, sizes[i]);
    }
}

static void test_what_is_not_positive_definite_is_said_to_be_so(void **state)
{
    (void)state;
    sqf_error err = {0};
    static const float bad[][4] = {{1.0f, 2.0f, 0.0f, 1.0f}, {-1.0f, 0.0f, 0.0f, 1.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bool positive = true;
        void *memory = place(bad[i], sizeof bad[i]);
        assert_ok(ops->factor(cuda, memory, 2, &positive, &err), &err);
        assert_false(positive);
        ops->release(cuda, memory);
    }
}

/* ---- rounding ---- */

typedef struct difference {
    size_t codes, scales, masks, weights;
} difference;

static void count_differences(const sqf_matrix *a, const sqf_matrix *b, difference *out)
{
    sqf_row ours, theirs;
    sqf_error err = {0};
    assert_ok(sqf_row_create(a, &theirs, &err), &err);
    assert_ok(sqf_row_create(a, &ours, &err), &err);
    for (size_t n = 0; n < a->rows; n++) {
        assert_ok(sqf_matrix_check_row(b, n, "device", &err), &err);
        sqf_matrix_unpack_row(a, n, &theirs);
        sqf_matrix_unpack_row(b, n, &ours);
        for (size_t j = 0; j < a->columns; j++) {
            out->codes += ours.value[j] != theirs.value[j];
            out->masks += ours.mask[j] != theirs.mask[j];
        }
        for (size_t g = 0; g < a->group_count; g++) {
            out->scales += ours.scale_low[g] != theirs.scale_low[g] || ours.scale_high[g] != theirs.scale_high[g];
        }
    }
    out->weights += a->rows * a->columns;
    sqf_row_clear(&ours);
    sqf_row_clear(&theirs);
}

static void assert_close(double a, double b, double share)
{
    assert_true((isnan(a) && isnan(b)) || fabs(a - b) <= share * fabs(b) + 1e-12);
}

static difference compare(const sqf_matrix_job *job)
{
    sqf_matrix expected, found;
    sqf_matrix_result expected_result, result;
    sqf_error err = {0};
    difference sum = {0};
    assert_ok(sqf_matrix_quantize(context, job, &expected, &expected_result, &err), &err);
    assert_ok(sqf_device_quantize(context, job, NULL, &found, &result, &err), &err);
    count_differences(&expected, &found, &sum);
    /* other codes have other errors, about as large */
    const double share = sum.codes > 0 ? 0.1 : 1e-3;
    assert_close(result.weight_error, expected_result.weight_error, share);
    assert_close(result.output_error, expected_result.output_error, share);
    assert_close(result.weight_square, expected_result.weight_square, 1e-6);
    assert_close(result.output_square, expected_result.output_square, 1e-3);
    sqf_matrix_clear(&expected);
    sqf_matrix_clear(&found);
    return sum;
}

/* `exact`: nothing passes through a matrix product, so that nothing may differ. */
static void add_comparison(const sqf_matrix_job *job, const char *name, bool exact, difference *total)
{
    const difference d = compare(job);
    if (d.codes || d.scales || d.masks) {
        print_message("%s, %zu columns: of %zu weights %zu codes and %zu masks differ, %zu scales\n", name,
                      job->columns, d.weights, d.codes, d.masks, d.scales);
    }
    assert_true(!exact || (d.codes == 0 && d.scales == 0 && d.masks == 0));
    /* an error that rounds another way moves what follows in its row, and there are few rows */
    assert_true(d.codes * 4 <= d.weights);
    total->codes += d.codes;
    total->scales += d.scales;
    total->masks += d.masks;
    total->weights += d.weights;
}

static void print_total(const char *what, const difference *total)
{
    print_message("%s: of %zu weights %zu codes and %zu masks differ, %zu scales\n", what, total->weights, total->codes,
                  total->masks, total->scales);
    assert_true(total->codes * 100 <= total->weights);
}

static void test_every_variant_is_rounded_as_on_the_cpu(void **state)
{
    (void)state;
    enum { ROWS_HERE = 9 };
    sqf_random random = {test_seed("variants", 13)};
    difference total = {0};
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        layer l = make_layer(&random, ROWS_HERE, variants[v].columns, variants[v].border);
        sqf_matrix_job job = make_job(&l, variants[v].weights);
        sqf_factor factor;
        sqf_error err = {0};
        job.importance = variants[v].importance;
        job.prune = variants[v].prune;
        job.compensate = variants[v].compensate;
        job.clip = variants[v].clip;
        assert_ok(
            sqf_factor_create(context, "layer", l.statistics.hessian, l.columns, job.channels, 0.01, &factor, &err),
            &err);
        job.factor = &factor;
        add_comparison(&job, variants[v].weights, job.compensate == SQF_COMPENSATE_NONE || job.columns <= 128, &total);
        sqf_factor_clear(&factor);
        free_layer(&l);
    }
    print_total("variants", &total);
}

/* Every scheme that has a name, with and without calibration, by every importance. */
static void test_every_named_scheme_is_rounded_as_on_the_cpu(void **state)
{
    (void)state;
    enum { ROWS_HERE = 5, COLUMNS = 331, IMPORTANCES = 5 };
    sqf_random random = {test_seed("schemes", 14)};
    size_t count, rival_count;
    const sqf_scheme_entry *schemes = sqf_scheme_list(&count), *rivals = sqf_scheme_rivals(&rival_count);
    difference total = {0};
    layer l = make_layer(&random, ROWS_HERE, COLUMNS, COLUMNS);
    sqf_factor factor;
    sqf_error err = {0};
    assert_ok(sqf_factor_create(context, "layer", l.statistics.hessian, COLUMNS, NULL, 0.01, &factor, &err), &err);
    for (size_t i = 0; i < count + rival_count; i++) {
        const char *name = i < count ? schemes[i].name : rivals[i - count].name;
        sqf_scheme scheme;
        assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
        if (sqf_weight_spec_is_dense(&scheme.weights)) {
            continue;
        }
        const bool split = scheme.weights.low != SQF_TYPE_NONE && scheme.weights.high != SQF_TYPE_NONE;
        for (int importance = 0; importance < (split ? IMPORTANCES : 1); importance++) {
            sqf_matrix_job job = make_job(&l, "low=int4,group=32");
            job.spec = scheme.weights;
            job.importance = (sqf_importance)importance;
            job.seed = 5;
            job.factor = &factor;
            add_comparison(&job, name, false, &total);
            job.factor = NULL;
            job.hessian = NULL;
            job.compensate = SQF_COMPENSATE_NONE;
            job.prune = SQF_PRUNE_MAGNITUDE;
            add_comparison(&job, name, true, &total);
        }
    }
    sqf_factor_clear(&factor);
    free_layer(&l);
    print_total("schemes", &total);
}

/* Parts of a matrix are what they would be in it whole. */
static void test_rows_of_a_larger_matrix(void **state)
{
    (void)state;
    sqf_random random = {test_seed("parts", 15)};
    layer l = make_layer(&random, 6, 200, 200);
    sqf_matrix_job job = make_job(&l, "low=int4,high=int8,bank=32,high_per_bank=8,scale_type=fp8");
    job.importance = SQF_IMPORTANCE_RANDOM;
    job.compensate = SQF_COMPENSATE_NONE;
    job.first_row = 1000;
    job.largest = 3.0f;
    job.hessian = NULL;
    difference total = {0};
    add_comparison(&job, "part", true, &total);
    free_layer(&l);
}

/* Weights whose best factor is the last one that is tried (half of the largest magnitude, met by most weights), and
 * weights that every factor represents alike, where the first one counts. */
static void test_searches_at_both_ends(void **state)
{
    (void)state;
    static const struct {
        const char *weights;
        float most, one;
    } cases[] = {{"low=int2,group=32", 0.46f, 1.0f},
                 {"low=int2,group=row", 0.46f, 1.0f},
                 {"low=int8,group=32,scale_type=e8m0", 0.5f, 1.0f},
                 {"low=int2,high=int8,bank=32,high_per_bank=1,scales=tied", 0.46f, 1.0f}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        sqf_random random = {test_seed("searches", 18)};
        layer l = make_layer(&random, 5, 160, 160);
        for (size_t i = 0; i < 5 * (size_t)160; i++) {
            const float sign = sqf_random_below(&random, 2) ? 1.0f : -1.0f;
            l.weights[i] = sign * (i % 16 == 5 ? cases[c].one : cases[c].most);
        }
        sqf_matrix_job job = make_job(&l, cases[c].weights);
        sqf_matrix matrix;
        sqf_error err = {0};
        difference total = {0};
        job.compensate = SQF_COMPENSATE_NONE;
        job.hessian = NULL;
        job.clip = SQF_CLIP_MSE;
        add_comparison(&job, cases[c].weights, true, &total);
        assert_ok(sqf_device_quantize(context, &job, NULL, &matrix, NULL, &err), &err);
        float low[5], high[5];
        uint8_t shift[5];
        sqf_matrix_unpack_scales(&matrix, 2, low, high, shift);
        if (c < 2) {
            assert_true(low[0] == 0.5f);
        } else if (c == 2) {
            assert_true(low[0] == 0x1p-5f); /* 2 * 2^(0 - 6) */
        }
        sqf_matrix_clear(&matrix);
        free_layer(&l);
    }
}

/* ---- what cannot be rounded ---- */

static void test_refusals_are_those_of_the_cpu(void **state)
{
    (void)state;
    sqf_random random = {test_seed("refusals", 16)};
    layer l = make_layer(&random, 5, 150, 150);
    sqf_matrix_job job = make_job(&l, "low=int4,group=32");
    sqf_factor factor;
    sqf_matrix matrix;
    sqf_error err = {0};
    assert_ok(sqf_factor_create(context, "layer", l.statistics.hessian, 150, NULL, 0.01, &factor, &err), &err);
    assert_fails(sqf_device_quantize(context, &job, NULL, &matrix, NULL, &err), SQF_E_ARG, &err,
                 "compensate=gptq without calibration");
    job.factor = &factor;
    for (size_t i = 0; i < 150; i++) {
        for (size_t j = i + 1; j < 150; j++) {
            factor.upper[i * 150 + j] = 1e30f; /* as no Hessian has it: what propagates leaves the range of floats */
        }
    }
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err, "weights overflow");
    char text[sizeof err.text];
    memcpy(text, err.text, sizeof text);
    assert_fails(sqf_device_quantize(context, &job, NULL, &matrix, NULL, &err), SQF_E_VALUE, &err, text);
    l.weights[2 * 150 + 7] = NAN;
    assert_fails(sqf_device_quantize(context, &job, NULL, &matrix, NULL, &err), SQF_E_VALUE, &err,
                 "row 2 column 7: found nan");
    sqf_factor_clear(&factor);
    free_layer(&l);
}

static int open_device(void **state)
{
    (void)state;
    sqf_context_options options = sqf_context_options_default();
    sqf_error err = {0};
    options.threads = 2;
    options.device = getenv("SQF_DEVICE") ? getenv("SQF_DEVICE") : "cuda";
    if ((!getenv("SQF_CUDA_LIBRARY") && !getenv("SQF_DEVICE")) ||
        sqf_context_create(&options, &context, &err) != SQF_OK) {
        print_message("skipped: %s\n", err.text[0] ? err.text : "neither SQF_CUDA_LIBRARY nor SQF_DEVICE");
        exit(77);
    }
    ops = context->device->ops;
    cuda = context->device->cuda;
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    sqf_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_are_those_of_the_cpu),
        cmocka_unit_test(test_numbers_that_are_none_are_named),
        cmocka_unit_test(test_factors_are_those_of_the_cpu),
        cmocka_unit_test(test_what_is_not_positive_definite_is_said_to_be_so),
        cmocka_unit_test(test_every_variant_is_rounded_as_on_the_cpu),
        cmocka_unit_test(test_every_named_scheme_is_rounded_as_on_the_cpu),
        cmocka_unit_test(test_rows_of_a_larger_matrix),
        cmocka_unit_test(test_searches_at_both_ends),
        cmocka_unit_test(test_refusals_are_those_of_the_cpu),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
