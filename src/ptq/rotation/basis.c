/* Bases of one input. */
#include "ptq/rotation/basis.h"

#include <math.h>
#include <string.h>

#include <cblas.h>
#include <lapacke.h>

#include "base/memory.h"
#include "format/partition.h"
#include "ptq/rotation/orthogonal.h"

sqf_status sqf_basis_fill(sqf_rotate_part kind, size_t n, uint64_t seed, double *out, sqf_error *err)
{
    return kind == SQF_ROTATE_PART_RANDOM ? sqf_orthogonal_random(n, seed, out, err)
                                          : sqf_hadamard_fill(n, seed, true, out, err);
}

static bool is_high_place(const sqf_act_spec *act, size_t n, size_t channel)
{
    if (!sqf_act_spec_is_split(act)) {
        return false;
    }
    const size_t begin = channel / act->bank * act->bank, left = n - begin;
    const size_t length = left < act->bank ? left : act->bank;
    return channel - begin >= length - sqf_bank_high(act->bank, act->high_per_bank, length);
}

size_t sqf_basis_places(const sqf_act_spec *act, size_t n, int32_t *order)
{
    size_t low = 0, count = 0;
    for (int high = 0; high < 2; high++) {
        for (size_t j = 0; j < n; j++) {
            if (is_high_place(act, n, j) == (high == 1)) {
                order[count++] = (int32_t)j;
            }
        }
        low = high == 0 ? count : low;
    }
    return low;
}

/* components [n, n]: row r is the eigenvector with the r-th smallest eigenvalue. */
static sqf_status find_components(size_t n, const float *covariance, double *components, sqf_error *err)
{
    double *values;
    SQF_TRY(SQF_ALLOC(&values, n, "principal components", err));
    for (size_t i = 0; i < n * n; i++) {
        components[i] = (double)covariance[i];
    }
    /* symmetric, so either order of storage will do; LAPACK's columns are our rows */
    const lapack_int info =
        LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', (lapack_int)n, components, (lapack_int)n, values);
    free(values);
    return info == 0 ? SQF_OK : sqf_fail(err, SQF_E_VALUE, "principal components of %zu channels: no convergence", n);
}

/* The components first .. first + count - 1 mixed, as the columns places[0 .. count - 1] of out. */
static sqf_status place_part(size_t n, const double *components, size_t first, size_t count, const int32_t *places,
                             uint64_t seed, double *out, sqf_error *err)
{
    double *mix, *mixed;
    if (count == 0) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&mix, count * count + count * n, "rotation of a part", err));
    mixed = mix + count * count;
    const sqf_status status = sqf_orthogonal_random(count, seed, mix, err);
    if (status == SQF_OK) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)n, (int)count, 1.0, mix, (int)count,
                    components + first * n, (int)n, 0.0, mixed, (int)n);
        for (size_t j = 0; j < count; j++) {
            for (size_t i = 0; i < n; i++) {
                out[i * n + (size_t)places[j]] = mixed[j * n + i];
            }
        }
    }
    free(mix);
    return status;
}

sqf_status sqf_basis_principal(const sqf_act_spec *act, size_t n, const float *covariance, uint64_t seed, double *out,
                               sqf_error *err)
{
    double *components = NULL;
    int32_t *places = NULL;
    sqf_status status;
    SQF_TRY_GOTO(status, SQF_ALLOC(&components, n * n, "principal components", err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&places, n, "channels", err), done);
    SQF_TRY_GOTO(status, find_components(n, covariance, components, err), done);
    const size_t low = sqf_basis_places(act, n, places);
    SQF_TRY_GOTO(status, place_part(n, components, 0, low, places, seed, out, err), done);
    status = place_part(n, components, low, n - low, places + low, seed + 1, out, err);
done:
    free(components);
    free(places);
    return status;
}
