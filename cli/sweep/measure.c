/* Measuring a point as a user would: quantize into a directory, open what was written, evaluate it. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "measure.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <sqf/eval.h>

#include "../output.h"
#include "benchmarks.h"

uint64_t peak_memory(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0; /* kB on Linux */
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    remove(path);
    return 0;
}

void remove_directory(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Seconds of processor time of this process so far: what a point costs whatever else the machine does. */
static double processor_seconds(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return NAN;
    }
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Silent: several of these share one terminal. Signals still cancel. */
static sqf_status open_context(unsigned threads, sqf_context **out, sqf_error *err)
{
    sqf_context_options options = sqf_context_options_default();
    options.threads = threads;
    progress_begin(true, false, &options);
    return sqf_context_create(&options, out, err);
}

static sqf_eval_options eval_options(const json_t *settings)
{
    sqf_eval_options options = sqf_eval_options_default();
    options.window = settings_count(settings, "window");
    options.max_tokens = settings_count(settings, "max_tokens");
    return options;
}

/* A count and so many doubles: both ends are this program on this machine. */
static bool write_tokens(const char *path, const sqf_eval_tokens *tokens)
{
    FILE *file = fopen(path, "wb");
    if (!file) {
        return false;
    }
    const bool fine = fwrite(&tokens->count, sizeof tokens->count, 1, file) == 1 &&
                      fwrite(tokens->nll, sizeof *tokens->nll, tokens->count, file) == tokens->count;
    return fclose(file) == 0 && fine;
}

static bool read_tokens(const char *path, sqf_eval_tokens *tokens)
{
    *tokens = (sqf_eval_tokens){0};
    FILE *file = fopen(path, "rb");
    if (!file) {
        return false;
    }
    size_t count = 0;
    bool fine = fread(&count, sizeof count, 1, file) == 1 && count < SIZE_MAX / sizeof(double);
    if (fine) {
        tokens->count = count;
        tokens->nll = malloc((count + 1) * sizeof *tokens->nll);
        fine = tokens->nll && fread(tokens->nll, sizeof *tokens->nll, count, file) == count;
    }
    fclose(file);
    return fine;
}

static sqf_status fail_file(const char *path, sqf_error *err)
{
    err->status = SQF_E_IO;
    snprintf(err->text, sizeof err->text, "%.300s: cannot keep the reference's scores: %.100s", path, strerror(errno));
    return SQF_E_IO;
}

/* What is open while something is measured. */
typedef struct bench {
    sqf_context *context;
    sqf_tokenizer *tokenizer;
    sqf_model *model, *original;
} bench;

static void bench_clear(bench *b)
{
    sqf_model_destroy(b->original);
    sqf_model_destroy(b->model);
    sqf_tokenizer_destroy(b->tokenizer);
    sqf_context_destroy(b->context);
}

int measure_reference(const sweep_reference *reference, unsigned threads, sqf_error *err)
{
    const char *directory = settings_text(reference->settings, "model");
    bench b = {0};
    sqf_eval_result result;
    sqf_eval_tokens tokens = {0};
    sqf_eval_options options = eval_options(reference->settings);
    options.keep = &tokens;
    sqf_status status = open_context(threads, &b.context, err);
    if (status == SQF_OK) {
        status = sqf_model_open(b.context, directory, &b.model, err);
    }
    if (status == SQF_OK) {
        status = sqf_tokenizer_load(directory, &b.tokenizer, err);
    }
    if (status == SQF_OK) {
        status = sqf_eval_file(b.context, b.model, NULL, b.tokenizer, reference->text, &options, &result, err);
    }
    if (status == SQF_OK && !write_tokens(reference->path, &tokens)) {
        status = fail_file(reference->path, err);
    }
    sqf_eval_tokens_clear(&tokens);
    bench_clear(&b);
    return status == SQF_OK ? EXIT_DONE : EXIT_BAD;
}

static sqf_status quantize_point(const sweep_job *job, sqf_context *context, sqf_quantize_summary *summary,
                                 sqf_error *err)
{
    const json_t *settings = job->point->settings;
    const char *calibration = settings_text(settings, "calib");
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = strcmp(calibration, "none") == 0 ? NULL : calibration;
    options.samples = settings_count(settings, "samples");
    options.length = settings_count(settings, "length");
    options.random_windows = settings_switch(settings, "calib_random");
    options.seed = settings_count(settings, "seed");
    options.force = true;
    return sqf_quantize(context, settings_text(settings, "model"), job->directory, job->point->recipe, &options,
                        summary, err);
}

static void set_number(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, json_number(value));
}

