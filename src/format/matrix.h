/* A quantized weight matrix in its stored layout, and the plain form of one row that algorithms and kernels use.
 * Spec: docs/format.md sections 2, 3, 7. Pure functions: no I/O, no threads.
 *
 * The flow: the quantization algorithms fill an sqf_row and pack it; the pipeline writes the parts to a file; the
 * loader points the parts into a mapping, checks every row, and the kernels' repacking unpacks them again. Algorithms
 * never see bits, files never see floats. */
#ifndef SQF_FORMAT_MATRIX_H
#define SQF_FORMAT_MATRIX_H

#include "format/partition.h"
#include "format/type.h"

/* All arrays row-major with `rows` rows; NULL where the specification has none. They belong to `owned`, or to
 * somebody else (a mapped file, read only) where that is NULL. The derived fields are set by sqf_matrix_shape and
 * never by hand. */
typedef struct sqf_matrix {
    sqf_weight_spec spec;
    size_t rows, columns;
    size_t border;           /* columns of the low activation path; == columns without a static mask */
    sqf_partition groups;    /* scales */
    sqf_partition banks;     /* masks */
    size_t group_count;      /* G */
    float scale_unit[2];     /* low, high: stored scales are multiples of this; 1 but for fp8 scales, where they stand
                                beside the matrix in a tensor of their own. Set to 1 by sqf_matrix_shape. */
    size_t high_count;       /* Kh, high elements of a row */
    size_t low_count;        /* codes in a row of `low`: columns, or the low ones alone in the bitmask layout */
    size_t low_row_bytes;    /* of `low` */
    size_t high_row_bytes;   /* of `high` */
    size_t mask_row_bytes;   /* of `mask` */
    uint8_t *low;            /* [rows, low_row_bytes] */
    uint8_t *high;           /* [rows, high_row_bytes] high_count elements: int8 and fp8 a byte each, fp16 and bf16 two
                                (little-endian); narrower types packed codes like `low` */
    uint8_t *scale_low;      /* [rows, G] of scale_type */
    uint8_t *scale_high;     /* [rows, G] of scale_type; NULL with tied scales or a high type without scale */
    uint8_t *shift;          /* [rows, G], tied scales only */
    uint8_t *mask;           /* [rows, mask_row_bytes], bitmask layout only */
    const int32_t *channels; /* [columns] input channel at each stored column; NULL = as they come */
    void *owned;             /* one block behind the arrays if sqf_matrix_create made them, else NULL */
} sqf_matrix;

/* One row, unpacked: what an algorithm decides and what a kernel needs, independent of layout and packing. Buffers of
 * sqf_row_create, reused from row to row; a thread has its own. */
typedef struct sqf_row {
    uint8_t *mask;     /* [columns] 1 = high */
    float *value;      /* [columns] grid values (0 where dropped); times the scale of their part = the weight */
    float *scale_low;  /* [G]; 1 for a low type without scale, 0 for none */
    float *scale_high; /* [G]; with tied scales scale_low * 2^-n; 1 for a high type without scale */
    uint8_t *shift;    /* [G] n; written and read with tied scales only */
} sqf_row;

/* Fills the derived fields (partitions, counts, row bytes) for a shape; all arrays NULL.
 * SQF_E_ARG if the specification is not valid or border > columns, SQF_E_SHAPE if a size overflows. */
sqf_status sqf_matrix_shape(const sqf_weight_spec *spec, size_t rows, size_t columns, size_t border, sqf_matrix *out,
                            sqf_error *err);

/* The same with zeroed arrays of its own. `channels` (NULL or [columns]) is copied. Release with sqf_matrix_clear. */
sqf_status sqf_matrix_create(const sqf_weight_spec *spec, size_t rows, size_t columns, size_t border,
                             const int32_t *channels, sqf_matrix *out, sqf_error *err);
void sqf_matrix_clear(sqf_matrix *matrix);

/* A row with buffers for this matrix; release with sqf_row_clear. */
sqf_status sqf_row_create(const sqf_matrix *matrix, sqf_row *out, sqf_error *err);
void sqf_row_clear(sqf_row *row);

/* Plain row to stored row `n` and back. Pack requires values on their grids and exactly k high elements in a bank
 * (checked by assertion in debug builds: it is fed by our own algorithms). Different rows may be packed from
 * different threads. Unpack requires a row that passed sqf_matrix_check_row. */
void sqf_matrix_pack_row(sqf_matrix *matrix, size_t n, const sqf_row *row);
void sqf_matrix_unpack_row(const sqf_matrix *matrix, size_t n, sqf_row *row);

