/* Evaluation, timing, inspection and comparison on the demo model, against plain loops over sessions. */
#include "check.h"

#include <math.h>

#include <sqf/bench.h>
#include <sqf/eval.h>
#include <sqf/inspect.h>

#include "base/file.h"
#include "base/random.h"
#include "format/type.h"
#include "io/safetensors.h"

#define DEMO SQF_SOURCE_DIR "/models/demo"

enum { WINDOW = 20, WINDOWS = 3, REST = 7, COUNT = WINDOWS * WINDOW + REST };

typedef struct demo {
    sqf_context *context;
    sqf_model *model;
    size_t vocabulary;
    uint32_t ids[COUNT];
} demo;

static int set_up(void **state)
{
    static demo d;
    sqf_error err;
    assert_ok(sqf_context_create(NULL, &d.context, &err), &err);
    assert_ok(sqf_model_open(d.context, DEMO, &d.model, &err), &err);
    d.vocabulary = sqf_model_info_get(d.model).vocabulary;
    sqf_random random = {.state = 11};
    for (size_t i = 0; i < COUNT; i++) {
        d.ids[i] = (uint32_t)sqf_random_below(&random, 2000);
    }
    *state = &d;
    return 0;
}

static int tear_down(void **state)
{
    demo *d = *state;
    sqf_model_destroy(d->model);
    sqf_context_destroy(d->context);
    return 0;
}

/* Sum of -log p of tokens `first` and later of one window, by a session and float64 arithmetic. */
static double plain_nll(const demo *d, const uint32_t *ids, size_t count, size_t first)
{
    sqf_error err;
    sqf_session *session;
    float *logits = malloc(d->vocabulary * sizeof *logits);
    double nll = 0;
    assert_ok(sqf_session_create(d->model, count, &session, &err), &err);
    assert_ok(sqf_session_forward(session, ids, count, &err), &err);
    for (size_t t = first; t < count; t++) {
        assert_ok(sqf_session_logits(session, t - 1, 1, logits, &err), &err);
        double sum = 0;
        for (size_t v = 0; v < d->vocabulary; v++) {
            sum += exp((double)logits[v]);
        }
        nll += log(sum) - (double)logits[ids[t]];
    }
    sqf_session_destroy(session);
    free(logits);
    return nll;
}

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance * fabs(expected))) {
        fail_msg("found %.17g, expected %.17g", found, expected);
    }
}

static void test_standard_windows_are_scored_from_their_second_token(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_eval_result result;
    const sqf_eval_options options = {.window = WINDOW};
    double expected = 0;
    for (size_t i = 0; i < WINDOWS; i++) {
        expected += plain_nll(d, d->ids + i * WINDOW, WINDOW, 1);
    }
    assert_ok(sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, COUNT, NULL, &options, &result, &err), &err);
    assert_int_equal(result.windows, WINDOWS);
    assert_int_equal(result.tokens, WINDOWS * WINDOW);
    assert_int_equal(result.scored_tokens, WINDOWS * (WINDOW - 1));
    assert_near(result.model.nll_sum, expected, 1e-6);
    assert_true(isnan(result.perplexity_per_byte));
    assert_true(result.model.products.dense > 0 && result.model.products.integer_low == 0);
}

static void test_a_short_text_is_one_window(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_eval_result result;
    const sqf_eval_options options = {.window = 100, .max_tokens = 9};
    assert_ok(sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, COUNT, NULL, &options, &result, &err), &err);
    assert_int_equal(result.windows, 1);
    assert_int_equal(result.scored_tokens, 8);
    assert_near(result.model.nll_sum, plain_nll(d, d->ids, 9, 1), 1e-6);
}

