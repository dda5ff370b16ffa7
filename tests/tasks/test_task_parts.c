/* The parts of a task: texts, templates, definitions, extraction of answers, statistics. */
#include "check.h"

#include <math.h>

#include "tasks/items.h"
#include "tasks/statistics.h"
#include "tasks/summary.h"
#include "tasks/text.h"
#include "tasks/verdict.h"

static void check_capitalized(const char *in, const char *expected)
{
    sqf_buffer out = {0};
    sqf_error err;
    assert_ok(sqf_text_capitalize(in, strlen(in), &out, &err), &err);
    assert_string_equal(out.data, expected);
    free(out.data);
}

static void test_capitalize_is_pythons(void **state)
{
    (void)state;
    check_capitalized("", "");
    check_capitalized("the MAN sits", "The man sits");
    check_capitalized("élise À", "Élise à");
    check_capitalized(", the", ", the");
}

static void check_cleaned(const char *in, const char *expected)
{
    sqf_buffer out = {0};
    sqf_error err;
    assert_ok(sqf_text_clean_hellaswag(in, strlen(in), &out, &err), &err);
    assert_string_equal(out.data, expected);
    free(out.data);
}

/* Expected values are those of lm-eval's preprocess. */
static void test_hellaswag_is_cleaned_as_in_lm_eval(void **state)
{
    (void)state;
    check_cleaned("  plain\n", "plain");
    check_cleaned("[header] How to [title] Start", " How to. Start");
    check_cleaned("a [step] b  c   d", "a b c  d");
    check_cleaned("open [without end", "open [without end");
    check_cleaned("over [two\nlines] here]", "over [two\nlines] here]");
    check_cleaned("\xe3\x80\x80wide\xc2\xa0", "wide");
    check_cleaned("[a][b]]", "]");
}

static void test_trailing_white_space_is_pythons(void **state)
{
    (void)state;
    assert_int_equal(sqf_text_trimmed("a b \n\t", 6), 3);
    assert_int_equal(sqf_text_trimmed("a\x1c\x1f", 3), 1);
    assert_int_equal(sqf_text_trimmed("a\xe2\x80\x8b", 4), 4); /* a zero-width space is none */
    assert_int_equal(sqf_text_trimmed(" ", 1), 0);
    assert_int_equal(sqf_text_characters("naïve ☕", strlen("naïve ☕")), 7);
}

static sqf_status render(const char *template, const char *json, char out[128], sqf_error *err)
{
    json_t *object;
    sqf_buffer text = {0};
    assert_ok(sqf_json_parse(json, strlen(json), "item", &object, err), err);
    const sqf_status status = sqf_template_render(template, object, "item", &text, err);
    snprintf(out, 128, "%s", text.data ? text.data : "");
    free(text.data);
    json_decref(object);
    return status;
}

