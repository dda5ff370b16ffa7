/* Linear layers on the device: what a layer demands of its input, its weights in tiles, and which kernels run.
 *
 * A layer's memory is one block: linear_plan and linear_create lay out the same parts in the same order. Rows are
 * fetched from the caller in stretches, copied to the device's workspace as they are and packed there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/linear/pack.h"

enum { STAGE_BYTES = 16 << 20 };

/* ---- types (libsqf's own table is out of reach of this library) ---- */

static bool is_integer(sqf_type type)
{
    return (type >= SQF_TYPE_INT2 && type <= SQF_TYPE_FP4) || type == SQF_TYPE_FP6;
}

static bool is_nibble(sqf_type type)
{
    return type == SQF_TYPE_INT2 || type == SQF_TYPE_INT3 || type == SQF_TYPE_INT4;
}

static bool is_split(const sqf_act_spec *spec)
{
    return spec->high != SQF_TYPE_NONE && spec->high_per_bank > 0;
}

static sqf_type scale_type(const sqf_act_spec *spec)
{
    return spec->scale_type == SQF_TYPE_NONE ? SQF_TYPE_FP32 : spec->scale_type;
}

/* How codes of `type` are held. Nibbles pay where the tensor units multiply them by nibbles. Float activations take
 * the precision of dense weights; with quantized ones halves, whose ten bits of mantissa are finer than bfloat16. */
static cuda_element element_of(const sqf_cuda_device *device, sqf_cuda_form form, sqf_type type)
{
    if (type == SQF_TYPE_FP4 && form == SQF_CUDA_FP4) {
        return CUDA_FP4;
    }
    if (is_integer(type)) {
        const bool nibbles = is_nibble(type) && form == SQF_CUDA_NIBBLES && device->info.native_int4;
        return nibbles ? CUDA_NIBBLE : CUDA_BYTE;
    }
    switch (type) {
    case SQF_TYPE_FP8:
    case SQF_TYPE_FP6_E3M2: return CUDA_FP8;
    case SQF_TYPE_BF16: return CUDA_BF16;
    case SQF_TYPE_FP16:
    case SQF_TYPE_FP8_E5M2: return CUDA_FP16;
    case SQF_TYPE_FP32: return form == SQF_CUDA_FP32 ? CUDA_FP32 : form == SQF_CUDA_BF16 ? CUDA_BF16 : CUDA_FP16;
    default: return CUDA_BYTE;
    }
}

/* ---- the input's layout ---- */

/* An array in host memory; never NULL on success. */
template <typename T> static sqf_status host_array(T **out, size_t count, const char *what, sqf_error *err)
{
    *out = static_cast<T *>(calloc(count ? count : 1, sizeof(T)));
    return *out ? SQF_OK : sqf_fail(err, SQF_E_MEMORY, "%s: no memory for %zu elements", what, count);
}

static void layout_clear(cuda_input_layout *layout)
{
    free(layout->segments);
    free(layout->host_channels);
    free(layout->host_column_norm);
}

static bool is_half(cuda_element element)
{
    return element > CUDA_FP8 && element != CUDA_FP4;
}

/* Most units of a chunk in a segment: a token's part of a chunk is at most 128 bytes. */
static uint32_t chunk_units(const cuda_input_layout *layout, const cuda_segment *segment)
{
    const bool both = layout->planes == CUDA_PLANES;
    const bool half = both            ? is_half(layout->low_element) || is_half(layout->high_element)
                      : segment->high ? is_half(layout->high_element)
                                      : is_half(layout->low_element);
    return half ? 1 : 2;
}

