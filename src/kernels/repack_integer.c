/* Integer weights from their stored codes into planes of nibbles and bytes. A row becomes one byte an element for each
 * plane, sixteen such rows become a panel: four columns of a row are a 32-bit word, and a panel is words of 16 rows in
 * turn, so the second step is transposing 4 x 4 words.
 *
 * Vectors of 16 bytes, which every x86-64 and every 64-bit Arm has: the two steps take less than one instruction an
 * element, and the memory is slower than that. */
#include <string.h>

#include "base/memory.h"
#include "format/unpack.h"
#include "kernels/repack.h"

typedef uint32_t words4 __attribute__((vector_size(16)));

enum {
    BYTE_COLUMNS = 16,   /* columns that one transposition of bytes takes */
    NIBBLE_COLUMNS = 32, /* the same for nibbles */
    SKEW = 64            /* rows of a power of two bytes would all compete for the same sets of a cache */
};

/* Codes of a part to the bytes of its plane: by adding a constant where codes are numbers with an offset, else by a
 * table (fp4, fp6). */
typedef struct code_map {
    bool linear;
    uint8_t add;
    uint8_t table[256];
} code_map;

/* What is the same for all panels. */
typedef struct integer_job {
    const repack_job *repack;
    code_map map[PARTS];           /* by part: low, high; without the form's offset */
    uint8_t offset[PARTS];         /* by plane: what the form adds to an integer, which is also its byte for 0 */
    size_t stride;                 /* of the rows of a panel */
    uint8_t places[256][8];        /* of a byte of mask bits: which of the next high elements each place takes */
    struct panel_scratch *scratch; /* [threads] */
} integer_job;

/* Memory of one thread. */
typedef struct panel_scratch {
    uint8_t *rows[PARTS];          /* [16][stride] by plane: one byte an element, padded like the segments */
    uint8_t *line[PARTS];          /* [columns] by part: one row in stored order */
    uint8_t *codes;                /* [columns] packed codes before they have their places */
    uint8_t *mask;                 /* [columns] 255 = high */
    float *scale_low, *scale_high; /* [groups] */
    uint8_t *shift;                /* [groups] */
} panel_scratch;

bool repack_integers_serve(const repack_job *job)
{
    for (size_t p = 0; p < job->plane_count; p++) {
        if (job->planes[p].form != SQF_FORM_NIBBLES && job->planes[p].form != SQF_FORM_BYTES) {
            return false;
        }
    }
    return true;
}

/* ---- rows ---- */

/* int8 in the high plane is two's complement, all other integers are stored with an offset. */
static code_map make_map(sqf_type type, bool is_high)
{
    code_map map = {.linear = sqf_type_multiplier(type) == 1};
    if (map.linear) {
        map.add = is_high && type == SQF_TYPE_INT8 ? 0 : (uint8_t) - (int)sqf_type_max(type);
        return map;
    }
    for (uint32_t code = 0; sqf_type_is_integer(type) && code < 1u << sqf_type_bits(type); code++) {
        map.table[code] = (uint8_t)(int8_t)(sqf_type_decode(type, code) * (float)sqf_type_multiplier(type));
    }
    return map;
}

/* n codes to n bytes, `offset` added. */
static void apply_map(const code_map *map, uint8_t offset, const uint8_t *codes, size_t n, uint8_t *out)
{
    const uint8_t add = (uint8_t)(map->add + offset);
    if (!map->linear) {
        for (size_t i = 0; i < n; i++) {
            out[i] = (uint8_t)(map->table[codes[i]] + offset);
        }
    } else if (add != 0 || out != codes) {
        for (size_t i = 0; i < n; i++) {
            out[i] = (uint8_t)(codes[i] + add);
        }
    }
}

/* 255 where an element is high: by its mask bit, by its sentinel, or (no low part but a whole high one) always. */
static void find_high(const sqf_matrix *matrix, size_t n, panel_scratch *scratch)
{
    uint8_t *mask = scratch->mask;
    if (matrix->mask) {
        sqf_codes_unpack(matrix->mask + n * matrix->mask_row_bytes, matrix->columns, 1, mask);
        for (size_t k = 0; k < matrix->columns; k++) {
            mask[k] = (uint8_t)-mask[k];
        }
        return;
    }
    const uint8_t sentinel = (uint8_t)sqf_type_sentinel(matrix->spec.low);
    sqf_codes_unpack(matrix->low + n * matrix->low_row_bytes, matrix->columns, sqf_type_bits(matrix->spec.low),
                     scratch->codes);
    for (size_t k = 0; k < matrix->columns; k++) {
        mask[k] = scratch->codes[k] == sentinel ? 255 : 0;
    }
}