static void test_templates_put_members_in(void **state)
{
    (void)state;
    sqf_error err;
    char out[128];
    const char *json = "{\"a\": \"x \", \"b\": {\"c\": [\"p\", \"Q\"]}, \"n\": 7}";
    assert_ok(render("{{{a|strip}}} {b.c.1|lower}{n}", json, out, &err), &err);
    assert_string_equal(out, "{x} q7");
    static const char *const bad[][2] = {{"{d}", "item: d: expected a text, found nothing"},
                                         {"{b}", "item: b: expected a text, found something else"},
                                         {"{b.c.2}", "item: b.c.2: expected a text, found nothing"},
                                         {"{a|upper}", "item: {a|upper}: expected strip, capitalize or lower"},
                                         {"{a", "item: template: a brace without its partner in '{a'"},
                                         {"a}b", "item: template: a brace without its partner in '}b'"},
                                         {"{}", "item: template: a brace without its partner in '{}'"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(render(bad[i][0], json, out, &err), SQF_E_FORMAT);
        assert_string_equal(err.text, bad[i][1]);
    }
}

static void test_builtins_are_whole_and_found_by_name(void **state)
{
    (void)state;
    size_t count;
    const sqf_task_builtin *all = sqf_task_builtins(&count);
    assert_int_equal(count, 11);
    for (size_t i = 0; i < count; i++) {
        sqf_definition d;
        sqf_error err;
        assert_ok(sqf_definition_parse(all[i].definition, strlen(all[i].definition), all[i].name, &d, &err), &err);
        assert_string_equal(d.name, all[i].name);
        assert_ptr_equal(sqf_builtin_find(all[i].name), &all[i]);
        sqf_definition_clear(&d);
    }
    assert_string_equal(sqf_builtin_find("gsm8k-200")->name, "gsm8k");
    assert_string_equal(sqf_builtin_find("hellaswag-val-part")->name, "hellaswag");
    assert_string_equal(sqf_builtin_find("ARC_Easy.dev")->name, "arc-easy");
    assert_null(sqf_builtin_find("copacabana"));
    assert_null(sqf_builtin_find("arc"));
}

static void test_task_files_are_refused_in_one_line(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "t: line 1: expected a map, found nothing"},
        {"- a", "t: line 1: expected a map of keys"},
        {"kind: choice\nchioces: a", "t: line 2: chioces: no such key in a task file, see docs/evaluation.md"},
        {"kind: multiple", "t: line 1: kind: expected choice, partial, cloze or generate"},
        {"kind: choice\nkind: cloze", "t: line 2: kind: given twice"},
        {"context: a\nkind: choice\nchoices: c", "t: gold: missing, needed for a task of kind choice"},
        {"context: a\nkind: choice\nchoices: c\ngold: g\nstop: [x]",
         "t: stop: has no meaning for a task of kind choice"},
        {"context: a\nkind: cloze\ncontinuation: c\nfew_shot: -1",
         "t: line 4: few_shot: expected a whole number from 0 to 1048576"},
        {"context: [a]", "t: line 1: context: expected one value"},
        {"stop: a", "t: line 1: stop: expected a list of texts"},
        {"choices: []", "t: line 1: choices: expected at least one text in the list"},
        {"choices: {a: b}", "t: line 1: choices: expected a member's name or a list of texts"},
        {"name: &x a", "t: line 1: aliases, anchors, tags and NUL bytes are not read in a task file"},
        {"name: \"a\\0b\"", "t: line 1: aliases, anchors, tags and NUL bytes are not read in a task file"},
        {"context: a\nkind: cloze\ncontinuation: c\nclean: soap", "t: clean: expected hellaswag, found soap"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sqf_definition d;
        sqf_error err;
        assert_int_equal(sqf_definition_parse(bad[i][0], strlen(bad[i][0]), "t", &d, &err), SQF_E_FORMAT);
        assert_string_equal(err.text, bad[i][1]);
    }
    sqf_definition d;
    sqf_error err;
    assert_int_equal(sqf_definition_parse("a: [\xff", 5, "t", &d, &err), SQF_E_FORMAT);
    assert_null(strchr(err.text, '\n'));
}

static void check_normalized(const char *in, const char *expected)
{
    char *out;
    sqf_error err;
    assert_ok(sqf_answer_normalize(in, &out, &err), &err);
    assert_string_equal(out, expected);
    free(out);
}

/* Expected values: re.sub of each of ",", "\$", "(?s).*#### ", "\.$" in turn, then lower(). */
static void test_answers_are_normalized_as_in_lm_eval(void **state)
{
    (void)state;
    check_normalized("$1,050", "1050");
    check_normalized("It is\n#### 7 or\n#### 18.", "18");
    check_normalized("4.5", "4.5");
    check_normalized("12.", "12");
    check_normalized("12.\n", "12\n");
    check_normalized("12..", "12.");
    check_normalized("[Invalid]", "[invalid]");
    check_normalized("####18", "####18");
    check_normalized("", "");
}

static void check_extraction(const char *generation, const char *strict, const char *flexible, double acc, double loose)
{
    size_t count;
    sqf_task task = {0};
    sqf_error err;
    sqf_verdict v;
    const sqf_task_builtin *builtin = sqf_builtin_find("gsm8k");
    char right[] = "6*3 = 18\n#### 1,018", *text = right;
    const sqf_item item = {.continuations = {.at = &text, .count = 1}};
    sqf_answer answer = {.generation = strdup(generation)};
    sqf_task_builtins(&count);
    assert_ok(sqf_definition_parse(builtin->definition, strlen(builtin->definition), "gsm8k", &task.definition, &err),
              &err);
    assert_ok(sqf_verdict_make(&task, &item, &answer, &v, &err), &err);
    assert_true(strict ? v.strict && strcmp(v.strict, strict) == 0 : !v.strict);
    assert_true(flexible ? v.flexible && strcmp(v.flexible, flexible) == 0 : !v.flexible);
    assert_true(v.value[SQF_METRIC_ACC] == acc && v.value[SQF_METRIC_FLEXIBLE] == loose);
    assert_true(isnan(v.value[SQF_METRIC_ACC_NORM]) && isnan(v.value[SQF_METRIC_PERPLEXITY]));
    sqf_verdict_clear(&v);
    sqf_answer_clear(&answer);
    sqf_definition_clear(&task.definition);
}

