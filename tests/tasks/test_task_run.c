/* Runs of tasks on the demo model: sharing a beginning changes nothing, resuming repeats nothing, hostile items and
 * settings are refused in one line. */
#include "tasks/demo.h"

#include <math.h>

#include <sqf/generate.h>

#include "base/file.h"

/* A file in the scratch folder; its path, valid until the next call. */
static const char *write_file(const demo *d, const char *name, const char *text, size_t n)
{
    static char path[160];
    sqf_error err;
    snprintf(path, sizeof path, "%s/%s", d->scratch, name);
    remove(path);
    assert_ok(sqf_file_write(path, text, n, &err), &err);
    return path;
}

static sqf_status run_file(const demo *d, const char *path, const char *task_file, const sqf_tasks_options *options,
                           const sqf_model *reference, sqf_task_result *result, sqf_error *err)
{
    sqf_task *task;
    const sqf_status status = sqf_task_load(path, task_file, &task, err);
    if (status != SQF_OK) {
        assert_null(task);
        return status;
    }
    const sqf_status ran = sqf_tasks_run(d->context, d->model, reference, d->tokenizer, (const sqf_task *const *)&task,
                                         1, options, result, err);
    sqf_task_destroy(task);
    return ran;
}

static char *read_text(const char *path)
{
    sqf_buffer text = {0};
    sqf_error err;
    assert_ok(sqf_file_read(path, 1 << 24, &text, &err), &err);
    return text.data;
}

static sqf_tasks_options options_with(const char *items, bool resume)
{
    sqf_tasks_options options = sqf_tasks_options_default();
    options.items = items;
    options.resume = resume;
    options.resamples = 50;
    return options;
}

/* The items file of a whole run, and of one that was cut in the middle of a line and resumed, are the same bytes. */
static void test_resuming_gives_the_same_file(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_task_result whole, resumed;
    char first[160], second[160];
    snprintf(first, sizeof first, "%s/whole.jsonl", d->scratch);
    snprintf(second, sizeof second, "%s/resumed.jsonl", d->scratch);
    sqf_tasks_options options = options_with(first, false);
    options.few_shot = 2;
    const char *items = DATA "/continuation-mcq.jsonl";
    assert_ok(run_file(d, items, NULL, &options, d->model, &whole, &err), &err);
    char *text = read_text(first), *third = text;
    for (int i = 0; i < 3; i++) {
        third = strchr(third, '\n') + 1;
    }
    assert_ok(sqf_file_write(second, text, (size_t)(third - text) + 20, &err), &err);
    options.items = second;
    options.resume = true;
    assert_ok(run_file(d, items, NULL, &options, d->model, &resumed, &err), &err);
    char *again = read_text(second);
    assert_string_equal(text, again);
    assert_int_equal(resumed.resumed, 3);
    assert_true(resumed.tokens_run < whole.tokens_run && resumed.tokens_run > 0);
    assert_true(resumed.model[SQF_METRIC_ACC].value == whole.model[SQF_METRIC_ACC].value);
    /* once more: everything is there */
    assert_ok(run_file(d, items, NULL, &options, d->model, &resumed, &err), &err);
    assert_true(resumed.resumed == 6 && resumed.tokens_run == 0);
    /* the model against itself */
    assert_true(whole.compared && whole.change[SQF_METRIC_ACC].difference == 0);
    assert_true(whole.change[SQF_METRIC_ACC].p_value == 1 && !whole.change[SQF_METRIC_ACC].significant);
    free(text);
    free(again);
}

/* The log-likelihood of a choice in every line of an items file, in order. */
static void read_choice(const char *path, size_t choice, size_t items, double *out)
{
    static const char key[] = "\"log_likelihoods\":[";
    char *text = read_text(path);
    const char *at = text;
    for (size_t i = 0; i < items; i++) {
        at = strstr(at, key) + strlen(key);
        for (size_t skipped = 0; skipped < choice; skipped++) {
            at = strchr(at, ',') + 1;
        }
        out[i] = strtod(at, NULL);
    }
    free(text);
}