/* The next of `codes` to each column whose mask is `wanted`, 0 to the others. Eight columns at a time, without a branch
 * that depends on the mask; up to 7 codes beyond the last are read and not used. */
static void spread(const integer_job *job, const uint8_t *codes, const uint8_t *mask, uint8_t wanted, size_t n,
                   uint8_t *out)
{
    size_t k = 0;
    for (; k + 8 <= n; k += 8) {
        uint64_t marks;
        memcpy(&marks, mask + k, sizeof marks);
        marks = ~(marks ^ (wanted ? UINT64_MAX : 0));
        const uint8_t bits = (uint8_t)((marks & 0x0101010101010101u) * 0x0102040810204080u >> 56);
        const uint8_t *place = job->places[bits];
        for (size_t i = 0; i < 8; i++) {
            out[k + i] = codes[place[i]] & (uint8_t)(marks >> 8 * i);
        }
        codes += place[7] + (bits >> 7);
    }
    for (; k < n; k++) {
        out[k] = mask[k] == wanted ? *codes++ : 0;
    }
}

/* Which of the next elements column i of eight takes: as many as there are marks before it. */
static void make_places(integer_job *job)
{
    for (unsigned bits = 0; bits < 256; bits++) {
        uint8_t before = 0;
        for (unsigned i = 0; i < 8; i++) {
            job->places[bits][i] = before;
            before = (uint8_t)(before + (bits >> i & 1u));
        }
    }
}

/* The low elements of row n in stored order, 0 at high ones. Needs the mask. */
static void low_line(const integer_job *job, size_t n, panel_scratch *scratch)
{
    const sqf_matrix *matrix = job->repack->params->matrix;
    uint8_t *line = scratch->line[LOW];
    const uint8_t *packed = matrix->low + n * matrix->low_row_bytes;
    const unsigned bits = sqf_type_bits(matrix->spec.low);
    if (matrix->mask) {
        sqf_codes_unpack(packed, matrix->low_count, bits, scratch->codes);
        apply_map(&job->map[LOW], 0, scratch->codes, matrix->low_count, scratch->codes);
        spread(job, scratch->codes, scratch->mask, 0, matrix->columns, line);
        return;
    }
    sqf_codes_unpack(packed, matrix->columns, bits, line);
    apply_map(&job->map[LOW], 0, line, matrix->columns, line);
    for (size_t k = 0; k < matrix->columns; k++) {
        line[k] &= (uint8_t)~scratch->mask[k];
    }
}

static void high_line(const integer_job *job, size_t n, panel_scratch *scratch)
{
    const sqf_matrix *matrix = job->repack->params->matrix;
    const uint8_t *packed = matrix->high + n * matrix->high_row_bytes;
    sqf_codes_unpack(packed, matrix->high_count, sqf_type_bits(matrix->spec.high), scratch->codes);
    apply_map(&job->map[HIGH], 0, scratch->codes, matrix->high_count, scratch->codes);
    spread(job, scratch->codes, scratch->mask, 255, matrix->columns, scratch->line[HIGH]);
}

/* Both parts as one: low elements shifted up to the units of the high ones. Either line is 0 where the other is not. */
static void join_lines(const integer_job *job, panel_scratch *scratch)
{
    const sqf_matrix *matrix = job->repack->params->matrix;
    const uint8_t *low = scratch->line[LOW];
    uint8_t *line = scratch->line[HIGH];
    for (size_t g = 0; g < matrix->group_count; g++) {
        size_t begin, end;
        sqf_partition_range(&matrix->groups, g, &begin, &end);
        const uint8_t factor = (uint8_t)(1u << scratch->shift[g]);
        for (size_t k = begin; k < end; k++) {
            line[k] = (uint8_t)(line[k] + low[k] * factor);
        }
    }
}

/* A line in stored order to row r of a plane, each segment at its padded place. */
static void place_line(const integer_job *job, size_t p, const uint8_t *line, uint8_t *row)
{
    const input_layout *layout = job->repack->layout;
    const uint8_t offset = job->offset[p];
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        const size_t length = segment->end - segment->begin;
        const size_t end = g + 1 < layout->segment_count ? segment[1].offset : layout->padded;
        for (size_t k = 0; k < length; k++) {
            row[segment->offset + k] = (uint8_t)(line[segment->begin + k] + offset);
        }
        memset(row + segment->offset + length, offset, end - segment->offset - length);
    }
}

