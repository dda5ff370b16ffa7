/* Normalizers. */
#include "tokenizer/normalizer.h"

#include <string.h>

#include "tokenizer/bytelevel.h"
#include "tokenizer/settings.h"
#include "tokenizer/unicode.h"

struct sqf_normalizer {
    sqf_transform_fn run;
    sqf_normal_form form;
    bool left, right;
    char *text; /* what is prepended, or put in place of a match; owned */
    size_t text_size;
    sqf_regex *regex; /* owned */
};

/* How many leading bytes stem from the first character is known exactly for all steps but these: a form is taken
 * of that part alone, which says at least whether there is any. */
static sqf_status run_form(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                           sqf_buffer *out, sqf_error *err)
{
    const sqf_normalizer *step = user;
    sqf_buffer head = {0};
    (void)matcher;
    sqf_status status = sqf_append_normal_form(&head, text, *origin, step->form, err);
    *origin = head.size;
    free(head.data);
    return status == SQF_OK ? sqf_append_normal_form(out, text, n, step->form, err) : status;
}

static sqf_status run_lowercase(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                                sqf_buffer *out, sqf_error *err)
{
    const size_t begin = out->size, head = *origin;
    (void)user;
    (void)matcher;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t length;
        sqf_utf8_next(text + at, n - at, &c, &length);
        at += length;
        SQF_TRY(sqf_append_lowercase(out, c, err));
        if (at == head) {
            *origin = out->size - begin;
        }
    }
    return SQF_OK;
}

static sqf_status run_prepend(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                              sqf_buffer *out, sqf_error *err)
{
    const sqf_normalizer *step = user;
    (void)matcher;
    if (*origin > 0) {
        *origin += step->text_size;
    }
    SQF_TRY(sqf_buffer_append(out, step->text, step->text_size, err));
    return sqf_buffer_append(out, text, n, err);
}

static sqf_status run_replace(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                              sqf_buffer *out, sqf_error *err)
{
    const sqf_normalizer *step = user;
    const size_t begin = out->size, head = *origin;
    SQF_TRY(sqf_regex_match(step->regex, text, n, matcher, err));
    for (size_t i = 0; i < matcher->count; i++) {
        const sqf_span *span = &matcher->spans[i];
        if (span->match) {
            SQF_TRY(sqf_buffer_append(out, step->text, step->text_size, err));
        } else {
            SQF_TRY(sqf_buffer_append(out, text + span->start, span->end - span->start, err));
        }
        if (head > 0 && span->end <= head) {
            *origin = out->size - begin;
        } else if (span->start < head) {
            *origin = out->size - begin - (span->match ? step->text_size : span->end - head);
        }
    }
    return SQF_OK;
}

/* The end of the text without trailing whitespace, not before `from`. */
static size_t trailing_whitespace(const char *text, size_t from, size_t n)
{
    size_t end = n;
    while (end > from) {
        size_t at = end - 1;
        uint32_t c;
        size_t length;
        while (((uint8_t)text[at] & 0xc0) == 0x80) {
            at--;
        }
        sqf_utf8_next(text + at, end - at, &c, &length);
        if (!sqf_is_whitespace(c)) {
            break;
        }
        end = at;
    }
    return end;
}

static sqf_status run_strip(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                            sqf_buffer *out, sqf_error *err)
{
    const sqf_normalizer *step = user;
    (void)matcher;
    const size_t start = step->left ? sqf_whitespace_end(text, n, 0) : 0;
    const size_t end = step->right ? trailing_whitespace(text, start, n) : n;
    *origin = *origin > start ? *origin - start : 0;
    return sqf_buffer_append(out, text + start, end - start, err);
}

static sqf_status load_text(sqf_normalizer *step, const json_t *json, const char *key, const char *where,
                            sqf_error *err)
{
    const char *text;
    SQF_TRY(sqf_settings_string(json, key, where, &text, err));
    step->text_size = strlen(text);
    return sqf_copy_text(&step->text, text, step->text_size, err);
}

static sqf_status load_prepend(sqf_normalizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "prepend", NULL};
    step->run = run_prepend;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    return load_text(step, json, "prepend", where, err);
}