static void test_llama_cpp_scores_second_halves_after_its_first_token(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_eval_result result;
    const sqf_eval_options options = {.window = WINDOW, .windowing = SQF_WINDOWING_LLAMA_CPP};
    const uint32_t first = 2046;
    double expected = 0;
    for (size_t i = 0; i < WINDOWS; i++) {
        uint32_t window[WINDOW];
        memcpy(window, d->ids + i * WINDOW, sizeof window);
        window[0] = first;
        expected += plain_nll(d, window, WINDOW, WINDOW / 2 + 1);
    }
    assert_ok(sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, COUNT, &first, &options, &result, &err), &err);
    assert_int_equal(result.scored_tokens, WINDOWS * (WINDOW - WINDOW / 2 - 1));
    assert_near(result.model.nll_sum, expected, 1e-6);
}

static void test_a_model_does_not_differ_from_itself(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_eval_result result;
    const sqf_eval_options options = {.window = WINDOW};
    assert_ok(sqf_eval_ids(d->context, d->model, d->model, NULL, d->ids, COUNT, NULL, &options, &result, &err), &err);
    assert_true(result.compared);
    assert_true(result.kl == 0 && result.same_top == 1 && result.ratio == 1 && result.ratio_error == 0);
    assert_true(result.reference.products.dense == result.model.products.dense);
}

/* Stops an evaluation, not the loading before it. */
static bool stop_tokens(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    return strcmp(what, "tokens") != 0;
}

/* Kept scores, moved a little as another model's would be: the paired error is far below that of either. */
static void test_kept_scores_stand_in_for_a_reference(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_eval_result kept, run, paired;
    sqf_eval_tokens tokens = {0};
    sqf_eval_options options = {.window = WINDOW, .keep = &tokens};
    assert_ok(sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, COUNT, NULL, &options, &kept, &err), &err);
    assert_int_equal(tokens.count, kept.scored_tokens);
    for (size_t i = 0; i < tokens.count; i++) {
        tokens.nll[i] += 0.01 * (double)(i % 5); /* as of another model: the mean is 0.02 off, give or take the end */
    }
    options = (sqf_eval_options){.window = WINDOW, .paired = &tokens};
    assert_ok(sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, COUNT, NULL, &options, &paired, &err), &err);
    double sum = 0;
    for (size_t i = 0; i < tokens.count; i++) {
        sum += tokens.nll[i];
    }
    assert_true(paired.compared && isnan(paired.kl) && isnan(paired.same_top));
    assert_near(paired.reference.nll_sum, sum, 1e-12);
    assert_near(paired.ratio, paired.model.perplexity / paired.reference.perplexity, 1e-12);
    assert_true(paired.ratio_error > 0 && paired.ratio_error < paired.model.perplexity_error / 10);

    /* errors: both kinds of reference at once, and a text with another number of tokens */
    const sqf_status both =
        sqf_eval_ids(d->context, d->model, d->model, NULL, d->ids, COUNT, NULL, &options, &run, &err);
    assert_int_equal(both, SQF_E_ARG);
    const sqf_status shorter =
        sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, 2 * WINDOW, NULL, &options, &run, &err);
    assert_int_equal(shorter, SQF_E_ARG);
    assert_string_equal(err.text, "text: 38 scored tokens, expected 57 as of the reference");
    sqf_eval_tokens_clear(&tokens);
}

