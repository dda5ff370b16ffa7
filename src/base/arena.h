/* Memory for many blocks that live and die together: the repacked weights of a model. They stand one behind the other
 * in the order in which they were asked for, which is the order in which a forward pass reads them, and share huge
 * pages, where blocks of their own would each leave the rest of their last one to small pages. */
#ifndef SQF_BASE_ARENA_H
#define SQF_BASE_ARENA_H

#include "base/memory.h"

typedef struct sqf_arena sqf_arena;

/* `expected`: bytes that will be asked for in all, about; a guess that is wrong costs nothing but room. Destroy frees
 * all blocks; NULL is fine. One thread at a time. */
sqf_status sqf_arena_create(size_t expected, sqf_arena **out, sqf_error *err);
void sqf_arena_destroy(sqf_arena *arena);

/* n bytes aligned to 64, with arbitrary contents. arena NULL = a block of its own, for free(). *out is NULL on failure
 * (SQF_E_MEMORY, the message names `what`). */
sqf_status sqf_arena_alloc(sqf_arena *arena, void **out, size_t n, const char *what, sqf_error *err);

#endif
