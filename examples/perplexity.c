/* The library in one page: load a model, encode a text, print its perplexity in windows.
 *
 *     cc perplexity.c $(pkg-config --cflags --libs libsqf) -lm -o perplexity
 *     ./perplexity MODEL_DIRECTORY TEXT_FILE [WINDOW]
 *
 * `sqf eval` does more (errors, a reference model, JSON); this shows the calls. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <sqf/context.h>
#include <sqf/model.h>
#include <sqf/tokenizer.h>

static char *read_text(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        return NULL;
    }
    char *text = NULL;
    size_t room = 0;
    *size = 0;
    do {
        room += 1 << 16;
        char *more = realloc(text, room);
        if (!more) {
            break;
        }
        text = more;
        *size += fread(text + *size, 1, room - *size, file);
    } while (*size == room);
    fclose(file);
    return text;
}

/* Negative log-likelihood of `next` under the logits of one row. */
static double surprise(const float *logits, size_t vocabulary, uint32_t next)
{
    double largest = logits[0], sum = 0;
    for (size_t i = 1; i < vocabulary; i++) {
        largest = logits[i] > largest ? logits[i] : largest;
    }
    for (size_t i = 0; i < vocabulary; i++) {
        sum += exp(logits[i] - largest);
    }
    return log(sum) + largest - logits[next];
}

static sqf_status score_window(sqf_session *session, const uint32_t *ids, size_t window, size_t vocabulary,
                               float *logits, double *sum, sqf_error *err)
{
    sqf_session_reset(session);
    sqf_status status = sqf_session_forward(session, ids, window, err);
    for (size_t i = 0; status == SQF_OK && i + 1 < window; i++) {
        status = sqf_session_logits(session, i, 1, logits, err);
        if (status == SQF_OK) {
            *sum += surprise(logits, vocabulary, ids[i + 1]);
        }
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL_DIRECTORY TEXT_FILE [WINDOW]\n", argv[0]);
        return 2;
    }
    const size_t window = argc > 3 ? strtoul(argv[3], NULL, 10) : 512;
    size_t size = 0;
    char *text = read_text(argv[2], &size);
    sqf_error err = {SQF_E_IO, "the text could not be read"};
    sqf_context *context = NULL;
    sqf_tokenizer *tokenizer = NULL;
    sqf_model *model = NULL;
    sqf_session *session = NULL;
    sqf_ids ids = {0};
    float *logits = NULL;
    sqf_status status = text ? sqf_context_create(NULL, &context, &err) : SQF_E_IO;
    if (status == SQF_OK) {
        status = sqf_model_open(context, argv[1], &model, &err);
    }
    if (status == SQF_OK) {
        status = sqf_tokenizer_load(argv[1], &tokenizer, &err);
    }
    if (status == SQF_OK) {
        status = sqf_tokenizer_encode(tokenizer, text, size, false, &ids, &err);
    }
    if (status == SQF_OK) {
        status = sqf_session_create(model, window, &session, &err);
    }
    const size_t vocabulary = model ? sqf_model_info_get(model).vocabulary : 0;
    logits = malloc((vocabulary + 1) * sizeof *logits);
    double sum = 0;
    size_t scored = 0;
    for (size_t i = 0; status == SQF_OK && logits && i + window <= ids.count; i += window) {
        status = score_window(session, ids.data + i, window, vocabulary, logits, &sum, &err);
        scored += window - 1;
    }
    if (status == SQF_OK) {
        printf("%zu tokens scored, perplexity %.4f\n", scored, exp(sum / (double)scored));
    } else {
        fprintf(stderr, "%s: %s\n", argv[0], err.text);
    }
    free(logits);
    sqf_ids_clear(&ids);
    sqf_session_destroy(session);
    sqf_tokenizer_destroy(tokenizer);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    free(text);
    return status == SQF_OK ? 0 : 1;
}