static sqf_status load_replace(sqf_normalizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "pattern", "content", NULL};
    step->run = run_replace;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(load_text(step, json, "content", where, err));
    return sqf_settings_pattern(json, where, &step->regex, err);
}

static sqf_status load_strip(sqf_normalizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "strip_left", "strip_right", NULL};
    step->run = run_strip;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_settings_bool(json, "strip_left", where, &step->left, err));
    return sqf_settings_bool(json, "strip_right", where, &step->right, err);
}

/* The kinds that have no members but their type. */
static bool find_plain(sqf_normalizer *step, const char *type)
{
    static const struct {
        const char *type;
        sqf_transform_fn run;
        sqf_normal_form form;
    } KINDS[] = {{"NFC", run_form, SQF_NFC},
                 {"NFD", run_form, SQF_NFD},
                 {"NFKC", run_form, SQF_NFKC},
                 {"NFKD", run_form, SQF_NFKD},
                 {"Lowercase", run_lowercase, SQF_NFC},
                 {"ByteLevel", sqf_bytelevel_encode, SQF_NFC}};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (strcmp(KINDS[i].type, type) == 0) {
            step->run = KINDS[i].run;
            step->form = KINDS[i].form;
            return true;
        }
    }
    return false;
}

static sqf_status load_step(void *user, const json_t *json, const char *type, const char *where, sqf_error *err)
{
    static const char *const PLAIN[] = {"type", NULL};
    sqf_normalizers *list = user;
    sqf_normalizer *step = &list->steps[list->count++];
    if (find_plain(step, type)) {
        return sqf_settings_known(json, PLAIN, where, err);
    }
    if (strcmp(type, "Prepend") == 0) {
        return load_prepend(step, json, where, err);
    }
    if (strcmp(type, "Replace") == 0) {
        return load_replace(step, json, where, err);
    }
    if (strcmp(type, "Strip") == 0) {
        return load_strip(step, json, where, err);
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: type \"%s\" is not supported", where, type);
}

sqf_status sqf_normalizers_load(const json_t *json, sqf_normalizers *out, sqf_error *err)
{
    *out = (sqf_normalizers){0};
    SQF_TRY(SQF_ALLOC(&out->steps, SQF_PARTS_MAX, "normalizer", err));
    return sqf_settings_walk(json, "normalizers", "tokenizer.json: normalizer", load_step, out, err);
}

void sqf_normalizers_clear(sqf_normalizers *normalizers)
{
    for (size_t i = 0; i < normalizers->count; i++) {
        free(normalizers->steps[i].text);
        sqf_regex_destroy(normalizers->steps[i].regex);
    }
    free(normalizers->steps);
    *normalizers = (sqf_normalizers){0};
}

sqf_status sqf_normalizers_run(const sqf_normalizers *normalizers, sqf_pieces *pieces, sqf_matcher *matcher,
                               sqf_error *err)
{
    for (size_t i = 0; i < normalizers->count; i++) {
        const sqf_normalizer *step = &normalizers->steps[i];
        SQF_TRY(sqf_pieces_transform(pieces, step->run, step, matcher, err));
    }
    return SQF_OK;
}

sqf_status sqf_normalizers_text(const sqf_normalizers *normalizers, const char *text, size_t n, sqf_buffer *out,
                                sqf_error *err)
{
    sqf_pieces pieces = {0};
    sqf_matcher matcher = {0};
    sqf_status status = sqf_buffer_append(&pieces.text, text, n, err);
    if (status == SQF_OK) {
        status = sqf_pieces_add(&pieces, (sqf_piece){.end = n, .id = SQF_NO_TOKEN}, err);
    }
    if (status == SQF_OK) {
        status = sqf_normalizers_run(normalizers, &pieces, &matcher, err);
    }
    if (status == SQF_OK) {
        status = sqf_buffer_append(out, pieces.text.data, pieces.text.size, err);
    }
    sqf_pieces_clear(&pieces);
    sqf_matcher_clear(&matcher);
    return status;
}
