/* Files: what is refused, with which message; and what tokenizer_config.json adds. */
#include "tokenizer_helpers.h"

#include <stdio.h>
#include <stdlib.h>

#define ADDED(content, id, normalized)                                                                                 \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"             \
    "\"normalized\":" #normalized ",\"special\":true}"
#define MODEL(members) "{\"model\":{\"type\":\"BPE\"," members "}}"
#define SPLIT(pattern)                                                                                                 \
    ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern                                         \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"

static void expect_refusal(const char *json, sqf_status status, const char *part)
{
    sqf_tokenizer *tokenizer = (sqf_tokenizer *)(uintptr_t)1;
    sqf_error err = {0};
    const sqf_status found = sqf_tokenizer_parse(json, strlen(json), NULL, 0, &tokenizer, &err);
    if (found != status || tokenizer || !strstr(err.text, part)) {
        fail_msg("%.200s: %s, \"%s\", expected %s, \"%s\"", json, sqf_status_name(found), err.text,
                 sqf_status_name(status), part);
    }
    assert_null(strchr(err.text, '\n'));
}

static void other_kinds_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *json, *part;
    } CASES[] = {
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {SMALL(",\"normalizer\":{\"type\":\"BertNormalizer\"}"), "BertNormalizer"},
        {SMALL(",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}"), "Nmt"},
        {SMALL(",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), "UnicodeScripts"},
        {SMALL(",\"decoder\":{\"type\":\"WordPiece\"}"), "WordPiece"},
        {SMALL(",\"post_processor\":{\"type\":\"BertProcessing\"}"), "BertProcessing"},
        {SMALL(",\"truncation\":{\"max_length\":5}"), "truncation"},
        {SMALL(",\"padding\":{\"strategy\":{\"Fixed\":5}}"), "padding"},
        {SMALL(",\"version\":\"2.0\""), "2.0"},
        {SMALL(",\"surprise\":1"), "surprise"},
        {SMALL(",\"normalizer\":{\"type\":\"NFC\",\"extra\":true}"), "extra"},
        {SMALL(",\"pre_tokenizer\":{\"type\":\"Digits\",\"group\":3}"), "group"},
        {SMALL(",\"pre_tokenizer\":{\"type\":\"Punctuation\",\"behavior\":\"Odd\"}"), "Odd"},
        {MODEL("\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]"), "dropout"},
        {MODEL("\"surprise\":1,\"vocab\":{\"a\":0},\"merges\":[]"), "surprise"},
        {SMALL(SPLIT("(a)\\\\1")), "escape"},
        {SMALL(SPLIT("\\\\X")), "\\X"},
        {SMALL(SPLIT("(?x: a)")), "(?x"},
        {SMALL(SPLIT("a{5,2}")), "{5,2}"},
        {SMALL(SPLIT("(*FAIL)")), "(*FAIL)"},
        {SMALL(SPLIT("\\\\p{Klingon}")), "regular expression"},
        {SMALL(SPLIT("(?<=a+)b")), "regular expression"},
        {SMALL(SPLIT("(a")), "without an end"},
        {SMALL(SPLIT("a)")), "parenthesis"},
        {SMALL(SPLIT("[a")), "without an end"},
        {SMALL(SPLIT("[a&&[^")), "without an end"},
        {SMALL(SPLIT("[a\\\\")), "too early"},
        {SMALL(SPLIT("*a")), "quantifier"},
        {SMALL(SPLIT("[z-a]")), "falling"},
        {SMALL(SPLIT("(?=a)+")), "assertion"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        expect_refusal(CASES[i].json, SQF_E_SUPPORT, CASES[i].part);
    }
}

static void damaged_files_are_refused_with_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *json, *part;
    } CASES[] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "model"},
        {"{\"model\":[]}", "model"},
        {MODEL("\"vocab\":{},\"merges\":[]"), "empty"},
        {MODEL("\"vocab\":[],\"merges\":[]"), "vocab"},
        {MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), "\"a\""},
        {MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), "\"a\""},
        {MODEL("\"vocab\":{\"a\":4000000000},\"merges\":[]"), "\"a\""},
        {MODEL("\"vocab\":{\"a\":1.5},\"merges\":[]"), "\"a\""},
        {MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), "same id 0"},
        {MODEL("\"vocab\":{\"a\":0}"), "merges"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a b\"]"), "\"b\""},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a a\"]"), "\"aa\""},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]"), "merges[0]"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"aa\"]"), "merges[0]"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), "merges[0]"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[7]"), "merges[0]"},
        {MODEL("\"unk_token\":7,\"vocab\":{\"a\":0},\"merges\":[]"), "unk_token"},
        {MODEL("\"byte_fallback\":7,\"vocab\":{\"a\":0},\"merges\":[]"), "byte_fallback"},
        {SMALL(",\"added_tokens\":7"), "added_tokens"},
        {SMALL(",\"added_tokens\":[7]"), "added_tokens"},
        {SMALL(",\"added_tokens\":[{\"id\":7,\"content\":\"x\"}]"), "single_word"},
        {SMALL(",\"added_tokens\":[" ADDED("x", 4000000000, false) "]"), "4000000000"},
        {SMALL(",\"added_tokens\":[" ADDED("x", 0, false) "]"), "same id 0"},
        {SMALL(",\"added_tokens\":[" ADDED("a", 7, false) "]"), "\"a\""},
        {SMALL(",\"added_tokens\":[" ADDED("x", 7, false) "," ADDED("x", 7, false) "]"), "\"x\""},
        {SMALL(",\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[" ADDED("X", 7, true) "," ADDED("x", 8,
                                                                                                           true) "]"),
         "twice"},
        {SMALL(",\"normalizer\":7"), "normalizer"},
        {SMALL(",\"normalizer\":{}"), "type"},
        {SMALL(",\"normalizer\":{\"type\":\"Strip\",\"strip_left\":true}"), "strip_right"},
        {SMALL(",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}"), "pattern"},
        {SMALL(",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":{}}"), "pretokenizers"},
        {SMALL(",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), "replacement"},
        {SMALL(",\"decoder\":{\"type\":\"Strip\",\"content\":\"\",\"start\":1,\"stop\":0}"), "content"},
        {SMALL(",\"decoder\":{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1,\"stop\":0}"), "start"},
        {SMALL(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}"), "single"},
        {SMALL(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
               "\"special_tokens\":{}}"),
         "\"x\""},
        {SMALL(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
               "\"special_tokens\":{\"x\":{\"ids\":[77]}}}"),
         "special_tokens"},
        {SMALL(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}],"
               "\"special_tokens\":{}}"),
         "\"B\""},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        expect_refusal(CASES[i].json, SQF_E_FORMAT, CASES[i].part);
    }
}