/* Fills out (NULL: counts only) and the layout's counts. */
static void build_chunks(cuda_input_layout *layout, cuda_chunk *out)
{
    layout->chunk_count = layout->low_chunks = 0;
    for (uint32_t s = 0; s < layout->segment_count; s++) {
        const cuda_segment *segment = &layout->segments[s];
        const uint32_t most = chunk_units(layout, segment);
        for (uint32_t done = 0; done < segment->units; done += most) {
            const uint32_t left = segment->units - done;
            if (out) {
                out[layout->chunk_count] = cuda_chunk{segment->unit + done, left < most ? left : most, s,
                                                      segment->act_scale | (done == 0 ? CUDA_CHUNK_FIRST : 0u)};
            }
            layout->chunk_count++;
            layout->low_chunks += segment->unit + done < layout->low_units;
        }
    }
}

/* Segments in units; sections in order. */
static void build_segments(const sqf_cuda_linear_spec *spec, cuda_input_layout *layout)
{
    const bool sections = is_split(&layout->spec) && layout->spec.mask == SQF_MASK_STATIC;
    layout->scale_count = sections ? 2 : 1;
    for (size_t s = 0; s < spec->segment_count; s++) {
        const sqf_cuda_segment *from = &spec->segments[s];
        const uint32_t units = (from->end - from->begin + CUDA_UNIT - 1) / CUDA_UNIT, high = sections && from->high;
        const bool grouped = layout->spec.scale == SQF_ACT_GROUP;
        const uint32_t act_scale = grouped ? from->act_group : high;
        layout->segments[s] = cuda_segment{layout->units, units, from->begin, from->end, act_scale, high};
        layout->units += units;
        layout->low_units += high ? 0 : units;
        if (grouped && act_scale >= layout->scale_count) {
            layout->scale_count = act_scale + 1;
        }
    }
}

/* Everything on the host side. */
static sqf_status layout_init(const sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, cuda_input_layout *out,
                              sqf_error *err)
{
    *out = cuda_input_layout();
    out->spec = spec->activations;
    out->columns = (uint32_t)spec->columns;
    out->border = (uint32_t)spec->border;
    out->segment_count = (uint32_t)spec->segment_count;
    const bool split = is_split(&out->spec);
    out->planes = split && out->spec.mask == SQF_MASK_DYNAMIC ? 2 : 1;
    out->low_element = element_of(device, spec->form, out->spec.low);
    out->high_element = split ? element_of(device, spec->form, out->spec.high) : out->low_element;
    SQF_TRY(host_array(&out->segments, spec->segment_count, spec->name, err));
    build_segments(spec, out);
    build_chunks(out, NULL);
    const uint32_t low = cuda_unit_bytes(out->low_element), high = cuda_unit_bytes(out->high_element);
    const size_t first = (size_t)out->low_units * low + (size_t)(out->units - out->low_units) * high;
    out->stride[0] = (first + 127) / 128 * 128;
    out->stride[1] = out->planes == 2 ? ((size_t)out->units * high + 127) / 128 * 128 : 0;
    if (spec->channels) {
        SQF_TRY(host_array(&out->host_channels, spec->columns, spec->name, err));
        memcpy(out->host_channels, spec->channels, spec->columns * sizeof *spec->channels);
    }
    if (spec->column_norm && out->spec.dynamic_weighted && out->planes == 2) {
        SQF_TRY(host_array(&out->host_column_norm, spec->columns, spec->name, err));
        memcpy(out->host_column_norm, spec->column_norm, spec->columns * sizeof *spec->column_norm);
    }
    if (spec->static_scale && out->spec.scale == SQF_ACT_STATIC) {
        out->has_static_scale = true;
        memcpy(out->static_scale, spec->static_scale, sizeof out->static_scale);
        if (spec->static_zero) {
            memcpy(out->static_zero, spec->static_zero, sizeof out->static_zero);
        }
    }
    return SQF_OK;
}

/* Field by field: memcmp would compare padding. */
static bool same_spec(const sqf_act_spec *a, const sqf_act_spec *b)
{
    return a->low == b->low && a->high == b->high && a->bank == b->bank && a->high_per_bank == b->high_per_bank &&
           a->mask == b->mask && a->dynamic_weighted == b->dynamic_weighted && a->scale == b->scale &&
           a->group == b->group && a->clip == b->clip && a->high_clip == b->high_clip && a->zero == b->zero &&
           scale_type(a) == scale_type(b);
}