static void test_what_cannot_be_scored_is_refused(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_eval_result result;
    sqf_eval_options options = {.window = 4096};
#define EVAL(count) sqf_eval_ids(d->context, d->model, NULL, NULL, d->ids, count, NULL, &options, &result, &err)
    assert_fails(EVAL(COUNT), SQF_E_ARG, &err, "a window of 4096 tokens, expected at most the model's 2048 positions");
    options.window = 1;
    assert_fails(EVAL(COUNT), SQF_E_ARG, &err, "window: found 1 tokens, expected at least 2");
    options.window = WINDOW;
    assert_fails(EVAL(1), SQF_E_ARG, &err, "too little text: 1 token, expected at least 2");
    options.windowing = SQF_WINDOWING_LLAMA_CPP;
    assert_fails(EVAL(WINDOW - 1), SQF_E_ARG, &err, "too little text: 19 tokens, expected at least 20");
    options.windowing = SQF_WINDOWING_STANDARD;
    const uint32_t kept = d->ids[5];
    d->ids[5] = 2048;
    assert_fails(EVAL(COUNT), SQF_E_VALUE, &err, "2048");
    d->ids[5] = kept;
#undef EVAL
    sqf_context_options silent = sqf_context_options_default();
    silent.progress = stop_tokens;
    sqf_context *context;
    assert_ok(sqf_context_create(&silent, &context, &err), &err);
    sqf_model *model;
    assert_ok(sqf_model_open(context, DEMO, &model, &err), &err);
    assert_int_equal(sqf_eval_ids(context, model, NULL, NULL, d->ids, COUNT, NULL, &options, &result, &err),
                     SQF_E_CANCELLED);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
}

static void test_speed_is_given_for_every_repetition(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_bench_result result;
    sqf_bench_options options = {.prefill = 16, .decode = 3, .repetitions = 2};
    assert_ok(sqf_bench_run(d->context, d->model, &options, &result, &err), &err);
    for (size_t i = 0; i < 2; i++) {
        assert_true(isfinite(result.prefill_tokens_per_s[i]) && result.prefill_tokens_per_s[i] > 0);
        assert_true(isfinite(result.decode_tokens_per_s[i]) && result.decode_tokens_per_s[i] > 0);
    }
    assert_true(result.prefill_products.dense > 0 && result.decode_products.dense > 0);
    assert_true(result.cpu[0] != '\0');
    sqf_bench_result_clear(&result);
    options.prefill = 0;
    assert_ok(sqf_bench_run(d->context, d->model, &options, &result, &err), &err);
    assert_null(result.prefill_tokens_per_s);
    sqf_bench_result_clear(&result);
    options.depth = 2000;
    options.decode = 49;
    assert_fails(sqf_bench_run(d->context, d->model, &options, &result, &err), SQF_E_ARG, &err, "2049");
    options.depth = SIZE_MAX - 5;
    assert_fails(sqf_bench_run(d->context, d->model, &options, &result, &err), SQF_E_ARG, &err, "49");
    options.depth = 0;
    options.decode = 4096;
    assert_fails(sqf_bench_run(d->context, d->model, &options, &result, &err), SQF_E_ARG, &err, "4096");
    options.repetitions = 0;
    assert_fails(sqf_bench_run(d->context, d->model, &options, &result, &err), SQF_E_ARG, &err, "repetition");
}

static void test_a_depth_of_the_cache_is_timed(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_bench_result result;
    const sqf_bench_options options = {.prefill = 5, .decode = 2, .repetitions = 1, .depth = 600};
    assert_ok(sqf_bench_run(d->context, d->model, &options, &result, &err), &err);
    assert_true(result.prefill_tokens_per_s[0] > 0 && result.decode_tokens_per_s[0] > 0);
    /* the depth itself is not counted: 5 tokens, the output matrix for one of them */
    const sqf_model_info info = sqf_model_info_get(d->model);
    const uint64_t output = info.vocabulary * info.hidden, layers = info.read_bytes / 2 - output;
    assert_int_equal(result.prefill_products.dense, 5 * layers + output);
    assert_int_equal(result.decode_products.dense, 2 * (layers + output));
    assert_int_equal(result.cache_bytes, 2 * sizeof(float) * info.layers * info.kv_heads * info.head_dim);
    sqf_bench_result_clear(&result);
    /* a batch: every sequence its own tokens; the prefill has one */
    const sqf_bench_options many = {
        .prefill = 5, .decode = 2, .repetitions = 1, .depth = 3, .batch = 4, .kv = SQF_KV_F16};
    assert_ok(sqf_bench_run(d->context, d->model, &many, &result, &err), &err);
    assert_int_equal(result.prefill_products.dense, 5 * layers + output);
    assert_int_equal(result.decode_products.dense, 4 * 2 * (layers + output));
    assert_int_equal(result.cache_bytes, 2 * 2 * info.layers * info.kv_heads * info.head_dim);
    sqf_bench_result_clear(&result);
}

