/* Linear layers: creation, the division of a product into tasks, and the three paths - integers, quantized weights as
 * floats, dense weights. Semantics: docs/format.md section 8.
 *
 * A task is some blocks of 64 rows times some tokens. A block is summed in floats of its own and stored once, so no two
 * tasks touch the same output, and each output is summed in an order that depends on the layer and the
 * token count alone: integer planes first (each segment by segment), then the float part, then the bias. Threads only
 * decide who computes a block.
 *
 * Each pair of an activation plane and a weight plane is one pass of integer_term. Pairs of which one side is no
 * integer type go through floats: a few tokens by dot products straight from the packed weights, many by BLAS on a
 * chunk of weights that was expanded to floats and stays in the cache. */
#include "kernels/linear.h"

#include <string.h>

#include <cblas.h>

#include "base/memory.h"
#include "format/products.h"
#include "kernels/layout.h"
#include "kernels/repack_split.h"

enum {
    STREAM_TOKENS = 8,       /* up to so many tokens the time is that of reading the weights */
    STREAM_TASKS = 12,       /* tasks of a thread then: long stretches, and something left for who comes early */
    FLOAT_DIRECT_TOKENS = 4, /* up to so many tokens float products run as dot products, beyond by BLAS */
    TOKEN_STEP = 12,         /* a multiple of every tile's tokens: blocks of so many leave no narrow remainder */
    TASKS_OF_THREAD = 16     /* so many tasks a thread, if there are, keep all busy until the end */
};

/* Owns everything but `dense`, which may be a mapped file. Immutable after creation, so any number of inputs may use
 * it. */
struct sqf_linear {
    char *name;
    size_t rows, columns;
    float *bias;
    const uint8_t *dense;
    sqf_type dense_type;
    input_layout input;
    weight_plane planes[PARTS];
    size_t plane_count;
    sqf_product_counts per_token;
};

/* ---- creation ---- */

/* Adds `amount` products of a weight type with an activation type to the counts of the path that computes them. */
static void count_products(sqf_product_counts *counts, sqf_type weight, sqf_type act, uint64_t amount)
{
    if (weight == SQF_TYPE_NONE || act == SQF_TYPE_NONE) {
        counts->dropped += amount;
    } else if (!sqf_type_is_integer(weight) || !sqf_type_is_integer(act)) {
        counts->floating += amount;
    } else if (sqf_type_bits(weight) <= 4 && sqf_type_bits(act) <= 4) {
        counts->integer_low += amount;
    } else {
        counts->integer_high += amount;
    }
}

/* The products of one output channel and one token, by path. The counts are computed, not measured: what the paths do
 * with every pair of types is fixed. */
static void count_row(const sqf_matrix *matrix, const sqf_act_spec *act, sqf_product_counts *counts)
{
    const sqf_row_products products = sqf_row_products_count(&matrix->spec, act, matrix->columns, matrix->border);
    const sqf_type weight_types[PARTS] = {matrix->spec.low, matrix->spec.high},
                   act_types[PARTS] = {act->low, act->high};
    for (int a = LOW; a <= HIGH; a++) {
        for (int w = LOW; w <= HIGH; w++) {
            count_products(counts, weight_types[w], act_types[a], products.amount[a][w]);
        }
    }
}

/* All rows have the same counts: high elements of a row follow from the shape alone (docs/format.md section 2). */
sqf_product_counts sqf_linear_count_token(const sqf_linear_params *params)
{
    sqf_product_counts row = {0};
    if (!params->matrix) {
        row.dense = params->columns;
    } else {
        count_row(params->matrix, &params->activations, &row);
    }
    const uint64_t rows = params->rows;
    return (sqf_product_counts){row.dense * rows, row.floating * rows, row.integer_high * rows, row.integer_low * rows,
                                row.dropped * rows};
}

/* Combinations without a meaning. Contents were checked by the loader, shapes by the checkpoint; this is about
 * callers. */