static bool same_array(const void *a, const void *b, size_t bytes)
{
    return a == b || (a && b && memcmp(a, b, bytes) == 0);
}

bool cuda_linear_same_input(const sqf_cuda_linear *first, const sqf_cuda_linear *second)
{
    const cuda_input_layout *a = &first->layout, *b = &second->layout;
    return a == b || (same_spec(&a->spec, &b->spec) && a->columns == b->columns && a->border == b->border &&
                      a->low_element == b->low_element && a->high_element == b->high_element &&
                      a->segment_count == b->segment_count &&
                      same_array(a->segments, b->segments, a->segment_count * sizeof *a->segments) &&
                      same_array(a->host_channels, b->host_channels, a->columns * sizeof *a->host_channels) &&
                      same_array(a->host_column_norm, b->host_column_norm, a->columns * sizeof *a->host_column_norm) &&
                      a->has_static_scale == b->has_static_scale &&
                      memcmp(a->static_scale, b->static_scale, sizeof a->static_scale) == 0 &&
                      memcmp(a->static_zero, b->static_zero, sizeof a->static_zero) == 0);
}

/* ---- memory ---- */

/* Hands out parts of the layer's block; with base NULL only counts. */
typedef struct arena {
    uint8_t *base;
    size_t used;
} arena;

template <typename T> static void take(arena *self, T **out, size_t count)
{
    *out = self->base ? reinterpret_cast<T *>(self->base + self->used) : NULL;
    self->used += (count * sizeof(T) + 255) / 256 * 256;
}

/* True if the compact form will do: whole words of high elements in each row of a unit. */
static bool is_compact(const sqf_cuda_linear_spec *spec)
{
    return spec->form == SQF_CUDA_SPLIT && spec->split_unit_high > 0 && spec->split_unit_high % 4 == 0;
}

static void place_weights(arena *memory, const sqf_cuda_linear *linear, bool scaled, cuda_weights *weights)
{
    const size_t tiles = linear->padded_rows / CUDA_TILE_ROWS;
    const size_t units = tiles * linear->layout.units;
    const size_t scales = tiles * linear->layout.segment_count * CUDA_TILE_ROWS;
    const bool compact = weights->form == SQF_CUDA_SPLIT, zero = linear->layout.spec.zero != SQF_ACT_ZERO_NONE;
    take(memory, &weights->tiles, units * cuda_tile_bytes(weights->form));
    if (scaled) {
        take(memory, &weights->scales, scales);
    }
    if (scaled && zero) {
        take(memory, &weights->sums, scales);
    }
    if (compact) {
        take(memory, &weights->high, units * CUDA_TILE_ROWS * weights->unit_high + 16);
        take(memory, &weights->high_scales, scales);
        if (zero) {
            take(memory, &weights->high_sums, scales);
        }
    }
}

/* Points a layer at its parts; returns the bytes of all. The host side of the layout stands. */
static size_t place_layer(const sqf_cuda_linear_spec *spec, sqf_cuda_linear *linear, uint8_t *base)
{
    arena memory = {base, 0};
    cuda_input_layout *layout = &linear->layout;
    linear->rows = (uint32_t)spec->rows;
    linear->columns = (uint32_t)spec->columns;
    linear->padded_rows = (linear->rows + CUDA_ROW_PAD - 1) / CUDA_ROW_PAD * CUDA_ROW_PAD;
    linear->two_planes = spec->form == SQF_CUDA_SPLIT && !is_compact(spec);
    linear->weights.form = linear->two_planes ? SQF_CUDA_NIBBLES : spec->form;
    linear->weights.unit_high = is_compact(spec) ? spec->split_unit_high : 0;
    const bool scaled = spec->form != SQF_CUDA_BF16 && spec->form != SQF_CUDA_FP16 && spec->form != SQF_CUDA_FP32;
    place_weights(&memory, linear, scaled || spec->has_scales, &linear->weights);
    if (linear->two_planes) {
        linear->second.form = SQF_CUDA_BYTES;
        place_weights(&memory, linear, true, &linear->second);
    }
    linear->bytes = memory.used;
    take(&memory, &layout->device_segments, layout->segment_count);
    take(&memory, &layout->device_chunks, layout->chunk_count);
    take(&memory, &layout->device_units, (layout->units + 1) / 2 * 2);
    if (layout->host_channels) {
        take(&memory, &layout->channels, layout->columns);
    }
    if (layout->host_column_norm) {
        take(&memory, &layout->column_norm, layout->columns);
    }
    if (spec->bias) {
        take(&memory, &linear->bias, linear->rows);
    }
    return memory.used;
}

