/* Least squares over the vocabulary: one embedding is the other times the rotation, exactly where both are stored in
 * float, and nearly where one is quantized. */
#include "diagnose/basis.h"

#include <math.h>

#include <cblas.h>
#include <lapacke.h>

#include "kernels/ops.h"

/* Rows of the embeddings in float at a time. */
enum { ROWS = 1024 };

/* Adds E_a^T E_a to the upper triangle of `square` and E_a^T E_b to `product`, both [n, n]. */
static sqf_status add_products(const sqf_model *a, const sqf_model *b, float *square, float *product, sqf_error *err)
{
    const size_t n = a->checkpoint.config.hidden, vocabulary = a->checkpoint.config.vocabulary;
    const sqf_model *models[2] = {a, b};
    float *rows[2] = {NULL, NULL};
    sqf_lookup lookups[2] = {{0}, {0}};
    uint32_t ids[ROWS];
    sqf_status status = SQF_ALLOC(&rows[0], ROWS * n, "embeddings", err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&rows[1], ROWS * n, "embeddings", err);
    }
    for (size_t first = 0; first < vocabulary && status == SQF_OK; first += ROWS) {
        const size_t count = vocabulary - first < ROWS ? vocabulary - first : ROWS;
        for (size_t i = 0; i < count; i++) {
            ids[i] = (uint32_t)(first + i);
        }
        for (size_t m = 0; m < 2 && status == SQF_OK; m++) {
            status =
                sqf_embedding_rows(models[m]->context, &models[m]->embedding, &lookups[m], ids, count, rows[m], err);
        }
        if (status != SQF_OK) {
            break;
        }
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)n, (int)count, 1.0f, rows[0], (int)n, 1.0f, square,
                    (int)n);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)n, (int)count, 1.0f, rows[0], (int)n, rows[1],
                    (int)n, 1.0f, product, (int)n);
    }
    for (size_t m = 0; m < 2; m++) {
        sqf_lookup_clear(&lookups[m]);
        free(rows[m]);
    }
    return status;
}

/* Largest deviation of basis^T basis from 1. */
static sqf_status deviation(const float *basis, size_t n, double *out, sqf_error *err)
{
    float *square;
    SQF_TRY(SQF_ALLOC(&square, n * n, "a basis", err));
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)n, (int)n, 1.0f, basis, (int)n, 0.0f, square, (int)n);
    *out = 0.0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i; j < n; j++) {
            const double off = fabs((double)square[i * n + j] - (i == j ? 1.0 : 0.0));
            *out = !(off <= *out) ? off : *out; /* a NaN stays */
        }
    }
    free(square);
    return SQF_OK;
}

sqf_status sqf_basis_between(const sqf_model *original, const sqf_model *quantized, float **out, sqf_error *err)
{
    const size_t n = original->checkpoint.config.hidden;
    float *square = NULL, *product = NULL;
    double off = INFINITY;
    size_t elements;
    *out = NULL;
    if (original->checkpoint.config.vocabulary < n || !sqf_mul_size(&elements, n, n)) {
        return SQF_OK;
    }
    sqf_status status = SQF_ALLOC(&square, elements, "a basis", err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&product, elements, "a basis", err);
    }
    if (status == SQF_OK) {
        status = add_products(original, quantized, square, product, err);
    }
    /* the factorization fails where channels depend on each other */
    if (status == SQF_OK && LAPACKE_sposv(LAPACK_ROW_MAJOR, 'U', (lapack_int)n, (lapack_int)n, square, (lapack_int)n,
                                          product, (lapack_int)n) == 0) {
        status = deviation(product, n, &off, err);
    }
    if (status == SQF_OK && off < 0.01) {
        *out = product;
        product = NULL;
    }
    free(square);
    free(product);
    return status;
}
