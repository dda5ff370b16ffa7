/* Tiled Cholesky in reversed order and tiled inverse of a triangle. BLAS and LAPACK work on single tiles, on one
 * thread each; the tiles of a step are independent of each other. */
#include "ptq/triangular.h"

#include <cblas.h>
#include <lapacke.h>

/* Below this the diagonal tiles, which are not parallel, are a few per cent of the time; above it the tiles are large
 * enough for full speed. */
enum { TILE = 256 };

typedef struct tiling {
    float *a;
    size_t n;
    size_t count; /* tiles in a row */
    size_t step;  /* the diagonal tile of the step that runs */
} tiling;

static float *tile_at(const tiling *t, size_t row, size_t column)
{
    return t->a + row * TILE * t->n + column * TILE;
}

/* Rows (or columns) of tile number `index`. */
static int tile_length(const tiling *t, size_t index)
{
    return (int)(t->n - index * TILE < TILE ? t->n - index * TILE : TILE);
}

/* Mirrors the upper triangle of a tile at its other diagonal, which reverses and transposes it. In small squares,
 * because one side runs down columns. */
static void mirror(float *a, size_t stride, size_t n)
{
    enum { SQUARE = 16 };
    for (size_t row = 0; row < n; row += SQUARE) {
        for (size_t column = row; row + column + 1 < n; column += SQUARE) {
            for (size_t i = row; i < row + SQUARE && i < n; i++) {
                for (size_t j = column > i ? column : i; j < column + SQUARE && i + j + 1 < n; j++) {
                    float *other = a + (n - 1 - j) * stride + (n - 1 - i);
                    const float kept = a[i * stride + j];
                    a[i * stride + j] = *other;
                    *other = kept;
                }
            }
        }
    }
}

/* R R^T = A for one diagonal tile. Mirrored, A is the reversed matrix and R its factor's transpose; a row-major upper
 * triangle is LAPACK's lower one. */
static bool factor_diagonal(const tiling *t)
{
    const int n = tile_length(t, t->step);
    float *a = tile_at(t, t->step, t->step);
    mirror(a, t->n, (size_t)n);
    const bool definite = LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'L', n, a, (int)t->n) == 0;
    mirror(a, t->n, (size_t)n);
    return definite;
}

/* R_ik = A_ik R_kk^-T, for the tiles above the diagonal tile k. */
static void solve_task(void *user, size_t i, unsigned thread)
{
    (void)thread;
    const tiling *t = user;
    cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, tile_length(t, i),
                tile_length(t, t->step), 1.0f, tile_at(t, t->step, t->step), (int)t->n, tile_at(t, i, t->step),
                (int)t->n);
}

/* A_ij -= R_ik R_jk^T for i <= j < k. */
static void update_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const tiling *t = user;
    const size_t k = t->step, i = task / k, j = task % k;
    if (i == j) {
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasNoTrans, tile_length(t, i), tile_length(t, k), -1.0f,
                    tile_at(t, i, k), (int)t->n, 1.0f, tile_at(t, i, i), (int)t->n);
    } else if (i < j) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tile_length(t, i), tile_length(t, j), tile_length(t, k),
                    -1.0f, tile_at(t, i, k), (int)t->n, tile_at(t, j, k), (int)t->n, 1.0f, tile_at(t, i, j), (int)t->n);
    }
}

static tiling tiling_make(float *a, size_t n)
{
    return (tiling){.a = a, .n = n, .count = n / TILE + (n % TILE != 0)};
}

bool sqf_cholesky_reversed(sqf_pool *pool, float *a, size_t n)
{
    tiling t = tiling_make(a, n);
    for (size_t k = t.count; k-- > 0;) {
        t.step = k;
        if (!factor_diagonal(&t)) {
            return false;
        }
        sqf_pool_run(pool, k, solve_task, &t);
        sqf_pool_run(pool, k * k, update_task, &t);
    }
    return true;
}

/* A_km = -A_kk^-1 A_km, the tiles right of the diagonal tile k. */
static void invert_row_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const tiling *t = user;
    const size_t k = t->step, m = k + 1 + task;
    cblas_strsm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, tile_length(t, k), tile_length(t, m),
                -1.0f, tile_at(t, k, k), (int)t->n, tile_at(t, k, m), (int)t->n);
}

/* A_im += A_ik A_km for i < k < m. */
static void invert_update_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const tiling *t = user;
    const size_t k = t->step, right = t->count - k - 1;
    const size_t i = task / right, m = k + 1 + task % right;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, tile_length(t, i), tile_length(t, m), tile_length(t, k),
                1.0f, tile_at(t, i, k), (int)t->n, tile_at(t, k, m), (int)t->n, 1.0f, tile_at(t, i, m), (int)t->n);
}

/* A_ik = A_ik A_kk^-1 for i < k, where A_ik is the negative product that earlier steps left. */
static void invert_column_task(void *user, size_t i, unsigned thread)
{
    (void)thread;
    const tiling *t = user;
    const size_t k = t->step;
    cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, tile_length(t, i), tile_length(t, k),
                1.0f, tile_at(t, k, k), (int)t->n, tile_at(t, i, k), (int)t->n);
}

/* After step k the leading k + 1 tiles hold their inverse X, and the tiles right of them -X A. */
void sqf_upper_invert(sqf_pool *pool, float *a, size_t n)
{
    tiling t = tiling_make(a, n);
    for (size_t k = 0; k < t.count; k++) {
        t.step = k;
        sqf_pool_run(pool, t.count - k - 1, invert_row_task, &t);
        sqf_pool_run(pool, k * (t.count - k - 1), invert_update_task, &t);
        sqf_pool_run(pool, k, invert_column_task, &t);
        /* a row-major upper triangle is LAPACK's lower one */
        LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'L', 'N', tile_length(&t, k), tile_at(&t, k, k), (int)n);
    }
}
