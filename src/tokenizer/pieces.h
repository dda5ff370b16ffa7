/* A text on its way to tokens: bytes cut into pieces, some of which already are tokens. */
#ifndef SQF_TOKENIZER_PIECES_H
#define SQF_TOKENIZER_PIECES_H

#include "tokenizer/regex/regex.h"

#define SQF_NO_TOKEN UINT32_MAX

typedef struct sqf_piece {
    size_t start, end; /* bytes of the text */
    size_t origin;     /* how many of the leading bytes stem from the first character of the whole input: what
                          Metaspace's scheme "first" asks */
    uint32_t id;       /* an added token, or SQF_NO_TOKEN for text */
} sqf_piece;

/* Zero-initialise; sqf_pieces_clear. */
typedef struct sqf_pieces {
    sqf_buffer text;
    sqf_piece *data;
    size_t count, capacity;
} sqf_pieces;

void sqf_pieces_clear(sqf_pieces *pieces);

/* Appends a piece; an empty text is left out. */
sqf_status sqf_pieces_add(sqf_pieces *pieces, sqf_piece piece, sqf_error *err);

/* Ends a pass that wrote other pieces of the same text to `result`: with SQF_OK they take the place of the old ones,
 * otherwise they are dropped. Returns the status. */
sqf_status sqf_pieces_replace(sqf_pieces *pieces, sqf_pieces *result, sqf_status status);

/* What becomes of the matches of a pattern. */
typedef enum sqf_behavior {
    SQF_REMOVED,
    SQF_ISOLATED,
    SQF_MERGED_WITH_PREVIOUS,
    SQF_MERGED_WITH_NEXT,
    SQF_CONTIGUOUS
} sqf_behavior;

/* Appends to `out` the parts of `piece`, as the matcher's spans (relative to the piece) and the behaviour say.
 * The spans are used up. */
sqf_status sqf_pieces_split(sqf_pieces *out, const sqf_piece *piece, sqf_matcher *matcher, sqf_behavior behavior,
                            sqf_error *err);

/* The same pieces in another text: a transform appends its result for one piece's text to `out` and sets *origin. */
typedef sqf_status (*sqf_transform_fn)(const void *user, const char *text, size_t n, size_t *origin,
                                       sqf_matcher *matcher, sqf_buffer *out, sqf_error *err);

/* Replaces the text of every piece that is no token; a piece whose text becomes empty goes. */
sqf_status sqf_pieces_transform(sqf_pieces *pieces, sqf_transform_fn transform, const void *user, sqf_matcher *matcher,
                                sqf_error *err);

#endif
