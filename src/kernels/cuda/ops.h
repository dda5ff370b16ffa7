/* The CUDA backend as libsqf sees it: one struct of operations, which the shared library libsqf_cuda hands out. libsqf
 * itself is linked to nothing of CUDA: src/device loads the library when a device is asked for.
 *
 * All pointers named `device memory` are addresses of the GPU. Operations are queued on the device's one stream and run
 * in order; those that say "waits" return when everything before has finished. One host thread at a time on a device.
 * Errors are values as everywhere: the text is one line. An operation that fails in the middle of a stream is reported
 * by the next one that waits. */
#ifndef SQF_KERNELS_CUDA_OPS_H
#define SQF_KERNELS_CUDA_OPS_H

#include <stddef.h>
#include <stdint.h>

#include <sqf/format.h>
#include <sqf/model.h>
#include <sqf/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SQF_CUDA_OPS_VERSION = 1, SQF_CUDA_KERNELS = 64 /* characters */ };

typedef struct sqf_cuda_device sqf_cuda_device;
typedef struct sqf_cuda_linear sqf_cuda_linear;
typedef struct sqf_cuda_input sqf_cuda_input;
typedef struct sqf_cuda_graph sqf_cuda_graph;

/* Facts of a device. */
typedef struct sqf_cuda_info {
    char name[256];
    int major, minor; /* compute capability */
    int multiprocessors;
    int clock_khz, memory_clock_khz; /* 0 = unknown */
    int memory_bus_bits, l2_bytes;
    size_t shared_bytes; /* of one block at most */
    size_t total_bytes, free_bytes;
    int driver_version, runtime_version; /* 13000 = 13.0; 0 with the emulation */
    bool native_int4;                    /* INT4 tensor instructions in hardware: 8.0, 8.6, 8.7, 8.9 */
    bool emulated;                       /* no GPU: the host executes the kernels */
} sqf_cuda_info;

/* ---- linear layers ---- */

/* Columns over which the scales of both operands are constant, as kernels.h's sqf_segment: ascending, without gaps, in
 * stored order. */
typedef struct sqf_cuda_segment {
    uint32_t begin, end;
    uint32_t act_group; /* which scale of the activations, with SQF_ACT_GROUP */
    uint32_t high;      /* 1: columns of the high section of a static mask */
} sqf_cuda_segment;

/* How a part of the weights is handed over and, more or less, held. */
typedef enum sqf_cuda_form {
    SQF_CUDA_NIBBLES, /* integers -7..7 */
    SQF_CUDA_BYTES,   /* integers -127..127 (int5..int8; fp4 * 2, fp6 * 8) */
    SQF_CUDA_SPLIT,   /* integers of two parts, each with its scales: low -7..7, high -127..127 (W(SQ)) */
    SQF_CUDA_FP8,     /* e4m3 bit patterns, never NaN */
    SQF_CUDA_BF16,    /* 16 bits; a dense matrix has no scales (NULL) */
    SQF_CUDA_FP16,
    SQF_CUDA_FP32,
    SQF_CUDA_FP4 /* fp4 * 2 as BYTES: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives; held as e2m1. For devices of
                    capability 10.0 and 12.0 and activations of fp4, fp8 and bf16 */
} sqf_cuda_form;

/* Rows `first` .. first + count - 1 of a layer's weights, columns in stored order. Buffers belong to the backend and
 * are filled by the callback. */
typedef struct sqf_cuda_rows {
    void *codes;        /* [count][columns] int8 (NIBBLES, BYTES, SPLIT: low), uint8 (FP8), uint16, float. In SPLIT 0
                           where the mask is 1 */
    int8_t *high;       /* SPLIT: [count][columns], 0 where the mask is 0; else NULL */
    uint8_t *mask;      /* SPLIT: [count][columns] 1 = high; else NULL */
    float *scales;      /* [count][segments] what a code is multiplied with; NULL for dense matrices */
    float *high_scales; /* SPLIT: [count][segments]; else NULL */
} sqf_cuda_rows;

/* A second plane (weights of two parts that are not SPLIT, e.g. an fp8 or bf16 high part) is a second layer: the
 * caller makes two linears and adds their products (SQF_CUDA_ADD). */
