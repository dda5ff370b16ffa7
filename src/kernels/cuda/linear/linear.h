/* The inside of a linear layer and of its input on the device: what packing, quantization and the kernels agree on.
 * layout.h says how tiles and units lie. */
#ifndef SQF_KERNELS_CUDA_LINEAR_H
#define SQF_KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/linear/layout.h"
#include "kernels/cuda/ops.h"

/* A segment in units. On the device as an array. */
typedef struct cuda_segment {
    uint32_t unit, units; /* first unit and how many; columns beyond the segment's are padding (codes 0) */
    uint32_t begin, end;  /* stored columns */
    uint32_t act_scale;   /* row of cuda_plane.scales */
    uint32_t high;        /* section of a static mask */
} cuda_segment;

/* A unit of activations: its first stored column; columns (0..64) | high << 7 | act_scale << 8. */
typedef struct cuda_unit {
    uint32_t begin, packed;
} cuda_unit;

/* One or two units of a segment that the prefill kernel takes in one step: two where a unit of activations is nibbles
 * or bytes, one of halves. */
typedef struct cuda_chunk {
    uint32_t unit, units;
    uint32_t segment;
    uint32_t act_scale; /* of the segment; bit 31: the segment's first chunk */
} cuda_chunk;

enum { CUDA_PLANES = 2 };
#define CUDA_CHUNK_FIRST 0x80000000u

/* How a unit of activations is held. Units of a plane are ordered: all nibbles, then all bytes, then all halves. FP4:
 * nibbles of e2m1, which count half of what the scale is for. */
typedef enum cuda_element {
    CUDA_NIBBLE = 0,
    CUDA_BYTE,
    CUDA_FP8,
    CUDA_BF16,
    CUDA_FP16,
    CUDA_FP32,
    CUDA_FP4
} cuda_element;

/* What a layer demands of its input. Two layers whose layouts are equal share an input. Host memory but where said. */
typedef struct cuda_input_layout {
    sqf_act_spec spec;
    uint32_t columns, border;
    uint32_t units, segment_count;
    uint32_t low_units;   /* units of the low section of a static mask; all of them else */
    uint32_t scale_count; /* act scales of a token and plane: 1, 2 (static mask, one a section) or groups */
    uint32_t planes;      /* 1; 2 with dynamic masks: plane 0 low, plane 1 high, each with 0 in the other's places */
    cuda_element low_element, high_element; /* of the units of the low and of the high section (one section: low), or
                                               of plane 0 and plane 1 */
    size_t stride[CUDA_PLANES];             /* bytes of a token in codes */
    cuda_segment *segments;                 /* [segment_count] host */
    cuda_segment *device_segments;          /* the same on the device */
    cuda_chunk *device_chunks;              /* [chunk_count] device, ascending */
    cuda_unit *device_units;                /* [units, rounded up to even] device */
    uint32_t chunk_count, low_chunks;       /* low_chunks: those of the first low_units units */
    int32_t *channels;                      /* device [columns] or NULL */
    int32_t *host_channels;                 /* for comparing */
    float *column_norm;                     /* device [columns] or NULL */
    float *host_column_norm;
    bool has_static_scale;
    float static_scale[2];
    int32_t static_zero[2];
} cuda_input_layout;

/* A quantized input: buffers of the device. Which fields are in use follows from the layout. */
typedef struct cuda_plane {
    uint8_t *codes; /* [tokens padded][stride] */
    float *scales;  /* [scale_count][token_stride] what a code is multiplied with; 0 where all codes of the range are
                       0. CUDA_FP16: of float activations the power of two that brings the largest of a token to
                       2^14..2^15, of fp16 1, of e5m2 their scale. CUDA_BF16 and CUDA_FP32: not read (1) */
    int32_t *zeros; /* the same shape: codes that stand for 0; NULL without zero points */
} cuda_plane;

struct sqf_cuda_input {
    const cuda_input_layout *layout; /* of the layer that it was prepared for */
    size_t tokens, token_stride;     /* token_stride: floats from one row of scales to the next, multiple of
                                        CUDA_TOKEN_PAD; tokens beyond `tokens` have codes and scales 0 up to it,
                                        with 16 tokens or fewer up to 16: behind is what may be read and means
                                        nothing */
    cuda_plane planes[CUDA_PLANES];
    void *memory;
    size_t memory_bytes;
};

/* A plane of weights on the device. */
typedef struct cuda_weights {
    sqf_cuda_form form;
    uint8_t *tiles;     /* [rows padded / 16][units][tile bytes]; SPLIT: nibble tiles, high elements marked -8 */
    uint8_t *high;      /* SPLIT: int8 [rows padded / 16][units][16 rows][split_unit_high] in ascending stored column;
                           followed by 16 bytes that may be read */
    uint32_t unit_high; /* SPLIT: split_unit_high, a multiple of 4 */
    float *scales;      /* [rows padded / 16][segments][16]; 0 beyond the rows; NULL: 1 */
    float *high_scales; /* SPLIT */
    int32_t *sums;      /* as scales: sums of the codes of a segment; with zero points */
    int32_t *high_sums;
} cuda_weights;

