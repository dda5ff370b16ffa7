/* The parent's side of a sweep: who runs when. A process measures one point and ends: what it took from the system is
 * known exactly, and comes back exactly.
 *
 * Memory: the first point of each model runs alone. From then on, as many run as the largest peak seen so far fits into
 * the limit. Results of processes lie in files of the scratch directory, one for each slot. */
#include "workers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../output.h"

enum { PATH_TEXT = 4096, NO_TASK = -1 };

/* One process. */
typedef struct slot {
    pid_t pid; /* 0 = free */
    size_t index;
    bool is_reference;
} slot;

/* The work while it runs. */
typedef struct workers {
    sweep_work *work;
    slot *slots; /* [jobs] */
    unsigned running;
    uint64_t peak;  /* largest of a point so far */
    bool measuring; /* the first point of a model is running: nothing may run beside it */
    json_t *known;  /* object: models of which a point has been measured */
} workers;

static void slot_path(const workers *w, const slot *s, char path[PATH_TEXT])
{
    snprintf(path, PATH_TEXT, "%s/slot-%zu.json", w->work->scratch, (size_t)(s - w->slots));
}

/* Processes that may run at a time, by what is known of their memory. */
static unsigned fitting(const workers *w)
{
    const uint64_t fit = w->peak > 0 ? w->work->memory / w->peak : w->work->jobs;
    return fit < 1 ? 1 : fit < w->work->jobs ? (unsigned)fit : w->work->jobs;
}

/* Threads of the next process: all where it runs alone. */
static unsigned thread_share(const workers *w, bool alone)
{
    const unsigned share = w->work->threads / (alone ? 1 : fitting(w));
    return share ? share : 1;
}

static const char *model_of(const sweep_task *task)
{
    return settings_text(task->point->settings, "model");
}

