/* fuzz_scheme: any text is either refused with a sentence, or names a valid scheme that survives every spelling. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/format.h>

/* abort, not assert: the check must also stand in a release build */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_spellings(const sqf_scheme *scheme)
{
    for (int spelling = SQF_SPELLING_SHORT; spelling <= SQF_SPELLING_LONG; spelling++) {
        char text[SQF_SCHEME_TEXT], again[SQF_SCHEME_TEXT];
        sqf_scheme back;
        sqf_scheme_print(scheme, (sqf_spelling)spelling, text);
        CHECK(memchr(text, '\0', sizeof text) != NULL);
        CHECK(sqf_scheme_parse(text, &back, NULL) == SQF_OK);
        CHECK(sqf_scheme_equal(scheme, &back));
        sqf_scheme_print(&back, (sqf_spelling)spelling, again);
        CHECK(strcmp(text, again) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1); /* exact: a read beyond the text is seen */
    CHECK(text != NULL);
    if (size > 0) {
        memcpy(text, data, size);
    }
    text[size] = '\0';
    sqf_scheme scheme;
    sqf_error err = {0};
    if (sqf_scheme_parse(text, &scheme, &err) == SQF_OK) {
        CHECK(sqf_scheme_check(&scheme, NULL) == SQF_OK);
        const sqf_scheme_bits bits = sqf_scheme_bits_of(&scheme);
        CHECK(bits.weights_stored >= 0.0 && bits.low_rate_share >= 0.0 && bits.low_rate_share <= 1.0);
        check_spellings(&scheme);
    } else {
        CHECK(err.status == SQF_E_ARG && err.text[0] != '\0' && strpbrk(err.text, "\r\n") == NULL);
    }
    free(text);
    return 0;
}
