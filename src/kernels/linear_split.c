/* Products with SPLIT weights (split.h). A few tokens read them as they are; for many tokens a block's weights are
 * expanded a chunk of columns at a time, to one plane of bytes with tied scales, to a plane of nibbles as bytes and one
 * of bytes with free ones, and go through the tiles of ordinary planes from there. */
#include "base/memory.h"
#include "kernels/layout.h"
#include "kernels/repack_split.h"
#include "kernels/split.h"

enum {
    SPLIT_DIRECT_TOKENS = 8, /* up to so many tokens the compact form itself is multiplied */
    SPLIT_TOKENS = 48,       /* tokens between which two planes alternate */
    SPLIT_CHUNK = 1024,      /* columns whose two planes of a block are expanded at a time: 128 KiB */
    SPLIT_CHUNK_FEW = 128    /* the same for few tokens: 16 KiB, so that they stay in a core's first cache */
};

/* What is expanded of a block of rows, in scratch memory. */
typedef struct split_chunk {
    size_t first, count; /* segments */
    size_t steps;
    size_t first_block, end_block; /* of the panels' blocks */
    uint8_t *nibbles;              /* [steps] of one panel */
    uint8_t *plane[PARTS];         /* [panels][steps][128] */
    float *scales[PARTS];          /* [panels][count][SQF_PANEL_ROWS] */
    int32_t *sums[PARTS];          /* the same shape */
} split_chunk;

/* A segment has SQF_SEGMENT_PAD columns at least, so that is how many segments a chunk may have. */
static size_t chunk_columns_max(const input_layout *layout)
{
    size_t longest = 0;
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        const size_t length = segment->end - segment->begin;
        longest = length > longest ? length : longest;
    }
    return sqf_ceil_div(longest, SQF_SEGMENT_PAD) * SQF_SEGMENT_PAD + SPLIT_CHUNK;
}

static size_t plane_bytes(size_t columns)
{
    return columns * SQF_BLOCK_ROWS;
}

static size_t scales_bytes(size_t columns)
{
    return columns / SQF_SEGMENT_PAD * SQF_BLOCK_ROWS * sizeof(float);
}

size_t split_scratch_bytes(const input_layout *layout)
{
    const size_t columns = chunk_columns_max(layout);
    return columns / SQF_SEGMENT_PAD * SPLIT_NIBBLES + PARTS * (plane_bytes(columns) + 2 * scales_bytes(columns));
}

static split_chunk place_chunk(const input_layout *layout, uint8_t *at)
{
    const size_t columns = chunk_columns_max(layout);
    split_chunk chunk = {.nibbles = at};
    at += columns / SQF_SEGMENT_PAD * SPLIT_NIBBLES;
    for (int part = 0; part < PARTS; part++) {
        chunk.plane[part] = at;
        at += plane_bytes(columns);
        chunk.scales[part] = (float *)(void *)at;
        at += scales_bytes(columns);
        chunk.sums[part] = (int32_t *)(void *)at;
        at += scales_bytes(columns);
    }
    return chunk;
}

/* The blocks behind those of the last chunk, whole segments, until they have that many columns. */
static void choose_blocks(const sqf_split_shape *shape, size_t columns, split_chunk *chunk)
{
    size_t b = chunk->end_block;
    chunk->first_block = b;
    chunk->first = shape->blocks[b].segment;
    chunk->steps = 0;
    while (b < shape->block_count &&
           (chunk->steps < columns / SQF_SEGMENT_PAD || shape->blocks[b].segment == shape->blocks[b - 1].segment)) {
        chunk->steps += shape->blocks[b++].steps;
    }
    chunk->end_block = b;
    chunk->count = shape->blocks[b - 1].segment + 1 - chunk->first;
}

/* Scales of one segment of a panel as floats, and sums of its integers. */
static void expand_header(const split_product *self, const uint8_t *header, split_chunk *chunk, size_t at)
{
    const sqf_split_shape *shape = &self->plane->split;
    for (int part = LOW; part <= (shape->tied ? LOW : HIGH); part++) {
        const uint8_t *scales = header + (size_t)part * split_scale_bytes(shape);
        if (shape->half) {
            self->kernels->from_fp16(scales, SQF_PANEL_ROWS, chunk->scales[part] + at);
        } else {
            memcpy(chunk->scales[part] + at, scales, SQF_PANEL_ROWS * sizeof(float));
        }
        if (shape->sums) {
            memcpy(chunk->sums[part] + at, split_sums(shape, header) + (size_t)part * SQF_PANEL_ROWS * sizeof(int32_t),
                   SQF_PANEL_ROWS * sizeof(int32_t));
        }
    }
    for (size_t r = 0; shape->tied && r < SQF_PANEL_ROWS; r++) {
        chunk->scales[LOW][at + r] /= (float)(1u << split_shifts(shape, header)[r]);
    }
}

