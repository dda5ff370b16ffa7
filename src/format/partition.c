/* Cutting columns into groups and banks, the tail rule, and the choice of the k largest scores. Spec: docs/format.md
 * section 2. Everything is computed from (columns, border, size) when asked; no list of ranges is ever stored. */
#include "format/partition.h"

#include <string.h>

#include "base/memory.h"

sqf_partition sqf_partition_make(size_t columns, size_t border, size_t size)
{
    return (sqf_partition){.columns = columns, .border = border, .size = size ? size : columns ? columns : 1};
}

size_t sqf_partition_count(const sqf_partition *partition)
{
    return sqf_ceil_div(partition->border, partition->size) +
           sqf_ceil_div(partition->columns - partition->border, partition->size);
}

void sqf_partition_range(const sqf_partition *partition, size_t index, size_t *begin, size_t *end)
{
    const size_t first_section = sqf_ceil_div(partition->border, partition->size);
    /* The second section begins a new count: its first range starts at the border, not at a multiple of the size. */
    const bool second = index >= first_section;
    const size_t limit = second ? partition->columns : partition->border;
    *begin = second ? partition->border + (index - first_section) * partition->size : index * partition->size;
    *end = limit - *begin < partition->size ? limit : *begin + partition->size;
}

size_t sqf_partition_find(const sqf_partition *partition, size_t column)
{
    if (column < partition->border) {
        return column / partition->size;
    }
    return sqf_ceil_div(partition->border, partition->size) + (column - partition->border) / partition->size;
}

/* 2 * k * columns <= 2 * 2^16 * 2^16 with k and columns up to SQF_BANK_MAX: far from 64 bits. A whole bank gives k. */
size_t sqf_bank_high(size_t bank, size_t k, size_t columns)
{
    if (k == 0 || columns == 0) {
        return 0;
    }
    const size_t high = (size_t)((2 * (uint64_t)k * columns + bank) / (2 * (uint64_t)bank));
    return high ? high : 1;
}

/* High elements of one section: whole banks, then its tail. */
static size_t section_high(size_t columns, size_t bank, size_t k)
{
    return columns / bank * k + sqf_bank_high(bank, k, columns % bank);
}

size_t sqf_partition_high(const sqf_partition *banks, size_t bank, size_t k)
{
    return section_high(banks->border, bank, k) + section_high(banks->columns - banks->border, bank, k);
}

size_t sqf_act_low_channels(const sqf_act_spec *spec, size_t channels)
{
    if (!sqf_act_spec_is_split(spec) || spec->mask != SQF_MASK_STATIC) {
        return channels;
    }
    return channels - section_high(channels, spec->bank, spec->high_per_bank);
}

/* Unsigned keys in the order of the floats: the sign bit of positive numbers is set, negative ones are inverted as a
 * whole. Adding 0 turns -0 into +0, so that both zeros tie. */
static uint32_t ordered_key(float x)
{
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* A key (k >= 1) that at least k keys reach, and in *ties how many of those equal to it are to be chosen beside all
 * the larger ones. Found digit by digit from the top, four bits at a time: sixteen counters stay in registers and L1,
 * where the 256 of a byte would have to be cleared and searched for banks of 16 elements. A digit whose keys are all
 * wanted ends the search. */
static uint32_t kth_key(const float *score, size_t n, size_t k, size_t *ties)
{
    uint32_t prefix = 0, fixed = 0; /* the digits found so far and the bits that they cover */
    for (int shift = 28; shift >= 0; shift -= 4) {
        uint32_t count[16] = {0};
        for (size_t i = 0; i < n; i++) {
            const uint32_t key = ordered_key(score[i]);
            count[key >> shift & 15u] += (key & fixed) == prefix;
        }
        uint32_t digit = 15;
        while (count[digit] < k) {
            k -= count[digit--];
        }
        prefix |= digit << shift;
        fixed |= 15u << shift;
        if (count[digit] == k) {
            break;
        }
    }
    *ties = k;
    return prefix;
}

/* A radix selection: at most eight passes whatever the scores are, no scratch memory. After an early end the
 * threshold has zeros in the digits that were not looked at; then all keys that share its prefix are wanted, and they
 * are >= it. */
void sqf_select_top(const float *score, size_t n, size_t k, uint8_t *mask)
{
    size_t ties = 0;
    const uint32_t threshold = k ? kth_key(score, n, k, &ties) : UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        const uint32_t key = ordered_key(score[i]);
        const bool tie = key == threshold && ties > 0;
        /* First come, first served: the lower index wins. */
        ties -= tie;
        mask[i] = key > threshold || tie;
    }
}