static void test_roofs_are_above_zero_at_every_level(void **state)
{
    (void)state;
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        sqf_error err;
        sqf_context *context;
        sqf_bench_roofs roofs;
        const sqf_context_options options = {.threads = 2, .cpu = *level};
        assert_ok(sqf_context_create(&options, &context, &err), &err);
        assert_ok(sqf_bench_roofs_measure(context, &roofs, &err), &err);
        assert_true(isfinite(roofs.read_gb_per_s) && roofs.read_gb_per_s > 0);
        assert_true(isfinite(roofs.float_gmac_per_s) && roofs.float_gmac_per_s > 0);
        double best = 0;
        for (size_t i = 0; i < roofs.integer_count; i++) {
            assert_true(isfinite(roofs.integer[i].gmac_per_s) && roofs.integer[i].gmac_per_s > 0);
            best = fmax(best, roofs.integer[i].gmac_per_s);
        }
        assert_true(sqf_bench_roofs_integer(&roofs) == best);
        sqf_context_destroy(context);
    }
}

static bool stop_roofs(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    assert_string_equal(what, "rounds of roofs");
    assert_true(done <= total);
    return false;
}

static void test_measuring_roofs_can_be_cancelled(void **state)
{
    (void)state;
    sqf_error err;
    sqf_context *context;
    sqf_bench_roofs roofs;
    sqf_context_options options = sqf_context_options_default();
    options.progress = stop_roofs;
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    assert_int_equal(sqf_bench_roofs_measure(context, &roofs, &err), SQF_E_CANCELLED);
    assert_true(roofs.read_gb_per_s == 0 && roofs.integer_count == 0);
    sqf_context_destroy(context);
}

static void test_an_inspection_lists_and_finds_tensors(void **state)
{
    demo *d = *state;
    sqf_error err;
    sqf_inspection *inspection;
    sqf_inspect_statistics statistics;
    assert_ok(sqf_inspection_open(d->context, DEMO, &inspection, &err), &err);
    assert_int_equal(sqf_inspection_count(inspection), 38);
    const sqf_model_info info = sqf_inspection_info(inspection), loaded = sqf_model_info_get(d->model);
    assert_int_equal(info.parameters, loaded.parameters);
    assert_string_equal(info.scheme, loaded.scheme);
    const sqf_inspect_entry *entry = sqf_inspection_find(inspection, "model.layers.2.mlp.down_proj");
    assert_non_null(entry);
    assert_string_equal(entry->name, "model.layers.2.mlp.down_proj.weight");
    assert_true(entry->linear && !entry->quantized);
    assert_int_equal(entry->shape[1], 768);
    assert_true(entry->stored_bits == 16);
    assert_null(sqf_inspection_find(inspection, "model.layers.9.mlp.down_proj"));
    assert_fails(sqf_inspection_statistics(inspection, entry, &statistics, &err), SQF_E_ARG, &err,
                 "expected a quantized module");
    sqf_inspection_close(inspection);
}

/* The factor that a folded copy gives to element (row, column) of a tensor: smoothing by powers of two, which changes
 * no bit of a bfloat16's significand. */