struct sqf_cuda_linear {
    char name[128];
    uint32_t rows, padded_rows, columns;
    cuda_input_layout layout;
    cuda_weights weights; /* a SPLIT layer that is held as two planes: the low one (form NIBBLES) */
    cuda_weights second;  /* and the high one (BYTES); form and pointers 0 otherwise */
    bool two_planes;
    void *memory; /* everything of the layer on the device */
    float *bias;  /* device [rows] or NULL */
    size_t bytes;
};

/* The operations of ops.h on layers; linear.cu. */
size_t cuda_linear_plan(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec);
sqf_status cuda_linear_create(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, sqf_cuda_linear **out,
                              sqf_error *err);
void cuda_linear_destroy(sqf_cuda_device *device, sqf_cuda_linear *linear);
size_t cuda_linear_bytes(const sqf_cuda_linear *linear);
bool cuda_linear_same_input(const sqf_cuda_linear *a, const sqf_cuda_linear *b);
void cuda_linear_kernels(sqf_cuda_device *device, const sqf_cuda_linear *linear, size_t tokens,
                         char text[SQF_CUDA_KERNELS]);
sqf_status cuda_linear_forward(sqf_cuda_device *device, const sqf_cuda_linear *linear, const sqf_cuda_input *input,
                               float *y, sqf_cuda_store store, sqf_error *err);

/* device->counters: how many of the blocks that share an output have written their parts. 0 now and, because the last
 * block puts it back, after each product; gemv.cu. */
enum { CUDA_COUNTERS = 1 << 14 };
sqf_status cuda_counters(sqf_cuda_device *device, sqf_error *err);

/* Bytes of a unit of activations. */
SQF_BOTH uint32_t cuda_unit_bytes(cuda_element element)
{
    return element == CUDA_NIBBLE || element == CUDA_FP4 ? (uint32_t)CUDA_NIBBLE_UNIT
           : element == CUDA_BYTE || element == CUDA_FP8 ? (uint32_t)CUDA_BYTE_UNIT
           : element == CUDA_FP32                        ? 4u * CUDA_UNIT
                                                         : (uint32_t)CUDA_HALF_UNIT;
}

/* One product as a kernel is asked for it: y (store) codes of input plane `plane` times `weights`. Bias is added by
 * the first product of a layer, `store` SET of the first becomes ADD of the others; a GATE store is only asked for
 * where the layer is one product. */
typedef struct cuda_product {
    sqf_cuda_device *device;
    const struct sqf_cuda_linear *linear;
    const cuda_weights *weights;
    const sqf_cuda_input *input;
    unsigned plane;
    float *y;          /* [tokens][rows] */
    const float *bias; /* or NULL */
    sqf_cuda_store store;
} cuda_product;

/* What the low and the high section of a product's plane are made of; twice the same where there is one alone. */
inline void cuda_product_elements(const cuda_product *product, cuda_element *low, cuda_element *high)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const bool planes = layout->planes > 1;
    *low = planes && product->plane ? layout->high_element : layout->low_element;
    *high = planes ? *low : layout->high_element;
    if (layout->low_units == 0) {
        *low = *high;
    } else if (layout->low_units == layout->units) {
        *high = *low;
    }
}

/* A family of kernels. `serves` must not look at anything but the shapes, forms and the device's capability; the first
 * family in linear.cu's list that serves runs. */
typedef struct cuda_family {
    const char *name;
    bool (*serves)(const cuda_product *product);
    sqf_status (*run)(const cuda_product *product, sqf_error *err);
    /* Bytes of workspace (device->workspace) that `run` may use for this shape. */
    size_t (*workspace)(const cuda_product *product);
} cuda_family;

extern const cuda_family cuda_family_decode;    /* gemv.cu: up to 32 tokens by integers, 16 by floats */
extern const cuda_family cuda_family_hopper;    /* wgmma.cu: sm_90a */
extern const cuda_family cuda_family_blackwell; /* blackwell.cu: FP4 and FP8 sections, sm_100a */
extern const cuda_family cuda_family_float8;    /* gemm_float8.cu: FP8 sections, sm_89 and later; FP4, sm_120 */
extern const cuda_family cuda_family_integer; /* gemm_integer.cu: mma.sync, INT4/INT8/BF16 sections, sm_80 and later */
extern const cuda_family cuda_family_split;   /* gemm_split.cu: compact W(SQ), prefill */
extern const cuda_family cuda_family_half;    /* gemm_half.cu: BF16/FP16 activations with any weights */
extern const cuda_family cuda_family_dense;   /* gemm_dense.cu: float32 by float32, many tokens, by cuBLAS */
extern const cuda_family cuda_family_simple;  /* gemm_simple.cu: everything, slowly, in float32: the reference on the
                                                 device */

#endif
