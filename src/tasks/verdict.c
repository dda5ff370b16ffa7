/* Judging answers as lm-eval does: the first of the largest scores wins; texts are compared after what its exact_match
 * ignores in GSM8K has been taken out. */
#include "tasks/verdict.h"

#include <math.h>
#include <string.h>

#include "tasks/text.h"

void sqf_verdict_clear(sqf_verdict *verdict)
{
    free(verdict->strict);
    free(verdict->flexible);
    *verdict = (sqf_verdict){0};
}

/* What a sum is divided by. */
typedef enum length_unit { UNIT_NONE, UNIT_CHARACTERS, UNIT_BYTES } length_unit;

static double length_of(const char *text, length_unit unit)
{
    const size_t n = strlen(text);
    return unit == UNIT_NONE ? 1 : (double)(unit == UNIT_BYTES ? n : sqf_text_characters(text, n));
}

static size_t choose(const sqf_item *item, const sqf_answer *answer, length_unit unit)
{
    size_t best = 0;
    double largest = -INFINITY;
    for (size_t i = 0; i < sqf_item_options(item); i++) {
        const double score = answer->log_likelihoods[i] / length_of(sqf_item_continuation(item, i), unit);
        if (score > largest) {
            largest = score;
            best = i;
        }
    }
    return best;
}

static void judge_choice(const sqf_item *item, const sqf_answer *answer, sqf_verdict *v)
{
    v->chosen = choose(item, answer, UNIT_NONE);
    v->chosen_norm = choose(item, answer, UNIT_CHARACTERS);
    v->chosen_bytes = choose(item, answer, UNIT_BYTES);
    v->value[SQF_METRIC_ACC] = v->chosen == item->gold;
    v->value[SQF_METRIC_ACC_NORM] = v->chosen_norm == item->gold;
    v->value[SQF_METRIC_ACC_BYTES] = v->chosen_bytes == item->gold;
}

/* Copies text without the characters that lm-eval's regexes_to_ignore take out of GSM8K's answers. */
static size_t drop_signs(const char *text, char *out)
{
    size_t n = 0;
    for (; *text; text++) {
        if (*text != ',' && *text != '$') {
            out[n++] = *text;
        }
    }
    out[n] = '\0';
    return n;
}

/* Where the text goes on behind the last "#### ". */
static const char *behind_mark(const char *text)
{
    static const char mark[] = "#### ";
    for (const char *found; (found = strstr(text, mark)) != NULL;) {
        text = found + strlen(mark);
    }
    return text;
}

sqf_status sqf_answer_normalize(const char *text, char **out, sqf_error *err)
{
    char *plain;
    sqf_buffer lower = {0};
    *out = NULL;
    SQF_TRY(SQF_ALLOC(&plain, strlen(text) + 1, "an answer", err));
    drop_signs(text, plain);
    const char *rest = behind_mark(plain);
    size_t n = strlen(rest);
    /* "\.$" also matches in front of a last line end */
    const bool line_end = n > 0 && rest[n - 1] == '\n';
    const bool stop = n > line_end && rest[n - 1 - line_end] == '.';
    sqf_status status = sqf_buffer_append(&lower, "", 0, err);
    if (status == SQF_OK) {
        status = sqf_text_lower(rest, n - line_end - stop, &lower, err);
    }
    if (status == SQF_OK && line_end) {
        status = sqf_buffer_append(&lower, "\n", 1, err);
    }
    free(plain);
    if (status != SQF_OK) {
        free(lower.data);
        return status;
    }
    *out = lower.data;
    return SQF_OK;
}

/* The first or the last match, stripped, for free(); *out stays NULL where there is none. */
static sqf_status extract(const sqf_regex *regex, const char *text, bool last, char **out, sqf_error *err)
{
    sqf_matcher matcher = {0};
    const sqf_span *found = NULL;
    sqf_status status = sqf_regex_match(regex, text, strlen(text), &matcher, err);
    for (size_t i = 0; status == SQF_OK && i < matcher.count && (last || !found); i++) {
        found = matcher.spans[i].match ? &matcher.spans[i] : found;
    }
    if (found) {
        const sqf_slice slice = sqf_text_strip(text + found->start, found->end - found->start);
        status = sqf_copy_text(out, slice.at, slice.n, err);
    }
    sqf_matcher_clear(&matcher);
    return status;
}

/* What was not found is wrong, even where the right answer were lm-eval's "[invalid]". */
static sqf_status equal_answers(const char *found, const char *right, double *equal, sqf_error *err)
{
    char *a = NULL, *b = NULL;
    *equal = 0;
    if (!found) {
        return SQF_OK;
    }
    sqf_status status = sqf_answer_normalize(found, &a, err);
    if (status == SQF_OK) {
        status = sqf_answer_normalize(right, &b, err);
    }
    if (status == SQF_OK) {
        *equal = strcmp(a, b) == 0;
    }
    free(a);
    free(b);
    return status;
}

static sqf_status judge_generation(const sqf_definition *d, const sqf_item *item, const sqf_answer *answer,
                                   sqf_verdict *v, sqf_error *err)
{
    const char *right = sqf_item_continuation(item, 0);
    SQF_TRY(extract(d->strict_regex, answer->generation, false, &v->strict, err));
    SQF_TRY(extract(d->flexible_regex, answer->generation, true, &v->flexible, err));
    SQF_TRY(equal_answers(v->strict, right, &v->value[SQF_METRIC_ACC], err));
    return equal_answers(v->flexible, right, &v->value[SQF_METRIC_FLEXIBLE], err);
}

sqf_status sqf_verdict_make(const sqf_task *task, const sqf_item *item, const sqf_answer *answer, sqf_verdict *out,
                            sqf_error *err)
{
    *out = (sqf_verdict){0};
    for (size_t m = 0; m < SQF_METRIC_COUNT; m++) {
        out->value[m] = NAN;
    }
    switch (task->definition.kind) {
    case SQF_TASK_CHOICE:
    case SQF_TASK_PARTIAL: judge_choice(item, answer, out); break;
    case SQF_TASK_CLOZE:
        out->value[SQF_METRIC_ACC] = answer->greedy;
        out->value[SQF_METRIC_PERPLEXITY] = -answer->log_likelihoods[0];
        break;
    case SQF_TASK_GENERATE: {
        const sqf_status status = judge_generation(&task->definition, item, answer, out, err);
        if (status != SQF_OK) {
            sqf_verdict_clear(out);
            return status;
        }
        break;
    }
    }
    return SQF_OK;
}
