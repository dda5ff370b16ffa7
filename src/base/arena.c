/* A list of chunks from which blocks are cut in turn. A chunk is only touched where blocks were cut from it, so one
 * that is larger than what is needed takes addresses and no memory. */
#include "base/arena.h"

enum { ALIGNMENT = 64 };

/* The largest chunk, unless a block is larger. */
static const size_t chunk_limit = (size_t)64 << 20;

typedef struct chunk {
    struct chunk *next;
    uint8_t *data;
    size_t size, used;
} chunk;

struct sqf_arena {
    chunk *chunks; /* the newest first, which blocks are cut from */
    size_t chunk_size;
};

sqf_status sqf_arena_create(size_t expected, sqf_arena **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "arena", err));
    (*out)->chunk_size = expected < chunk_limit ? expected : chunk_limit;
    return SQF_OK;
}

void sqf_arena_destroy(sqf_arena *arena)
{
    if (!arena) {
        return;
    }
    while (arena->chunks) {
        chunk *first = arena->chunks;
        arena->chunks = first->next;
        free(first->data);
        free(first);
    }
    free(arena);
}

/* A chunk that is in the list only when it has its memory. */
static sqf_status add_chunk(sqf_arena *arena, size_t size, const char *what, sqf_error *err)
{
    chunk *added;
    SQF_TRY(SQF_ALLOC(&added, 1, what, err));
    const sqf_status status = sqf_alloc_unset((void **)&added->data, size, 1, what, err);
    if (status != SQF_OK) {
        free(added);
        return status;
    }
    added->size = size;
    added->next = arena->chunks;
    arena->chunks = added;
    return SQF_OK;
}

sqf_status sqf_arena_alloc(sqf_arena *arena, void **out, size_t n, const char *what, sqf_error *err)
{
    *out = NULL;
    if (!arena) {
        return sqf_alloc_unset(out, n, 1, what, err);
    }
    if (n > SIZE_MAX - ALIGNMENT) {
        return sqf_fail(err, SQF_E_MEMORY, "%s: %zu bytes are too many", what, n);
    }
    const size_t bytes = sqf_ceil_div(n, ALIGNMENT) * ALIGNMENT;
    if (!arena->chunks || bytes > arena->chunks->size - arena->chunks->used) {
        SQF_TRY(add_chunk(arena, bytes > arena->chunk_size ? bytes : arena->chunk_size, what, err));
    }
    *out = arena->chunks->data + arena->chunks->used;
    arena->chunks->used += bytes;
    return SQF_OK;
}