/* Choices that share their context are scored as if each came alone. */
static void test_sharing_changes_nothing(void **state)
{
    enum { ITEMS = 6 };
    const demo *d = *state;
    sqf_error err;
    sqf_task_result together, apart;
    char first[160], second[160], task[128];
    double a[ITEMS], b[ITEMS];
    snprintf(first, sizeof first, "%s/together.jsonl", d->scratch);
    snprintf(second, sizeof second, "%s/apart.jsonl", d->scratch);
    sqf_tasks_options options = options_with(first, false);
    const char *items = DATA "/continuation-mcq.jsonl";
    assert_ok(run_file(d, items, NULL, &options, NULL, &together, &err), &err);
    assert_true(together.tokens_reused > 0 && together.items == ITEMS);
    options.items = second;
    for (size_t choice = 0; choice < 4; choice++) {
        snprintf(task, sizeof task, "kind: cloze\ncontext: \"{ctx}\"\ncontinuation: \"{endings.%zu}\"\n", choice);
        const char *file = write_file(d, "alone.yaml", task, strlen(task));
        remove(second);
        assert_ok(run_file(d, items, file, &options, NULL, &apart, &err), &err);
        assert_true(apart.tokens_reused == 0);
        read_choice(first, choice, ITEMS, a);
        read_choice(second, 0, ITEMS, b);
        for (size_t i = 0; i < ITEMS; i++) {
            assert_true(a[i] < 0 && fabs(a[i] - b[i]) < 1e-4);
        }
    }
}

static void test_items_of_something_else_are_refused(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_task_result result;
    char items[160];
    snprintf(items, sizeof items, "%s/other.jsonl", d->scratch);
    sqf_tasks_options options = options_with(items, false);
    options.limit = 2;
    assert_ok(run_file(d, DATA "/piqa.jsonl", NULL, &options, NULL, &result, &err), &err);
    assert_int_equal(result.items, 2);
    assert_fails(run_file(d, DATA "/piqa.jsonl", NULL, &options, NULL, &result, &err), SQF_E_EXISTS, &err,
                 "other.jsonl: exists; expected a new file, or to resume it");
    options.resume = true;
    options.few_shot = 1;
    assert_fails(run_file(d, DATA "/piqa.jsonl", NULL, &options, NULL, &result, &err), SQF_E_FORMAT, &err,
                 "other.jsonl: line 1: computed with another task or other settings: settings ");
    options.few_shot = 0;
    assert_fails(run_file(d, DATA "/piqa.jsonl", NULL, &options, d->model, &result, &err), SQF_E_FORMAT, &err,
                 "other.jsonl: line 1: computed with other models: models ");
    /* items of another task of the same models stay where they are */
    assert_ok(run_file(d, DATA "/winogrande.jsonl", NULL, &options, NULL, &result, &err), &err);
    options.limit = 0;
    assert_ok(run_file(d, DATA "/piqa.jsonl", NULL, &options, NULL, &result, &err), &err);
    assert_true(result.resumed == 2 && result.items == 3);
    options.items = NULL;
    assert_fails(run_file(d, DATA "/piqa.jsonl", NULL, &options, NULL, &result, &err), SQF_E_ARG, &err,
                 "resume: expected an items file");
}

/* A context beyond the positions loses its beginning; a generated answer must leave room for a prompt. */
static void test_positions_end(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_task_result result;
    enum { WORDS = 3000 };
    char *line = calloc(WORDS * 5 + 200, 1);
    size_t n = (size_t)sprintf(line, "{\"context\": \"");
    for (size_t i = 0; i < WORDS; i++) {
        n += (size_t)sprintf(line + n, "word ");
    }
    n += (size_t)sprintf(line + n, "the\", \"continuation\": \"end\"}\n");
    const char *path = write_file(d, "lambada.jsonl", line, n);
    sqf_tasks_options options = options_with(NULL, false);
    assert_ok(run_file(d, path, NULL, &options, NULL, &result, &err), &err);
    assert_int_equal(result.truncated, 1);
    assert_int_equal(result.tokens_run, 2048);
    n = (size_t)sprintf(line, "{\"context\": \"a\", \"continuation\": \"");
    for (size_t i = 0; i < WORDS; i++) {
        n += (size_t)sprintf(line + n, "word ");
    }
    n += (size_t)sprintf(line + n, "\"}\n");
    path = write_file(d, "lambada.jsonl", line, n);
    assert_fails(run_file(d, path, NULL, &options, NULL, &result, &err), SQF_E_VALUE, &err,
                 "tokens, expected at most the model's 2048 positions");
    options.max_new_tokens = 2048;
    assert_fails(run_file(d, DATA "/gsm8k.jsonl", NULL, &options, NULL, &result, &err), SQF_E_ARG, &err,
                 "gsm8k.jsonl: 2048 new tokens, expected fewer than the 2048 positions");
    options.max_new_tokens = 2040;
    options.limit = 1;
    options.few_shot = 4;
    assert_fails(run_file(d, DATA "/gsm8k.jsonl", NULL, &options, NULL, &result, &err), SQF_E_ARG, &err,
                 "4 examples were asked for, only 3 other items are there");
    free(line);
}

