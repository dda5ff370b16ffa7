/* What quantization cost: squared error of the weights and of the layer's outputs. */
#include <string.h>

#include <cblas.h>

#include "ptq/gptq.h"

/* Columns of one product with the Hessian. */
enum { TILE = GPTQ_PANEL };

/* Sum of a_ij b_ij in double; the partial sums let it run several products at a time. */
static double dot_rows(const float *a, size_t a_stride, const float *b, size_t b_stride, size_t rows, size_t n)
{
    enum { PARTS = 8 };
    double sum = 0.0;
    for (size_t i = 0; i < rows; i++) {
        const float *x = a + i * a_stride, *y = b + i * b_stride;
        double part[PARTS] = {0};
        size_t j = 0;
        for (; j + PARTS <= n; j += PARTS) {
            for (size_t p = 0; p < PARTS; p++) {
                part[p] += (double)x[j + p] * (double)y[j + p];
            }
        }
        for (; j < n; j++) {
            part[0] += (double)x[j] * (double)y[j];
        }
        for (size_t p = 0; p < PARTS; p++) {
            sum += part[p];
        }
    }
    return sum;
}

/* tr(D H D^T) for D [rows, columns]; H is symmetric, so the part below the diagonal tiles counts twice and is not
 * computed. product [rows, TILE] is scratch. */
static double quadratic_form(const float *d, const float *hessian, size_t rows, size_t columns, float *product)
{
    double sum = 0.0;
    for (size_t begin = 0; begin < columns; begin += TILE) {
        const size_t width = columns - begin < TILE ? columns - begin : TILE;
        const float *tile = hessian + begin * columns + begin;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)width, (int)width, 1.0f, d + begin,
                    (int)columns, tile, (int)columns, 0.0f, product, TILE);
        if (begin > 0) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)width, (int)begin, 2.0f, d,
                        (int)columns, hessian + begin, (int)columns, 1.0f, product, TILE);
        }
        sum += dot_rows(product, TILE, d + begin, columns, rows, width);
    }
    return sum;
}

/* difference = W - W' in the original order of channels */
static void subtract_row(const gptq_block *block, size_t i, float *difference)
{
    const gptq_plan *plan = block->plan;
    const size_t columns = plan->out->columns, groups = plan->out->group_count;
    const float *original = plan->job->weights + (block->first_row + i) * columns;
    for (size_t j = 0; j < columns; j++) {
        const size_t at = i * groups + plan->group[j];
        const size_t channel = plan->job->channels ? (size_t)plan->job->channels[j] : j;
        const float scale = block->mask[i * columns + j] ? block->scale_high[at] : block->scale_low[at];
        difference[channel] = original[channel] - block->values[i * columns + j] * scale;
    }
}

gptq_energy gptq_block_energy(gptq_block *block)
{
    const sqf_matrix_job *job = block->plan->job;
    const size_t columns = job->columns, rows = block->rows;
    const float *original = job->weights + block->first_row * columns;
    float *difference = block->weights; /* the errors in it have done their work */
    for (size_t i = 0; i < rows; i++) {
        subtract_row(block, i, difference + i * columns);
    }
    gptq_energy energy = {.weight = dot_rows(original, columns, original, columns, rows, columns),
                          .weight_error = dot_rows(difference, columns, difference, columns, rows, columns)};
    if (job->hessian) {
        energy.output = quadratic_form(original, job->hessian, rows, columns, block->product);
        energy.output_error = quadratic_form(difference, job->hessian, rows, columns, block->product);
    }
    return energy;
}
