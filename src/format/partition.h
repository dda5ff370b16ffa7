/* How the columns of a matrix (or the channels of an input) are cut into scale groups and banks. Columns are stored
 * in two sections when a static activation mask reorders them: [0, border) feeds the low path, [border, columns) the
 * high path. Groups and banks restart at the border and never straddle it:
 *
 *     columns 11, border 5, size 4:    | 0 1 2 3 | 4 || 5 6 7 8 | 9 10 |       4 ranges of 4, 1, 4 and 2 columns */
#ifndef SQF_FORMAT_PARTITION_H
#define SQF_FORMAT_PARTITION_H

#include <sqf/format.h>

/* A cut of 0..columns into ranges: `size` columns each, from 0 and again from the border. */
typedef struct sqf_partition {
    size_t columns;
    size_t border; /* length of the first section; == columns where there is only one */
    size_t size;   /* columns in a group or bank; the last of each section may be shorter */
} sqf_partition;

/* size 0 = whole sections. border must be 0..columns. */
sqf_partition sqf_partition_make(size_t columns, size_t border, size_t size);

/* Number of groups; the range [*begin, *end) of group `index`; the group that holds `column`. */
size_t sqf_partition_count(const sqf_partition *partition);
void sqf_partition_range(const sqf_partition *partition, size_t index, size_t *begin, size_t *end);
size_t sqf_partition_find(const sqf_partition *partition, size_t column);

/* High elements of a bank of `columns` elements where a whole bank of `bank` has k:
 * round-half-up(k * columns / bank), at least 1 when k >= 1 and columns >= 1. */
size_t sqf_bank_high(size_t bank, size_t k, size_t columns);

/* Sum of sqf_bank_high over all banks of `bank` columns in the partition's two sections. */
size_t sqf_partition_high(const sqf_partition *banks, size_t bank, size_t k);

/* Channels that a static mask holds low: channels - the sum of the high ones over the banks of consecutive input
 * channels. All of them where there is no static mask. The border of every matrix that reads this input. */
size_t sqf_act_low_channels(const sqf_act_spec *spec, size_t channels);

/* Chooses the k largest scores of n (k <= n); ties go to the lower index. mask[i] = 1 for the chosen, exactly k of
 * them. Linear time, no memory. Scores are not NaN (one would sort as an extreme value). */
void sqf_select_top(const float *score, size_t n, size_t k, uint8_t *mask);

#endif