typedef struct bad_items {
    const char *text, *message;
} bad_items;

static void test_hostile_items_give_one_line(void **state)
{
    const demo *d = *state;
    static const bad_items bad[] = {
        {"", "copa.jsonl: expected items, one JSON object a line, found none"},
        {"\n \n", "copa.jsonl: expected items"},
        {"{\"query\": \"a\", \"choices\": [\"b\xff\", \"c\"], \"gold\": 0}\n", "copa.jsonl: line 1: not valid JSON: "},
        {"{}\n", "copa.jsonl: line 1: query: expected a text, found nothing"},
        {"[]\n", "copa.jsonl: line 1: expected an object"},
        {"\n{\"query\": [], \"choices\": [\"b\", \"c\"], \"gold\": 0}\n", "copa.jsonl: line 2: query: expected a text"},
        {"{\"query\": \"a\", \"choices\": \"b\", \"gold\": 0}\n", "line 1: choices: expected a list of texts"},
        {"{\"query\": \"a\", \"choices\": [\"b\", 3], \"gold\": 0}\n", "choices: place 1: expected a text"},
        {"{\"query\": \"a\", \"choices\": [], \"gold\": 0}\n", "line 1: expected at least two choices, found 0"},
        {"{\"query\": \"a\", \"choices\": [\"b\"], \"gold\": 0}\n", "line 1: expected at least two choices, found 1"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"\"], \"gold\": 0}\n", "line 1: choice 1 is empty"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 2}\n",
         "line 1: gold: expected one of the 2 choices (0 to 1), found 2"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": -1}\n", "found -1"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": \"0x1\"}\n", "found 0x1"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0.5}\n", "gold: expected the right choice"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"]}\n", "gold: expected the right choice, found nothing"},
        {"{\"query\": \"a\\u0000b\", \"choices\": [\"b\", \"c\"], \"gold\": 0}\n", "the text holds a NUL character"},
        {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0} x\n", "line 1: not valid JSON: "},
        {"{\"query\": \"a\", \"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0}\n",
         "line 1: not valid JSON: "},
    };
    sqf_tasks_options options = options_with(NULL, false);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sqf_error err;
        sqf_task_result result;
        const char *path = write_file(d, "copa.jsonl", bad[i].text, strlen(bad[i].text));
        assert_fails(run_file(d, path, NULL, &options, NULL, &result, &err), SQF_E_FORMAT, &err, bad[i].message);
    }
}

/* A line of 17 MB, and 1025 choices. */
static void test_huge_items_are_refused(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_task_result result;
    sqf_tasks_options options = options_with(NULL, false);
    enum { BYTES = 17 << 20 };
    char *text = malloc(BYTES);
    memset(text, ' ', BYTES);
    text[0] = '{';
    text[BYTES - 2] = '}';
    text[BYTES - 1] = '\n';
    const char *path = write_file(d, "copa.jsonl", text, BYTES);
    assert_fails(run_file(d, path, NULL, &options, NULL, &result, &err), SQF_E_FORMAT, &err,
                 "line 1: 17825791 bytes in one line, expected at most 16777216");
    size_t n = (size_t)sprintf(text, "{\"query\": \"a\", \"gold\": 0, \"choices\": [\"b\"");
    for (size_t i = 0; i < 1024; i++) {
        n += (size_t)sprintf(text + n, ", \"c\"");
    }
    n += (size_t)sprintf(text + n, "]}\n");
    path = write_file(d, "copa.jsonl", text, n);
    assert_fails(run_file(d, path, NULL, &options, NULL, &result, &err), SQF_E_FORMAT, &err,
                 "choices: found 1025 texts, expected at most 1024");
    free(text);
}

/* Where context and continuation end in one token, nothing is left to score; nor behind an empty context, where the
 * continuation is the token that stands for it. */