sqf_status sqf_linear_check(const sqf_linear_params *params, sqf_error *err)
{
    const sqf_matrix *matrix = params->matrix;
    const sqf_act_spec *act = &params->activations;
    if (!params->dense == !matrix) {
        return sqf_fail(err, SQF_E_ARG, "%s: expected either dense or quantized weights", params->name);
    }
    if (!matrix) {
        const bool known = params->dense_type == SQF_TYPE_FP32 || params->dense_type == SQF_TYPE_BF16 ||
                           params->dense_type == SQF_TYPE_FP16;
        return known && sqf_act_spec_is_float(act) && !params->row_order
                   ? SQF_OK
                   : sqf_fail(err, SQF_E_ARG,
                              "%s: dense weights must be fp32, bf16 or fp16, with float activations "
                              "and rows as they come",
                              params->name);
    }
    if (matrix->rows != params->rows || matrix->columns != params->columns) {
        return sqf_fail(err, SQF_E_ARG, "%s: weights [%zu, %zu], expected [%zu, %zu]", params->name, matrix->rows,
                        matrix->columns, params->rows, params->columns);
    }
    if (act->scale == SQF_ACT_STATIC && !sqf_act_spec_is_float(act) && !params->static_scale) {
        return sqf_fail(err, SQF_E_ARG, "%s: static activation scales are missing", params->name);
    }
    if (act->scale == SQF_ACT_STATIC && act->zero != SQF_ACT_ZERO_NONE && !params->static_zero) {
        return sqf_fail(err, SQF_E_ARG, "%s: static zero points of activations are missing", params->name);
    }
    const bool dynamic = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_DYNAMIC;
    if (dynamic && act->dynamic_weighted && !params->column_norm) {
        return sqf_fail(err, SQF_E_ARG, "%s: column norms for the dynamic mask are missing", params->name);
    }
    if (dynamic && matrix->channels) {
        return sqf_fail(err, SQF_E_ARG, "%s: a dynamic mask does not go with reordered columns", params->name);
    }
    return SQF_OK;
}

/* Everything of a layer. `values` can only be known after repacking: it says whether some plane of weights is not
 * made of integers while the activations are. */
static sqf_status fill(sqf_context *context, const sqf_linear_params *params, sqf_linear *linear, sqf_error *err)
{
    linear->rows = params->rows;
    linear->columns = params->columns;
    linear->dense = params->dense;
    linear->dense_type = params->dense_type;
    SQF_TRY(sqf_copy_text(&linear->name, params->name, strlen(params->name), err));
    if (params->bias) {
        SQF_TRY(SQF_ALLOC(&linear->bias, params->rows, "bias", err));
        memcpy(linear->bias, params->bias, params->rows * sizeof *params->bias);
    }
    SQF_TRY(input_layout_init(params, &linear->input, err));
    if (params->matrix) {
        SQF_TRY(weight_planes_create(context, params, &linear->input, linear->planes, &linear->plane_count, err));
    }
    for (size_t i = 0; i < linear->plane_count; i++) {
        linear->input.values |= linear->input.planes > 0 && !sqf_type_is_integer(linear->planes[i].type);
    }
    linear->per_token = sqf_linear_count_token(params);
    return SQF_OK;
}

sqf_status sqf_linear_create(sqf_context *context, const sqf_linear_params *params, sqf_linear **out, sqf_error *err)
{
    *out = NULL;
    SQF_TRY(sqf_linear_check(params, err));
    sqf_linear *linear;
    SQF_TRY(SQF_ALLOC(&linear, 1, "linear layer", err));
    const sqf_status status = fill(context, params, linear, err);
    if (status != SQF_OK) {
        sqf_linear_destroy(linear);
        return status;
    }
    *out = linear;
    return SQF_OK;
}

void sqf_linear_destroy(sqf_linear *linear)
{
    if (linear) {
        free(linear->name);
        free(linear->bias);
        input_layout_clear(&linear->input);
        weight_planes_clear(linear->planes, linear->plane_count);
        free(linear);
    }
}

size_t sqf_linear_rows(const sqf_linear *linear)
{
    return linear->rows;
}

size_t sqf_linear_columns(const sqf_linear *linear)
{
    return linear->columns;
}

size_t sqf_linear_bytes(const sqf_linear *linear)
{
    if (linear->dense) {
        return linear->rows * linear->columns * sqf_type_storage_bytes(linear->dense_type);
    }
    const size_t panels = sqf_ceil_div(linear->rows, SQF_PANEL_ROWS);
    const size_t scale_bytes = linear->input.segment_count * SQF_PANEL_ROWS * sizeof(float);
    size_t bytes = 0;
    for (size_t p = 0; p < linear->plane_count; p++) {
        const weight_plane *plane = &linear->planes[p];
        const size_t scales = plane->scales ? scale_bytes : 0, sums = plane->column_sums ? scale_bytes : 0;
        bytes += panels * (plane->panel_bytes + scales + sums);
    }
    return bytes;
}

