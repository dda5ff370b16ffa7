/* Orthogonal matrices. Hadamard matrices: Sylvester's by doubling, Paley's first (p + 1 for primes p = 3 mod 4) and
 * second construction (2 (p + 1) for primes p = 1 mod 4) from quadratic residues (Paley, 1933). */
#include "ptq/rotation/orthogonal.h"

#include <math.h>

#include <lapacke.h>

#include "base/memory.h"
#include "base/random.h"

enum { DOUBLINGS = 3 }; /* the factor stays small beside the size: it costs its order in products a channel */

/* ---- Hadamard ---- */

static bool is_prime(size_t n)
{
    for (size_t d = 2; d * d <= n; d++) {
        if (n % d == 0) {
            return false;
        }
    }
    return n >= 2;
}

/* The prime of the first construction, else that of the second; 0 = neither gives a matrix of order n. */
static size_t paley_prime(size_t n, bool *second)
{
    *second = false;
    if (n % 4 == 0 && is_prime(n - 1)) {
        return n - 1; /* n - 1 = 3 mod 4 */
    }
    *second = true;
    return n % 4 == 0 && n / 2 % 4 == 2 && is_prime(n / 2 - 1) ? n / 2 - 1 : 0;
}

size_t sqf_hadamard_factor(size_t n)
{
    size_t odd = n;
    while (odd > 1 && odd % 2 == 0) {
        odd /= 2;
    }
    if (odd <= 1) {
        return 1;
    }
    for (int i = 0; i <= DOUBLINGS && n % (odd << i) == 0; i++) {
        bool second;
        if (paley_prime(odd << i, &second)) {
            return odd << i;
        }
    }
    return odd;
}

/* residue[a] = 1 for squares modulo p, -1 for others, 0 for 0. */
static void fill_residues(size_t p, int *residue)
{
    for (size_t a = 0; a < p; a++) {
        residue[a] = a == 0 ? 0 : -1;
    }
    for (size_t a = 1; a < p; a++) {
        residue[a * a % p] = 1;
    }
}

/* The bordered matrix of residues [p + 1, p + 1], 0 on its diagonal: skew for p = 3 mod 4, symmetric for 1 mod 4. */
static int conference(const int *residue, size_t p, bool skew, size_t i, size_t j)
{
    if (i == 0 || j == 0) {
        return i == j ? 0 : i == 0 || !skew ? 1 : -1;
    }
    return residue[(j + p - i) % p];
}

/* First: I + S. Second: the four blocks C + I, C - I, C - I, -C - I. */
static void fill_paley(size_t n, size_t p, bool second, const int *residue, double *out)
{
    const size_t order = p + 1;
    const double unit = 1.0 / sqrt((double)n);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const size_t a = i % order, b = j % order;
            const int c = conference(residue, p, !second, a, b), one = a == b;
            const bool below = i >= order, right = j >= order;
            const int value = !below && !right ? c + one : below && right ? -c - one : c - one;
            out[i * n + j] = unit * value;
        }
    }
}

sqf_status sqf_hadamard_factor_fill(size_t n, uint64_t seed, double *out, sqf_error *err)
{
    bool second;
    const size_t p = n > 1 ? paley_prime(n, &second) : 0;
    if (n == 1) {
        out[0] = 1.0;
        return SQF_OK;
    }
    if (p == 0) {
        return sqf_orthogonal_random(n, seed, out, err);
    }
    int *residue;
    SQF_TRY(SQF_ALLOC(&residue, p, "residues", err));
    fill_residues(p, residue);
    fill_paley(n, p, second, residue, out);
    free(residue);
    return SQF_OK;
}

/* Sylvester: the sign of element (i, j) is the parity of the bits that i and j share. */
static double sylvester(size_t i, size_t j)
{
    return __builtin_parityll((unsigned long long)(i & j)) ? -1.0 : 1.0;
}

sqf_status sqf_hadamard_fill(size_t n, uint64_t seed, bool signs, double *out, sqf_error *err)
{
    const size_t factor = sqf_hadamard_factor(n), block = n / factor;
    const double unit = 1.0 / sqrt((double)block);
    double *matrix;
    sqf_random random = {.state = seed};
    SQF_TRY(SQF_ALLOC(&matrix, factor * factor, "Hadamard factor", err));
    const sqf_status status = sqf_hadamard_factor_fill(factor, seed + 1, matrix, err);
    for (size_t i = 0; i < n && status == SQF_OK; i++) {
        const double sign = signs && sqf_random_u64(&random) >> 63 ? -unit : unit;
        for (size_t j = 0; j < n; j++) {
            out[i * n + j] = sign * matrix[i / block * factor + j / block] * sylvester(i % block, j % block);
        }
    }
    free(matrix);
    return status;
}

/* ---- random ---- */

/* Two independent normal numbers a call (Box and Muller, 1958). */
static void normal_pair(sqf_random *random, double pair[2])
{
    const double radius = sqrt(-2.0 * log(1.0 - sqf_random_unit(random)));
    const double angle = 6.283185307179586 * sqf_random_unit(random);
    pair[0] = radius * cos(angle);
    pair[1] = radius * sin(angle);
}

/* QR with the diagonal of R made positive: of a normal random matrix that is uniform (Mezzadri, 2007), of a matrix near
 * an orthogonal one it stays near. */
sqf_status sqf_orthogonalize(size_t n, double *matrix, sqf_error *err)
{
    const lapack_int order = (lapack_int)n;
    double *tau, *work;
    const lapack_int length = order * 64;
    SQF_TRY(SQF_ALLOC(&tau, n + (size_t)length + n, "reflections", err));
    work = tau + n;
    double *sign = work + length;
    int failed = LAPACKE_dgeqrf_work(LAPACK_COL_MAJOR, order, order, matrix, order, tau, work, length) != 0;
    for (size_t i = 0; i < n; i++) {
        sign[i] = matrix[i * n + i] < 0 ? -1.0 : 1.0;
    }
    failed =
        failed || LAPACKE_dorgqr_work(LAPACK_COL_MAJOR, order, order, order, matrix, order, tau, work, length) != 0;
    for (size_t i = 0; i < n * n; i++) {
        matrix[i] *= sign[i / n]; /* column i / n of LAPACK's order */
    }
    free(tau);
    return failed ? sqf_fail(err, SQF_E_VALUE, "rotation of %zu channels: QR failed", n) : SQF_OK;
}

sqf_status sqf_orthogonal_random(size_t n, uint64_t seed, double *out, sqf_error *err)
{
    sqf_random random = {.state = seed};
    for (size_t i = 0; i < n * n; i += 2) {
        double pair[2];
        normal_pair(&random, pair);
        out[i] = pair[0];
        if (i + 1 < n * n) {
            out[i + 1] = pair[1];
        }
    }
    return sqf_orthogonalize(n, out, err);
}