static void test_a_choice_without_a_token_is_named(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_task_result result;
    static const char task[] = "kind: choice\ncontext: \"{c}\"\nchoices: o\ngold: g\ndelimiter: \"\"\n";
    static const bad_items bad[] = {{"{\"c\": \"th\", \"o\": [\"x\", \"e\"], \"g\": 0}\n", "choice 1"},
                                    {"{\"c\": \"\", \"o\": [\"b\", \"<|begin_of_text|>\"], \"g\": 0}\n", "choice 1"}};
    char file[160], message[96];
    snprintf(file, sizeof file, "%s", write_file(d, "task.yaml", task, strlen(task)));
    const sqf_tasks_options options = options_with(NULL, false);
    for (size_t i = 0; i < 2; i++) {
        const char *path = write_file(d, "i.jsonl", bad[i].text, strlen(bad[i].text));
        snprintf(message, sizeof message, "/i.jsonl: line 1: %s: the continuation has no token of its own",
                 bad[i].message);
        assert_fails(run_file(d, path, file, &options, NULL, &result, &err), SQF_E_VALUE, &err, message);
    }
}

static void test_originals_are_read_by_task_files(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_task_result result;
    /* ARC as first published: choices with labels, the right one by its label */
    static const char arc[] = "name: arc\nkind: choice\ncontext: \"Question: {question}\\nAnswer:\"\n"
                              "choices: choices.text\ngold: answerKey\ngold_labels: choices.label\n";
    static const char arc_item[] =
        "{\"question\": \"Ice is?\", \"choices\": {\"text\": [\"hot\", \"cold\"], \"label\": "
        "[\"A\", \"B\"]}, \"answerKey\": \"B\"}\n";
    /* PIQA: two members, numbered from 0; here from 1 */
    static const char piqa[] = "kind: choice\ncontext: \"{goal}\"\nchoices: [\"{sol1}\", \"{sol2}\"]\ngold: label\n"
                               "gold_first: 1\ndescription: \"Say how.\\n\\n\"\n";
    static const char piqa_item[] = "{\"goal\": \"To open,\", \"sol1\": \"push\", \"sol2\": \"eat\", \"label\": \"2\"}";
    static const char wrong[] = "{\"question\": \"Ice is?\", \"choices\": {\"text\": [\"hot\", \"cold\"], \"label\": "
                                "[\"A\", \"B\"]}, \"answerKey\": \"C\"}\n";
    char file[160];
    const sqf_tasks_options options = options_with(NULL, false);
    snprintf(file, sizeof file, "%s", write_file(d, "task.yaml", arc, strlen(arc)));
    const char *path = write_file(d, "i.jsonl", arc_item, strlen(arc_item));
    assert_ok(run_file(d, path, file, &options, NULL, &result, &err), &err);
    path = write_file(d, "i.jsonl", wrong, strlen(wrong));
    assert_fails(run_file(d, path, file, &options, NULL, &result, &err), SQF_E_FORMAT, &err,
                 "answerKey: C is none of the 2 labels");
    assert_fails(run_file(d, path, NULL, &options, NULL, &result, &err), SQF_E_ARG, &err,
                 "no built-in task has a name that this file's begins with");
    write_file(d, "task.yaml", piqa, strlen(piqa));
    path = write_file(d, "i.jsonl", piqa_item, strlen(piqa_item));
    assert_ok(run_file(d, path, file, &options, NULL, &result, &err), &err);
    assert_int_equal(result.items, 1);
    assert_true(result.model[SQF_METRIC_ACC].analytic_error == 0);
}