bool sqf_linear_same_input(const sqf_linear *a, const sqf_linear *b)
{
    return input_layout_equal(&a->input, &b->input);
}

sqf_status sqf_input_prepare(sqf_context *context, sqf_input *input, const sqf_linear *linear, const float *x,
                             size_t tokens, sqf_error *err)
{
    return input_prepare(context, input, &linear->input, linear->name, x, NULL, tokens, err);
}

sqf_status sqf_input_prepare_steps(sqf_context *context, sqf_input *input, const sqf_linear *linear, const float *x,
                                   const sqf_input_steps *steps, size_t tokens, sqf_error *err)
{
    return input_prepare(context, input, &linear->input, linear->name, x, steps, tokens, err);
}

/* ---- the product ---- */

/* The product of one layer, shared by all of its tasks. */
typedef struct forward_job {
    const sqf_kernels *kernels;
    const sqf_linear *linear;
    const sqf_input *input;
    float *y;
    sqf_store store;
} forward_job;

/* Products that run as one job of the pool. */
typedef struct forward_run {
    forward_job jobs[SQF_LINEAR_JOBS], gates[SQF_LINEAR_JOBS]; /* a gate without a layer is none */
    size_t blocks[SQF_LINEAR_JOBS], count;                     /* of rows */
    size_t all_blocks;
    size_t token_block;            /* tokens of a task */
    size_t task_blocks, row_tasks; /* blocks of a task, and tasks that cover all of them */
} forward_run;

/* One task: a block of rows and a block of tokens, with the scratch of its thread. */
typedef struct block {
    const forward_job *job;
    size_t first_row, rows, panels;
    size_t first_token, tokens;
    float *out;    /* [tokens][SQF_BLOCK_ROWS] sums */
    uint8_t *tile; /* weights of the block, expanded or as floats */
} block;

/* One integer plane of activations times one of weights. Segments are taken together until they have CHUNK_COLUMNS
 * columns: so many expanded weights of a block fit half of a small L2 and are used for all tokens before the next
 * come. Few tokens (direct_tokens of the level) are not worth it: the tile unpacks nibbles in registers.
 */
static void integer_term(const block *self, unsigned act_plane, const weight_plane *weights)
{
    const sqf_input *input = self->job->input;
    const input_layout *layout = input->layout;
    const code_plane *acts = &input->planes[act_plane];
    const size_t first_panel = self->first_row / SQF_PANEL_ROWS, segments = layout->segment_count;
    const bool expand = weights->form == SQF_FORM_NIBBLES && self->tokens > self->job->kernels->direct_tokens;
    const size_t step_bytes = sqf_form_step_bytes(weights->form);
    const size_t chunk = self->tokens <= STREAM_TOKENS && !expand ? SIZE_MAX : CHUNK_COLUMNS;
    for (size_t g = 0, end; g < segments; g = end) {
        size_t columns = 0;
        for (end = g; end < segments && (end == g || columns < chunk); end++) {
            const size_t next = end + 1 < segments ? layout->segments[end + 1].offset : layout->padded;
            columns = next - layout->segments[g].offset;
        }
        const size_t offset = layout->segments[g].offset, steps = columns / SQF_SEGMENT_PAD;
        sqf_tile_job tile = {
            .form = weights->form,
            .weights = weights->data + first_panel * weights->panel_bytes + offset / SQF_SEGMENT_PAD * step_bytes,
            .panel_bytes = weights->panel_bytes,
            .panels = self->panels,
            .scales = weights->scales + (first_panel * segments + g) * SQF_PANEL_ROWS,
            .panel_scales = segments * SQF_PANEL_ROWS,
            .act_plane = act_plane,
            .codes = acts->codes + self->first_token * input->code_stride + offset,
            .code_stride = input->code_stride,
            .sums = acts->sums + self->first_token * segments + g,
            .act_scales = acts->scales + self->first_token * segments + g,
            .zeros = acts->zeros ? acts->zeros + self->first_token * segments + g : NULL,
            .column_sums =
                weights->column_sums ? weights->column_sums + (first_panel * segments + g) * SQF_PANEL_ROWS : NULL,
            .segment_stride = segments,
            .segments = layout->segments + g,
            .segment_count = end - g,
            .tokens = self->tokens,
            .out = self->out,
        };
        if (expand) {
            const size_t expanded = steps * sqf_form_step_bytes(SQF_FORM_UNSIGNED);
            for (size_t p = 0; p < self->panels; p++) {
                self->job->kernels->expand_nibbles(tile.weights + p * tile.panel_bytes, steps,
                                                   self->tile + p * expanded);
            }
            tile.form = SQF_FORM_UNSIGNED;
            tile.weights = self->tile;
            tile.panel_bytes = expanded;
        }
        self->job->kernels->tile(&tile);
    }
}