size_t cuda_linear_plan(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec)
{
    sqf_cuda_linear linear = sqf_cuda_linear();
    size_t bytes = 0;
    if (layout_init(device, spec, &linear.layout, NULL) == SQF_OK) {
        bytes = place_layer(spec, &linear, NULL);
    }
    layout_clear(&linear.layout);
    return bytes;
}

/* ---- creation ---- */

/* Rows on their way from the caller to the device: one block on the host, the same in the device's workspace. */
typedef struct stage {
    uint8_t *host;
    size_t bytes;
    uint32_t rows; /* a multiple of 16 */
    size_t codes, high, mask, scales, high_scales;
} stage;

/* Offsets for `rows` rows; returns the bytes. */
static size_t stage_place(const sqf_cuda_linear_spec *spec, bool scaled, uint32_t rows, stage *out)
{
    const size_t elements = (size_t)rows * spec->columns, floats = (size_t)rows * spec->segment_count * sizeof(float);
    const bool split = spec->form == SQF_CUDA_SPLIT;
    size_t used = 0;
    const size_t bytes[] = {elements * cuda_code_bytes(spec->form), split ? elements : 0, split ? elements : 0,
                            scaled ? floats : 0, split ? floats : 0};
    size_t *const offsets[] = {&out->codes, &out->high, &out->mask, &out->scales, &out->high_scales};
    for (int i = 0; i < 5; i++) {
        *offsets[i] = used;
        used += (bytes[i] + 255) / 256 * 256;
    }
    out->rows = rows;
    out->bytes = used;
    return used;
}

/* Packs `rows` rows that lie in `base` (device memory) as tiles from `tile` on. */
static sqf_status pack_stage(sqf_cuda_device *device, const stage *self, uint8_t *base, uint32_t rows, uint32_t tile,
                             uint32_t tiles, sqf_cuda_linear *linear, sqf_error *err)
{
    const cuda_input_layout *layout = &linear->layout;
    cuda_weights *planes[] = {&linear->weights, &linear->second};
    for (int p = 0; p < (linear->two_planes ? 2 : 1); p++) {
        const cuda_weights *weights = planes[p];
        const bool compact = weights->form == SQF_CUDA_SPLIT;
        const size_t codes = p == 1 ? self->high : self->codes, scales = p == 1 ? self->high_scales : self->scales;
        const cuda_pack_source source = {weights->form,
                                         base + codes,
                                         reinterpret_cast<const int8_t *>(base + self->high),
                                         base + self->mask,
                                         reinterpret_cast<const float *>(base + scales),
                                         rows,
                                         layout->columns,
                                         layout->units,
                                         layout->segment_count,
                                         layout->device_segments,
                                         weights->unit_high};
        const size_t units = (size_t)tile * layout->units;
        const size_t at = (size_t)tile * layout->segment_count * CUDA_TILE_ROWS;
        cuda_pack_target target = cuda_pack_target();
        target.tiles = reinterpret_cast<uint32_t *>(weights->tiles + units * cuda_tile_bytes(weights->form));
        target.scales = weights->scales ? weights->scales + at : NULL;
        target.sums = weights->sums ? weights->sums + at : NULL;
        if (compact) {
            target.high = reinterpret_cast<int8_t *>(weights->high + units * CUDA_TILE_ROWS * weights->unit_high);
            target.high_scales = weights->high_scales + at;
            target.high_sums = weights->high_sums ? weights->high_sums + at : NULL;
            target.source_high_scales = reinterpret_cast<const float *>(base + self->high_scales);
        }
        SQF_TRY(cuda_pack(device, &source, &target, tiles, err));
    }
    return SQF_OK;
}

