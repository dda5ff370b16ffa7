/* The golden models: what one version wrote, every later one reads to the same logits and writes to the same bytes; and
 * damaged ones, which every version refuses with the given sentence. tests/golden/models, docs/format.md section 12. */
#include "check.h"

#include <jansson.h>
#include <math.h>

#include <sqf/eval.h>
#include <sqf/inspect.h>
#include <sqf/quantize.h>

#define MODELS SQF_SOURCE_DIR "/tests/golden/models"

enum { PATH_ROOM = 512, FILE_ROOM = 1 << 16, TOKENS = 10, TOP = 20, VOCABULARY = 64 };

/* Relative; of logits, to the largest one. The expected values were computed in float64. */
#define TOLERANCE 1e-4

/* A file of a model, whole; at most FILE_ROOM bytes. */
typedef struct content {
    size_t size;
    unsigned char bytes[FILE_ROOM];
} content;

static const char *text_of(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    assert_non_null(text);
    return text;
}

static json_t *load_rows(const char *name, size_t least)
{
    char path[PATH_ROOM];
    json_error_t problem;
    snprintf(path, sizeof path, MODELS "/%s", name);
    json_t *rows = json_load_file(path, 0, &problem);
    if (!rows) {
        fail_msg("%s: line %d: %s", path, problem.line, problem.text);
    }
    assert_true(json_array_size(rows) >= least);
    return rows;
}

static void read_content(const char *directory, const char *file, content *out)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    FILE *stream = fopen(path, "rb");
    if (!stream) {
        fail_msg("%s: cannot open", path);
    }
    out->size = fread(out->bytes, 1, sizeof out->bytes, stream);
    assert_true(feof(stream));
    fclose(stream);
}

static void write_content(const char *directory, const char *file, const content *from)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(from->bytes, 1, from->size, stream), from->size);
    assert_int_equal(fclose(stream), 0);
}

static sqf_context *create_context(const char *level)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = 2, .cpu = level};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

/* ---- reading ---- */

/* The TOP largest logits after the last token: each id's value, and that no other id has a larger one. */
static void check_top(const json_t *row, const float *logits, const char *level)
{
    const json_t *top = json_object_get(row, "top");
    bool named[VOCABULARY] = {false};
    const double largest = fabs(json_number_value(json_array_get(json_array_get(top, 0), 1)));
    double least = INFINITY, worst = 0;
    assert_int_equal(json_array_size(top), TOP);
    for (size_t i = 0; i < TOP; i++) {
        const size_t id = (size_t)json_integer_value(json_array_get(json_array_get(top, i), 0));
        const double expected = json_number_value(json_array_get(json_array_get(top, i), 1));
        assert_true(id < VOCABULARY && !named[id]);
        named[id] = true;
        least = fmin(least, expected);
        const double error = fabs((double)logits[id] - expected) / largest;
        if (!(error <= TOLERANCE)) {
            fail_msg("%s, %s: logit of %zu: found %.9g, expected %.9g", text_of(row, "model"), level, id,
                     (double)logits[id], expected);
        }
        worst = fmax(worst, error);
    }
    for (size_t id = 0; id < VOCABULARY; id++) {
        assert_true(named[id] || (double)logits[id] <= least + TOLERANCE * largest);
    }
    print_message("  %-16s %-10s largest deviation of a logit %.1e\n", text_of(row, "model"), level, worst);
}

static void check_logits(const json_t *row, sqf_context *context, const char *directory)
{
    sqf_error err;
    sqf_model *model;
    sqf_session *session;
    sqf_eval_result result;
    uint32_t ids[TOKENS];
    float logits[VOCABULARY];
    const char *level = sqf_context_cpu(context);
    const json_t *tokens = json_object_get(row, "ids");
    assert_int_equal(json_array_size(tokens), TOKENS);
    for (size_t i = 0; i < TOKENS; i++) {
        ids[i] = (uint32_t)json_integer_value(json_array_get(tokens, i));
    }
    assert_ok(sqf_model_open(context, directory, &model, &err), &err);
    assert_int_equal(sqf_model_info_get(model).vocabulary, VOCABULARY);
    assert_ok(sqf_session_create(model, TOKENS, &session, &err), &err);
    assert_ok(sqf_session_forward(session, ids, TOKENS, &err), &err);
    assert_ok(sqf_session_logits(session, TOKENS - 1, 1, logits, &err), &err);
    check_top(row, logits, level);

    sqf_eval_options options = sqf_eval_options_default();
    options.window = TOKENS;
    assert_ok(sqf_eval_ids(context, model, NULL, NULL, ids, TOKENS, NULL, &options, &result, &err), &err);
    const double perplexity = json_number_value(json_object_get(row, "perplexity"));
    if (!(fabs(result.model.perplexity / perplexity - 1) <= TOLERANCE)) {
        fail_msg("%s, %s: perplexity: found %.9g, expected %.9g", text_of(row, "model"), level, result.model.perplexity,
                 perplexity);
    }
    sqf_session_destroy(session);
    sqf_model_destroy(model);
}