typedef struct sqf_cuda_linear_spec {
    const char *name; /* for messages */
    size_t rows, columns;
    sqf_cuda_form form;
    bool has_scales;          /* BF16, FP16, FP32: codes come with scales, as fp8e5m2 weights held as FP16 do; the other
                                 forms always have them */
    uint32_t split_unit_high; /* SPLIT: high elements among each 64 stored columns of a segment where that is the same
                                 for all (banks that divide 64 and segments of multiples of 64), else 0: the layer is
                                 then held as two planes */
    const sqf_cuda_segment *segments;
    size_t segment_count;
    sqf_act_spec activations;   /* with scale_type etc.; float = SQF_TYPE_FP32 low */
    const int32_t *channels;    /* [columns] gather list: stored column j is channel channels[j] of x, or NULL */
    size_t border;              /* first stored column of the high section; columns without a static mask */
    const float *static_scale;  /* [2] or NULL */
    const int32_t *static_zero; /* [2] or NULL */
    const float *column_norm;   /* [columns] or NULL (weighted dynamic masks) */
    const float *bias;          /* [rows] or NULL */
    /* Called from the host thread of linear_create only; may use threads inside. */
    sqf_status (*fill)(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *err);
    void *user;
} sqf_cuda_linear_spec;

/* What is done to a row of x before it is quantized; sqf_input_steps with device memory. */
typedef struct sqf_cuda_steps {
    const float *gain; /* [columns] norm: gain * x / sqrt(mean(x^2) + epsilon); NULL = none */
    float epsilon;
    size_t rotation_factor, rotation_block; /* sqf_rotation; factor 0 = none */
    const float *rotation_matrix;           /* [factor, factor] as in sqf_rotation; NULL = the unit matrix */
    const float *gate; /* [tokens, columns]: x becomes silu(gate) * x before everything else; NULL = none */
} sqf_cuda_steps;

typedef enum sqf_cuda_store {
    SQF_CUDA_SET, /* y = p */
    SQF_CUDA_ADD, /* y = y + p */
    SQF_CUDA_GATE /* y = silu(p) * y */
} sqf_cuda_store;

/* ---- the rest of a decoder ---- */

/* One sequence's cache in one layer, device memory. Elements by type; [kv_heads][capacity][head_dim] each, scales
 * [kv_heads][capacity] (INT8: value = code * scale). Keys and values begin at multiples of 16 bytes. */
typedef struct sqf_cuda_kv {
    void *key, *value;
    float *key_scales, *value_scales;
} sqf_cuda_kv;

/* Tokens of a pass, device memory. Token i belongs to sequence sequence[i] and stands at position[i]; a sequence's
 * tokens lie together in ascending order of position. Kernels read these arrays anew each time, so that a captured
 * graph follows when they change. */
typedef struct sqf_cuda_batch {
    const uint32_t *ids;     /* [tokens] */
    const int32_t *position; /* [tokens] */
    const int32_t *sequence; /* [tokens] */
    const int32_t *begin;    /* [sequences + 1] first token of each sequence */
    size_t tokens, sequences;
    size_t longest; /* most tokens of a sequence */
    size_t reach;   /* an upper bound of position + 1 over the tokens; what grids are sized by. In a captured graph the
                       bound for all replays */
} sqf_cuda_batch;

typedef struct sqf_cuda_attention_spec {
    size_t heads, kv_heads, head_dim, window; /* window 0 = all */
    size_t capacity;                          /* of every sequence's cache */
    sqf_kv_type type;
    float scale;
} sqf_cuda_attention_spec;

/* How tokens are drawn: sqf_sampling of each sequence, with its own stream of random numbers. */
typedef struct sqf_cuda_sample {
    const float *logits; /* [sequences, vocabulary] device memory */
    size_t vocabulary, sequences;
    sqf_sampling sampling;
    const double *uniform; /* [sequences] device memory: numbers in [0, 1) that the host drew (sqf_sampler_unit); not
                              read if greedy */
    const uint8_t *seen;   /* [sequences, vocabulary] device memory, 1 = repetition penalty applies; or NULL */
    uint32_t *ids;         /* [sequences] device memory, out; UINT32_MAX where a logit is NaN or infinite */
} sqf_cuda_sample;

/* ---- quantization ---- */

/* One step on the way through the columns of a matrix: ptq/walk.c lists them. */
typedef enum sqf_cuda_gptq_action {
    SQF_CUDA_GPTQ_CATCH_UP, /* the weights [begin, end) take the errors of the columns [from, begin) */
    SQF_CUDA_GPTQ_ENTER,    /* [begin, end), wider than a leaf, is a group and/or bank: its scales, its masks */
    SQF_CUDA_GPTQ_LEAF      /* the columns [begin, end) are rounded one after another */
} sqf_cuda_gptq_action;

enum { SQF_CUDA_GPTQ_GROUP = 1, SQF_CUDA_GPTQ_BANK = 2, SQF_CUDA_GPTQ_LEAF_COLUMNS = 128 };

typedef struct sqf_cuda_gptq_step {
    sqf_cuda_gptq_action action;
    unsigned what; /* ENTER: SQF_CUDA_GPTQ_GROUP, SQF_CUDA_GPTQ_BANK */
    size_t from, begin, end;
} sqf_cuda_gptq_step;

/* The rounding of one matrix, by GPTQ or to nearest. Semantics: src/ptq/walk.c, importance.c and energy.c; uniform,
 * split and N:M weights as sqf_weight_spec says. Pointers are device memory but for `steps`. */