static float fold_factor(const char *name, size_t row, size_t column)
{
    const char *module = strrchr(name, '.') - 6;
    const int by_input = (int)(column % 5) - 2;                     /* a channel of q, k, v, gate, up */
    const int by_value = (int)(row % 64 % 3) - 1 + (int)(row / 64); /* a row of v: another one in each key/value head */
    const int by_output =
        (int)(column % 64 % 3) - 1 + (int)(column / 128); /* a column of o: two heads share one of v */
    const int by_up = (int)(row % 7) - 3, by_down = (int)(column % 7) - 3;
    if (strstr(name, "layernorm")) {
        return ldexpf(1, -((int)(row % 5) - 2));
    }
    if (strncmp(module, "q_proj", 6) == 0 || strncmp(module, "k_proj", 6) == 0 || strstr(name, "gate_proj")) {
        return ldexpf(1, by_input);
    }
    if (strncmp(module, "v_proj", 6) == 0) {
        return ldexpf(1, by_input - by_value);
    }
    if (strncmp(module, "o_proj", 6) == 0) {
        return ldexpf(1, by_output);
    }
    if (strstr(name, "up_proj")) {
        return ldexpf(1, by_input - by_up);
    }
    return strstr(name, "down_proj") ? ldexpf(1, by_down) : 1.0f;
}

static void write_folded(sqf_tensor_writer *writer, const sqf_tensor *tensor)
{
    sqf_error err;
    const size_t rows = tensor->shape[0], columns = tensor->dimensions == 2 ? tensor->shape[1] : 1;
    uint16_t *values = malloc(tensor->bytes);
    memcpy(values, tensor->data, tensor->bytes);
    for (size_t n = 0; n < rows; n++) {
        for (size_t k = 0; k < columns; k++) {
            const float value = sqf_bf16_to_float(values[n * columns + k]);
            values[n * columns + k] = sqf_bf16_from_float(value * fold_factor(tensor->name, n, k));
        }
    }
    assert_ok(
        sqf_tensor_writer_add(writer, tensor->name, tensor->dtype, tensor->dimensions, tensor->shape, values, &err),
        &err);
    free(values);
}

/* The demo model with smoothing folded into it, in a scratch directory; `more` may add tensors. */
static void make_folded(char path[64], void (*more)(sqf_tensor_writer *writer))
{
    sqf_error err;
    char *config;
    sqf_tensors *tensors;
    sqf_tensor_writer *writer;
    make_scratch(path);
    assert_ok(sqf_path_join(&config, path, "config.json", &err), &err);
    assert_ok(sqf_file_copy(DEMO "/config.json", config, &err), &err);
    free(config);
    assert_ok(sqf_tensors_open(DEMO, &tensors, &err), &err);
    assert_ok(sqf_tensor_writer_create(path, 0, &writer, &err), &err);
    for (size_t i = 0; i < sqf_tensors_count(tensors); i++) {
        write_folded(writer, sqf_tensors_at(tensors, i));
    }
    if (more) {
        more(writer);
    }
    assert_ok(sqf_tensor_writer_finish(writer, &err), &err);
    sqf_tensor_writer_destroy(writer);
    sqf_tensors_close(tensors);
}

static void count_unfolded(void *user, const sqf_compare_entry *entry)
{
    size_t *unfolded = user;
    *unfolded += entry->unfolded;
    if (entry->columns > 1 && entry->relative_error != 0) {
        fail_msg("%s: relative error %g, expected 0", entry->name, entry->relative_error);
    }
}

static void test_a_comparison_undoes_smoothing(void **state)
{
    demo *d = *state;
    sqf_error err;
    char path[64];
    size_t unfolded = 0;
    sqf_compare_summary summary;
    make_folded(path, NULL);
    assert_ok(sqf_compare_models(d->context, DEMO, path, count_unfolded, &unfolded, &summary, &err), &err);
    assert_int_equal(unfolded, 4 * 7);
    assert_true(summary.unfolded);
    assert_int_equal(summary.tensors, 38);
    assert_int_equal(summary.identical, 38 - 8); /* all but the norms of the layers */
    assert_ok(sqf_compare_models(d->context, path, path, NULL, NULL, &summary, &err), &err);
    assert_int_equal(summary.identical, 38);
    assert_false(summary.unfolded);
    remove_scratch(path);
}

static void count_problems(void *user, const char *item, const sqf_error *problem)
{
    (void)item;
    *(size_t *)user += problem != NULL;
}

