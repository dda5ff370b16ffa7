/* A tiny model directory with everything in it, and quantized copies: what the damage tests break. */
#ifndef SQF_TESTS_HOSTILE_VICTIM_H
#define SQF_TESTS_HOSTILE_VICTIM_H

#include <stddef.h>

enum { VICTIM_KINDS = 4, VICTIM_PATH = 128 };

/* A text of some hundred bytes, for calibration and scoring. */
extern const char victim_text[];

/* A recipe file that uses every section. */
extern const char victim_recipe[];

/* Directories: original (F32), W(SQ5)A8, W4A(SQ6) calibrated, and tied scales with a bitmask and two shards. */
typedef struct victim {
    char path[VICTIM_KINDS][VICTIM_PATH];
    char text_path[VICTIM_PATH];
} victim;

/* Makes all of them below /tmp. A failure is a failure of the calling cmocka test. */
void victim_create(victim *v);
void victim_remove(const victim *v);

#endif
