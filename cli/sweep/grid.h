/* A grid file: sections of settings, each a list of choices, and the points that crossing them gives. */
#ifndef SQF_CLI_SWEEP_GRID_H
#define SQF_CLI_SWEEP_GRID_H

#include <jansson.h>

#include <sqf/quantize.h>

/* What a value of a key may be, and whether a list of them is a list of choices. */
typedef enum grid_kind {
    GRID_RECIPE = 0, /* a key of the library's recipe table: a scalar that the library reads */
    GRID_TEXT,       /* any text: paths */
    GRID_COUNT,      /* a whole number in least..most */
    GRID_SWITCH,     /* yes or no */
    GRID_LIST,       /* a list of texts that stay together */
    GRID_OVERRIDES   /* a list of maps that stay together: match, and recipe keys */
} grid_kind;

typedef struct grid_key {
    const char *name;
    grid_kind kind;
    uint64_t least, most;     /* GRID_COUNT */
    const char *default_text; /* NULL = none */
    const char *description;
} grid_key;

/* Keys beside the recipe's; *count of them. */
const grid_key *grid_key_list(size_t *count);

/* One setting with its choices. Values are JSON: numbers where the text is one, else strings. */
typedef struct grid_axis {
    const char *key; /* of the tables */
    size_t line;
    json_t *choices; /* array, never empty */
} grid_axis;

typedef struct grid_axes {
    grid_axis *items;
    size_t count;
} grid_axes;

/* A named part of the file. Without a list of points it is crossed as it is. */
typedef struct grid_section {
    char *name, *title, *question; /* NULL = none */
    size_t line;
    grid_axes axes;
    grid_axes *points; /* settings of each point of an explicit list */
    size_t point_count;
} grid_section;

typedef struct grid_file {
    const char *path;
    grid_section base; /* what stands outside of sections: the settings of all */
    grid_section *sections;
    size_t count;
    grid_axes given; /* by the command line, in place of what the file says */
} grid_file;

/* Reads a grid file: structure, keys and the form of values. EXIT_DONE or the code after a message. `path` must outlive
 * the file. */
int grid_file_load(const char *path, grid_file *out);
void grid_file_clear(grid_file *file);

/* What is to be measured. */
typedef struct sweep_point {
    const grid_section *section;
    const char *grid; /* name of the section */
    char *label;      /* "w4a-sq6 bank=32 seed=1": what tells it from its neighbours; free() */
    json_t *settings; /* object: every setting that was given, and the defaults of the keys beside the recipe's */
    sqf_recipe *recipe;
} sweep_point;

typedef struct sweep_points {
    sweep_point *items;
    size_t count;
} sweep_points;

/* Gives a key one more choice that takes the place of all that the file says of it: "seed=0". EXIT_DONE or the code
 * after a message. */
int grid_file_set(grid_file *file, const char *key, const char *value);

/* Crosses all sections. Recipes are made here, so that a bad value ends the sweep before it starts. */
int grid_expand(const grid_file *file, sweep_points *out);
void sweep_points_clear(sweep_points *points);

/* The text that the library reads for a scalar. */
void grid_value_text(const json_t *value, char *text, size_t size);
/* Settings of a point by name; the defaults have been filled in. */
const char *settings_text(const json_t *settings, const char *key);
uint64_t settings_count(const json_t *settings, const char *key);
bool settings_switch(const json_t *settings, const char *key);

#endif