/* `count` times `open`, then `close` as often, inside of a file. */
static void expect_nested_refusal(const char *head, const char *open, const char *close, size_t count,
                                  sqf_status status)
{
    sqf_buffer json = {0};
    assert_int_equal(sqf_buffer_print(&json, NULL, "{" SMALL_MODEL "%s", head), SQF_OK);
    for (size_t i = 0; i < 2 * count; i++) {
        const char *text = i < count ? open : close;
        assert_int_equal(sqf_buffer_append(&json, text, strlen(text), NULL), SQF_OK);
    }
    expect_refusal(json.data, status, "");
    free(json.data);
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    expect_nested_refusal(",\"normalizer\":", "{\"type\":\"Sequence\",\"normalizers\":[", "]}", 100, SQF_E_FORMAT);
    expect_nested_refusal(",\"normalizer\":", "[", "]", 200000, SQF_E_FORMAT);
    sqf_buffer pattern = {0};
    sqf_error err = {0};
    sqf_buffer out = {0};
    for (int i = 0; i < 8000; i++) {
        assert_int_equal(sqf_buffer_append(&pattern, i < 4000 ? "(" : ")", 1, NULL), SQF_OK);
    }
    assert_int_equal(sqf_regex_translate(pattern.data, "test", &out, &err), SQF_E_SUPPORT);
    assert_non_null(strstr(err.text, "deep"));
    free(out.data);
    free(pattern.data);
}

