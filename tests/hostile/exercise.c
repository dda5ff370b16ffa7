/* Calls of the public interface in the order in which a program makes them. */
#include "exercise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/eval.h>
#include <sqf/generate.h>
#include <sqf/inspect.h>
#include <sqf/quantize.h>

#include "base/file.h"
#include "victim.h"

enum { WINDOW = 8, PROMPT = 4, DRAWN = 3 };

/* True if the call succeeded; an error must have a status, and one line that says something. */
static bool note(exercise_counts *counts, const char *call, sqf_status status, sqf_error *err)
{
    if (status == SQF_OK) {
        counts->fine++;
        return true;
    }
    counts->refused++;
    bool good = err->status == status && strlen(err->text) >= 4 && strlen(err->text) < SQF_ERROR_TEXT;
    for (const char *c = err->text; *c; c++) {
        good = good && (unsigned char)*c >= 0x20;
    }
    if (!good && counts->broken++ == 0) {
        snprintf(counts->complaint, sizeof counts->complaint, "%s: %s: \"%s\"", call, sqf_status_name(status),
                 err->text);
    }
    *err = (sqf_error){0};
    return false;
}

static void exercise_tokenizer(const sqf_tokenizer *tokenizer, exercise_counts *counts)
{
    static const char odd[] = "a \xff\xfe\0b <begin>  \xf0\x9f\x98\x80 then the 12345\n\n\t";
    sqf_error err = {0};
    sqf_ids ids = {0};
    char *bytes = NULL;
    size_t n;
    note(counts, "encode", sqf_tokenizer_encode(tokenizer, victim_text, strlen(victim_text), false, &ids, &err), &err);
    note(counts, "encode", sqf_tokenizer_encode(tokenizer, odd, sizeof odd - 1, true, &ids, &err), &err);
    note(counts, "decode", sqf_tokenizer_decode(tokenizer, ids.data, ids.count, true, &bytes, &n, &err), &err);
    free(bytes);
    sqf_ids_clear(&ids);
}

static bool stop_never(void *user, uint32_t id, const char *text)
{
    (void)user;
    (void)id;
    (void)text;
    return true;
}

static void exercise_session(const sqf_model *model, const sqf_tokenizer *tokenizer, exercise_counts *counts)
{
    const sqf_model_info info = sqf_model_info_get(model);
    const uint32_t prompt[PROMPT] = {5, 70, 256, 12};
    sqf_error err = {0};
    sqf_session *session = NULL;
    float *logits = calloc(info.vocabulary, sizeof *logits);
    if (!logits || !note(counts, "session", sqf_session_create(model, WINDOW, &session, &err), &err)) {
        free(logits);
        return;
    }
    sqf_generation generation = {0};
    sqf_generate_options options = {.max_tokens = DRAWN, .sampling = sqf_model_sampling(model), .token = stop_never};
    options.stop_ids = sqf_model_end_ids(model, &options.stop_count);
    if (note(counts, "forward", sqf_session_forward(session, prompt, PROMPT, &err), &err)) {
        note(counts, "logits", sqf_session_logits(session, PROMPT - 1, 1, logits, &err), &err);
    }
    sqf_session_reset(session);
    note(counts, "generate", sqf_generate(model, session, tokenizer, prompt, PROMPT, &options, &generation, &err),
         &err);
    sqf_ids_clear(&generation.ids);
    sqf_session_destroy(session);
    free(logits);
}

static void exercise_model(sqf_context *context, const char *directory, const sqf_tokenizer *tokenizer,
                           exercise_counts *counts)
{
    sqf_error err = {0};
    sqf_model *model;
    if (!note(counts, "open", sqf_model_open(context, directory, &model, &err), &err)) {
        return;
    }
    exercise_session(model, tokenizer, counts);
    if (tokenizer) {
        sqf_eval_options options = sqf_eval_options_default();
        sqf_eval_result result;
        options.window = WINDOW;
        options.max_tokens = 2 * WINDOW;
        note(counts, "eval",
             sqf_eval_text(context, model, NULL, tokenizer, victim_text, strlen(victim_text), &options, &result, &err),
             &err);
    }
    sqf_model_destroy(model);
}

