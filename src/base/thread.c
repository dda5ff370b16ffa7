/* The pool: workers that sleep until a job's generation number changes, then take task numbers from one atomic
 * counter until they run out. The caller works along as thread 0 and then waits for the workers.
 *
 * There is no queue, no stealing and no nesting: a job is one function over tasks 0..n-1, one job at a time. The
 * tasks of our jobs are far longer than an atomic increment, so a finer scheme would gain nothing. */
#include "base/thread.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/memory.h"

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
    /* guarded by lock: number of the current job; workers that still have to report; the order to end */
    uint64_t generation;
    unsigned busy;
    bool stop;
    /* The current job, written under the lock before the generation changes and read after a worker saw the change
     * under the same lock; `next` alone is contended. */
    sqf_task_fn fn;
    void *user;
    size_t tasks;
    atomic_size_t next;
};

/* Relaxed order is enough for the counter: it only hands out numbers. What the tasks wrote becomes visible to the
 * caller through the lock that each worker takes when it reports. */
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

/* A worker's life: sleep until there is a job that it has not seen, work on it, report, sleep. It holds the lock all
 * the time but while it works, so no change of the fields below "guarded by lock" can slip between a test and the
 * wait for it. */
static void *worker_main(void *argument)
{
    worker *self = argument;
    sqf_pool *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->generation == seen) {
            pthread_cond_wait(&pool->work_ready, &pool->lock);
        }
        if (pool->stop) {
            break;
        }
        /* No job can be missed: the next one starts only after `busy` is 0, that is after this worker reported. */
        seen = pool->generation;
        pthread_mutex_unlock(&pool->lock);
        run_tasks(pool, self->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0) {
            pthread_cond_signal(&pool->work_done);
        }
    }
    pthread_mutex_unlock(&pool->lock);
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

    pthread_mutex_lock(&pool->lock);
    while (pool->busy > 0) {
        pthread_cond_wait(&pool->work_done, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}
