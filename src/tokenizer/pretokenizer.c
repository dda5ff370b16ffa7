/* Pre-tokenizers. */
#include "tokenizer/pretokenizer.h"

#include <string.h>

#include "tokenizer/bytelevel.h"
#include "tokenizer/settings.h"
#include "tokenizer/unicode.h"

/* GPT-2's pattern, which ByteLevel uses unless use_regex is false. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* The words and the runs of other characters of Whitespace. */
#define WORD_PATTERN "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+"

/* What a step does, in this order; parts that it does not have are NULL. */
struct sqf_pretokenizer {
    sqf_transform_fn before;              /* rewrites each piece */
    sqf_regex *regex;                     /* cuts at matches of a pattern; owned */
    bool (*is_delimiter)(uint32_t point); /* or at characters of a kind */
    bool metaspace_split;                 /* or before each replacement character */
    bool invert;                          /* matches and the rest change places */
    sqf_behavior behavior;
    sqf_transform_fn after; /* rewrites the parts */
    sqf_metaspace metaspace;
};

static sqf_status add_space(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                            sqf_buffer *out, sqf_error *err)
{
    (void)user;
    (void)matcher;
    if (text[0] != ' ') {
        *origin += *origin > 0;
        SQF_TRY(sqf_buffer_append(out, " ", 1, err));
    }
    return sqf_buffer_append(out, text, n, err);
}

static bool begins_with(const char *text, size_t n, const sqf_metaspace *metaspace)
{
    return n >= metaspace->size && memcmp(text, metaspace->replacement, metaspace->size) == 0;
}

/* Writes each space as the replacement and marks the begin of the text. */
static sqf_status mark_spaces(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                              sqf_buffer *out, sqf_error *err)
{
    const sqf_metaspace *m = &((const sqf_pretokenizer *)user)->metaspace;
    const bool first = *origin > 0;
    const bool marked = text[0] == ' ' || begins_with(text, n, m);
    (void)matcher;
    if (!marked && (m->prepend == SQF_PREPEND_ALWAYS || (m->prepend == SQF_PREPEND_FIRST && first))) {
        SQF_TRY(sqf_buffer_append(out, m->replacement, m->size, err));
        *origin += first ? m->size : 0;
    } else if (text[0] == ' ' && first) {
        *origin += m->size - 1;
    }
    for (size_t i = 0; i < n; i++) {
        SQF_TRY(text[i] == ' ' ? sqf_buffer_append(out, m->replacement, m->size, err)
                               : sqf_buffer_append(out, text + i, 1, err));
    }
    return SQF_OK;
}

/* The spans of the characters that are delimiters: each one a match of its own. */
static sqf_status match_characters(const sqf_pretokenizer *step, const char *text, size_t n, sqf_matcher *matcher,
                                   sqf_error *err)
{
    size_t covered = 0;
    matcher->count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t length;
        sqf_utf8_next(text + at, n - at, &c, &length);
        const bool match =
            step->metaspace_split ? begins_with(text + at, n - at, &step->metaspace) : step->is_delimiter(c);
        if (match) {
            if (covered < at) {
                SQF_TRY(sqf_matcher_add(matcher, covered, at, false, err));
            }
            covered = at + length;
            SQF_TRY(sqf_matcher_add(matcher, at, covered, true, err));
        }
        at += length;
    }
    return covered < n ? sqf_matcher_add(matcher, covered, n, false, err) : SQF_OK;
}

static sqf_status split_piece(const sqf_pretokenizer *step, const char *text, const sqf_piece *piece,
                              sqf_matcher *matcher, sqf_pieces *out, sqf_error *err)
{
    const size_t n = piece->end - piece->start;
    SQF_TRY(step->regex ? sqf_regex_match(step->regex, text + piece->start, n, matcher, err)
                        : match_characters(step, text + piece->start, n, matcher, err));
    for (size_t i = 0; i < matcher->count && step->invert; i++) {
        matcher->spans[i].match = !matcher->spans[i].match;
    }
    return sqf_pieces_split(out, piece, matcher, step->behavior, err);
}

/* Cuts all pieces; the text stays. */
static sqf_status split_all(const sqf_pretokenizer *step, sqf_pieces *pieces, sqf_matcher *matcher, sqf_error *err)
{
    sqf_pieces result = {0};
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < pieces->count && status == SQF_OK; i++) {
        const sqf_piece *piece = &pieces->data[i];
        status = piece->id == SQF_NO_TOKEN ? split_piece(step, pieces->text.data, piece, matcher, &result, err)
                                           : sqf_pieces_add(&result, *piece, err);
    }
    return sqf_pieces_replace(pieces, &result, status);
}

static sqf_status run_step(const sqf_pretokenizer *step, sqf_pieces *pieces, sqf_matcher *matcher, sqf_error *err)
{
    if (step->before) {
        SQF_TRY(sqf_pieces_transform(pieces, step->before, step, matcher, err));
    }
    if (step->regex || step->is_delimiter || step->metaspace_split) {
        SQF_TRY(split_all(step, pieces, matcher, err));
    }
    return step->after ? sqf_pieces_transform(pieces, step->after, step, matcher, err) : SQF_OK;
}

sqf_status sqf_pretokenizers_run(const sqf_pretokenizers *pretokenizers, sqf_pieces *pieces, sqf_matcher *matcher,
                                 sqf_error *err)
{
    for (size_t i = 0; i < pretokenizers->count; i++) {
        SQF_TRY(run_step(&pretokenizers->steps[i], pieces, matcher, err));
    }
    return SQF_OK;
}

static sqf_status load_behavior(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    const char *name = "Isolated";
    SQF_TRY(sqf_json_string_find(json, "behavior", where, &name, err));
    return sqf_settings_behavior(name, where, &step->behavior, err);
}

