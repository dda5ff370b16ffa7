/* The pool: workers that wait until a job's generation number changes, then take task numbers from one atomic
 * counter until they run out. The caller works along as thread 0 and then waits for the workers.
 *
 * Both wait awake for a moment before they sleep: decoding runs some hundred jobs of a few microseconds for each token,
 * and waking a sleeping thread on a virtual machine takes longer than such a job.
 *
 * There is no queue, no stealing and no nesting: a job is one function over tasks 0..n-1, one job at a time. The
 * tasks of our jobs are far longer than an atomic increment, so a finer scheme would gain nothing. */
#include "base/thread.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/memory.h"

/* Turns of the waiting loop, each one pause instruction (10 to 50 ns): some 20 to 100 microseconds, the time that
 * waking a thread takes. Longer would take a processor from others for nothing. */
enum { AWAKE_TURNS = 2000 };

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* A started thread; `index` is its number in tasks, 1..threads-1 (0 is the caller). */
typedef struct worker {
    sqf_pool *pool;
    pthread_t handle;
    unsigned index;
} worker;

struct sqf_pool {
    unsigned threads;
    worker *workers; /* [threads - 1] */
    /* How many workers run: fewer than threads - 1 only while a failed creation is undone. */
    unsigned started;
    pthread_mutex_t lock;
    pthread_cond_t work_ready, work_done;
    /* Number of the current job, and the order to end: written under the lock, looked at without it while awake. */
    atomic_uint_fast64_t generation;
    atomic_bool stop;
    atomic_uint busy; /* workers that still have to report */
    /* The current job, written under the lock before the generation changes and read after a worker saw the change
     * under the same lock; `next` alone is contended. */
    sqf_task_fn fn;
    void *user;
    size_t tasks;
    atomic_size_t next;
};

/* Relaxed order is enough for the counter: it only hands out numbers. What the tasks wrote becomes visible to the
 * caller through the count of busy workers (report). */
static void run_tasks(sqf_pool *pool, unsigned thread)
{
    for (;;) {
        const size_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks) {
            return;
        }
        pool->fn(pool->user, task, thread);
    }
}

/* Waits for a job other than `seen`, first awake, then asleep; false = the pool ends. The last look is taken under the
 * lock under which the generation changes, so no change can slip between it and the sleep. */
static bool wait_for_job(sqf_pool *pool, uint64_t *seen)
{
    for (int turn = 0; turn < AWAKE_TURNS; turn++) {
        if (atomic_load_explicit(&pool->generation, memory_order_relaxed) != *seen || atomic_load(&pool->stop)) {
            break;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop && pool->generation == *seen) {
        pthread_cond_wait(&pool->work_ready, &pool->lock);
    }
    /* No job can be missed: the next one starts only after `busy` is 0, that is after this worker reported. */
    *seen = pool->generation;
    const bool stop = pool->stop;
    pthread_mutex_unlock(&pool->lock);
    return !stop;
}

/* What a worker wrote is visible to the caller that sees the count go down. The caller may have gone to sleep between
 * the two, so the last worker wakes it under the lock. */
static void report(sqf_pool *pool)
{
    if (atomic_fetch_sub(&pool->busy, 1) == 1) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->work_done);
        pthread_mutex_unlock(&pool->lock);
    }
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    uint64_t seen = 0;
    while (wait_for_job(self->pool, &seen)) {
        run_tasks(self->pool, self->index);
        report(self->pool);
    }
    return NULL;
}

sqf_status sqf_pool_create(unsigned threads, sqf_pool **out, sqf_error *err)
{
    *out = NULL;
    if (threads < 1 || threads > 1024) {
        return sqf_fail(err, SQF_E_ARG, "threads: %u, expected 1 to 1024", threads);
    }
    sqf_pool *pool;
    SQF_TRY(SQF_ALLOC(&pool, 1, "thread pool", err));
    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    pthread_cond_init(&pool->work_done, NULL);
    sqf_status status = SQF_ALLOC(&pool->workers, threads, "thread pool", err);
    for (unsigned i = 0; status == SQF_OK && i + 1 < threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i + 1};
        if (pthread_create(&pool->workers[i].handle, NULL, worker_main, &pool->workers[i]) != 0) {
            status = sqf_fail(err, SQF_E_MEMORY, "thread %u of %u could not be started", i + 2, threads);
            break;
        }
        pool->started++;
    }
    if (status != SQF_OK) {
        sqf_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return SQF_OK;
}

/* Also undoes a half-built pool: only the workers that were started are joined. */
void sqf_pool_destroy(sqf_pool *pool)
{
    if (!pool) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->started; i++) {
        pthread_join(pool->workers[i].handle, NULL);
    }
    pthread_cond_destroy(&pool->work_done);
    pthread_cond_destroy(&pool->work_ready);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

unsigned sqf_pool_threads(const sqf_pool *pool)
{
    return pool ? pool->threads : 1;
}

/* Publish the job under the lock, work along, wait for the workers. The wait is needed even when the counter has run
 * out: another thread may still be in its last task, and its results are the caller's. */
void sqf_pool_run(sqf_pool *pool, size_t tasks, sqf_task_fn fn, void *user)
{
    /* A single task is not worth waking anybody. */
    if (!pool || pool->threads == 1 || tasks < 2) {
        for (size_t task = 0; task < tasks; task++) {
            fn(user, task, 0);
        }
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->user = user;
    pool->tasks = tasks;
    atomic_store(&pool->next, 0);
    /* Every worker reports for every job, also one that finds no task left: only then may fn and user change. */
    pool->busy = pool->started;
    pool->generation++;
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->lock);

    run_tasks(pool, 0);

    for (int turn = 0; turn < AWAKE_TURNS; turn++) {
        if (atomic_load(&pool->busy) == 0) {
            return;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (pool->busy > 0) {
        pthread_cond_wait(&pool->work_done, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}
