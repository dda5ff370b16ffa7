/* Rotations at run time against plain products of matrices in double precision, at every level of this machine. */
#include "check.h"

#include <math.h>

#include "base/random.h"
#include "kernels/dispatch.h"
#include "kernels/rotation.h"

static sqf_context *open_context(const char *level, unsigned threads)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = threads, .cpu = level};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

static float *random_floats(sqf_random *random, size_t n)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(sqf_random_unit(random) * 2.0 - 1.0);
    }
    return x;
}

/* The definition: element (i, j) of Sylvester's matrix is -1 to the number of bits that i and j share. */
static double sylvester(size_t i, size_t j)
{
    return __builtin_popcountll((unsigned long long)(i & j)) % 2 ? -1.0 : 1.0;
}

static void the_fast_transform_is_the_product_with_sylvesters_matrix(void **state)
{
    (void)state;
    sqf_random random = {test_seed("hadamard", 1)};
    for (size_t n = 1; n <= 1024; n *= 2) {
        float *x = random_floats(&random, n), *y = malloc(n * sizeof *y), *first = malloc(n * sizeof *first);
        for (size_t level = 0; sqf_cpu_levels()[level]; level++) {
            memcpy(y, x, n * sizeof *y);
            sqf_kernels_find(sqf_cpu_levels()[level])->hadamard(y, n);
            if (level == 0) {
                memcpy(first, y, n * sizeof *y);
            }
            assert_memory_equal(y, first, n * sizeof *y);
        }
        for (size_t j = 0; j < n; j++) {
            double want = 0.0;
            for (size_t i = 0; i < n; i++) {
                want += (double)x[i] * sylvester(i, j);
            }
            if (!(fabs((double)y[j] - want) <= 1e-6 * (double)n)) {
                fail_msg("n = %zu, element %zu: %g, expected %g", n, j, (double)y[j], want);
            }
        }
        free(x);
        free(y);
        free(first);
    }
}

/* x' = x (M (x) H), element by element; without a matrix M is the unit matrix. */
static double rotated(const float *x, const float *matrix, size_t factor, size_t block, size_t j)
{
    double sum = 0.0;
    for (size_t i = 0; i < factor * block; i++) {
        const size_t row = i / block, column = j / block;
        const double m = matrix ? (double)matrix[row * factor + column] : (double)(row == column);
        sum += (double)x[i] * m * sylvester(i % block, j % block);
    }
    return sum;
}

static void check_size(sqf_random *random, size_t channels, size_t factor, bool mixed)
{
    enum { ROWS = 37 };
    const size_t block = channels / factor, floats = ROWS * channels;
    sqf_error err;
    sqf_rotation rotation;
    float *matrix = mixed ? random_floats(random, factor * factor) : NULL, *x = random_floats(random, floats);
    float *y = malloc(floats * sizeof *y), *first = malloc(floats * sizeof *first);
    assert_ok(sqf_rotation_create(channels, factor, matrix, &rotation, &err), &err);
    for (size_t level = 0; sqf_cpu_levels()[level]; level++) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            sqf_context *context = open_context(sqf_cpu_levels()[level], threads);
            memcpy(y, x, floats * sizeof *y);
            assert_ok(sqf_rotation_apply(context, &rotation, y, ROWS, &err), &err);
            if (level == 0 && threads == 1) {
                memcpy(first, y, floats * sizeof *y);
            }
            assert_memory_equal(y, first, floats * sizeof *y);
            sqf_context_destroy(context);
        }
    }
    for (size_t r = 0; r < ROWS; r += 9) {
        for (size_t j = 0; j < channels; j++) {
            const double want = rotated(x + r * channels, matrix, factor, block, j);
            if (!(fabs((double)y[r * channels + j] - want) <= 1e-6 * (double)channels)) {
                fail_msg("%zu channels, factor %zu, row %zu, channel %zu: %g, expected %g", channels, factor, r, j,
                         (double)y[r * channels + j], want);
            }
        }
    }
    sqf_rotation_clear(&rotation);
    free(matrix);
    free(x);
    free(y);
    free(first);
}

static void rotations_of_all_shapes_are_products_with_their_matrix(void **state)
{
    (void)state;
    sqf_random random = {test_seed("rotation", 2)};
    static const size_t sizes[][2] = {{256, 1}, {768, 12}, {768, 3}, {172, 43}, {96, 12},
                                      {7, 7},   {40, 20},  {1, 1},   {76, 76},  {2, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_size(&random, sizes[i][0], sizes[i][1], true);
        check_size(&random, sizes[i][0], sizes[i][1], false);
    }
}

static void a_factor_must_leave_a_power_of_two(void **state)
{
    (void)state;
    sqf_error err;
    sqf_rotation rotation;
    const float matrix[9] = {1};
    assert_true(sqf_rotation_fits(768, 12) && sqf_rotation_fits(768, 3) && sqf_rotation_fits(7, 7));
    assert_false(sqf_rotation_fits(768, 2) || sqf_rotation_fits(768, 0) || sqf_rotation_fits(768, 5));
    assert_int_equal(sqf_rotation_create(7, 3, matrix, &rotation, &err), SQF_E_ARG);
    assert_null(rotation.matrix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fast_transform_is_the_product_with_sylvesters_matrix),
        cmocka_unit_test(rotations_of_all_shapes_are_products_with_their_matrix),
        cmocka_unit_test(a_factor_must_leave_a_power_of_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