/* Fetches all rows and packs them. Rows beyond the matrix become tiles of zeros. */
static sqf_status fetch_rows(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, sqf_cuda_linear *linear,
                             stage *self, sqf_error *err)
{
    SQF_TRY(cuda_workspace(device, self->bytes, err));
    uint8_t *base = static_cast<uint8_t *>(device->workspace);
    const bool split = spec->form == SQF_CUDA_SPLIT;
    for (uint32_t first = 0; first < linear->padded_rows; first += self->rows) {
        const uint32_t padded = linear->padded_rows - first < self->rows ? linear->padded_rows - first : self->rows;
        const uint32_t left = first < linear->rows ? linear->rows - first : 0;
        const uint32_t count = left < padded ? left : padded;
        if (count > 0) {
            const sqf_cuda_rows rows = {
                self->host + self->codes, split ? reinterpret_cast<int8_t *>(self->host + self->high) : NULL,
                split ? self->host + self->mask : NULL,
                linear->weights.scales ? reinterpret_cast<float *>(self->host + self->scales) : NULL,
                split ? reinterpret_cast<float *>(self->host + self->high_scales) : NULL};
            SQF_TRY(spec->fill(spec->user, first, count, &rows, err));
            CUDA_TRY(cudaMemcpyAsync(base, self->host, self->bytes, cudaMemcpyHostToDevice, device->stream),
                     "copying weights");
        }
        SQF_TRY(pack_stage(device, self, base, count, first / CUDA_TILE_ROWS, padded / CUDA_TILE_ROWS, linear, err));
    }
    return SQF_OK;
}

/* [units] */
static void build_units(const cuda_input_layout *layout, cuda_unit *out)
{
    for (uint32_t s = 0; s < layout->segment_count; s++) {
        const cuda_segment *segment = &layout->segments[s];
        for (uint32_t u = 0; u < segment->units; u++) {
            const uint32_t begin = segment->begin + u * CUDA_UNIT, left = segment->end - begin;
            const uint32_t columns = left < CUDA_UNIT ? left : (uint32_t)CUDA_UNIT;
            out[segment->unit + u] = cuda_unit{begin, columns | segment->high << 7 | segment->act_scale << 8};
        }
    }
}

/* Copies what is not weights. */
static sqf_status upload_small(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, sqf_cuda_linear *linear,
                               sqf_error *err)
{
    cuda_input_layout *layout = &linear->layout;
    cuda_chunk *chunks;
    SQF_TRY(host_array(&chunks, layout->chunk_count, spec->name, err));
    build_chunks(layout, chunks);
    cuda_unit *units;
    sqf_status status = host_array(&units, layout->units, spec->name, err);
    if (status == SQF_OK) {
        build_units(layout, units);
    }
    const struct {
        void *to;
        const void *from;
        size_t bytes;
    } copies[] = {{layout->device_segments, layout->segments, layout->segment_count * sizeof *layout->segments},
                  {layout->device_chunks, chunks, layout->chunk_count * sizeof *chunks},
                  {layout->device_units, units, layout->units * sizeof *units},
                  {layout->channels, layout->host_channels, layout->columns * sizeof(int32_t)},
                  {layout->column_norm, layout->host_column_norm, layout->columns * sizeof(float)},
                  {linear->bias, spec->bias, linear->rows * sizeof(float)}};
    for (size_t i = 0; i < sizeof copies / sizeof copies[0] && status == SQF_OK; i++) {
        if (copies[i].to) {
            status = cuda_check(
                cudaMemcpyAsync(copies[i].to, copies[i].from, copies[i].bytes, cudaMemcpyHostToDevice, device->stream),
                "copying a layer", err);
        }
    }
    free(units);
    free(chunks);
    return status;
}

