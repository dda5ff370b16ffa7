/* What the tokenizer's tests share. */
#ifndef SQF_TEST_TOKENIZER_HELPERS_H
#define SQF_TEST_TOKENIZER_HELPERS_H

/* cmocka.h needs these four first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "tokenizer/internal.h"

#define DATA_DIRECTORY SQF_SOURCE_DIR "/tests/data/tokenizers/"

/* A byte-level model of the letters a, b, c, the space and a few merges; `parts` are further members of the root,
 * each with a comma in front. */
#define SMALL_MODEL                                                                                                    \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\\u0120\":3,\"ab\":4,\"abc\":5},"                \
    "\"merges\":[\"a b\",[\"ab\",\"c\"]]}"
#define SMALL(parts) "{" SMALL_MODEL parts "}"

static inline sqf_tokenizer *parse(const char *json)
{
    sqf_tokenizer *tokenizer;
    sqf_error err = {0};
    if (sqf_tokenizer_parse(json, strlen(json), NULL, 0, &tokenizer, &err) != SQF_OK) {
        fail_msg("%s", err.text);
    }
    return tokenizer;
}

static inline void expect_ids(const sqf_tokenizer *tokenizer, const char *text, size_t n, bool special,
                              const uint32_t *expected, size_t count)
{
    sqf_ids ids = {0};
    sqf_error err = {0};
    if (sqf_tokenizer_encode(tokenizer, text, n, special, &ids, &err) != SQF_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(ids.count, count);
    if (count > 0) {
        assert_memory_equal(ids.data, expected, count * sizeof *expected);
    }
    sqf_ids_clear(&ids);
}

#endif