/* One part alone: nearly every file. Without padding the codes need no place between. */
static void uniform_row(const integer_job *job, size_t n, panel_scratch *scratch, uint8_t *row)
{
    const sqf_matrix *matrix = job->repack->params->matrix;
    const input_layout *layout = job->repack->layout;
    const uint8_t *packed = matrix->low + n * matrix->low_row_bytes;
    const bool whole = layout->padded == layout->columns;
    uint8_t *line = whole ? row : scratch->line[LOW];
    sqf_codes_unpack(packed, matrix->columns, sqf_type_bits(matrix->spec.low), line);
    apply_map(&job->map[LOW], whole ? job->offset[0] : 0, line, matrix->columns, line);
    if (!whole) {
        place_line(job, 0, line, row);
    }
}

/* Stored row n as row r of each plane of the panel in scratch; its scales are there already. */
static void unpack_row(const integer_job *job, size_t n, size_t r, panel_scratch *scratch)
{
    const repack_job *repack = job->repack;
    const sqf_matrix *matrix = repack->params->matrix;
    uint8_t *const row[PARTS] = {scratch->rows[0] + r * job->stride, scratch->rows[1] + r * job->stride};
    if (matrix->high_count == 0) {
        uniform_row(job, n, scratch, row[0]);
        return;
    }
    find_high(matrix, n, scratch);
    if (matrix->low) {
        low_line(job, n, scratch);
    }
    high_line(job, n, scratch);
    if (repack->one_grid) {
        join_lines(job, scratch);
    }
    for (size_t p = 0; p < repack->plane_count; p++) {
        place_line(job, p, scratch->line[repack->is_high[p] ? HIGH : LOW], row[p]);
    }
}

/* ---- panels ---- */