/* Which planes of weights a float term multiplies: all for the float part of the input; those that are not integers
 * for the integer part, whose products with integers integer_term has done. */
static bool takes_plane(const weight_plane *plane, bool floats_only)
{
    return !floats_only || !sqf_type_is_integer(plane->type);
}

/* x [tokens][columns] times the planes, a panel at a time, straight from the packed weights. */
static void float_term_direct(const block *self, const float *x, bool floats_only)
{
    const sqf_linear *linear = self->job->linear;
    const input_layout *layout = self->job->input->layout;
    const size_t first_panel = self->first_row / SQF_PANEL_ROWS, segments = layout->segment_count;
    for (size_t i = 0; i < linear->plane_count; i++) {
        const weight_plane *plane = &linear->planes[i];
        if (!takes_plane(plane, floats_only)) {
            continue;
        }
        const size_t step_bytes = sqf_form_step_bytes(plane->form);
        for (size_t p = 0; p < self->panels; p++) {
            const uint8_t *panel = plane->data + (first_panel + p) * plane->panel_bytes;
            const float *scales = plane->scales + (first_panel + p) * segments * SQF_PANEL_ROWS;
            for (size_t g = 0; g < segments; g++) {
                const sqf_segment *segment = &layout->segments[g];
                const uint8_t *at = panel + segment->offset / SQF_SEGMENT_PAD * step_bytes;
                for (size_t m = 0; m < self->tokens; m++) {
                    const float *row = x + (self->first_token + m) * layout->columns + segment->begin;
                    self->job->kernels->panel_dot(plane->form, at, segment->end - segment->begin, row,
                                                  scales + g * SQF_PANEL_ROWS,
                                                  self->out + m * SQF_BLOCK_ROWS + p * SQF_PANEL_ROWS);
                }
            }
        }
    }
}

/* Columns [begin, begin + count) of one segment as floats, all planes added, [count][SQF_BLOCK_ROWS]. */
static void dequantize_columns(const block *self, size_t g, size_t begin, size_t count, bool floats_only, float *tile)
{
    const sqf_linear *linear = self->job->linear;
    const input_layout *layout = self->job->input->layout;
    const size_t first_panel = self->first_row / SQF_PANEL_ROWS, segments = layout->segment_count;
    const sqf_segment *segment = &layout->segments[g];
    bool add = false;
    for (size_t i = 0; i < linear->plane_count; i++) {
        const weight_plane *plane = &linear->planes[i];
        if (!takes_plane(plane, floats_only)) {
            continue;
        }
        const size_t step = (segment->offset + begin - segment->begin) / SQF_SEGMENT_PAD;
        for (size_t p = 0; p < self->panels; p++) {
            self->job->kernels->panel_dequantize(
                plane->form,
                plane->data + (first_panel + p) * plane->panel_bytes + step * sqf_form_step_bytes(plane->form), count,
                plane->scales + ((first_panel + p) * segments + g) * SQF_PANEL_ROWS, add, tile + p * SQF_PANEL_ROWS);
        }
        add = true;
    }
}

/* out += x[:, begin..begin+count) * tile; tile [count][SQF_BLOCK_ROWS]. */
static void multiply_chunk(const block *self, const float *x, size_t begin, size_t count, const float *tile)
{
    const size_t columns = self->job->linear->columns;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)self->tokens,
                (blasint)(self->panels * SQF_PANEL_ROWS), (blasint)count, 1.0f, x + self->first_token * columns + begin,
                (blasint)columns, tile, SQF_BLOCK_ROWS, 1.0f, self->out, SQF_BLOCK_ROWS);
}

