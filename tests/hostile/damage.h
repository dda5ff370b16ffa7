/* Named ways of damaging a model directory: a table of cases, and what makes the damaged copy. */
#ifndef SQF_TESTS_HOSTILE_DAMAGE_H
#define SQF_TESTS_HOSTILE_DAMAGE_H

#include <stdbool.h>
#include <stddef.h>

/* The good directories that cases start from. */
typedef enum damage_base {
    BASE_ORIGINAL = 0, /* the demo model, BF16 */
    BASE_WEIGHTS,      /* W(SQ5)A8, vmask layout */
    BASE_ACTIVATIONS,  /* W4A(SQ6), static masks and static scales */
    BASE_TIED,         /* W(SQ6)A8, tied scales, bitmask layout, three shards with an index */
    BASE_COUNT
} damage_base;

typedef enum damage_action {
    /* any file */
    ACTION_REMOVE,
    ACTION_EMPTY,
    ACTION_DIRECTORY,  /* a directory stands in its place */
    ACTION_PIPE,       /* a FIFO does: opening it for reading would block */
    ACTION_DANGLING,   /* a symbolic link to nothing */
    ACTION_LOOP,       /* a symbolic link to itself */
    ACTION_UNREADABLE, /* no permission; makes no sense for root */
    ACTION_CUT,        /* the first `number` bytes stay; negative: that many fewer than all */
    ACTION_APPEND,     /* `number` zero bytes more */
    ACTION_CONTENT,    /* the content becomes `from` */
    ACTION_REPLACE,    /* the first `from` becomes `to` */
    ACTION_NEST,       /* the first `from` becomes `number` times "[", then as many "]" */
    ACTION_BYTES,      /* the content becomes `number` times the text `from` */
    ACTION_FIRST_BYTE, /* the first byte of the first `from` becomes `number` */
    /* safetensors */
    ACTION_LENGTH,       /* the length field becomes `number` */
    ACTION_HEADER,       /* the header becomes the text `from`; the data stays */
    ACTION_HEADER_EDIT,  /* ACTION_REPLACE inside the header, whose length field follows */
    ACTION_HEADER_NEST,  /* ACTION_NEST inside the header */
    ACTION_HEADER_CUT,   /* the header loses its last `number` bytes, and its length field follows */
    ACTION_DATA,         /* bytes `to` (hexadecimal) at offset `number` of tensor `from`'s data, its hash stays */
    ACTION_DATA_UNHASHED /* the same, and no tensor has a hash any more */
} damage_action;

typedef struct damage_case {
    const char *name;
    damage_base base;
    const char *file;
    damage_action action;
    const char *from, *to;
    long long number;
    /* One letter for each command that must refuse the directory: e(val), r(un), i(nspect --check), q(uantize),
     * c(ompare), b(ench), t(okenize). */
    const char *commands;
    const char *message; /* must be in what is printed, beside the name of the file */
} damage_case;

extern const damage_case damage_cases[];
extern const size_t damage_case_count;

/* Makes the directory `to`: links to the files of `from`, and the damaged one. false: *why says what did not work; the
 * case does not fit the model, or the file system refused. */
bool damage_make(const damage_case *item, const char *from, const char *to, const char **why);

#endif
