/* Pieces of a text: appending, splitting, rewriting. */
#include "tokenizer/pieces.h"

void sqf_pieces_clear(sqf_pieces *pieces)
{
    free(pieces->text.data);
    free(pieces->data);
    *pieces = (sqf_pieces){0};
}

sqf_status sqf_pieces_replace(sqf_pieces *pieces, sqf_pieces *result, sqf_status status)
{
    if (status != SQF_OK) {
        sqf_pieces_clear(result);
        return status;
    }
    result->text = pieces->text;
    pieces->text = (sqf_buffer){0};
    sqf_pieces_clear(pieces);
    *pieces = *result;
    return SQF_OK;
}

sqf_status sqf_pieces_add(sqf_pieces *pieces, sqf_piece piece, sqf_error *err)
{
    if (piece.start == piece.end && piece.id == SQF_NO_TOKEN) {
        return SQF_OK;
    }
    if (pieces->count == pieces->capacity) {
        size_t capacity, bytes;
        if (!sqf_mul_size(&capacity, pieces->capacity, 2) || !sqf_add_size(&capacity, capacity, 64) ||
            !sqf_mul_size(&bytes, capacity, sizeof *pieces->data)) {
            return sqf_fail(err, SQF_E_MEMORY, "tokenizer: the text has too many pieces");
        }
        sqf_piece *data = realloc(pieces->data, bytes);
        if (!data) {
            return sqf_fail(err, SQF_E_MEMORY, "tokenizer: out of memory, %zu bytes were asked for", bytes);
        }
        pieces->data = data;
        pieces->capacity = capacity;
    }
    pieces->data[pieces->count++] = piece;
    return SQF_OK;
}

/* Joins spans in place as a behaviour that merges says; the order of `spans` is that of reading, or the reverse. */
static size_t merge_spans(sqf_span *spans, size_t count, sqf_behavior behavior)
{
    size_t kept = 0;
    bool previous = false;
    for (size_t i = 0; i < count; i++) {
        const sqf_span span = spans[i];
        const bool join = behavior == SQF_CONTIGUOUS ? span.match == previous : span.match && !previous;
        previous = span.match;
        if (!join || kept == 0) {
            spans[kept++] = span;
        } else if (behavior == SQF_MERGED_WITH_NEXT) {
            spans[kept - 1].start = span.start;
        } else {
            spans[kept - 1].end = span.end;
        }
    }
    return kept;
}

static void reverse_spans(sqf_span *spans, size_t count)
{
    for (size_t i = 0; i < count / 2; i++) {
        const sqf_span span = spans[i];
        spans[i] = spans[count - 1 - i];
        spans[count - 1 - i] = span;
    }
}

sqf_status sqf_pieces_split(sqf_pieces *out, const sqf_piece *piece, sqf_matcher *matcher, sqf_behavior behavior,
                            sqf_error *err)
{
    if (behavior == SQF_MERGED_WITH_NEXT) {
        reverse_spans(matcher->spans, matcher->count);
    }
    if (behavior != SQF_REMOVED && behavior != SQF_ISOLATED) {
        matcher->count = merge_spans(matcher->spans, matcher->count, behavior);
    }
    if (behavior == SQF_MERGED_WITH_NEXT) {
        reverse_spans(matcher->spans, matcher->count);
    }
    for (size_t i = 0; i < matcher->count; i++) {
        const sqf_span *span = &matcher->spans[i];
        if (behavior == SQF_REMOVED && span->match) {
            continue;
        }
        SQF_TRY(sqf_pieces_add(out,
                               (sqf_piece){.start = piece->start + span->start,
                                           .end = piece->start + span->end,
                                           .origin = piece->origin > span->start ? piece->origin - span->start : 0,
                                           .id = SQF_NO_TOKEN},
                               err));
    }
    return SQF_OK;
}

static sqf_status transform_all(const sqf_pieces *from, sqf_transform_fn transform, const void *user,
                                sqf_matcher *matcher, sqf_pieces *to, sqf_error *err)
{
    SQF_TRY(sqf_buffer_reserve(&to->text, from->text.size, err));
    for (size_t i = 0; i < from->count; i++) {
        sqf_piece piece = from->data[i];
        if (piece.id == SQF_NO_TOKEN) {
            const size_t start = to->text.size;
            SQF_TRY(transform(user, from->text.data + piece.start, piece.end - piece.start, &piece.origin, matcher,
                              &to->text, err));
            piece.start = start;
            piece.end = to->text.size;
        }
        SQF_TRY(sqf_pieces_add(to, piece, err));
    }
    return SQF_OK;
}

sqf_status sqf_pieces_transform(sqf_pieces *pieces, sqf_transform_fn transform, const void *user, sqf_matcher *matcher,
                                sqf_error *err)
{
    sqf_pieces result = {0};
    const sqf_status status = transform_all(pieces, transform, user, matcher, &result, err);
    sqf_pieces_clear(status == SQF_OK ? pieces : &result);
    if (status == SQF_OK) {
        *pieces = result;
    }
    return status;
}