static void test_a_check_names_what_is_damaged(void **state)
{
    demo *d = *state;
    sqf_error err;
    char path[64], file[96];
    size_t problems = 0;
    sqf_check_summary summary;
    make_folded(path, NULL);
    assert_ok(sqf_check_model(d->context, path, count_problems, &problems, &summary, &err), &err);
    assert_int_equal(problems, 0);
    assert_int_equal(summary.hashed, 38);
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    FILE *stream = fopen(file, "r+b");
    assert_non_null(stream);
    for (long offset = 2000000; offset <= 4000000; offset += 2000000) { /* in two tensors */
        assert_int_equal(fseek(stream, offset, SEEK_SET), 0);
        const int byte = fgetc(stream);
        assert_int_equal(fseek(stream, offset, SEEK_SET), 0);
        fputc(byte ^ 1, stream);
    }
    fclose(stream);
    assert_fails(sqf_check_model(d->context, path, count_problems, &problems, &summary, &err), SQF_E_HASH, &err,
                 "model.safetensors: tensor model.layers.");
    assert_int_equal(problems, 2);
    assert_int_equal(summary.problems, 2);
    remove_scratch(path);
    assert_fails(sqf_check_model(d->context, path, NULL, NULL, &summary, &err), SQF_E_IO, &err, "config.json");
    assert_int_equal(summary.problems, 1);
}

/* Tensors of no decoder: a name longer than any of ours, and one that looks like a part of a quantized module. */
static const char *const foreign[] = {
    "vision."
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.weight",
    "vision.sq_low"};

static void add_foreign(sqf_tensor_writer *writer)
{
    sqf_error err;
    const uint8_t byte = 1;
    const size_t shape[] = {1};
    for (size_t i = 0; i < 2; i++) {
        assert_ok(sqf_tensor_writer_add(writer, foreign[i], SQF_DTYPE_U8, 1, shape, &byte, &err), &err);
    }
}

static void test_tensors_of_other_parts_are_listed_and_checked(void **state)
{
    demo *d = *state;
    sqf_error err;
    char path[64];
    size_t problems = 0;
    sqf_check_summary summary;
    sqf_inspection *inspection;
    make_folded(path, add_foreign);
    assert_ok(sqf_inspection_open(d->context, path, &inspection, &err), &err);
    assert_int_equal(sqf_inspection_count(inspection), 40);
    for (size_t i = 0; i < 2; i++) {
        const sqf_inspect_entry *entry = sqf_inspection_find(inspection, foreign[i]);
        assert_non_null(entry);
        assert_string_equal(entry->name, foreign[i]);
    }
    sqf_inspection_close(inspection);
    assert_ok(sqf_check_model(d->context, path, count_problems, &problems, &summary, &err), &err);
    assert_int_equal(summary.tensors, 40);
    assert_int_equal(problems, 0);
    remove_scratch(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_standard_windows_are_scored_from_their_second_token),
        cmocka_unit_test(test_a_short_text_is_one_window),
        cmocka_unit_test(test_llama_cpp_scores_second_halves_after_its_first_token),
        cmocka_unit_test(test_a_model_does_not_differ_from_itself),
        cmocka_unit_test(test_kept_scores_stand_in_for_a_reference),
        cmocka_unit_test(test_what_cannot_be_scored_is_refused),
        cmocka_unit_test(test_speed_is_given_for_every_repetition),
        cmocka_unit_test(test_a_depth_of_the_cache_is_timed),
        cmocka_unit_test(test_roofs_are_above_zero_at_every_level),
        cmocka_unit_test(test_measuring_roofs_can_be_cancelled),
        cmocka_unit_test(test_an_inspection_lists_and_finds_tensors),
        cmocka_unit_test(test_a_comparison_undoes_smoothing),
        cmocka_unit_test(test_a_check_names_what_is_damaged),
        cmocka_unit_test(test_tensors_of_other_parts_are_listed_and_checked),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