/* The same product by BLAS, in chunks of FLOAT_CHUNK columns, which may span segments: the weights have their scales
 * in them by then. A chunk always begins where a segment or a step of 8 columns does, because dequantize_columns
 * unpacks whole steps. */
static void float_term_blas(const block *self, const float *x, bool floats_only)
{
    const input_layout *layout = self->job->input->layout;
    float *tile = (float *)(void *)self->tile;
    size_t chunk_begin = 0, filled = 0;
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        for (size_t k = segment->begin; k < segment->end;) {
            /* A piece of a segment begins at a multiple of the padding unless it is the segment's last. */
            size_t room = FLOAT_CHUNK - filled;
            const size_t left = segment->end - k;
            const size_t count = left <= room ? left : room / SQF_SEGMENT_PAD * SQF_SEGMENT_PAD;
            if (count > 0) {
                dequantize_columns(self, g, k, count, floats_only, tile + filled * SQF_BLOCK_ROWS);
                filled += count;
                k += count;
            }
            if (count == 0 || filled == FLOAT_CHUNK) {
                multiply_chunk(self, x, chunk_begin, filled, tile);
                chunk_begin += filled;
                filled = 0;
            }
        }
    }
    if (filled > 0) {
        multiply_chunk(self, x, chunk_begin, filled, tile);
    }
}

static void float_term(const block *self, const float *x, bool floats_only)
{
    if (self->tokens <= FLOAT_DIRECT_TOKENS) {
        float_term_direct(self, x, floats_only);
    } else {
        float_term_blas(self, x, floats_only);
    }
}

/* All pairs of planes, integers before floats: this order is part of the result. */
static void quantized_product(const block *self)
{
    const sqf_linear *linear = self->job->linear;
    const input_layout *layout = self->job->input->layout;
    const sqf_type part_types[PARTS] = {layout->spec.low, layout->spec.high};
    for (unsigned p = 0; p < layout->planes; p++) {
        if (layout->planes == PARTS && !sqf_type_is_integer(part_types[p])) {
            continue; /* this part of a dynamic mask is not made of integers */
        }
        for (size_t i = 0; i < linear->plane_count; i++) {
            const weight_plane *plane = &linear->planes[i];
            if (plane->form == SQF_FORM_SPLIT) {
                split_product_add(&(split_product){self->job->kernels, self->job->input, plane, p,
                                                   self->first_row / SQF_PANEL_ROWS, self->panels, self->first_token,
                                                   self->tokens, self->out, self->tile});
            } else if (sqf_type_is_integer(plane->type)) {
                integer_term(self, p, &linear->planes[i]);
            }
        }
    }
    if (layout->float_part) {
        float_term(self, self->job->input->float_part, false);
    }
    if (layout->values) {
        float_term(self, self->job->input->integer_part, true);
    }
}

/* A few tokens times rows of dense weights, as dot products: each weight is read once from memory, which is the cost.
 */
static void dense_direct(const block *self)
{
    const sqf_linear *linear = self->job->linear;
    const sqf_kernels *kernels = self->job->kernels;
    float (*const dot)(const void *, const float *, size_t) = linear->dense_type == SQF_TYPE_FP32   ? kernels->dot_fp32
                                                              : linear->dense_type == SQF_TYPE_BF16 ? kernels->dot_bf16
                                                                                                    : kernels->dot_fp16;
    const size_t row_bytes = linear->columns * sqf_type_storage_bytes(linear->dense_type);
    for (size_t r = 0; r < self->rows; r++) {
        const uint8_t *row = linear->dense + (self->first_row + r) * row_bytes;
        for (size_t m = 0; m < self->tokens; m++) {
            self->out[m * SQF_BLOCK_ROWS + r] =
                dot(row, self->job->input->float_part + (self->first_token + m) * linear->columns, linear->columns);
        }
    }
}

/* n stored elements as floats. */
static void dense_row(const sqf_kernels *kernels, sqf_type type, const uint8_t *from, size_t n, float *to)
{
    if (type == SQF_TYPE_BF16) {
        kernels->from_bf16(from, n, to);
    } else if (type == SQF_TYPE_FP16) {
        kernels->from_fp16(from, n, to);
    } else {
        memcpy(to, from, n * sizeof *to);
    }
}