static sqf_status load_split(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "pattern", "behavior", "invert", NULL};
    const char *behavior;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_settings_string(json, "behavior", where, &behavior, err));
    SQF_TRY(load_behavior(step, json, where, err));
    SQF_TRY(sqf_json_bool_find(json, "invert", where, &step->invert, err));
    return sqf_settings_pattern(json, where, &step->regex, err);
}

static sqf_status load_byte_level(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    bool prefix = true, use_regex = true;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_json_bool_find(json, "add_prefix_space", where, &prefix, err));
    SQF_TRY(sqf_json_bool_find(json, "use_regex", where, &use_regex, err));
    step->before = prefix ? add_space : NULL;
    step->after = sqf_bytelevel_encode;
    step->behavior = SQF_ISOLATED;
    return use_regex ? sqf_regex_compile(GPT2_PATTERN, false, where, &step->regex, err) : SQF_OK;
}

static sqf_status load_digits(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "individual_digits", NULL};
    bool individual = false;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_json_bool_find(json, "individual_digits", where, &individual, err));
    step->is_delimiter = sqf_is_numeric;
    step->behavior = individual ? SQF_ISOLATED : SQF_CONTIGUOUS;
    return SQF_OK;
}

static sqf_status load_punctuation(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "behavior", NULL};
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    step->is_delimiter = sqf_is_punctuation;
    return load_behavior(step, json, where, err);
}

static sqf_status load_whitespace(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", NULL};
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    step->invert = true;
    step->behavior = SQF_REMOVED;
    return sqf_regex_compile(WORD_PATTERN, false, where, &step->regex, err);
}

static sqf_status load_whitespace_split(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", NULL};
    step->is_delimiter = sqf_is_whitespace;
    step->behavior = SQF_REMOVED;
    return sqf_settings_known(json, KNOWN, where, err);
}

static sqf_status load_scheme(const json_t *json, const char *where, sqf_prepend *out, sqf_error *err)
{
    static const char *const NAMES[] = {
        [SQF_PREPEND_ALWAYS] = "always", [SQF_PREPEND_FIRST] = "first", [SQF_PREPEND_NEVER] = "never"};
    const char *scheme = NULL;
    bool prefix = true;
    SQF_TRY(sqf_json_string_find(json, "prepend_scheme", where, &scheme, err));
    SQF_TRY(sqf_json_bool_find(json, "add_prefix_space", where, &prefix, err)); /* of older files */
    *out = prefix ? SQF_PREPEND_ALWAYS : SQF_PREPEND_NEVER;
    if (!scheme) {
        return SQF_OK;
    }
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        if (strcmp(NAMES[i], scheme) == 0) {
            *out = (sqf_prepend)i;
            return prefix || *out == SQF_PREPEND_NEVER
                       ? SQF_OK
                       : sqf_fail(err, SQF_E_FORMAT,
                                  "%s: add_prefix_space: false and prepend_scheme: \"%s\" contradict", where, scheme);
        }
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: prepend_scheme \"%s\" is not known", where, scheme);
}

sqf_status sqf_metaspace_load(const json_t *json, const char *where, sqf_metaspace *out, sqf_error *err)
{
    static const char *const KNOWN[] = {"type",    "replacement", "prepend_scheme", "add_prefix_space", "split",
                                        "str_rep", NULL};
    const char *replacement;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_settings_string(json, "replacement", where, &replacement, err));
    out->size = strlen(replacement);
    if (out->size == 0 || out->size != sqf_utf8_length(replacement)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: replacement: expected one character, found \"%.16s\"", where,
                        replacement);
    }
    memcpy(out->replacement, replacement, out->size + 1);
    out->split = true;
    SQF_TRY(sqf_json_bool_find(json, "split", where, &out->split, err));
    return load_scheme(json, where, &out->prepend, err);
}

static sqf_status load_metaspace(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err)
{
    SQF_TRY(sqf_metaspace_load(json, where, &step->metaspace, err));
    step->before = mark_spaces;
    step->metaspace_split = step->metaspace.split;
    step->behavior = SQF_MERGED_WITH_NEXT;
    return SQF_OK;
}

static sqf_status load_step(void *user, const json_t *json, const char *type, const char *where, sqf_error *err)
{
    static const struct {
        const char *type;
        sqf_status (*load)(sqf_pretokenizer *step, const json_t *json, const char *where, sqf_error *err);
    } KINDS[] = {{"Split", load_split},           {"ByteLevel", load_byte_level},
                 {"Digits", load_digits},         {"Punctuation", load_punctuation},
                 {"Whitespace", load_whitespace}, {"WhitespaceSplit", load_whitespace_split},
                 {"Metaspace", load_metaspace}};
    sqf_pretokenizers *list = user;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (strcmp(KINDS[i].type, type) == 0) {
            return KINDS[i].load(&list->steps[list->count++], json, where, err);
        }
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: type \"%s\" is not supported", where, type);
}

sqf_status sqf_pretokenizers_load(const json_t *json, sqf_pretokenizers *out, sqf_error *err)
{
    *out = (sqf_pretokenizers){0};
    SQF_TRY(SQF_ALLOC(&out->steps, SQF_PARTS_MAX, "pre-tokenizer", err));
    return sqf_settings_walk(json, "pretokenizers", "tokenizer.json: pre_tokenizer", load_step, out, err);
}

void sqf_pretokenizers_clear(sqf_pretokenizers *pretokenizers)
{
    for (size_t i = 0; i < pretokenizers->count; i++) {
        sqf_regex_destroy(pretokenizers->steps[i].regex);
    }
    free(pretokenizers->steps);
    *pretokenizers = (sqf_pretokenizers){0};
}
