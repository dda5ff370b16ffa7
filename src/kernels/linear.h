/* A linear layer ready to compute: weights repacked for the CPU's kernels, and its input quantized once for every
 * layer that reads it. Semantics: docs/format.md section 8, dual-path product; checked against format/reference.h.
 *
 * Use: create layers once; per step prepare an input for the first layer that reads it, run every layer for which
 * sqf_linear_same_input holds, prepare again for the next. src/model/forward.c does so. */
#ifndef SQF_KERNELS_LINEAR_H
#define SQF_KERNELS_LINEAR_H

#include "base/arena.h"
#include "base/context.h"
#include "format/matrix.h"
#include "kernels/rotation.h"

typedef struct sqf_linear sqf_linear;

typedef struct sqf_linear_params {
    const char *name;         /* module name for messages; copied */
    size_t rows, columns;     /* N, K */
    const float *bias;        /* [N] or NULL; copied; already in the order of row_order */
    const int32_t *row_order; /* [N] or NULL: output n is row row_order[n] of the weights (quantized matrices) */

    /* Exactly one of dense and matrix is given. */
    const void *dense;        /* [N, K] row-major, borrowed for the life of the layer (it may be a mapping) */
    sqf_type dense_type;      /* FP32, BF16 or FP16; `activations` must be float then */
    const sqf_matrix *matrix; /* read while the layer is created, not kept */
    sqf_act_spec activations;
    const float *static_scale;  /* SQF_ACT_STATIC: [2], low and high; copied */
    const int32_t *static_zero; /* with zero points: [2], low and high; copied */
    const float *column_norm;   /* weighted dynamic masks: [K], original channel order; copied */
    sqf_arena *arena; /* memory for the repacked weights, which must outlive the layer; NULL = blocks of their own */
    bool input_in_stored_order; /* the producer already delivers x in the order of matrix->channels: no gather */
} sqf_linear_params;

/* Repacks in parallel on the context's threads; *out is NULL on failure. SQF_E_ARG for a combination that has no
 * meaning; SQF_E_MEMORY. Contents are the caller's to check before: rows of the matrix (sqf_matrix_check_row), and
 * that dense weights are finite. */
sqf_status sqf_linear_create(sqf_context *context, const sqf_linear_params *params, sqf_linear **out, sqf_error *err);
void sqf_linear_destroy(sqf_linear *linear);

/* What sqf_linear_create refuses before it looks at any weight. */
sqf_status sqf_linear_check(const sqf_linear_params *params, sqf_error *err);

/* Multiply-accumulates of one token, by path. */
sqf_product_counts sqf_linear_count_token(const sqf_linear_params *params);
void sqf_product_counts_add(sqf_product_counts *counts, const sqf_product_counts *per_token, uint64_t tokens);

size_t sqf_linear_rows(const sqf_linear *linear);
size_t sqf_linear_columns(const sqf_linear *linear);

/* Bytes of the weights as the kernels hold them, scales and padding included: what a product of one token reads. */
size_t sqf_linear_bytes(const sqf_linear *linear);

/* True if both read their input in the same quantized form, so that one sqf_input serves both. */
bool sqf_linear_same_input(const sqf_linear *a, const sqf_linear *b);

/* A quantized input with buffers that grow and are reused. One thread at a time: a forward pass keeps its scratch here.
 * It refers to the layer that it was last prepared for, which must live as long as the input is used. */
typedef struct sqf_input sqf_input;
sqf_status sqf_input_create(sqf_input **out, sqf_error *err);
void sqf_input_destroy(sqf_input *input);

/* Quantizes (gathers, splits) x [tokens, K] row-major for `linear` and every layer with the same input.
 * x must stay valid until the last sqf_linear_forward on this input (float activations are not copied).
 * SQF_E_VALUE names the token and the channel of a NaN or infinity. */
sqf_status sqf_input_prepare(sqf_context *context, sqf_input *input, const sqf_linear *linear, const float *x,
                             size_t tokens, sqf_error *err);

/* What is done to a row before it is quantized. */
typedef struct sqf_input_steps {
    const float *gain; /* [K] norm: gain * x / sqrt(mean(x^2) + epsilon), as sqf_rmsnorm; NULL = none */
    float epsilon;
    const sqf_rotation *rotation; /* after the norm, as sqf_rotation_apply; NULL = none */
    float *rows; /* [tokens, K] room for the rows of layers that read floats; others leave it untouched; may be x */
} sqf_input_steps;

/* sqf_input_prepare of x after some steps, in one pass over a token while it is in the nearest cache: the same bits as
 * step by step. steps NULL = none. steps->rows must stay valid as x must; messages name numbers after the steps. */
sqf_status sqf_input_prepare_steps(sqf_context *context, sqf_input *input, const sqf_linear *linear, const float *x,
                                   const sqf_input_steps *steps, size_t tokens, sqf_error *err);

/* y[tokens, N] = x W^T + bias for a prepared input. Results do not depend on the number of threads.
 * Adds to the context's product counts. */
sqf_status sqf_linear_forward(sqf_context *context, const sqf_linear *linear, const sqf_input *input, float *y,
                              sqf_error *err);

/* What becomes of a product p = linear(x). */
typedef enum sqf_store {
    SQF_STORE_SET,  /* y = p */
    SQF_STORE_ADD,  /* y = y + p */
    SQF_STORE_GATE, /* y = silu(p) * y */
} sqf_store;

/* One product of several that read an input. With `gate` (as many rows), y is then gated by it: for SQF_STORE_SET
 * y = silu(gate(x)) * linear(x). */
typedef struct sqf_linear_job {
    const sqf_linear *linear;
    float *y; /* [tokens, N] */
    sqf_store store;
    const sqf_linear *gate; /* or NULL */
} sqf_linear_job;

enum { SQF_LINEAR_JOBS = 4 };

/* Up to SQF_LINEAR_JOBS products of one input as one job of the pool: threads meet once. The same bits as one after
 * the other by sqf_linear_forward, sqf_silu_mul and sqf_add. */
sqf_status sqf_linear_forward_jobs(sqf_context *context, const sqf_linear_job *jobs, size_t count,
                                   const sqf_input *input, sqf_error *err);

/* x [tokens, K] with quantization undone, in the channel order in which x came, for error measurement: out [tokens, K].
 */
void sqf_input_dequantize(const sqf_input *input, float *out);

#endif