/* The scales and shifts of a row alone: [G] each, as unpack_row fills those of an sqf_row. */
void sqf_matrix_unpack_scales(const sqf_matrix *matrix, size_t n, float *low, float *high, uint8_t *shift);

/* Checks everything a reader must reject in row n: invalid codes, sentinel or mask counts that are not k, padding bits
 * that are not 0, scales that are negative, NaN or infinite, shifts out of range. `name` is used in messages:
 * "NAME.sq_low: row 2 bank 1: 17 high elements, expected 16". */
sqf_status sqf_matrix_check_row(const sqf_matrix *matrix, size_t n, const char *name, sqf_error *err);

/* The same for rows begin..end: the message is that of the first bad one. Much faster where all are fine. */
sqf_status sqf_matrix_check_rows(const sqf_matrix *matrix, size_t begin, size_t end, const char *name, sqf_error *err);

/* Checks that channels is a permutation of 0..columns-1, ascending inside each section, and has in its high section
 * exactly k of every bank of the activation specification. */
sqf_status sqf_channels_check(const int32_t *channels, size_t columns, size_t border, const sqf_act_spec *activations,
                              const char *name, sqf_error *err);

/* Dequantizes row n to out[columns] in ORIGINAL channel order: what a user would call the weights. `row` is scratch. */
void sqf_matrix_dequantize_row(const sqf_matrix *matrix, size_t n, sqf_row *row, float *out);

/* Largest shift n of tied scales: q_low * 2^n fits the high type. -1 where the types cannot be tied. */
int sqf_shift_max(const sqf_weight_spec *spec);

/* The scales of one group. `high` is 0 without a high type; with tied scales it is low * 2^-shift, else shift is 0. */
typedef struct sqf_group_scales {
    float low, high;
    uint8_t shift;
} sqf_group_scales;

/* Chooses the scales of one group. sqf_group_scales_choose is for units of 1.
 *
 * x [n], mask [n] or NULL (all low), weight [n] or NULL (1) for the mean-square search.
 * search: false = absmax; true = the factor in 1, 0.99 ... 0.5 of absmax with the least weighted squared error
 * (clip = mse; ties go to the larger factor), with e8m0 among 2, 1 and 0.5. Scales come back rounded to
 * spec->scale_type; unit: see sqf_matrix. */
sqf_group_scales sqf_group_scales_choose_in(const sqf_weight_spec *spec, const float unit[2], const float *x,
                                            const uint8_t *mask, const float *weight, size_t n, bool search);
sqf_group_scales sqf_group_scales_choose(const sqf_weight_spec *spec, const float *x, const uint8_t *mask,
                                         const float *weight, size_t n, bool search);

/* What the two above choose without a search, from the largest magnitude of each part (0 for a part without elements).
 */
sqf_group_scales sqf_group_scales_from_maxima(const sqf_weight_spec *spec, const float unit[2], float low_max,
                                              float high_max);

/* n codes of `bits` (1..8) bits, one a byte, as a packed row (docs/format.md section 7): ceil(n * bits / 8) bytes, the
 * reserved bits of the last one 0. */
void sqf_codes_pack(const uint8_t *codes, size_t n, unsigned bits, uint8_t *out);

/* Stores the scales of row n, as sqf_matrix_pack_row does. */
void sqf_matrix_pack_scales(sqf_matrix *matrix, size_t n, const float *low, const float *high, const uint8_t *shift);

/* The stored tensors of a matrix, one list for writers, readers and counting. */
typedef struct sqf_matrix_part {
    const char *suffix; /* "sq_low": the tensor of layer P is "P.sq_low" */
    const char *dtype;  /* safetensors' name: "U8", "I8", "F8_E4M3", "F16", "BF16", "F32" */
    size_t columns;     /* shape [rows, columns] */
    size_t row_bytes;   /* rows * row_bytes does not overflow */
    uint8_t **data;     /* the array's field in the matrix */
} sqf_matrix_part;

enum { SQF_MATRIX_PARTS = 6 };

/* Fills the parts that this matrix has, in the order sq_low, sq_high, sq_scale_low, sq_scale_high, sq_shift, sq_mask;
 * returns their number. The channel list is not among them: it has another shape and is shared. */
size_t sqf_matrix_parts(sqf_matrix *matrix, sqf_matrix_part parts[SQF_MATRIX_PARTS]);

/* Bytes that row data, scales, masks and channel list take in a file. */
size_t sqf_matrix_stored_bytes(const sqf_matrix *matrix);

#endif