typedef struct sqf_cuda_gptq {
    sqf_weight_spec spec;
    size_t rows, columns, group_count, border;
    const float *original;      /* [rows, columns] in the order of the input's channels */
    const int32_t *channels;    /* [columns] stored order, or NULL */
    const uint8_t *dead;        /* [columns] stored order: 1 = the weights become 0; or NULL */
    float *weights;             /* [rows, columns] scratch */
    const float *upper;         /* [columns, columns] U (ptq/factor.c), or NULL: errors are not propagated */
    const float *hessian;       /* [columns, columns] full, in the order of the channels; NULL = no output energies */
    const float *score_factor;  /* [columns] the score of a weight is |w| times this */
    const float *search_weight; /* [columns] of squared errors in the search of clip = mse; NULL = 1 */
    const uint32_t *group;      /* [columns] scale group of each column */
    const uint8_t *enters;      /* [columns] SQF_CUDA_GPTQ_GROUP, _BANK: where those that fit a leaf begin */
    const sqf_cuda_gptq_step *steps;
    size_t step_count;
    float scale_unit[2];
    int shift_max;                 /* of tied scales */
    bool search;                   /* clip = mse */
    bool gain, random;             /* importances that are more than |w| times a factor */
    uint64_t random_key;           /* of seed and name */
    size_t first_row;              /* of these rows in the matrix that random numbers count by */
    float *values;                 /* [rows, columns] out: grid values */
    uint8_t *mask;                 /* [rows, columns] out: 1 = high */
    float *scale_low, *scale_high; /* [rows, group_count] out */
    uint8_t *shift;                /* [rows, group_count] out */
} sqf_cuda_gptq;

typedef struct sqf_cuda_gptq_result {
    size_t overflow_row;         /* the first with an error that is infinite or NaN; SIZE_MAX = none */
    double weight, weight_error; /* ||W||^2, ||W - W'||^2 */
    double output, output_error; /* tr(W H W^T), tr((W - W') H (W - W')^T); 0 without a Hessian */
} sqf_cuda_gptq_result;

