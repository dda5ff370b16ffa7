/* The thread pool and the random numbers. */
#include "check.h"

#include "base/memory.h"
#include "base/random.h"
#include "base/thread.h"

typedef struct tally {
    unsigned char *runs;
    unsigned threads;
    bool bad_thread;
} tally;

static void count_run(void *user, size_t task, unsigned thread)
{
    tally *t = user;
    t->runs[task]++;
    if (thread >= t->threads) {
        t->bad_thread = true;
    }
}

static void test_every_task_runs_exactly_once(void **state)
{
    (void)state;
    sqf_error err;
    for (unsigned threads = 1; threads <= 5; threads++) {
        sqf_pool *pool;
        assert_ok(sqf_pool_create(threads, &pool, &err), &err);
        assert_int_equal(sqf_pool_threads(pool), threads);
        for (size_t tasks = 0; tasks < 300; tasks += 1 + tasks / 3) {
            unsigned char runs[300] = {0};
            tally t = {runs, threads, false};
            sqf_pool_run(pool, tasks, count_run, &t);
            assert_false(t.bad_thread);
            for (size_t i = 0; i < sizeof runs; i++) {
                assert_int_equal(runs[i], i < tasks);
            }
        }
        sqf_pool_destroy(pool);
    }
}

static void test_without_a_pool_tasks_run_here(void **state)
{
    (void)state;
    unsigned char runs[10] = {0};
    tally t = {runs, 1, false};
    sqf_pool_run(NULL, 10, count_run, &t);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(runs[i], 1);
    }
    assert_int_equal(sqf_pool_threads(NULL), 1);
    sqf_pool_destroy(NULL);
}

static void test_absurd_thread_numbers_are_refused(void **state)
{
    (void)state;
    sqf_error err;
    sqf_pool *pool;
    assert_fails(sqf_pool_create(0, &pool, &err), SQF_E_ARG, &err, "expected 1 to 1024");
    assert_fails(sqf_pool_create(100000, &pool, &err), SQF_E_ARG, &err, "100000");
    assert_null(pool);
}

static void test_random_numbers_are_fixed_for_a_seed(void **state)
{
    (void)state;
    /* splitmix64's published first outputs for seed 1234567 */
    sqf_random random = {1234567};
    assert_true(sqf_random_u64(&random) == 6457827717110365317u);
    assert_true(sqf_random_u64(&random) == 3203168211198807973u);
    for (int i = 0; i < 1000; i++) {
        assert_true(sqf_random_below(&random, 7) < 7);
        const double unit = sqf_random_unit(&random);
        assert_true(unit >= 0 && unit < 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_runs_exactly_once),
        cmocka_unit_test(test_without_a_pool_tasks_run_here),
        cmocka_unit_test(test_absurd_thread_numbers_are_refused),
        cmocka_unit_test(test_random_numbers_are_fixed_for_a_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