/* Accuracy on one text. */
static json_t *eval_json(const char *text, const sqf_eval_result *result)
{
    const json_figure figures[] = {
        {"perplexity", result->model.perplexity},
        {"perplexity_error", result->model.perplexity_error},
        {"reference_perplexity", result->reference.perplexity},
        {"difference", result->difference},
        {"difference_error", result->difference_error},
        {"ratio", result->ratio},
        {"ratio_error", result->ratio_error},
        {"kl", result->kl},
        {"kl_error", result->kl_error},
        {"same_top", result->same_top},
    };
    json_t *object = json_object();
    json_object_set_new(object, "text", json_text(text, strlen(text)));
    json_set_numbers(object, figures, sizeof figures / sizeof *figures);
    json_object_set_new(object, "scored_tokens", json_count(result->scored_tokens));
    return object;
}

/* One text, against the kept scores or the reference that runs beside the model. */
static sqf_status evaluate_text(const sweep_job *job, const bench *b, const char *text, size_t index,
                                sqf_eval_result *result, sqf_error *err)
{
    sqf_eval_options options = eval_options(job->point->settings);
    sqf_eval_tokens tokens = {0};
    const sweep_reference *reference = job->references[index];
    if (reference) {
        if (!read_tokens(reference->path, &tokens)) {
            sqf_eval_tokens_clear(&tokens);
            return fail_file(reference->path, err);
        }
        options.paired = &tokens;
    }
    const sqf_status status =
        sqf_eval_file(b->context, b->model, b->original, b->tokenizer, text, &options, result, err);
    sqf_eval_tokens_clear(&tokens);
    return status;
}

/* All texts; the first one's figures stand at the outer level, all of them under "texts" where there are several. */
static sqf_status evaluate_point(const sweep_job *job, const bench *b, json_t *figures, sqf_error *err)
{
    const json_t *texts = json_object_get(job->point->settings, "text");
    json_t *list = json_array();
    sqf_status status = SQF_OK;
    double seconds = 0;
    for (size_t i = 0; i < json_array_size(texts) && status == SQF_OK; i++) {
        const char *text = json_string_value(json_array_get(texts, i));
        sqf_eval_result result;
        status = evaluate_text(job, b, text, i, &result, err);
        if (status != SQF_OK) {
            break;
        }
        seconds += result.model.seconds + result.reference.seconds;
        json_array_append_new(list, eval_json(text, &result));
        if (i == 0) {
            const sqf_product_counts *counts = &result.model.products;
            const double all = (double)counts->floating + (double)counts->integer_high + (double)counts->integer_low;
            set_number(figures, "low_rate_share", all > 0 ? (double)counts->integer_low / all : 0);
        }
    }
    if (status == SQF_OK) {
        json_object_update_missing(figures, json_array_get(list, 0));
        json_object_del(figures, "text");
        set_number(figures, "eval_seconds", seconds);
        if (json_array_size(list) > 1) {
            json_object_set(figures, "texts", list);
        }
    }
    json_decref(list);
    return status;
}

/* Opens what was written, and the original where it runs beside it; bits and cost. */
static sqf_status open_point(const sweep_job *job, bench *b, json_t *figures, sqf_error *err)
{
    const char *original = settings_text(job->point->settings, "model");
    sqf_status status = sqf_model_open(b->context, job->directory, &b->model, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_load(original, &b->tokenizer, err);
    }
    if (status == SQF_OK && settings_switch(job->point->settings, "kl")) {
        status = sqf_model_open(b->context, original, &b->original, err);
    }
    if (status == SQF_OK) {
        const sqf_model_info info = sqf_model_info_get(b->model);
        set_number(figures, "stored_bits", info.bits_per_weight);
        set_number(figures, "weights_equivalent_bits", info.weights_equivalent_bits);
        set_number(figures, "activations_equivalent_bits", info.activations_equivalent_bits);
        set_number(figures, "predicted_cost", info.predicted_cost);
    }
    return status;
}

json_t *measure_point(const sweep_job *job, sqf_error *err)
{
    const double start = now();
    bench b = {0};
    json_t *figures = json_object();
    sqf_quantize_summary summary = {0};
    sqf_status status = open_context(job->threads, &b.context, err);
    if (status == SQF_OK) {
        status = quantize_point(job, b.context, &summary, err);
    }
    if (status == SQF_OK) {
        status = open_point(job, &b, figures, err);
    }
    if (status == SQF_OK) {
        status = evaluate_point(job, &b, figures, err);
    }
    if (status == SQF_OK) {
        status = add_benchmarks(b.context, b.model, b.original, b.tokenizer, job->point->settings, figures, err);
    }
    bench_clear(&b);
    if (!job->keep || status != SQF_OK) {
        remove_directory(job->directory);
    }
    if (status != SQF_OK) {
        json_decref(figures);
        return NULL;
    }
    set_number(figures, "mean_output_error", summary.mean_output_error);
    set_number(figures, "quantize_seconds", summary.seconds);
    set_number(figures, "seconds", now() - start);
    set_number(figures, "processor_seconds", processor_seconds());
    json_object_set_new(figures, "peak_memory_bytes", json_count(peak_memory()));
    return figures;
}