typedef struct sqf_cuda_ops {
    uint32_t version;        /* SQF_CUDA_OPS_VERSION: a library of another version is refused */
    const char *description; /* "CUDA 13.0", or "emulation on the host" */

    /* Devices that may be used (CUDA_VISIBLE_DEVICES counts). SQF_E_SUPPORT says what is missing: driver, device. */
    sqf_status (*count)(int *devices, sqf_error *err);
    sqf_status (*open)(int index, sqf_cuda_device **out, sqf_error *err);
    void (*close)(sqf_cuda_device *device);
    sqf_status (*info)(sqf_cuda_device *device, sqf_cuda_info *out, sqf_error *err);

    /* Device memory, 256-byte aligned; contents undefined. SQF_E_MEMORY says how much was asked for and was free. */
    sqf_status (*allocate)(sqf_cuda_device *device, size_t bytes, void **out, sqf_error *err);
    void (*release)(sqf_cuda_device *device, void *memory);
    sqf_status (*upload)(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err);
    sqf_status (*download)(sqf_cuda_device *device, void *to, const void *from, size_t bytes,
                           sqf_error *err); /* waits */
    sqf_status (*copy)(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err);
    sqf_status (*clear)(sqf_cuda_device *device, void *memory, size_t bytes, sqf_error *err); /* to 0 */
    /* Waits. Reports a NaN or infinity that input_prepare met since the last call: SQF_E_VALUE with layer, token and
     * channel as sqf_input_prepare words it. */
    sqf_status (*finish)(sqf_cuda_device *device, sqf_error *err);

    /* Graphs: what is queued between begin and end is recorded and not run. No operation that waits or allocates may
     * stand between; buffers must have grown to their size before (run the same operations once). */
    sqf_status (*graph_begin)(sqf_cuda_device *device, sqf_error *err);
    sqf_status (*graph_end)(sqf_cuda_device *device, sqf_cuda_graph **out, sqf_error *err);
    sqf_status (*graph_run)(sqf_cuda_device *device, sqf_cuda_graph *graph, sqf_error *err);
    void (*graph_destroy)(sqf_cuda_device *device, sqf_cuda_graph *graph);

    /* Device memory that a layer will take, before it is made. */
    size_t (*linear_plan)(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec);
    sqf_status (*linear_create)(sqf_cuda_device *device, const sqf_cuda_linear_spec *spec, sqf_cuda_linear **out,
                                sqf_error *err);
    void (*linear_destroy)(sqf_cuda_device *device, sqf_cuda_linear *linear);
    size_t (*linear_bytes)(const sqf_cuda_linear *linear); /* what a product of one token reads */
    /* True if one prepared input serves both. */
    bool (*linear_same_input)(const sqf_cuda_linear *a, const sqf_cuda_linear *b);
    /* The kernels that a product of `tokens` tokens runs on, by the names of their families, joined by "+" where it is
     * made of several: "integer", "decode+decode". "simple" is the one without tensor instructions. */
    void (*linear_kernels)(sqf_cuda_device *device, const sqf_cuda_linear *linear, size_t tokens,
                           char text[SQF_CUDA_KERNELS]);

    /* Inputs grow as needed and are reused. */
    sqf_status (*input_create)(sqf_cuda_device *device, sqf_cuda_input **out, sqf_error *err);
    void (*input_destroy)(sqf_cuda_device *device, sqf_cuda_input *input);
    /* x [tokens, columns] device memory, normed, gated, rotated, gathered, quantized for `linear` and every layer with
     * the same input: one pass. steps NULL = none. x may be overwritten later. */
    sqf_status (*input_prepare)(sqf_cuda_device *device, sqf_cuda_input *input, const sqf_cuda_linear *linear,
                                const float *x, const sqf_cuda_steps *steps, size_t tokens, sqf_error *err);
    /* The input with quantization undone, columns in the order of x: out [tokens, columns] device memory. */
    sqf_status (*input_dequantize)(sqf_cuda_device *device, const sqf_cuda_input *input, float *out, sqf_error *err);
    /* y [tokens, rows] device memory. */
    sqf_status (*linear_forward)(sqf_cuda_device *device, const sqf_cuda_linear *linear, const sqf_cuda_input *input,
                                 float *y, sqf_cuda_store store, sqf_error *err);

    /* out [tokens, columns] = steps of x alone, in float32. */
    sqf_status (*apply_steps)(sqf_cuda_device *device, const float *x, const sqf_cuda_steps *steps, size_t tokens,
                              size_t columns, float *out, sqf_error *err);
    /* x [tokens, columns] = rows ids[i] of table: dense of dtype BF16, FP16 or FP32, [vocabulary, columns]. */
    sqf_status (*embed)(sqf_cuda_device *device, const void *table, sqf_type dtype, const sqf_cuda_batch *batch,
                        size_t columns, float *x, sqf_error *err);
    /* Norm of each head (query_norm, key_norm [head_dim] or NULL), rotary embedding with cosine and sine
     * [positions, head_dim / 2] (token i has row position[i]), then keys and values go to the caches: kv [sequences]
     * device memory. query [tokens, heads, head_dim] in place; key, value [tokens, kv_heads, head_dim]. */
    sqf_status (*rope_store)(sqf_cuda_device *device, const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch,
                             const float *query_norm, const float *key_norm, float epsilon, const float *cosine,
                             const float *sine, float *query, const float *key, const float *value,
                             const sqf_cuda_kv *kv, sqf_error *err);
    /* out [tokens, heads, head_dim]: causal attention over the caches. */
    sqf_status (*attention)(sqf_cuda_device *device, const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch,
                            const float *query, const sqf_cuda_kv *kv, float *out, sqf_error *err);
    sqf_status (*sample)(sqf_cuda_device *device, const sqf_cuda_sample *sample, sqf_error *err);

    /* hessian [n, n] += factor * x^T x for x [tokens, n]: the upper triangle (row-major). */
    sqf_status (*hessian_add)(sqf_cuda_device *device, const float *x, size_t tokens, size_t n, float factor,
                              float *hessian, sqf_error *err);
    /* Adds x [tokens, n] to what is known of its channels, token by token as ptq/statistics.c: extremes [3, n] (largest
     * magnitude, lowest, largest value) and sums [3, n] (of magnitudes, of values, of squares), device memory. */
    sqf_status (*channels_add)(sqf_cuda_device *device, const float *x, size_t tokens, size_t n, float *extremes,
                               double *sums, sqf_error *err);
    /* a [n, n] row-major, upper triangle read: becomes U, upper triangular, U^T U = a^-1 (ptq/factor.c);
     * *positive = false where a is not positive definite. Waits. */
    sqf_status (*factor)(sqf_cuda_device *device, float *a, size_t n, bool *positive, sqf_error *err);
    /* Waits. */
    sqf_status (*gptq)(sqf_cuda_device *device, const sqf_cuda_gptq *job, sqf_cuda_gptq_result *result, sqf_error *err);

    /* Seconds of the GPU between two marks; `elapsed` waits. */
    sqf_status (*mark)(sqf_cuda_device *device, int which, sqf_error *err); /* which: 0 or 1 */
    sqf_status (*elapsed)(sqf_cuda_device *device, double *seconds, sqf_error *err);
} sqf_cuda_ops;

/* What libsqf_cuda exports. Static; safe from any thread. */
const sqf_cuda_ops *sqf_cuda_operations(void);

#ifdef __cplusplus
}
#endif
#endif
