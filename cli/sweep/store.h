/* The file of results: one line of JSON a point, appended as points are done, and what makes a point the same. */
#ifndef SQF_CLI_SWEEP_STORE_H
#define SQF_CLI_SWEEP_STORE_H

#include <stdio.h>

#include "grid.h"

enum { ID_TEXT = 33 }; /* 128 bits in hexadecimal */

/* Hashes of contents, each file read once. Zero-initialised: empty. */
typedef struct content_hashes {
    struct content_hash *items;
    size_t count;
} content_hashes;

/* The hash of a file, or of a model directory's configuration, tokenizer and tensors. EXIT_DONE, or the code after a
 * message. */
int content_hash_find(content_hashes *hashes, const char *path, char text[ID_TEXT]);
void content_hashes_clear(content_hashes *hashes);

/* What a point is known by: all its settings with contents in place of paths, the recipe with every default, and the
 * program's version. Neither the grid's name nor where files lie is part of it. */
int point_identify(const sweep_point *point, content_hashes *hashes, char id[ID_TEXT]);

typedef struct store {
    const char *path;
    bool look;     /* nothing may be written */
    FILE *file;    /* at its end */
    json_t *lines; /* of points that are done, as they are in the file */
} store;

/* Opens or creates the file, takes a lock on it, reads its lines and cuts off a last one that was torn. look: only
 * reads what is there, if it is. */
int store_open(const char *path, bool look, store *out);
void store_close(store *s);

/* The line of a point that is done: under this grid's name, or (grid NULL) any. Borrowed. */
json_t *store_find(const store *s, const char *id, const char *grid);

/* Writes a line, whole, and remembers it if the point is done. Takes the object. */
int store_append(store *s, json_t *line);

#endif
