/* Random specifications, matrices and rows for the tests of the format. */
#ifndef SQF_TESTS_FORMAT_RANDOM_MATRIX_H
#define SQF_TESTS_FORMAT_RANDOM_MATRIX_H

#include <math.h>

#include "base/random.h"
#include "check.h"
#include "format/matrix.h"

/* A random whole number from `low` to `high`, both possible. */
static inline size_t random_between(sqf_random *random, size_t low, size_t high)
{
    return low + (size_t)sqf_random_below(random, high - low + 1);
}

/* A random value on the type's grid: the value of a random valid code. */
static inline float random_value(sqf_random *random, sqf_type type)
{
    if (type == SQF_TYPE_NONE) {
        return 0.0f;
    }
    uint32_t code;
    do {
        code = (uint32_t)sqf_random_below(random, 1u << sqf_type_bits(type));
    } while (!sqf_type_code_valid(type, code));
    return sqf_type_decode(type, code);
}

/* Random contents of a row that a writer may produce: exact counts, values on their grids, scales of their type. */
static inline void random_row(sqf_random *random, const sqf_matrix *matrix, sqf_row *row)
{
    const sqf_weight_spec *spec = &matrix->spec;
    memset(row->mask, 0, matrix->columns);
    for (size_t bank = 0; spec->high != SQF_TYPE_NONE && bank < sqf_partition_count(&matrix->banks); bank++) {
        size_t begin, end;
        sqf_partition_range(&matrix->banks, bank, &begin, &end);
        size_t left = sqf_bank_high(spec->bank, spec->high_per_bank, end - begin);
        for (size_t j = begin; j < end; j++) {
            row->mask[j] = sqf_random_below(random, end - j) < left;
            left -= row->mask[j];
        }
    }
    for (size_t j = 0; j < matrix->columns; j++) {
        row->value[j] = random_value(random, row->mask[j] ? spec->high : spec->low);
    }
    for (size_t g = 0; g < matrix->group_count; g++) {
        const bool tied = spec->high != SQF_TYPE_NONE && spec->scales == SQF_SCALES_TIED;
        const float scale[2] = {(float)sqf_random_unit(random), (float)sqf_random_unit(random)};
        row->scale_low[g] = sqf_type_has_scale(spec->low) ? sqf_scale_round(spec->scale_type, scale[0]) : 0.0f;
        row->shift[g] = tied ? (uint8_t)random_between(random, 0, (size_t)sqf_shift_max(spec)) : 0;
        row->scale_high[g] = tied                             ? ldexpf(row->scale_low[g], -row->shift[g])
                             : sqf_type_has_scale(spec->high) ? sqf_scale_round(spec->scale_type, scale[1])
                             : spec->high != SQF_TYPE_NONE    ? 1.0f
                                                              : 0.0f;
    }
}

static inline sqf_type random_scale_type(sqf_random *random)
{
    static const sqf_type types[] = {SQF_TYPE_FP16, SQF_TYPE_BF16, SQF_TYPE_FP32, SQF_TYPE_FP8, SQF_TYPE_E8M0};
    return types[sqf_random_below(random, sizeof types / sizeof *types)];
}

/* A random specification of quantized weights that passes the checks, over all types, layouts and k. */
static inline sqf_weight_spec random_weights(sqf_random *random, uint32_t bank_max)
{
    for (;;) {
        sqf_weight_spec spec = {.low = (sqf_type)sqf_random_below(random, SQF_TYPE_COUNT),
                                .high = (sqf_type)sqf_random_below(random, SQF_TYPE_COUNT),
                                .bank = (uint32_t)random_between(random, 1, bank_max),
                                .scale_type = random_scale_type(random),
                                .scales = (sqf_scales)sqf_random_below(random, 2),
                                .layout = (sqf_layout)sqf_random_below(random, 2)};
        spec.group = spec.bank * (uint32_t)sqf_random_below(random, 4);
        if (sqf_random_below(random, 4) == 0) { /* groups inside banks */
            spec.group = (uint32_t)random_between(random, 1, 4);
            spec.bank = spec.group * (uint32_t)random_between(random, 1, bank_max / 4 + 1);
        }
        spec.high_per_bank = spec.high == SQF_TYPE_NONE ? 0 : (uint32_t)random_between(random, 0, spec.bank);
        const sqf_scheme scheme = {.weights = spec, .activations = {.low = SQF_TYPE_FP32}};
        if (!sqf_weight_spec_is_dense(&spec) && sqf_scheme_check(&scheme, NULL) == SQF_OK) {
            return spec;
        }
    }
}

static inline sqf_act_spec random_activations(sqf_random *random, uint32_t bank_max)
{
    for (;;) {
        sqf_act_spec spec = {.low = (sqf_type)sqf_random_below(random, SQF_TYPE_COUNT),
                             .high = (sqf_type)sqf_random_below(random, SQF_TYPE_COUNT),
                             .bank = (uint32_t)random_between(random, 1, bank_max),
                             .mask = (sqf_mask_mode)sqf_random_below(random, 2),
                             .dynamic_weighted = sqf_random_below(random, 2),
                             .scale = (sqf_act_scale)sqf_random_below(random, 3),
                             .group = 8 * (uint32_t)sqf_random_below(random, 5),
                             .scale_type = random_scale_type(random),
                             .clip = 1.0f - 0.9f * (float)sqf_random_unit(random) * (float)sqf_random_below(random, 2)};
        spec.high_per_bank = spec.high == SQF_TYPE_NONE ? 0 : (uint32_t)random_between(random, 0, spec.bank);
        spec.high_clip = spec.high != SQF_TYPE_NONE && sqf_random_below(random, 2) ? 0.75f : 0.0f;
        spec.zero = sqf_random_below(random, 2) ? SQF_ACT_ZERO_NONE : (sqf_act_zero)random_between(random, 1, 2);
        const sqf_scheme scheme = {.weights = {.low = SQF_TYPE_INT4, .scale_type = SQF_TYPE_FP16}, .activations = spec};
        if (sqf_scheme_check(&scheme, NULL) == SQF_OK) {
            return spec;
        }
    }
}

#endif
