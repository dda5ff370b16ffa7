/* A pool of threads. Work is cut into a number of tasks that the caller chooses from the problem alone, so that
 * results never depend on how many threads there are. */
#ifndef SQF_BASE_THREAD_H
#define SQF_BASE_THREAD_H

#include "base/error.h"

typedef struct sqf_pool sqf_pool;

/* threads: 1..1024, the calling thread being one of them; the others start here and sleep between jobs. Destroy ends
 * them while no job runs; NULL is fine. sqf_pool_threads(NULL) is 1. */
sqf_status sqf_pool_create(unsigned threads, sqf_pool **out, sqf_error *err);
void sqf_pool_destroy(sqf_pool *pool);
unsigned sqf_pool_threads(const sqf_pool *pool);

/* One task: `task` in 0..tasks-1, `thread` in 0..threads-1 (for per-thread scratch). */
typedef void (*sqf_task_fn)(void *user, size_t task, unsigned thread);

/* Runs all tasks and returns when the last has ended. Tasks are handed out in ascending order to whichever
 * thread is free. A task must not call sqf_pool_run on the same pool. pool NULL = run here, thread 0. */
void sqf_pool_run(sqf_pool *pool, size_t tasks, sqf_task_fn fn, void *user);

#endif
