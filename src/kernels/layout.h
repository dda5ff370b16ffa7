/* The inside of a linear layer and of its input: segments, planes and who needs what. Shared by linear.c (the
 * product), input.c (activations) and repack.c (weights), which meet in one agreement: column k of the input and
 * column k of the weights stand at the same padded position, in segments over which the scales of both are constant. */
#ifndef SQF_KERNELS_LAYOUT_H
#define SQF_KERNELS_LAYOUT_H

#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/split.h"

enum { LOW = 0, HIGH = 1, PARTS = 2 };

/* How an input is quantized and laid out. Two layers whose layouts are equal share an input. Owns its arrays;
 * immutable once its layer was created. */
typedef struct input_layout {
    sqf_act_spec spec;
    size_t columns, border;
    size_t padded;     /* columns with the padding of all segments */
    int32_t *channels; /* [columns] gather list, or NULL */
    sqf_segment *segments;
    size_t segment_count;
    sqf_partition scale_groups; /* of the activations */
    bool has_static_scale;
    float static_scale[PARTS];
    int32_t static_zero[PARTS]; /* 0 without */
    float *column_norm;         /* [columns], or NULL */
    unsigned planes;            /* integer planes of codes: 0, 1 or 2 (dynamic masks) */
    bool float_part;            /* some of the input is not made of integers */
    bool values;                /* the integer part is needed as floats too: some weights are not integers */
} input_layout;

/* Fills everything but `values`. `weights` is NULL for dense layers. */
sqf_status input_layout_init(const sqf_linear_params *params, input_layout *out, sqf_error *err);
void input_layout_clear(input_layout *layout);
bool input_layout_equal(const input_layout *a, const input_layout *b);

/* The part that a section's channels belong to with a static mask: sections are low, then high. */
static inline int section_part(const input_layout *layout, size_t column)
{
    return sqf_act_spec_is_split(&layout->spec) && layout->spec.mask == SQF_MASK_STATIC && column >= layout->border
               ? HIGH
               : LOW;
}

static inline bool is_dynamic(const sqf_act_spec *spec)
{
    return sqf_act_spec_is_split(spec) && spec->mask == SQF_MASK_DYNAMIC;
}

/* Codes of one plane with what turns their products into numbers. Scales of 0 go with codes that are all 0. */
typedef struct code_plane {
    int8_t *codes;  /* [tokens][code_stride] grid value * multiplier */
    float *scales;  /* [tokens][segments] scale / multiplier */
    int32_t *sums;  /* [tokens][segments] sums of the codes */
    int32_t *zeros; /* [tokens][segments] codes that stand for 0; NULL without zero points */
} code_plane;

/* A prepared input. The memory belongs to it and is reused from call to call; scratch stands here and not in the
 * layer because layers are shared by sessions and inputs are not. */
struct sqf_input {
    const input_layout *layout; /* of the layer that it was prepared for */
    size_t tokens;
    size_t code_stride;
    code_plane planes[PARTS];
    const float *float_part; /* [tokens][columns] stored order: what is not integers; x itself where it can be */
    float *float_copy;       /* what float_part points to if it is not x */
    float *integer_part;     /* [tokens][columns] the integer part dequantized; only with layout->values */
    /* memory behind the above, and scratch for each thread of the forward pass */
    void *memory;
    size_t memory_bytes;
    uint8_t *scratch;
    size_t scratch_bytes, scratch_stride;
};

/* Memory for input->tokens rows of input->layout, with the pointers of `input` set. x: where floats may be read in
 * place of a copy. */
sqf_status input_reserve(sqf_context *context, sqf_input *input, const float *x, sqf_error *err);

/* sqf_input_prepare_steps for a layout; `name` is used in messages. */
sqf_status input_prepare(sqf_context *context, sqf_input *input, const input_layout *layout, const char *name,
                         const float *x, const sqf_input_steps *steps, size_t tokens, sqf_error *err);

/* A plane of weights, repacked: one part of the matrix, or both where tied scales make them one grid. Elements of the
 * other part are 0. Rows beyond the matrix in the last panel have scale 0. */
typedef struct weight_plane {
    sqf_form form;
    sqf_type type;
    bool in_arena; /* the memory belongs to the arena of the layer's parameters */
    uint8_t *data; /* [panels][panel_bytes] */
    size_t panel_bytes;
    float *scales; /* [panels][segments][SQF_PANEL_ROWS] scale / multiplier */
    int32_t
        *column_sums; /* the same shape: sums of the integers over the segment's columns; NULL without zero points */
    sqf_split_shape split; /* SQF_FORM_SPLIT, which holds both parts, its scales and sums in `data` */
    sqf_split_block *split_blocks;
} weight_plane;

/* Repacks a matrix into one or two planes on the context's threads. With tied integer scales both parts lie on one
 * grid and make one plane. Planes that would hold nothing are left out. */
sqf_status weight_planes_create(sqf_context *context, const sqf_linear_params *params, const input_layout *layout,
                                weight_plane planes[PARTS], size_t *count, sqf_error *err);
void weight_planes_clear(weight_plane *planes, size_t count);

/* Both parts are plain integers and low * 2^n + high has the units of the high part: one plane in place of two. It
 * fits the high type because n <= nmax (docs/format.md section 3). */
bool weights_are_one_grid(const sqf_weight_spec *spec);

/* Scratch of one thread, carved from one block. */
enum {
    TOKEN_BLOCK = 516,       /* most tokens of a task */
    FLOAT_TOKEN_BLOCK = 128, /* the same where floats are summed, by BLAS: the cut is part of the result */
    CHUNK_COLUMNS = 1024,    /* columns whose weights of one block are expanded at a time: 64 KiB, half of a small L2 */
    FLOAT_CHUNK = 512        /* the same for weights as floats */
};

/* A row of floats while an input is prepared, with what is behind it aligned. */
static inline size_t scratch_row_bytes(const input_layout *layout)
{
    return (layout->columns * sizeof(float) + 63) & ~(size_t)63;
}

static inline size_t scratch_out_bytes(void)
{
    return sizeof(float) * TOKEN_BLOCK * SQF_BLOCK_ROWS;
}

#endif