static void test_strict_takes_the_first_and_flexible_the_last(void **state)
{
    (void)state;
    check_extraction("so\n#### 1018\n#### 7", "1018", "7", 1, 0);
    check_extraction("#### 5 and then $1,018.", "5", "$1,018.", 0, 1);
    check_extraction("it is 1018", NULL, "1018", 0, 1);
    check_extraction("minus -1 or .", NULL, "-1", 0, 0);
    check_extraction("nothing", NULL, NULL, 0, 0);
}

static void test_mcnemar_is_the_binomial_test(void **state)
{
    (void)state;
    assert_true(sqf_mcnemar(0, 0) == 1);
    assert_true(fabs(sqf_mcnemar(0, 5) - 0.0625) < 1e-12);
    assert_true(fabs(sqf_mcnemar(1, 9) - 2 * 11 / 1024.0) < 1e-12);
    assert_true(fabs(sqf_mcnemar(9, 1) - sqf_mcnemar(1, 9)) < 1e-15);
    assert_true(sqf_mcnemar(4, 4) == 1);
    assert_true(sqf_mcnemar(5000, 5400) < 1e-3 && sqf_mcnemar(5000, 5400) > 1e-6);
}

enum { ITEMS = 400 };

/* Model right on 3 of 4 items, reference on 2 of 4 of the same pattern. */
static void fill(double *model, double *reference)
{
    for (size_t i = 0; i < ITEMS; i++) {
        for (size_t m = 0; m < SQF_METRIC_COUNT; m++) {
            model[i * SQF_METRIC_COUNT + m] = reference[i * SQF_METRIC_COUNT + m] = NAN;
        }
        model[i * SQF_METRIC_COUNT + SQF_METRIC_ACC] = i % 4 != 0;
        reference[i * SQF_METRIC_COUNT + SQF_METRIC_ACC] = i % 4 > 1;
        model[i * SQF_METRIC_COUNT + SQF_METRIC_PERPLEXITY] = 2 + (double)(i % 4);
        reference[i * SQF_METRIC_COUNT + SQF_METRIC_PERPLEXITY] = 2.5 + (double)(i % 4);
    }
}

static void test_errors_follow_from_the_items(void **state)
{
    (void)state;
    double model[ITEMS * SQF_METRIC_COUNT], reference[ITEMS * SQF_METRIC_COUNT];
    sqf_task_result r, again;
    sqf_error err;
    fill(model, reference);
    assert_ok(sqf_summarize(model, reference, ITEMS, 2000, 5, &r, &err), &err);
    const sqf_task_figure acc = r.model[SQF_METRIC_ACC];
    assert_true(acc.value == 0.75);
    assert_true(fabs(acc.analytic_error - sqrt(0.75 * 0.25 / (ITEMS - 1))) < 1e-12);
    assert_true(fabs(acc.error / acc.analytic_error - 1) < 0.1);
    const sqf_task_change *change = &r.change[SQF_METRIC_ACC];
    assert_true(fabs(change->difference - 0.25) < 1e-12 && change->gained == ITEMS / 4 && change->lost == 0);
    assert_true(change->significant && change->p_value < 1e-20);
    /* paired: sd of the difference is sqrt(0.25 * 0.75), less than that of two independent accuracies */
    assert_true(fabs(change->error / sqrt(0.25 * 0.75 / ITEMS) - 1) < 0.1);
    assert_true(fabs(r.model[SQF_METRIC_PERPLEXITY].value - exp(3.5)) < 1e-9);
    assert_true(isnan(r.model[SQF_METRIC_ACC_NORM].value) && isnan(r.change[SQF_METRIC_FLEXIBLE].difference));
    assert_ok(sqf_summarize(model, reference, ITEMS, 2000, 5, &again, &err), &err);
    assert_true(again.model[SQF_METRIC_ACC].error == acc.error);
    assert_ok(sqf_summarize(model, NULL, ITEMS, 2000, 6, &again, &err), &err);
    assert_true(again.model[SQF_METRIC_ACC].error != acc.error && isnan(again.reference[SQF_METRIC_ACC].value));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capitalize_is_pythons),
        cmocka_unit_test(test_hellaswag_is_cleaned_as_in_lm_eval),
        cmocka_unit_test(test_trailing_white_space_is_pythons),
        cmocka_unit_test(test_templates_put_members_in),
        cmocka_unit_test(test_builtins_are_whole_and_found_by_name),
        cmocka_unit_test(test_task_files_are_refused_in_one_line),
        cmocka_unit_test(test_answers_are_normalized_as_in_lm_eval),
        cmocka_unit_test(test_strict_takes_the_first_and_flexible_the_last),
        cmocka_unit_test(test_mcnemar_is_the_binomial_test),
        cmocka_unit_test(test_errors_follow_from_the_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