static void every_prefix_of_a_file_is_refused(void **state)
{
    (void)state;
    static const char JSON[] =
        SMALL(",\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[" ADDED("x", 6, true) "]");
    for (size_t n = 0; n < sizeof JSON - 1; n++) {
        sqf_tokenizer *tokenizer;
        sqf_error err = {0};
        assert_int_equal(sqf_tokenizer_parse(JSON, n, NULL, 0, &tokenizer, &err), SQF_E_FORMAT);
        assert_null(tokenizer);
        assert_true(err.text[0] != '\0');
    }
    sqf_tokenizer_destroy(parse(JSON));
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer;
    sqf_error err = {0};
    assert_int_equal(sqf_tokenizer_load(SQF_SOURCE_DIR "/no-such-model", &tokenizer, &err), SQF_E_IO);
    assert_null(tokenizer);
    assert_non_null(strstr(err.text, "no-such-model/tokenizer.json"));
}

static void expect_around(const char *json, const char *config, const uint32_t *expected, size_t count)
{
    sqf_tokenizer *tokenizer;
    sqf_error err = {0};
    if (sqf_tokenizer_parse(json, strlen(json), config, strlen(config), &tokenizer, &err) != SQF_OK) {
        fail_msg("%s", err.text);
    }
    expect_ids(tokenizer, "a", 1, true, expected, count);
    static const uint32_t ALONE[] = {0};
    expect_ids(tokenizer, "a", 1, false, ALONE, 1);
    sqf_tokenizer_destroy(tokenizer);
}

static void the_configuration_counts_only_without_a_template(void **state)
{
    (void)state;
    static const char BOTH[] = "{\"add_bos_token\":true,\"bos_token\":\"b\",\"add_eos_token\":true,"
                               "\"eos_token\":{\"content\":\"c\",\"lstrip\":false}}";
    static const char BEGIN[] = "{\"add_bos_token\":true,\"bos_token\":\"b\",\"eos_token\":\"c\"}";
    static const char TEMPLATE[] =
        SMALL(",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
              "\"TemplateProcessing\","
              "\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}]"
              ",\"pair\":[],"
              "\"special_tokens\":{\"x\":{\"id\":\"x\",\"ids\":[4],\"tokens\":[\"ab\"]}}}]}");
    static const uint32_t AROUND[] = {1, 0, 2}, BEFORE[] = {1, 0}, OWN[] = {0, 4}, ALONE[] = {0};
    expect_around(SMALL(""), BOTH, AROUND, 3);
    expect_around(SMALL(",\"post_processor\":{\"type\":\"ByteLevel\",\"trim_offsets\":true}"), BOTH, AROUND, 3);
    expect_around(SMALL(""), BEGIN, BEFORE, 2);
    expect_around(SMALL(""), "{\"bos_token\":\"b\"}", ALONE, 1);
    expect_around(TEMPLATE, BOTH, OWN, 2);
}

static void a_configuration_that_cannot_be_obeyed_is_refused(void **state)
{
    (void)state;
    static const char *const CONFIGS[] = {"{\"add_bos_token\":true}", "{\"add_bos_token\":true,\"bos_token\":\"zz\"}",
                                          "{\"add_bos_token\":1}", "[]", "{"};
    for (size_t i = 0; i < sizeof CONFIGS / sizeof *CONFIGS; i++) {
        sqf_tokenizer *tokenizer;
        sqf_error err = {0};
        const char *json = SMALL("");
        assert_int_equal(sqf_tokenizer_parse(json, strlen(json), CONFIGS[i], strlen(CONFIGS[i]), &tokenizer, &err),
                         SQF_E_FORMAT);
        assert_null(tokenizer);
        assert_non_null(strstr(err.text, "tokenizer_config.json"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_kinds_are_refused_by_name),
        cmocka_unit_test(damaged_files_are_refused_with_the_place),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(every_prefix_of_a_file_is_refused),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(the_configuration_counts_only_without_a_template),
        cmocka_unit_test(a_configuration_that_cannot_be_obeyed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
