/* Calibration windows: where they start, what a .jsonl gives, and what is refused with the figures that matter. */
#include "small.h"

#include "ptq/calibration.h"

static sqf_config config_of(const small *s)
{
    sqf_error err = {0};
    sqf_config config;
    must(sqf_config_load(s->model.path, &config, NULL, &err), &err);
    return config;
}

static sqf_status load(const small *s, const sqf_quantize_options *options, sqf_calibration *out, sqf_error *err)
{
    const sqf_config config = config_of(s);
    return sqf_calibration_load(s->model.path, &config, options, out, err);
}

static void write_text(const small *s, const char *text)
{
    sqf_error err = {0};
    must(sqf_file_write(s->text, text, strlen(text), &err), &err);
}

static void test_windows_are_spread_from_the_first_token_to_the_last(void **state)
{
    (void)state;
    assert_int_equal(sqf_calibration_window(0, 1, 10, 100), 0);
    assert_int_equal(sqf_calibration_window(0, 4, 10, 100), 0);
    assert_int_equal(sqf_calibration_window(1, 4, 10, 100), 30);
    assert_int_equal(sqf_calibration_window(3, 4, 10, 100), 90);
    assert_int_equal(sqf_calibration_window(1, 32, 512, 14499), 451); /* floor(13987 / 31) */
    assert_int_equal(sqf_calibration_window(7, 8, 5, 5), 0);
}

static void test_windows_hold_the_tokens_of_the_text(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_calibration calibration;
    small_llama(&s);
    write_text(&s, "abcdefghij");
    sqf_quantize_options options = small_options(&s);
    options.samples = 3;
    options.length = 4;
    must(load(&s, &options, &calibration, &err), &err);
    assert_true(calibration.windows == 3 && calibration.length == 4 && calibration.tokens == 10);
    static const char expected[] = "abcddefgghij"; /* a token is its byte */
    for (size_t i = 0; i < 12; i++) {
        assert_int_equal(calibration.ids[i], expected[i]);
    }
    sqf_calibration_clear(&calibration);
    small_remove(&s);
}

static void test_random_windows_follow_the_seed(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_calibration runs[3];
    small_llama(&s);
    sqf_quantize_options options = small_options(&s);
    options.random_windows = true;
    for (size_t i = 0; i < 3; i++) {
        options.seed = i == 2 ? 8 : 7;
        must(load(&s, &options, &runs[i], &err), &err);
    }
    const size_t bytes = options.samples * options.length * sizeof(uint32_t);
    assert_memory_equal(runs[0].ids, runs[1].ids, bytes);
    assert_memory_not_equal(runs[0].ids, runs[2].ids, bytes);
    for (size_t i = 0; i < 3; i++) {
        sqf_calibration_clear(&runs[i]);
    }
    small_remove(&s);
}

static void test_texts_of_json_lines_are_joined_by_line_ends(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_buffer text;
    static const char lines[] = "{\"text\": \"one\", \"n\": 1}\n\n  \r\n{\"text\": \"t\\u00e9\"}\n{\"text\": \"\"}\n"
                                "{\"text\": \"three\"}";
    must(sqf_calibration_join(lines, sizeof lines - 1, "text", "x.jsonl", &text, &err), &err);
    assert_string_equal(text.data, "one\nt\xc3\xa9\n\nthree");
    free(text.data);
    assert_fails(sqf_calibration_join("{\"a\": 1}\n{\"text\": 3}", 21, "a", "x.jsonl", &text, &err), SQF_E_FORMAT, &err,
                 "x.jsonl: line 1: a: ");
    assert_null(text.data);
    assert_fails(sqf_calibration_join("{\"a\": \"\"}\n[]", 12, "a", "x.jsonl", &text, &err), SQF_E_FORMAT, &err,
                 "x.jsonl: line 2");
    assert_fails(sqf_calibration_join("\n\n{\"a\"", 6, "a", "x.jsonl", &text, &err), SQF_E_FORMAT, &err,
                 "x.jsonl: line 3");
}

static void test_a_file_of_json_lines_gives_its_field(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_calibration calibration;
    small_llama(&s);
    snprintf(s.text, sizeof s.text, "%s/calib.jsonl", s.scratch);
    write_text(&s, "{\"body\": \"abc\"}\n{\"body\": \"def\"}\n");
    sqf_quantize_options options = small_options(&s);
    options.samples = 1;
    options.length = 7;
    options.calibration_field = "body";
    must(load(&s, &options, &calibration, &err), &err);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(calibration.ids[i], "abc\ndef"[i]);
    }
    sqf_calibration_clear(&calibration);
    options.calibration_field = NULL;
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_FORMAT, &err, "calib.jsonl: line 1: text");
    small_remove(&s);
}

static void test_what_cannot_be_cut_is_refused_with_its_figures(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_calibration calibration;
    small_llama(&s);
    write_text(&s, "ab");
    sqf_quantize_options options = small_options(&s);
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_ARG, &err,
                 "calib.txt: too little text: 48 tokens needed for one window, 2 found");
    write_text(&s, "");
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_ARG, &err, "0 found");
    options.length = 65;
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_ARG, &err,
                 "windows of 65 tokens, expected 1 to the model's 64 positions");
    options.length = 0;
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_ARG, &err, "windows of 0 tokens");
    options.length = 2;
    options.samples = 0;
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_ARG, &err, "0 windows, expected 1");
    options.samples = 1;
    options.calibration = "/nowhere/text";
    assert_fails(load(&s, &options, &calibration, &err), SQF_E_IO, &err, "/nowhere/text");
    assert_null(calibration.ids);
    small_remove(&s);
}

static void test_a_token_beyond_the_vocabulary_is_named(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_calibration calibration;
    small_llama(&s);
    write_text(&s, "abc\xc3\xa9");
    sqf_config config = config_of(&s);
    config.vocabulary = 128;
    sqf_quantize_options options = small_options(&s);
    options.length = 2;
    assert_fails(sqf_calibration_load(s.model.path, &config, &options, &calibration, &err), SQF_E_VALUE, &err,
                 "token 3 has id 195, expected less than the vocabulary, 128");
    small_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_are_spread_from_the_first_token_to_the_last),
        cmocka_unit_test(test_windows_hold_the_tokens_of_the_text),
        cmocka_unit_test(test_random_windows_follow_the_seed),
        cmocka_unit_test(test_texts_of_json_lines_are_joined_by_line_ends),
        cmocka_unit_test(test_a_file_of_json_lines_gives_its_field),
        cmocka_unit_test(test_what_cannot_be_cut_is_refused_with_its_figures),
        cmocka_unit_test(test_a_token_beyond_the_vocabulary_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
