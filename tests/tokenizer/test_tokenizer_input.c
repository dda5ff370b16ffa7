/* Texts that are not as expected, long ones, several threads, and text that comes in tokens. */
#include "tokenizer_helpers.h"

#include <pthread.h>
#include <stdlib.h>

#define SPLIT(pattern)                                                                                                 \
    ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern                                         \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTES_MODEL                                                                                                    \
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,"              \
    "\"<0xE4>\":1,\"<0xBD>\":2,\"<0xA0>\":3,\"<0xEF>\":4,\"<0xBF>\":5,\"\\u2581\":6,\"a\":7,\"\\u2581a\":8},"          \
    "\"merges\":[\"\\u2581 a\"]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["                              \
    "{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"             \
    "\"content\":\"\\u2581\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","               \
    "\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"         \
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"added_tokens\":[{\"id\":0,"                     \
    "\"content\":\"<unk>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"              \
    "\"special\":true}]}"

static void each_invalid_subpart_counts_as_one_replacement_character(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *same_as;
    } CASES[] = {{"a\xff", "a\xef\xbf\xbd"},
                 {"\xe4\xbd", "\xef\xbf\xbd"},
                 {"\xe4\xbd"
                  "a",
                  "\xef\xbf\xbd"
                  "a"},
                 {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf0\x9f\x98 a", "\xef\xbf\xbd a"}};
    sqf_tokenizer *tokenizer = parse(BYTES_MODEL);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        sqf_ids ids = {0};
        assert_int_equal(sqf_tokenizer_encode(tokenizer, CASES[i].same_as, strlen(CASES[i].same_as), false, &ids, NULL),
                         SQF_OK);
        expect_ids(tokenizer, CASES[i].bytes, strlen(CASES[i].bytes), false, ids.data, ids.count);
        sqf_ids_clear(&ids);
    }
    sqf_tokenizer_destroy(tokenizer);
}

static void a_nul_byte_is_a_character_like_any_other(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer =
        parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\\u0100\":1},\"merges\":[]},\"pre_tokenizer\":"
              "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},\"decoder\":{\"type\":"
              "\"ByteLevel\"}}");
    static const uint32_t EXPECTED[] = {0, 1, 0, 1};
    char *text;
    size_t n;
    expect_ids(tokenizer, "a\0a\0", 4, false, EXPECTED, 4);
    assert_int_equal(sqf_tokenizer_decode(tokenizer, EXPECTED, 4, false, &text, &n, NULL), SQF_OK);
    assert_int_equal(n, 4);
    assert_memory_equal(text, "a\0a\0", 5);
    free(text);
    sqf_tokenizer_destroy(tokenizer);
}

static void an_empty_text_has_no_ids_but_the_template(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer = parse(SMALL(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
                                           "\"SpecialToken\":{\"id\":\"c\",\"type_id\":0}},"
                                           "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_"
                                           "tokens\":{\"c\":{\"id\":\"c\",\"ids\":[2,1],"
                                           "\"tokens\":[\"c\",\"b\"]}}}"));
    static const uint32_t AROUND[] = {2, 1};
    expect_ids(tokenizer, "", 0, false, NULL, 0);
    expect_ids(tokenizer, NULL, 0, false, NULL, 0);
    expect_ids(tokenizer, "", 0, true, AROUND, 2);
    sqf_tokenizer_destroy(tokenizer);
}

static void what_has_no_token_is_left_out_unless_an_unknown_token_is_named(void **state)
{
    (void)state;
    static const uint32_t EXPECTED[] = {4, 0};
    sqf_tokenizer *tokenizer = parse(SMALL(""));
    sqf_ids ids = {0};
    sqf_error err = {0};
    expect_ids(tokenizer, "abxa", 4, false, EXPECTED, 2);
    sqf_tokenizer_destroy(tokenizer);
    tokenizer = parse("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0},\"merges\":[]}}");
    assert_int_equal(sqf_tokenizer_encode(tokenizer, "ab", 2, false, &ids, &err), SQF_E_VALUE);
    assert_non_null(strstr(err.text, "unk_token"));
    assert_int_equal(ids.count, 0);
    sqf_tokenizer_destroy(tokenizer);
}