static void expand_panel(const split_product *self, split_chunk *chunk, size_t p)
{
    const sqf_split_shape *shape = &self->plane->split;
    const uint8_t *panel = self->plane->data + (self->first_panel + p) * self->plane->panel_bytes, *header = NULL;
    uint8_t *high = chunk->plane[HIGH] + p * chunk->steps * 128;
    size_t done = 0;
    for (size_t b = chunk->first_block; b < chunk->end_block; b++) {
        const sqf_split_block *block = &shape->blocks[b];
        if (b == chunk->first_block || shape->blocks[b - 1].segment != block->segment) {
            header = panel + block->offset - shape->header_bytes;
            expand_header(self, header, chunk, (p * chunk->count + block->segment - chunk->first) * SQF_PANEL_ROWS);
        }
        self->kernels->split_expand(shape, block, header, panel + block->offset, chunk->nibbles + done * SPLIT_NIBBLES,
                                    high + done * 128);
        done += block->steps;
    }
    if (!shape->tied) {
        self->kernels->expand_nibbles(chunk->nibbles, chunk->steps, chunk->plane[LOW] + p * chunk->steps * 128);
    }
}

/* Segments [begin, begin + count) of the chunk, one of its planes: `part` of the planes, `which` of the scales. */
static void multiply_plane(const split_product *self, const split_chunk *chunk, int part, int which, size_t begin,
                           size_t count)
{
    const sqf_input *input = self->input;
    const input_layout *layout = input->layout;
    const code_plane *acts = &input->planes[self->act_plane];
    const size_t g = chunk->first + begin, segments = layout->segment_count;
    const size_t offset = layout->segments[g].offset, scalars = self->first_token * segments + g;
    const size_t steps = (offset - layout->segments[chunk->first].offset) / SQF_SEGMENT_PAD;
    const sqf_tile_job tile = {
        .form = part == LOW ? SQF_FORM_UNSIGNED : SQF_FORM_BYTES,
        .weights = chunk->plane[part] + steps * 128,
        .panel_bytes = chunk->steps * 128,
        .panels = self->panels,
        .scales = chunk->scales[which] + begin * SQF_PANEL_ROWS,
        .panel_scales = chunk->count * SQF_PANEL_ROWS,
        .act_plane = self->act_plane,
        .codes = acts->codes + self->first_token * input->code_stride + offset,
        .code_stride = input->code_stride,
        .sums = acts->sums + scalars,
        .act_scales = acts->scales + scalars,
        .zeros = acts->zeros ? acts->zeros + scalars : NULL,
        .column_sums = chunk->sums[which] + begin * SQF_PANEL_ROWS,
        .segment_stride = segments,
        .segments = layout->segments + g,
        .segment_count = count,
        .tokens = self->tokens,
        .out = self->out,
    };
    self->kernels->tile(&tile);
}

/* Many tokens. With free scales the parts alternate segment by segment, in the order of the direct product; some tokens
 * at a time, whose outputs stay in the first cache from segment to segment. */
static void multiply_expanded(const split_product *self)
{
    const input_layout *layout = self->input->layout;
    const sqf_split_shape *shape = &self->plane->split;
    split_chunk chunk = place_chunk(layout, self->tile);
    while (chunk.end_block < shape->block_count) {
        choose_blocks(shape, self->tokens > SPLIT_DIRECT_TOKENS ? SPLIT_CHUNK : SPLIT_CHUNK_FEW, &chunk);
        for (size_t p = 0; p < self->panels; p++) {
            expand_panel(self, &chunk, p);
        }
        if (shape->tied) {
            multiply_plane(self, &chunk, HIGH, LOW, 0, chunk.count);
            continue;
        }
        for (size_t m = 0; m < self->tokens; m += SPLIT_TOKENS) {
            split_product few = *self;
            few.first_token += m;
            few.out += m * SQF_BLOCK_ROWS;
            few.tokens = self->tokens - m < SPLIT_TOKENS ? self->tokens - m : SPLIT_TOKENS;
            for (size_t i = 0; i < chunk.count; i++) {
                multiply_plane(&few, &chunk, LOW, LOW, i, 1);
                multiply_plane(&few, &chunk, HIGH, HIGH, i, 1);
            }
        }
    }
}

void split_product_add(const split_product *self)
{
    const sqf_input *input = self->input;
    const input_layout *layout = input->layout;
    if (self->tokens > SPLIT_DIRECT_TOKENS || !self->kernels->split_tile) {
        multiply_expanded(self);
        return;
    }
    const code_plane *acts = &input->planes[self->act_plane];
    const size_t scalars = self->first_token * layout->segment_count;
    const sqf_split_job job = {
        .shape = &self->plane->split,
        .weights = self->plane->data + self->first_panel * self->plane->panel_bytes,
        .panel_bytes = self->plane->panel_bytes,
        .panels = self->panels,
        .segments = layout->segments,
        .segment_count = layout->segment_count,
        .codes = acts->codes + self->first_token * input->code_stride,
        .code_stride = input->code_stride,
        .sums = acts->sums + scalars,
        .act_scales = acts->scales + scalars,
        .zeros = acts->zeros ? acts->zeros + scalars : NULL,
        .tokens = self->tokens,
        .out = self->out,
    };
    self->kernels->split_tile(&job);
}
