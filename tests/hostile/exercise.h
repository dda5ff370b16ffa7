/* Everything that the library does with a directory from elsewhere, tried on one. */
#ifndef SQF_TESTS_HOSTILE_EXERCISE_H
#define SQF_TESTS_HOSTILE_EXERCISE_H

#include <sqf/context.h>

/* How calls ended. */
typedef struct exercise_counts {
    unsigned long fine, refused, broken; /* broken: an error without a usable sentence */
    char complaint[SQF_ERROR_TEXT + 64]; /* of the first broken one */
} exercise_counts;

/* What to try besides loading and running. */
typedef enum exercise_extra { EXERCISE_NOTHING, EXERCISE_CHECK, EXERCISE_COMPARE, EXERCISE_QUANTIZE } exercise_extra;

/* Loads the tokenizer, encodes and decodes; opens the model, runs, scores, generates some tokens. Each call must
 * succeed or give an error of one line. `other` is a good model of the same shape; `scratch` a path where an output may
 * appear (it must be gone when this returns). */
void exercise_directory(sqf_context *context, const char *directory, const char *other, const char *scratch,
                        exercise_extra extra, exercise_counts *counts);

/* Reads a recipe, resolves a module, prints it. */
void exercise_recipe(const char *yaml, size_t n, exercise_counts *counts);

#endif