/* Quadratic algorithms need hours for these texts, linear ones a moment: the test's time limit tells. */
static void long_texts_of_every_kind_end(void **state)
{
    (void)state;
    enum { SIZE = 1 << 20 };
    static const char *const JSON[] = {
        SMALL(""),
        SMALL(SPLIT("\\\\s+$") ",\"normalizer\":{\"type\":\"NFKC\"}"),
        SMALL(SPLIT("\\\\s*[\\\\r\\\\n]+|\\\\p{L}+x|\\\\s+(?!\\\\S)|\\\\s+")),
        SMALL(",\"added_tokens\":[{\"id\":9,\"content\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\",\"single_"
              "word\":false,"
              "\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":false},{\"id\":10,\"content\":\" \","
              "\"single_word\":false,\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":false}]"),
    };
    static const char *const UNITS[] = {"a", " ", "ab", "a ", "\xcc\x81\xcc\xa3", "\n", "\xff"};
    char *text = malloc(SIZE + 1);
    assert_non_null(text);
    for (size_t j = 0; j < sizeof JSON / sizeof *JSON; j++) {
        sqf_tokenizer *tokenizer = parse(JSON[j]);
        for (size_t u = 0; u < sizeof UNITS / sizeof *UNITS; u++) {
            const size_t unit = strlen(UNITS[u]);
            sqf_ids ids = {0};
            for (size_t i = 0; i < SIZE; i++) {
                text[i] = UNITS[u][i % unit];
            }
            text[SIZE - 1] = 'c';
            assert_int_equal(sqf_tokenizer_encode(tokenizer, text, SIZE, false, &ids, NULL), SQF_OK);
            assert_int_equal(ids.data[ids.count - 1] == 2 || ids.data[ids.count - 1] == 5, 1);
            sqf_ids_clear(&ids);
        }
        sqf_tokenizer_destroy(tokenizer);
    }
    free(text);
}

enum { THREADS = 4, ROUNDS = 200 };

static void *encode_many(void *user)
{
    static char wrong_ids[] = "wrong ids", wrong_text[] = "wrong text";
    const sqf_tokenizer *tokenizer = user;
    static const uint32_t EXPECTED[] = {5, 3, 4, 3, 5, 3, 0};
    for (int round = 0; round < ROUNDS; round++) {
        sqf_ids ids = {0};
        char *text;
        size_t n;
        if (sqf_tokenizer_encode(tokenizer, "abc ab abc a", 12, false, &ids, NULL) != SQF_OK || ids.count != 7 ||
            memcmp(ids.data, EXPECTED, sizeof EXPECTED) != 0) {
            return wrong_ids;
        }
        if (sqf_tokenizer_decode(tokenizer, ids.data, ids.count, false, &text, &n, NULL) != SQF_OK || n != 12) {
            return wrong_text;
        }
        free(text);
        sqf_ids_clear(&ids);
    }
    return NULL;
}

static void threads_share_one_tokenizer(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer = parse(SMALL(
        ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"d+\"},\"content\":\"a\"},\"pre_tokenizer\":"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"}"));
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, tokenizer), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *problem;
        pthread_join(threads[i], &problem);
        assert_null(problem);
    }
    sqf_tokenizer_destroy(tokenizer);
}

static void expect_stream(const sqf_tokenizer *tokenizer, const uint32_t *prompt, size_t prompt_count,
                          const uint32_t *ids, const char *const *texts, size_t count)
{
    sqf_text_stream *stream;
    const char *text;
    assert_int_equal(sqf_text_stream_create(tokenizer, prompt, prompt_count, &stream, NULL), SQF_OK);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(sqf_text_stream_push(stream, ids[i], &text, NULL), SQF_OK);
        assert_string_equal(text, texts[i]);
    }
    assert_int_equal(sqf_text_stream_finish(stream, &text, NULL), SQF_OK);
    assert_string_equal(text, texts[count]);
    sqf_text_stream_destroy(stream);
}