/* One block of device memory; the message says what there was. */
static sqf_status allocate_layer(const sqf_cuda_linear_spec *spec, size_t bytes, void **out, sqf_error *err)
{
    const cudaError_t error = cudaMalloc(out, bytes);
    if (error == cudaSuccess) {
        return SQF_OK;
    }
    size_t free_bytes = 0, total = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total);
    return sqf_fail(err, SQF_E_MEMORY, "%s: %zu bytes of device memory needed, %zu free (%s)", spec->name, bytes,
                    free_bytes, cudaGetErrorString(error));
}

static sqf_status fill_layer(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, sqf_cuda_linear *linear,
                             sqf_error *err)
{
    SQF_TRY(layout_init(device, spec, &linear->layout, err));
    SQF_TRY(allocate_layer(spec, place_layer(spec, linear, NULL), &linear->memory, err));
    place_layer(spec, linear, static_cast<uint8_t *>(linear->memory));
    SQF_TRY(upload_small(device, spec, linear, err));
    stage rows = stage();
    const bool scaled = linear->weights.scales != NULL;
    const size_t tile_bytes = stage_place(spec, scaled, CUDA_TILE_ROWS, &rows);
    const size_t fitting = STAGE_BYTES / tile_bytes, all = linear->padded_rows / CUDA_TILE_ROWS;
    const size_t tiles = fitting < 1 ? 1 : fitting < all ? fitting : all;
    stage_place(spec, scaled, (uint32_t)(tiles * CUDA_TILE_ROWS), &rows);
    SQF_TRY(host_array(&rows.host, rows.bytes, spec->name, err));
    const sqf_status status = fetch_rows(device, spec, linear, &rows, err);
    free(rows.host);
    return status;
}

sqf_status cuda_linear_create(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, sqf_cuda_linear **out,
                              sqf_error *err)
{
    *out = NULL;
    if (spec->rows == 0 || spec->columns == 0 || spec->segment_count == 0 || spec->rows > UINT32_MAX / 2 ||
        spec->columns > UINT32_MAX / 2) {
        return sqf_fail(err, SQF_E_ARG, "%s: weights [%zu, %zu] in %zu segments", spec->name, spec->rows, spec->columns,
                        spec->segment_count);
    }
    sqf_cuda_linear *linear;
    SQF_TRY(host_array(&linear, 1, spec->name, err));
    strncpy(linear->name, spec->name, sizeof linear->name - 1);
    const sqf_status status = fill_layer(device, spec, linear, err);
    if (status != SQF_OK) {
        cuda_linear_destroy(device, linear);
        return status;
    }
    *out = linear;
    return SQF_OK;
}

void cuda_linear_destroy(sqf_cuda_device *device, sqf_cuda_linear *linear)
{
    if (linear) {
        (void)cudaStreamSynchronize(device->stream);
        (void)cudaFree(linear->memory);
        layout_clear(&linear->layout);
        free(linear);
    }
}

size_t cuda_linear_bytes(const sqf_cuda_linear *linear)
{
    return linear->bytes;
}

/* ---- the product ---- */

/* The first that serves runs. */
static const cuda_family *family_for(const cuda_product *product)
{
    const cuda_family *const families[] = {&cuda_family_decode, &cuda_family_hopper,  &cuda_family_blackwell,
                                           &cuda_family_float8, &cuda_family_integer, &cuda_family_split,
                                           &cuda_family_half,   &cuda_family_dense,   &cuda_family_simple};
    for (const cuda_family *family : families) {
        if (family->serves(product)) {
            return family;
        }
    }
    return NULL;
}

/* y = silu(p) * y. */
static __global__ void gate_kernel(const float *p, size_t count, float *y)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        y[i] *= p[i] / (1.0f + expf(-p[i]));
    }
}