static inline words4 load_words(const uint8_t *from)
{
    words4 v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store_words(uint8_t *to, words4 v)
{
    memcpy(to, &v, sizeof v);
}

/* Four words of each of four rows: word i of all four to `to` + i * 64. */
static inline void store_transposed(uint8_t *to, words4 a, words4 b, words4 c, words4 d)
{
    const words4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const words4 ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                 cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store_words(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    store_words(to + 64, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    store_words(to + 128, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    store_words(to + 192, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

/* 32 columns of a row: the words of nibbles of four steps. Codes are at most 15, so the shift of a word moves no bit
 * from one byte to the next. */
static inline words4 nibble_words(const uint8_t *row)
{
    const words4 first = load_words(row), second = load_words(row + 16);
    return __builtin_shufflevector(first, second, 0, 2, 4, 6) | __builtin_shufflevector(first, second, 1, 3, 5, 7) << 4;
}

/* rows [16][stride] of `padded` codes, one a byte, to a panel of nibbles. */
static void pack_nibbles(const uint8_t *rows, size_t stride, size_t padded, uint8_t *panel)
{
    size_t k = 0;
    for (; k + NIBBLE_COLUMNS <= padded; k += NIBBLE_COLUMNS) {
        for (size_t r = 0; r < SQF_PANEL_ROWS; r += 4) {
            const uint8_t *row = rows + r * stride + k;
            store_transposed(panel + k / 8 * 64 + r * 4, nibble_words(row), nibble_words(row + stride),
                             nibble_words(row + 2 * stride), nibble_words(row + 3 * stride));
        }
    }
    for (; k < padded; k += 8) {
        for (size_t r = 0; r < SQF_PANEL_ROWS; r++) {
            uint32_t low, high;
            memcpy(&low, rows + r * stride + k, sizeof low);
            memcpy(&high, rows + r * stride + k + 4, sizeof high);
            low |= high << 4;
            memcpy(panel + k / 8 * 64 + r * 4, &low, sizeof low);
        }
    }
}

/* The same to a panel of bytes. */
static void pack_bytes(const uint8_t *rows, size_t stride, size_t padded, uint8_t *panel)
{
    size_t k = 0;
    for (; k + BYTE_COLUMNS <= padded; k += BYTE_COLUMNS) {
        for (size_t r = 0; r < SQF_PANEL_ROWS; r += 4) {
            const uint8_t *row = rows + r * stride + k;
            store_transposed(panel + k / 4 * 64 + r * 4, load_words(row), load_words(row + stride),
                             load_words(row + 2 * stride), load_words(row + 3 * stride));
        }
    }
    for (; k < padded; k += 4) {
        for (size_t r = 0; r < SQF_PANEL_ROWS; r++) {
            memcpy(panel + k / 4 * 64 + r * 4, rows + r * stride + k, 4);
        }
    }
}

/* Scale and sum of every segment of row r of plane p; `row` NULL = the matrix has no such row. */
static void put_scales(const integer_job *job, size_t task, size_t p, size_t r, const uint8_t *row,
                       const panel_scratch *scratch)
{
    const repack_job *repack = job->repack;
    const input_layout *layout = repack->layout;
    const weight_plane *plane = &repack->planes[p];
    const float multiplier = (float)sqf_type_multiplier(plane->type);
    const float *scales = repack->is_high[p] ? scratch->scale_high : scratch->scale_low;
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        const size_t at = (task * layout->segment_count + g) * SQF_PANEL_ROWS + r, n = segment->end - segment->begin;
        plane->scales[at] = row ? scales[segment->weight_group] / multiplier : 0.0f;
        if (plane->column_sums) {
            int32_t sum = 0;
            for (size_t k = 0; row && k < n; k++) {
                sum += (int8_t)(row[segment->offset + k] - job->offset[p]);
            }
            plane->column_sums[at] = sum;
        }
    }
}

static void repack_panel(void *user, size_t task, unsigned thread)
{
    const integer_job *job = user;
    const repack_job *repack = job->repack;
    panel_scratch *scratch = &job->scratch[thread];
    const size_t padded = repack->layout->padded;
    for (size_t r = 0; r < SQF_PANEL_ROWS; r++) {
        const size_t n = task * SQF_PANEL_ROWS + r;
        const bool exists = n < repack->params->rows;
        if (exists) {
            const size_t source = repack_source_row(repack, n);
            sqf_matrix_unpack_scales(repack->params->matrix, source, scratch->scale_low, scratch->scale_high,
                                     scratch->shift);
            unpack_row(job, source, r, scratch);
        }
        for (size_t p = 0; p < repack->plane_count; p++) {
            uint8_t *row = scratch->rows[p] + r * job->stride;
            if (!exists) {
                memset(row, job->offset[p], padded);
            }
            put_scales(job, task, p, r, exists ? row : NULL, scratch);
        }
    }
    for (size_t p = 0; p < repack->plane_count; p++) {
        const weight_plane *plane = &repack->planes[p];
        (plane->form == SQF_FORM_NIBBLES ? pack_nibbles : pack_bytes)(scratch->rows[p], job->stride, padded,
                                                                      plane->data + task * plane->panel_bytes);
    }
}

/* ---- memory ---- */

static void scratch_clear(panel_scratch *scratch)
{
    for (int i = 0; i < PARTS; i++) {
        free(scratch->rows[i]);
        free(scratch->line[i]);
    }
    free(scratch->codes);
    free(scratch->mask);
    free(scratch->scale_low);
    free(scratch->scale_high);
    free(scratch->shift);
}

/* `spread` reads up to 8 codes more than there are. */
static sqf_status scratch_create(const integer_job *job, panel_scratch *out, sqf_error *err)
{
    const sqf_matrix *matrix = job->repack->params->matrix;
    for (size_t i = 0; i < PARTS; i++) {
        if (i < job->repack->plane_count) {
            SQF_TRY(sqf_alloc_unset((void **)&out->rows[i], SQF_PANEL_ROWS, job->stride, "rows", err));
        }
        SQF_TRY(SQF_ALLOC(&out->line[i], matrix->columns, "a row", err));
    }
    SQF_TRY(SQF_ALLOC(&out->codes, matrix->columns + 8, "codes", err));
    SQF_TRY(SQF_ALLOC(&out->mask, matrix->columns, "a mask", err));
    SQF_TRY(SQF_ALLOC(&out->scale_low, matrix->group_count, "scales", err));
    SQF_TRY(SQF_ALLOC(&out->scale_high, matrix->group_count, "scales", err));
    return SQF_ALLOC(&out->shift, matrix->group_count, "shifts", err);
}

sqf_status repack_integers(sqf_context *context, const repack_job *repack, sqf_error *err)
{
    const sqf_weight_spec *spec = &repack->params->matrix->spec;
    const unsigned threads = sqf_pool_threads(context->pool);
    integer_job job = {.repack = repack, .stride = repack->layout->padded + SKEW};
    job.map[LOW] = make_map(spec->low, false);
    job.map[HIGH] = make_map(spec->high, true);
    for (size_t p = 0; p < repack->plane_count; p++) {
        job.offset[p] = repack->planes[p].form == SQF_FORM_NIBBLES ? SQF_NIBBLE_OFFSET : 0;
    }
    make_places(&job);
    SQF_TRY(SQF_ALLOC(&job.scratch, threads, "rows", err));
    sqf_status status = SQF_OK;
    for (unsigned i = 0; status == SQF_OK && i < threads; i++) {
        status = scratch_create(&job, &job.scratch[i], err);
    }
    if (status == SQF_OK) {
        sqf_pool_run(context->pool, sqf_ceil_div(repack->params->rows, SQF_PANEL_ROWS), repack_panel, &job);
    }
    for (unsigned i = 0; i < threads; i++) {
        scratch_clear(&job.scratch[i]);
    }
    free(job.scratch);
    return status;
}