static void ignore_item(void *user, const char *item, const sqf_error *problem)
{
    exercise_counts *counts = user;
    sqf_error copy = problem ? *problem : (sqf_error){0};
    note(counts, item, copy.status, &copy);
}

static void exercise_check(sqf_context *context, const char *directory, exercise_counts *counts)
{
    sqf_error err = {0};
    sqf_check_summary summary;
    sqf_inspection *inspection;
    note(counts, "check", sqf_check_model(context, directory, ignore_item, counts, &summary, &err), &err);
    if (!note(counts, "inspect", sqf_inspection_open(context, directory, &inspection, &err), &err)) {
        return;
    }
    for (size_t i = 0; i < sqf_inspection_count(inspection); i++) {
        const sqf_inspect_entry *entry = sqf_inspection_at(inspection, i);
        sqf_inspect_statistics statistics;
        if (entry->quantized) {
            note(counts, "statistics", sqf_inspection_statistics(inspection, entry, &statistics, &err), &err);
        }
    }
    sqf_inspection_close(inspection);
}

static void exercise_quantize(sqf_context *context, const char *directory, const char *scratch, exercise_counts *counts)
{
    sqf_error err = {0};
    sqf_scheme scheme;
    sqf_recipe *recipe;
    char text[VICTIM_PATH + 32];
    if (!note(counts, "scheme", sqf_scheme_parse("W4A(SQ6),group=16;bank=8", &scheme, &err), &err)) {
        return;
    }
    const sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    sqf_quantize_options options = sqf_quantize_options_default();
    snprintf(text, sizeof text, "%s/text.txt", directory);
    options.calibration = text;
    options.samples = 2;
    options.length = 8;
    if (!note(counts, "recipe", sqf_recipe_create(&base, &recipe, &err), &err)) {
        return;
    }
    const bool made =
        note(counts, "quantize", sqf_quantize(context, directory, scratch, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    if (made != sqf_path_exists(scratch) && counts->broken++ == 0) {
        snprintf(counts->complaint, sizeof counts->complaint, "quantize: the output %s",
                 made ? "is missing" : "exists");
    }
    if (sqf_path_exists(scratch)) {
        char command[VICTIM_PATH + 16];
        snprintf(command, sizeof command, "rm -rf '%s'", scratch);
        counts->broken += system(command) != 0;
    }
}

static void ignore_tensor(void *user, const sqf_compare_entry *entry)
{
    (void)user;
    (void)entry;
}

void exercise_directory(sqf_context *context, const char *directory, const char *other, const char *scratch,
                        exercise_extra extra, exercise_counts *counts)
{
    sqf_error err = {0};
    sqf_tokenizer *tokenizer = NULL;
    sqf_compare_summary summary;
    if (note(counts, "tokenizer", sqf_tokenizer_load(directory, &tokenizer, &err), &err)) {
        exercise_tokenizer(tokenizer, counts);
    }
    exercise_model(context, directory, tokenizer, counts);
    switch (extra) {
    case EXERCISE_CHECK: exercise_check(context, directory, counts); break;
    case EXERCISE_COMPARE:
        note(counts, "compare", sqf_compare_models(context, directory, other, ignore_tensor, NULL, &summary, &err),
             &err);
        break;
    case EXERCISE_QUANTIZE: exercise_quantize(context, directory, scratch, counts); break;
    case EXERCISE_NOTHING: break;
    }
    sqf_tokenizer_destroy(tokenizer);
}

void exercise_recipe(const char *yaml, size_t n, exercise_counts *counts)
{
    sqf_error err = {0};
    sqf_recipe *recipe;
    sqf_module_recipe module;
    bool ignored;
    char *text = NULL;
    if (!note(counts, "recipe", sqf_recipe_parse(yaml, n, "recipe.yaml", &recipe, &err), &err)) {
        return;
    }
    note(counts, "resolve", sqf_recipe_resolve(recipe, "model.layers.0.mlp.down_proj", &module, &ignored, &err), &err);
    note(counts, "print", sqf_recipe_print(recipe, &text, &err), &err);
    free(text);
    sqf_recipe_destroy(recipe);
}