static void test_every_level_reads_the_golden_models_to_the_same_logits(void **state)
{
    (void)state;
    sqf_error err;
    char directory[PATH_ROOM];
    json_t *rows = load_rows("good.json", 10);
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        sqf_context *context = create_context(*level);
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i);
            sqf_check_summary summary;
            snprintf(directory, sizeof directory, MODELS "/%s", text_of(row, "model"));
            assert_ok(sqf_check_model(context, directory, NULL, NULL, &summary, &err), &err);
            assert_int_equal(summary.hashed, strcmp(text_of(row, "model"), "original") == 0 ? 0 : summary.tensors);
            check_logits(row, context, directory);
        }
        sqf_context_destroy(context);
    }
    json_decref(rows);
}

/* ---- writing ---- */

static void check_same_file(const char *golden, const char *written, const char *file, const char *level)
{
    static content expected, found;
    read_content(golden, file, &expected);
    read_content(written, file, &found);
    const size_t shorter = expected.size < found.size ? expected.size : found.size;
    for (size_t i = 0; i < shorter; i++) {
        if (expected.bytes[i] != found.bytes[i]) {
            fail_msg("%s/%s, %s: byte %zu: found %02x, expected %02x", golden, file, level, i, found.bytes[i],
                     expected.bytes[i]);
        }
    }
    assert_int_equal(found.size, expected.size);
}

/* Quantizes the original again by the recipe that stands beside the golden model. The recipe that is written beside the
 * result is not compared: it lists every key that the program has, and those become more. */
static void check_writer(const char *name, sqf_context *context, const char *written)
{
    sqf_error err;
    sqf_recipe *recipe;
    char golden[PATH_ROOM], path[PATH_ROOM];
    sqf_quantize_options options = sqf_quantize_options_default();
    options.force = true;
    snprintf(golden, sizeof golden, MODELS "/%s", name);
    snprintf(path, sizeof path, MODELS "/%s/recipe.yaml", name);
    assert_ok(sqf_recipe_load(path, &recipe, &err), &err);
    assert_ok(sqf_quantize(context, MODELS "/original", written, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    check_same_file(golden, written, "model.safetensors", sqf_context_cpu(context));
    check_same_file(golden, written, "config.json", sqf_context_cpu(context));
}

static void test_every_level_writes_the_golden_models_byte_for_byte(void **state)
{
    (void)state;
    char scratch[64], written[96];
    json_t *rows = load_rows("good.json", 10);
    make_scratch(scratch);
    snprintf(written, sizeof written, "%s/model", scratch);
    size_t compared = 0;
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        sqf_context *context = create_context(*level);
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i);
            /* a calibrated model: BLAS rounds sums as the CPU likes, so its codes may be others elsewhere */
            if (strcmp(text_of(row, "model"), "original") != 0 && json_is_false(json_object_get(row, "calibrated"))) {
                check_writer(text_of(row, "model"), context, written);
                compared++;
            }
        }
        sqf_context_destroy(context);
    }
    assert_true(compared >= 9);
    remove_scratch(scratch);
    json_decref(rows);
}

/* ---- refusing ---- */

static void edit(content *bytes, const json_t *row)
{
    const json_t *edits = json_object_get(row, "edits");
    assert_true(json_array_size(edits) > 0);
    for (size_t i = 0; i < json_array_size(edits); i++) {
        const json_t *item = json_array_get(edits, i);
        size_t at = (size_t)json_integer_value(json_array_get(item, 0));
        const char *digits = json_string_value(json_array_get(item, 1));
        assert_non_null(digits);
        for (unsigned byte; sscanf(digits, "%2x", &byte) == 1; digits += digits[2] ? 3 : 2, at++) {
            assert_true(at < bytes->size);
            bytes->bytes[at] = (unsigned char)byte;
        }
    }
}

static void check_refused(const json_t *row, sqf_context *context, const char *directory)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
    static content bytes;
    sqf_error err = {0};
    sqf_model *model = NULL;
    char golden[PATH_ROOM], expected[PATH_ROOM + SQF_ERROR_TEXT];
    const char *message = text_of(row, "message");
    snprintf(golden, sizeof golden, MODELS "/%s", text_of(row, "model"));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        read_content(golden, files[i], &bytes);
        if (strcmp(files[i], text_of(row, "file")) == 0) {
            edit(&bytes, row);
        }
        write_content(directory, files[i], &bytes);
    }
    assert_true(strncmp(message, "MODEL/", 6) == 0);
    snprintf(expected, sizeof expected, "%s/%s", directory, message + 6);
    assert_int_not_equal(sqf_model_open(context, directory, &model, &err), SQF_OK);
    assert_null(model);
    assert_string_equal(err.text, expected);
    assert_int_not_equal(sqf_check_model(context, directory, NULL, NULL, NULL, &err), SQF_OK);
}

static void test_damaged_golden_models_are_refused_with_the_same_sentence(void **state)
{
    (void)state;
    char scratch[64];
    json_t *rows = load_rows("bad.json", 12);
    sqf_context *context = create_context(NULL);
    make_scratch(scratch);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        print_message("  %s\n", text_of(row, "about"));
        check_refused(row, context, scratch);
    }
    remove_scratch(scratch);
    sqf_context_destroy(context);
    json_decref(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_level_reads_the_golden_models_to_the_same_logits),
        cmocka_unit_test(test_every_level_writes_the_golden_models_byte_for_byte),
        cmocka_unit_test(test_damaged_golden_models_are_refused_with_the_same_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
