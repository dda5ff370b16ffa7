/* Fuzz target: the bytes are a tokenizer.json. It is refused with a message, or it encodes and decodes. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const sqf_tokenizer *tokenizer)
{
    static const char TEXT[] = "Hello  w\xc3\xb6rld\t12345\r\n<s>\xff\xe4\xbd a\xcc\x81 \xe4\xbd\xa0 aaaaaaaaaaaa\0b";
    sqf_ids ids = {0};
    sqf_error err = {0};
    char *text;
    size_t n;
    if (sqf_tokenizer_encode(tokenizer, TEXT, sizeof TEXT - 1, true, &ids, &err) != SQF_OK && err.text[0] == '\0') {
        abort();
    }
    if (sqf_tokenizer_decode(tokenizer, ids.data, ids.count, false, &text, &n, &err) != SQF_OK) {
        abort(); /* its own ids must decode */
    }
    free(text);
    sqf_text_stream *stream;
    const char *part;
    if (sqf_text_stream_create(tokenizer, ids.data, ids.count / 2, &stream, &err) == SQF_OK) {
        for (size_t i = ids.count / 2; i < ids.count; i++) {
            sqf_text_stream_push(stream, ids.data[i], &part, &err);
        }
        sqf_text_stream_finish(stream, &part, &err);
        sqf_text_stream_destroy(stream);
    }
    sqf_ids_clear(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sqf_tokenizer *tokenizer;
    sqf_error err = {0};
    if (sqf_tokenizer_parse((const char *)data, size, NULL, 0, &tokenizer, &err) == SQF_OK) {
        use(tokenizer);
        sqf_tokenizer_destroy(tokenizer);
    } else if (tokenizer || err.text[0] == '\0') {
        abort();
    }
    return 0;
}