enum { MAX_PRODUCTS = 4 };

/* The products whose sum is the layer's: planes of activations that hold something, times planes of weights. */
static unsigned list_products(sqf_cuda_device *device, const sqf_cuda_linear *linear, const sqf_cuda_input *input,
                              float *y, cuda_product out[MAX_PRODUCTS])
{
    const cuda_input_layout *layout = &linear->layout;
    unsigned count = 0;
    for (unsigned plane = 0; plane < layout->planes; plane++) {
        if (layout->planes > 1 && (plane ? layout->spec.high : layout->spec.low) == SQF_TYPE_NONE) {
            continue;
        }
        for (int second = 0; second < (linear->two_planes ? 2 : 1); second++) {
            out[count] = cuda_product{device,
                                      linear,
                                      second ? &linear->second : &linear->weights,
                                      input,
                                      plane,
                                      y,
                                      count == 0 ? linear->bias : NULL,
                                      count == 0 ? SQF_CUDA_SET : SQF_CUDA_ADD};
            count++;
        }
    }
    return count;
}

/* Several products of a layer that is gated are added up behind the families' part of the workspace. */
static sqf_status run_products(cuda_product *products, unsigned count, sqf_cuda_store store, sqf_error *err)
{
    sqf_cuda_device *device = products[0].device;
    const size_t elements = products[0].input->tokens * products[0].linear->rows;
    const bool apart = count > 1 && store == SQF_CUDA_GATE;
    float *const y = products[0].y;
    const cuda_family *chosen[MAX_PRODUCTS];
    size_t need = 0;
    products[0].store = apart ? SQF_CUDA_SET : store;
    for (unsigned i = 0; i < count; i++) {
        chosen[i] = family_for(&products[i]);
        if (!chosen[i]) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: no kernel for this layer", products[0].linear->name);
        }
        const size_t bytes = chosen[i]->workspace(&products[i]);
        need = bytes > need ? bytes : need;
    }
    need = (need + 255) / 256 * 256;
    SQF_TRY(cuda_workspace(device, need + (apart ? elements * sizeof(float) : 0), err));
    float *sum = reinterpret_cast<float *>(static_cast<uint8_t *>(device->workspace) + need);
    for (unsigned i = 0; i < count; i++) {
        products[i].y = apart ? sum : y;
        SQF_TRY(chosen[i]->run(&products[i], err));
    }
    if (apart) {
        const size_t blocks = (elements + 255) / 256;
        CUDA_TRY(cuda_launch(device->stream, gate_kernel, dim3((unsigned)(blocks > 4096 ? 4096 : blocks)), dim3(256), 0,
                             sum, elements, y),
                 "gating");
    }
    return SQF_OK;
}

sqf_status cuda_linear_forward(sqf_cuda_device *device, const sqf_cuda_linear *linear, const sqf_cuda_input *input,
                               float *y, sqf_cuda_store store, sqf_error *err)
{
    cuda_product products[MAX_PRODUCTS] = {};
    if (input->tokens == 0) {
        return SQF_OK;
    }
    const unsigned count = list_products(device, linear, input, y, products);
    return run_products(products, count, store, err);
}

void cuda_linear_kernels(sqf_cuda_device *device, const sqf_cuda_linear *linear, size_t tokens,
                         char text[SQF_CUDA_KERNELS])
{
    cuda_product products[MAX_PRODUCTS] = {};
    sqf_cuda_input input = sqf_cuda_input(); /* families choose by shapes: there are no codes */
    input.layout = &linear->layout;
    input.tokens = tokens;
    const unsigned count = list_products(device, linear, &input, NULL, products);
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < count && used < SQF_CUDA_KERNELS; i++) {
        const cuda_family *family = family_for(&products[i]);
        used += (size_t)snprintf(text + used, SQF_CUDA_KERNELS - used, "%s%s", i > 0 ? "+" : "",
                                 family ? family->name : "none");
    }
}