/* Many tokens: rows become floats a chunk of columns at a time, then BLAS. */
static void dense_blas(const block *self)
{
    const sqf_linear *linear = self->job->linear;
    const size_t columns = linear->columns, element = sqf_type_storage_bytes(linear->dense_type);
    float *tile = (float *)(void *)self->tile; /* [rows][FLOAT_CHUNK] */
    for (size_t begin = 0; begin < columns; begin += FLOAT_CHUNK) {
        const size_t count = columns - begin < FLOAT_CHUNK ? columns - begin : FLOAT_CHUNK;
        for (size_t r = 0; r < self->rows; r++) {
            dense_row(self->job->kernels, linear->dense_type,
                      linear->dense + ((self->first_row + r) * columns + begin) * element, count,
                      tile + r * FLOAT_CHUNK);
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)self->tokens, (blasint)self->rows, (blasint)count,
                    1.0f, self->job->input->float_part + self->first_token * columns + begin, (blasint)columns, tile,
                    FLOAT_CHUNK, 1.0f, self->out, SQF_BLOCK_ROWS);
    }
}

/* Sums to y, bias last (docs/format.md section 8). Rows beyond the matrix stay behind. */
static void store_block(const block *self)
{
    const sqf_linear *linear = self->job->linear;
    const sqf_kernels *kernels = self->job->kernels;
    for (size_t m = 0; m < self->tokens; m++) {
        float *from = self->out + m * SQF_BLOCK_ROWS;
        float *to = self->job->y + (self->first_token + m) * linear->rows + self->first_row;
        if (linear->bias) {
            kernels->add(from, linear->bias + self->first_row, self->rows);
        }
        switch (self->job->store) {
        case SQF_STORE_SET: memcpy(to, from, self->rows * sizeof *to); break;
        case SQF_STORE_ADD: kernels->add(to, from, self->rows); break;
        case SQF_STORE_GATE: kernels->silu_mul(from, to, self->rows, to); break;
        }
    }
}

/* A block of rows of one product for a block of tokens. */
static void forward_block(const forward_job *job, size_t row_block, size_t first_token, size_t tokens, unsigned thread)
{
    const sqf_linear *linear = job->linear;
    uint8_t *scratch = job->input->scratch + thread * job->input->scratch_stride;
    block self = {.job = job, .out = (float *)(void *)scratch, .tile = scratch + scratch_out_bytes()};
    self.first_row = row_block * SQF_BLOCK_ROWS;
    self.first_token = first_token;
    self.tokens = tokens;
    const size_t rows_left = linear->rows - self.first_row;
    self.rows = rows_left < SQF_BLOCK_ROWS ? rows_left : SQF_BLOCK_ROWS;
    self.panels = sqf_ceil_div(self.rows, SQF_PANEL_ROWS);
    memset(self.out, 0, self.tokens * SQF_BLOCK_ROWS * sizeof *self.out);
    if (!linear->dense) {
        quantized_product(&self);
    } else if (self.tokens <= FLOAT_DIRECT_TOKENS) {
        dense_direct(&self);
    } else {
        dense_blas(&self);
    }
    store_block(&self);
}

/* Blocks begin..end of one product, counted among its own. A gate follows its product: block by block in a prefill, so
 * that the block of it is in the nearest cache, and after all of them with few tokens, so that memory is read in long
 * stretches. */
static void forward_blocks(const forward_run *run, size_t i, size_t begin, size_t end, size_t first_token,
                           size_t tokens, unsigned thread)
{
    for (size_t b = begin; b < end; b++) {
        forward_block(&run->jobs[i], b, first_token, tokens, thread);
    }
    for (size_t b = begin; run->gates[i].linear && b < end; b++) {
        forward_block(&run->gates[i], b, first_token, tokens, thread);
    }
}

/* Tasks of one block of tokens follow each other, so that neighbours in time share the activations in the outer
 * cache. */
static void forward_task(void *user, size_t task, unsigned thread)
{
    const forward_run *run = user;
    const size_t first_token = task / run->row_tasks * run->token_block;
    const size_t tokens_left = run->jobs[0].input->tokens - first_token;
    const size_t tokens = tokens_left < run->token_block ? tokens_left : run->token_block;
    const size_t begin = task % run->row_tasks * run->task_blocks, end = begin + run->task_blocks;
    size_t before = 0;
    for (size_t i = 0; i < run->count; i++) {
        const size_t from = begin > before ? begin - before : 0, to = end > before ? end - before : 0;
        forward_blocks(run, i, from, to < run->blocks[i] ? to : run->blocks[i], first_token, tokens, thread);
        before += run->blocks[i];
    }
}