/* The demo model with another base of its rope: other logits, the same tokenizer. */
static void make_other(const demo *d, char *path, size_t room)
{
    static const char *const files[] = {"generation_config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    sqf_error err;
    char from[256], to[256];
    snprintf(path, room, "%s/other", d->scratch);
    assert_int_equal(mkdir(path, 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, DEMO "/%s", files[i]);
        snprintf(to, sizeof to, "%s/%s", path, files[i]);
        assert_ok(sqf_file_copy(from, to, &err), &err);
    }
    char *config = read_text(DEMO "/config.json"), *theta = strstr(config, "10000.0");
    memcpy(theta, "20000.0", strlen("20000.0"));
    snprintf(to, sizeof to, "%s/config.json", path);
    assert_ok(sqf_file_write(to, config, strlen(config), &err), &err);
    free(config);
}

/* Greedy ids after a prompt, by sqf_generate alone. */
static void draw(const sqf_model *model, const uint32_t *prompt, size_t count, size_t n, uint32_t *out)
{
    sqf_error err;
    sqf_session *session;
    sqf_generation generation;
    const sqf_generate_options options = {.max_tokens = n};
    assert_ok(sqf_session_create(model, count + n, &session, &err), &err);
    assert_ok(sqf_generate(model, session, NULL, prompt, count, &options, &generation, &err), &err);
    assert_int_equal(generation.ids.count, n);
    memcpy(out, generation.ids.data, n * sizeof *out);
    sqf_ids_clear(&generation.ids);
    sqf_session_destroy(session);
}

/* Against the same figures from plain generations. Texts that fit exactly: prompts stand end to end. */
static void test_agreement_counts_equal_tokens(void **state)
{
    enum { PROMPT = 10, NEW = 12, PROMPTS = 6 };
    const demo *d = *state;
    sqf_error err;
    sqf_model *other;
    sqf_agreement a;
    char path[128];
    uint32_t ids[PROMPT * PROMPTS], ours[NEW], theirs[NEW];
    make_other(d, path, sizeof path);
    assert_ok(sqf_model_open(d->context, path, &other, &err), &err);
    for (size_t i = 0; i < PROMPT * PROMPTS; i++) {
        ids[i] = (uint32_t)(300 + 97 * i * i % 1500);
    }
    double equal = 0, diverged = 0, at_risk = 0, half = 0;
    for (size_t p = 0; p < PROMPTS; p++) {
        size_t n = 0;
        draw(other, ids + p * PROMPT, PROMPT, NEW, ours);
        draw(d->model, ids + p * PROMPT, PROMPT, NEW, theirs);
        while (n < NEW && ours[n] == theirs[n]) {
            n++;
        }
        equal += (double)n;
        diverged += n < NEW;
        at_risk += (double)(n < NEW ? n + 1 : NEW);
        half += n >= NEW / 2;
    }
    assert_true(equal > 0 && diverged > 0); /* else the test would show nothing */
    const sqf_agreement_options options = {.prompt_tokens = PROMPT, .new_tokens = NEW, .resamples = 20, .seed = 1};
    assert_ok(sqf_agreement_run(d->context, other, d->model, ids, PROMPT * PROMPTS, &options, &a, &err), &err);
    assert_int_equal(a.prompts, PROMPTS);
    assert_true(fabs(a.first_divergence - equal / PROMPTS) < 1e-12);
    assert_true(fabs(a.divergence_rate - diverged / at_risk) < 1e-12);
    assert_true(fabs(a.equal[1] - half / PROMPTS) < 1e-12 && a.length[1] == NEW / 2);
    assert_true(a.model_nll > a.reference_nll && a.teacher_top < 1 && a.first_divergence_error > 0);
    sqf_model_destroy(other);
}

/* A model agrees with itself to the last token, and finds its own text as probable as it is. */
static void test_a_model_agrees_with_itself(void **state)
{
    const demo *d = *state;
    sqf_error err;
    sqf_agreement a;
    sqf_agreement_options options = sqf_agreement_options_default();
    options.prompt_tokens = 12;
    options.new_tokens = 20;
    options.prompts = 5;
    options.resamples = 20;
    const char *text = SQF_SOURCE_DIR "/models/demo/text/eval.txt";
    assert_ok(sqf_agreement_file(d->context, d->model, d->model, d->tokenizer, text, &options, &a, &err), &err);
    assert_true(a.prompts == 5 && a.first_divergence == 20 && a.divergence_rate == 0 && a.nll_difference == 0);
    assert_true(a.lengths == 5 && a.length[0] == 20 && a.length[4] == 1 && a.equal[0] == 1 && a.equal_error[0] == 0);
    assert_true(a.teacher_top > 0.99 && a.model_nll > 0);
    options.new_tokens = 2040;
    assert_fails(sqf_agreement_file(d->context, d->model, d->model, d->tokenizer, text, &options, &a, &err), SQF_E_ARG,
                 &err, "a prompt of 12 tokens and 2040 new ones, expected at most 2048 positions");
    options.new_tokens = 0;
    assert_fails(sqf_agreement_file(d->context, d->model, d->model, d->tokenizer, text, &options, &a, &err), SQF_E_ARG,
                 &err, "expected at least one token of prompt");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resuming_gives_the_same_file),
        cmocka_unit_test(test_sharing_changes_nothing),
        cmocka_unit_test(test_items_of_something_else_are_refused),
        cmocka_unit_test(test_positions_end),
        cmocka_unit_test(test_hostile_items_give_one_line),
        cmocka_unit_test(test_huge_items_are_refused),
        cmocka_unit_test(test_a_choice_without_a_token_is_named),
        cmocka_unit_test(test_originals_are_read_by_task_files),
        cmocka_unit_test(test_agreement_counts_equal_tokens),
        cmocka_unit_test(test_a_model_agrees_with_itself),
    };
    return cmocka_run_group_tests(tests, demo_open, demo_close);
}