static void a_stream_gives_whole_characters_only(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer = parse(BYTES_MODEL);
    static const uint32_t WHOLE[] = {8, 1, 2, 3, 8};
    static const char *const WHOLE_TEXTS[] = {"a", "", "", "\xe4\xbd\xa0", " a", ""};
    static const uint32_t BROKEN[] = {1, 2, 7, 3, 1};
    static const char *const BROKEN_TEXTS[] = {"", "", "\ufffda", "\ufffd", "", "\ufffd"};
    expect_stream(tokenizer, NULL, 0, WHOLE, WHOLE_TEXTS, 5);
    expect_stream(tokenizer, NULL, 0, BROKEN, BROKEN_TEXTS, 5);
    sqf_tokenizer_destroy(tokenizer);
}

static void a_stream_continues_its_prompt(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer = parse(BYTES_MODEL);
    static const uint32_t PROMPT[] = {8, 0}, IDS[] = {8, 0, 99, 7};
    static const char *const TEXTS[] = {" a", "", "", "a", ""};
    static const char *const ALONE[] = {"a", "", "", "a", ""};
    expect_stream(tokenizer, PROMPT, 2, IDS, TEXTS, 4);
    expect_stream(tokenizer, NULL, 0, IDS, ALONE, 4);
    sqf_text_stream_destroy(NULL);
    sqf_tokenizer_destroy(tokenizer);
}

static void ids_beyond_the_vocabulary_are_refused_and_holes_are_empty(void **state)
{
    (void)state;
    sqf_tokenizer *tokenizer = parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":3},\"merges\":[]}}");
    static const uint32_t HOLE[] = {0, 2, 3}, BEYOND[] = {0, 4};
    char *text;
    size_t n;
    uint32_t id = 77;
    sqf_error err = {0};
    assert_int_equal(sqf_tokenizer_decode(tokenizer, HOLE, 3, false, &text, &n, &err), SQF_OK);
    assert_string_equal(text, "a b"); /* without a decoder tokens are joined by spaces */
    free(text);
    assert_int_equal(sqf_tokenizer_decode(tokenizer, BEYOND, 2, false, &text, &n, &err), SQF_E_VALUE);
    assert_null(text);
    assert_string_equal(err.text, "ids[1]: expected an id below 4, found 4");
    assert_int_equal(sqf_tokenizer_vocabulary_size(tokenizer), 4);
    assert_string_equal(sqf_tokenizer_token(tokenizer, 3), "b");
    assert_null(sqf_tokenizer_token(tokenizer, 2));
    assert_null(sqf_tokenizer_token(tokenizer, 4));
    assert_true(sqf_tokenizer_find(tokenizer, "b", &id));
    assert_int_equal(id, 3);
    assert_false(sqf_tokenizer_find(tokenizer, "c", &id));
    assert_int_equal(id, 3);
    sqf_tokenizer_destroy(tokenizer);
    sqf_tokenizer_destroy(NULL);
    sqf_ids_clear(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_invalid_subpart_counts_as_one_replacement_character),
        cmocka_unit_test(a_nul_byte_is_a_character_like_any_other),
        cmocka_unit_test(an_empty_text_has_no_ids_but_the_template),
        cmocka_unit_test(what_has_no_token_is_left_out_unless_an_unknown_token_is_named),
        cmocka_unit_test(long_texts_of_every_kind_end),
        cmocka_unit_test(threads_share_one_tokenizer),
        cmocka_unit_test(a_stream_gives_whole_characters_only),
        cmocka_unit_test(a_stream_continues_its_prompt),
        cmocka_unit_test(ids_beyond_the_vocabulary_are_refused_and_holes_are_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