/* The child's whole life after the fork. */
static int run_child(const workers *w, const slot *s, unsigned threads)
{
    sqf_error err = {SQF_E_MEMORY, "out of memory"};
    json_t *result = NULL;
    int code;
    if (s->is_reference) {
        code = measure_reference(&w->work->references[s->index].reference, threads, &err);
        result = code == EXIT_DONE ? json_object() : NULL;
    } else {
        const sweep_task *task = &w->work->tasks[s->index];
        const size_t texts = json_array_size(json_object_get(task->point->settings, "text"));
        const sweep_reference **references = calloc(texts + 1, sizeof *references);
        char directory[PATH_TEXT];
        snprintf(directory, sizeof directory, "%s/%s", w->work->keep ? w->work->keep : w->work->scratch, task->id);
        for (size_t i = 0; references && task->references && i < texts; i++) {
            references[i] = &w->work->references[task->references[i]].reference;
        }
        const sweep_job job = {task->point, directory, references, threads, w->work->keep != NULL};
        result = references ? measure_point(&job, &err) : NULL;
        free(references);
    }
    if (!result) {
        result = json_object();
        json_object_set_new(result, "error", json_text(err.text, strlen(err.text)));
    }
    char path[PATH_TEXT];
    slot_path(w, s, path);
    code = json_dump_file(result, path, JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0 ? EXIT_DONE : EXIT_BAD;
    json_decref(result);
    return code;
}

static int start(workers *w, size_t index, bool is_reference, bool alone)
{
    slot *s = w->slots;
    while (s->pid) {
        s++;
    }
    *s = (slot){.index = index, .is_reference = is_reference};
    const unsigned threads = thread_share(w, alone);
    fflush(NULL); /* what is buffered would be written twice */
    const pid_t pid = fork();
    if (pid < 0) {
        return fail_input("cannot start a process: %s", strerror(errno));
    }
    if (pid == 0) {
        _exit(run_child(w, s, threads));
    }
    s->pid = pid;
    w->running++;
    w->measuring = alone;
    *(is_reference ? &w->work->references[index].state : &w->work->tasks[index].state) = WORK_RUNNING;
    return EXIT_DONE;
}

/* The state of what a point waits for; FINISHED if that is nothing. */
static work_state reference_state(const workers *w, const sweep_task *task, size_t *culprit)
{
    work_state state = WORK_FINISHED;
    const size_t texts = json_array_size(json_object_get(task->point->settings, "text"));
    for (size_t i = 0; task->references && i < texts; i++) {
        const work_state one = w->work->references[task->references[i]].state;
        if (one == WORK_FAILED) {
            *culprit = task->references[i];
            return WORK_FAILED;
        }
        state = one != WORK_FINISHED ? one : state;
    }
    return state;
}

/* Scores of references come first: what waits for them is most of the work. */
static bool next_reference(const workers *w, size_t *index)
{
    for (size_t i = 0; i < w->work->reference_count; i++) {
        if (w->work->references[i].state == WORK_WAITING) {
            *index = i;
            return true;
        }
    }
    return false;
}

/* The first point that may start now. Points whose reference failed fail here with its error. */
static int next_point(workers *w, size_t *index, bool *found)
{
    *found = false;
    for (size_t i = 0; i < w->work->task_count && !*found; i++) {
        sweep_task *task = &w->work->tasks[i];
        size_t culprit = 0;
        if (task->state != WORK_WAITING || task->twin != i) {
            continue;
        }
        const work_state state = reference_state(w, task, &culprit);
        if (state == WORK_FAILED) {
            task->state = WORK_FAILED;
            const int code = w->work->finish(w->work->user, i, NULL, w->work->references[culprit].error);
            if (code != EXIT_DONE) {
                return code;
            }
        } else if (state == WORK_FINISHED) {
            *index = i;
            *found = true;
        }
    }
    return EXIT_DONE;
}

/* Starts one process if one may run. *started false: wait for one to end, or there is nothing left. */
static int start_next(workers *w, bool *started)
{
    size_t index = 0;
    *started = false;
    if (w->measuring || w->running >= fitting(w)) {
        return EXIT_DONE;
    }
    if (next_reference(w, &index)) {
        /* its memory says nothing about points, and is about that of a point's evaluation */
        *started = w->running == 0 || w->peak > 0;
        return *started ? start(w, index, true, w->peak == 0) : EXIT_DONE;
    }
    const int code = next_point(w, &index, started);
    if (code != EXIT_DONE || !*started) {
        *started = false;
        return code;
    }
    const bool known = json_object_get(w->known, model_of(&w->work->tasks[index])) != NULL;
    *started = known || w->running == 0;
    return *started ? start(w, index, false, !known) : EXIT_DONE;
}

/* What the process left in its file; an object with an error where it crashed. */
static json_t *take_result(const workers *w, const slot *s, int status)
{
    char path[PATH_TEXT], text[128];
    slot_path(w, s, path);
    json_t *result = NULL;
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONE) {
        result = json_load_file(path, 0, NULL);
    }
    remove(path);
    if (result) {
        return result;
    }
    if (WIFSIGNALED(status)) {
        snprintf(text, sizeof text, "the process was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    } else {
        snprintf(text, sizeof text, "the process left no result (exit code %d)", WEXITSTATUS(status));
    }
    result = json_object();
    json_object_set_new(result, "error", json_string(text));
    return result;
}

static void finish_reference(reference_task *reference, const json_t *result)
{
    const char *error = json_string_value(json_object_get(result, "error"));
    reference->state = error ? WORK_FAILED : WORK_FINISHED;
    snprintf(reference->error, sizeof reference->error, "reference: %.480s", error ? error : "");
}

static int finish_point(workers *w, size_t index, json_t *result)
{
    sweep_task *task = &w->work->tasks[index];
    const char *error = json_string_value(json_object_get(result, "error"));
    const uint64_t peak = (uint64_t)json_integer_value(json_object_get(result, "peak_memory_bytes"));
    task->state = error ? WORK_FAILED : WORK_FINISHED;
    if (!error) {
        json_object_set_new(w->known, model_of(task), json_true());
        w->peak = peak > w->peak ? peak : w->peak;
    } else if (w->work->keep == NULL) { /* a crash leaves its model */
        char directory[PATH_TEXT];
        snprintf(directory, sizeof directory, "%s/%s", w->work->scratch, task->id);
        remove_directory(directory);
    }
    return w->work->finish(w->work->user, index, error ? NULL : json_incref(result), error);
}

/* Waits until a process ends. A signal for us ends the wait. */
static int wait_one(workers *w)
{
    int status;
    const pid_t pid = wait(&status);
    if (pid < 0) {
        return errno == EINTR ? EXIT_DONE : fail_input("cannot wait for a process: %s", strerror(errno));
    }
    for (unsigned i = 0; i < w->work->jobs; i++) {
        slot *s = &w->slots[i];
        if (s->pid != pid) {
            continue;
        }
        s->pid = 0;
        w->running--;
        w->measuring = false;
        json_t *result = take_result(w, s, status);
        int code = EXIT_DONE;
        if (signals_received()) { /* what it says may be about the signal */
            code = 128 + signals_received();
        } else if (s->is_reference) {
            finish_reference(&w->work->references[s->index], result);
        } else {
            code = finish_point(w, s->index, result);
        }
        json_decref(result);
        return code;
    }
    return EXIT_DONE; /* not one of ours */
}

/* Ends what still runs: after an error or a signal. */
static void stop_all(workers *w)
{
    for (unsigned i = 0; i < w->work->jobs; i++) {
        if (w->slots[i].pid) {
            kill(w->slots[i].pid, SIGTERM);
        }
    }
    while (w->running > 0) {
        if (wait(NULL) > 0) {
            w->running--;
        } else if (errno != EINTR) {
            break;
        }
    }
}

int workers_run(sweep_work *work)
{
    workers w = {.work = work, .slots = calloc(work->jobs, sizeof *w.slots), .known = json_object()};
    int code = w.slots ? EXIT_DONE : fail_input("out of memory");
    while (code == EXIT_DONE) {
        bool started = true;
        while (code == EXIT_DONE && started) {
            code = start_next(&w, &started);
        }
        if (code != EXIT_DONE || w.running == 0) {
            break;
        }
        code = wait_one(&w);
        if (signals_received()) {
            code = fail_input("interrupted; what is done is kept") + 127 + signals_received();
        }
    }
    if (w.slots) {
        stop_all(&w);
    }
    json_decref(w.known);
    free(w.slots);
    return code;
}