/* Tokens of a task. Many, because a task brings its weights into the caches; fewer where that would leave threads
 * without work. Integer sums and the order of their scaling do not depend on the cut, sums of floats might. */
static size_t choose_token_block(const forward_run *run, const sqf_input *input, unsigned threads)
{
    bool floats = input->layout->float_part || input->layout->values;
    for (size_t i = 0; i < run->count; i++) {
        floats |= run->jobs[i].linear->dense != NULL;
    }
    if (floats) {
        return FLOAT_TOKEN_BLOCK;
    }
    size_t parts = sqf_ceil_div(input->tokens, TOKEN_BLOCK);
    while (run->all_blocks * parts < (size_t)threads * TASKS_OF_THREAD && input->tokens / parts > 4 * TOKEN_STEP) {
        parts *= 2;
    }
    return sqf_ceil_div(sqf_ceil_div(input->tokens, parts), TOKEN_STEP) * TOKEN_STEP;
}

void sqf_product_counts_add(sqf_product_counts *counts, const sqf_product_counts *per_token, uint64_t tokens)
{
    counts->dense += per_token->dense * tokens;
    counts->floating += per_token->floating * tokens;
    counts->integer_high += per_token->integer_high * tokens;
    counts->integer_low += per_token->integer_low * tokens;
    counts->dropped += per_token->dropped * tokens;
}

static sqf_status check_input(const sqf_linear *linear, const sqf_input *input, sqf_error *err)
{
    return input->layout && input_layout_equal(input->layout, &linear->input)
               ? SQF_OK
               : sqf_fail(err, SQF_E_ARG, "%s: the input was not prepared for this layer", linear->name);
}

sqf_status sqf_linear_forward(sqf_context *context, const sqf_linear *linear, const sqf_input *input, float *y,
                              sqf_error *err)
{
    return sqf_linear_forward_jobs(context, &(sqf_linear_job){.linear = linear, .y = y}, 1, input, err);
}

sqf_status sqf_linear_forward_jobs(sqf_context *context, const sqf_linear_job *jobs, size_t count,
                                   const sqf_input *input, sqf_error *err)
{
    forward_run run = {.count = count};
    if (count < 1 || count > SQF_LINEAR_JOBS) {
        return sqf_fail(err, SQF_E_ARG, "linear: %zu products at once, expected 1 to %d", count, (int)SQF_LINEAR_JOBS);
    }
    for (size_t i = 0; i < count; i++) {
        const sqf_linear *linear = jobs[i].linear, *gate = jobs[i].gate;
        SQF_TRY(check_input(linear, input, err));
        if (gate) {
            SQF_TRY(check_input(gate, input, err));
        }
        if (gate && gate->rows != linear->rows) {
            return sqf_fail(err, SQF_E_ARG, "%s: %zu rows as gate of %zu", gate->name, gate->rows, linear->rows);
        }
        run.jobs[i] = (forward_job){context->kernels, linear, input, jobs[i].y, jobs[i].store};
        run.gates[i] = (forward_job){context->kernels, gate, input, jobs[i].y, SQF_STORE_GATE};
        run.blocks[i] = sqf_ceil_div(linear->rows, SQF_BLOCK_ROWS);
        run.all_blocks += run.blocks[i];
    }
    const unsigned threads = sqf_pool_threads(context->pool);
    run.token_block = choose_token_block(&run, input, threads);
    run.task_blocks = input->tokens <= STREAM_TOKENS ? sqf_ceil_div(run.all_blocks, (size_t)threads * STREAM_TASKS) : 1;
    run.row_tasks = sqf_ceil_div(run.all_blocks, run.task_blocks);
    sqf_pool_run(context->pool, run.row_tasks * sqf_ceil_div(input->tokens, run.token_block), forward_task, &run);
    for (size_t i = 0; i < count; i++) {
        sqf_product_counts_add(&context->products, &jobs[i].linear->per_token, input->tokens);
        if (jobs[i].gate) {
            sqf_product_counts_add(&context->products, &jobs[i].gate->per_token, input->tokens);
        }
    }
    return SQF_OK;
}
