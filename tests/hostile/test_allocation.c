/* Every allocation fails once: opening and running a model, encoding, quantizing. An error must come back, nothing may
 * crash, leak, or stay on disk.
 *
 * The C library's allocator is replaced for the whole process, its libraries included; what is live is counted, so that
 * a leak is seen without a sanitizer too. SQF_ALLOCATIONS sets how many places are tried in each operation. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>

#include "check.h"

#include <sqf/eval.h>
#include <sqf/generate.h>
#include <sqf/inspect.h>
#include <sqf/quantize.h>
#include <sqf/tasks.h>

#include "base/file.h"
#include "base/json.h"
#include "victim.h"

enum { STANDARD_COUNT = 4000 }; /* more than any operation has on the tiny models: all places are tried */

/* ---- the allocator ---- */

#if defined(__SANITIZE_ADDRESS__)
#define REAL(name)   __interceptor_##name
#define REAL_ALIGNED __interceptor_memalign
enum { COUNTED = 0 }; /* it allocates past us for functions of the C library, and finds leaks itself */
#else
#define REAL(name)   __libc_##name
#define REAL_ALIGNED __libc_memalign
enum { COUNTED = 1 };
#endif
extern void *REAL(malloc)(size_t n);
extern void *REAL(calloc)(size_t count, size_t n);
extern void *REAL(realloc)(void *memory, size_t n);
extern void REAL(free)(void *memory);
extern void *REAL_ALIGNED(size_t alignment, size_t n);

/* The loader allocates before a sanitizer is ready for the code that it checks. */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))

static _Thread_local bool armed; /* allocations of this thread count and fail */
static atomic_long counter;      /* allocations since armed */
static atomic_long failing;      /* the one that fails; 0 = none */
static atomic_long live;         /* blocks allocated and not freed */

/* OpenBLAS does not look at what malloc returned: its own memory does not fail. */
UNCHECKED static bool is_blas(const void *caller)
{
    Dl_info info;
    return dladdr(caller, &info) != 0 && info.dli_fname && strstr(info.dli_fname, "blas");
}

UNCHECKED static bool fails_now(const void *caller)
{
    if (!armed || atomic_fetch_add(&counter, 1) + 1 != atomic_load(&failing) || is_blas(caller)) {
        return false;
    }
    errno = ENOMEM;
    return true;
}

UNCHECKED static void *counted(void *memory)
{
    if (memory) {
        atomic_fetch_add(&live, 1);
    }
    return memory;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define EXPORTED UNCHECKED __attribute__((visibility("default")))

EXPORTED void *malloc(size_t n)
{
    return fails_now(__builtin_return_address(0)) ? NULL : counted(REAL(malloc)(n));
}

EXPORTED void *calloc(size_t count, size_t n)
{
    return fails_now(__builtin_return_address(0)) ? NULL : counted(REAL(calloc)(count, n));
}

EXPORTED void *realloc(void *memory, size_t n)
{
    if (fails_now(__builtin_return_address(0))) {
        return NULL;
    }
    void *made = REAL(realloc)(memory, n);
    return memory ? made : counted(made);
}

EXPORTED void *aligned_alloc(size_t alignment, size_t n)
{
    return fails_now(__builtin_return_address(0)) ? NULL : counted(REAL_ALIGNED(alignment, n));
}

EXPORTED void free(void *memory)
{
    if (memory) {
        atomic_fetch_sub(&live, 1);
    }
    REAL(free)(memory);
}
#pragma GCC diagnostic pop

/* jansson 2.14 ignores it when the buffer of its scanner cannot grow, and then stops at an assertion of its own: memory
 * does not fail inside its parser. */
json_t *__real_json_loadb(const char *bytes, size_t n, size_t flags, json_error_t *problem);
json_t *__wrap_json_loadb(const char *bytes, size_t n, size_t flags, json_error_t *problem);

json_t *__wrap_json_loadb(const char *bytes, size_t n, size_t flags, json_error_t *problem)
{
    const bool before = armed;
    armed = false;
    json_t *root = __real_json_loadb(bytes, n, flags, problem);
    armed = before;
    return root;
}

/* ---- the operations ---- */

typedef struct subject {
    victim v;
    sqf_context *context;
    char output[VICTIM_PATH + 16];
} subject;

typedef sqf_status (*operation_fn)(const subject *s, sqf_error *err);

static sqf_status run_model(const subject *s, size_t kind, sqf_error *err)
{
    const uint32_t prompt[] = {5, 70, 256, 12};
    sqf_model *model;
    sqf_session *session = NULL;
    sqf_status status = sqf_model_open(s->context, s->v.path[kind], &model, err);
    if (status == SQF_OK) {
        status = sqf_session_create(model, 8, &session, err);
    }
    if (status == SQF_OK) {
        sqf_generation generation = {0};
        sqf_generate_options options = {.max_tokens = 2, .sampling = sqf_model_sampling(model)};
        status = sqf_generate(model, session, NULL, prompt, 4, &options, &generation, err);
        sqf_ids_clear(&generation.ids);
    }
    sqf_session_destroy(session);
    sqf_model_destroy(model);
    return status;
}

static sqf_status run_original(const subject *s, sqf_error *err)
{
    return run_model(s, 0, err);
}

static sqf_status run_weights(const subject *s, sqf_error *err)
{
    return run_model(s, 1, err);
}

static sqf_status run_activations(const subject *s, sqf_error *err)
{
    return run_model(s, 2, err);
}

static sqf_status run_shards(const subject *s, sqf_error *err)
{
    return run_model(s, 3, err);
}

static sqf_status encode(const subject *s, sqf_error *err)
{
    sqf_tokenizer *tokenizer;
    sqf_ids ids = {0};
    char *bytes = NULL;
    size_t n;
    sqf_status status = sqf_tokenizer_load(s->v.path[0], &tokenizer, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_encode(tokenizer, victim_text, strlen(victim_text), true, &ids, err);
    }
    if (status == SQF_OK) {
        status = sqf_tokenizer_decode(tokenizer, ids.data, ids.count, true, &bytes, &n, err);
    }
    free(bytes);
    sqf_ids_clear(&ids);
    sqf_tokenizer_destroy(tokenizer);
    return status;
}

static sqf_status score(const subject *s, sqf_error *err)
{
    sqf_tokenizer *tokenizer;
    sqf_model *model = NULL;
    sqf_eval_result result;
    sqf_eval_options options = sqf_eval_options_default();
    options.window = 8;
    options.max_tokens = 16;
    sqf_status status = sqf_tokenizer_load(s->v.path[0], &tokenizer, err);
    if (status == SQF_OK) {
        status = sqf_model_open(s->context, s->v.path[0], &model, err);
    }
    if (status == SQF_OK) {
        status = sqf_eval_file(s->context, model, model, tokenizer, s->v.text_path, &options, &result, err);
    }
    sqf_model_destroy(model);
    sqf_tokenizer_destroy(tokenizer);
    return status;
}

/* Choices and a generated answer, written to an items file that outlives a failure by intent. */
static sqf_status run_items(const subject *s, const sqf_model *model, const sqf_tokenizer *tokenizer, sqf_error *err)
{
    static const char *const paths[] = {SQF_SOURCE_DIR "/tests/tasks/data/winogrande.jsonl",
                                        SQF_SOURCE_DIR "/tests/tasks/data/gsm8k.jsonl"};
    char items[VICTIM_PATH + 16];
    sqf_task *tasks[2] = {NULL, NULL};
    sqf_task_result results[2];
    sqf_tasks_options options = sqf_tasks_options_default();
    snprintf(items, sizeof items, "%s-items", s->v.path[0]);
    remove(items);
    options.limit = options.few_shot = 1;
    options.resamples = options.max_new_tokens = 2;
    options.items = items;
    sqf_status status = sqf_task_load(paths[0], NULL, &tasks[0], err);
    if (status == SQF_OK) {
        status = sqf_task_load(paths[1], NULL, &tasks[1], err);
    }
    if (status == SQF_OK) {
        status = sqf_tasks_run(s->context, model, model, tokenizer, (const sqf_task *const *)tasks, 2, &options,
                               results, err);
    }
    sqf_task_destroy(tasks[0]);
    sqf_task_destroy(tasks[1]);
    remove(items);
    return status;
}

static sqf_status tasks(const subject *s, sqf_error *err)
{
    sqf_tokenizer *tokenizer;
    sqf_model *model = NULL;
    sqf_status status = sqf_tokenizer_load(s->v.path[0], &tokenizer, err);
    if (status == SQF_OK) {
        status = sqf_model_open(s->context, s->v.path[0], &model, err);
    }
    if (status == SQF_OK) {
        status = run_items(s, model, tokenizer, err);
    }
    sqf_model_destroy(model);
    sqf_tokenizer_destroy(tokenizer);
    return status;
}

static sqf_status check_model(const subject *s, sqf_error *err)
{
    return sqf_check_model(s->context, s->v.path[2], NULL, NULL, NULL, err);
}

static sqf_status compare(const subject *s, sqf_error *err)
{
    return sqf_compare_models(s->context, s->v.path[0], s->v.path[1], NULL, NULL, NULL, err);
}

static sqf_status quantize(const subject *s, sqf_error *err)
{
    sqf_recipe *recipe;
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = s->v.text_path;
    options.samples = 2;
    options.length = 8;
    sqf_status status = sqf_recipe_parse(victim_recipe, strlen(victim_recipe), "recipe.yaml", &recipe, err);
    if (status == SQF_OK) {
        sqf_recipe_base(recipe)->scheme.activations.bank = 8;
        status = sqf_quantize(s->context, s->v.path[0], s->output, recipe, &options, NULL, err);
    }
    sqf_recipe_destroy(recipe);
    return status;
}

static sqf_status make_context(const subject *s, sqf_error *err)
{
    sqf_context *context;
    const sqf_context_options options = {.threads = 2};
    (void)s;
    const sqf_status status = sqf_context_create(&options, &context, err);
    sqf_context_destroy(context);
    return status;
}

static const struct {
    const char *name;
    operation_fn run;
} operations[] = {
    {"context", make_context}, {"original", run_original}, {"weights", run_weights}, {"activations", run_activations},
    {"shards", run_shards},    {"encode", encode},         {"score", score},         {"check", check_model},
    {"compare", compare},      {"quantize", quantize},     {"tasks", tasks},
};

/* ---- the test ---- */

static void remove_output(const subject *s)
{
    char command[VICTIM_PATH + 32];
    snprintf(command, sizeof command, "rm -rf '%s'", s->output);
    assert_int_equal(system(command), 0);
}

/* Runs with allocation number `place` failing; returns the number of allocations. */
static long run_failing(const subject *s, operation_fn run, long place, sqf_status *status, sqf_error *err)
{
    *err = (sqf_error){0};
    atomic_store(&counter, 0);
    atomic_store(&failing, place);
    armed = true;
    *status = run(s, err);
    armed = false;
    return atomic_load(&counter);
}

/* Either the failure is reported, or nobody needed that memory (a cache of the C library) and all is well. */
static void check_place(const subject *s, const char *name, operation_fn run, long place)
{
    sqf_status status;
    sqf_error err;
    const long before = atomic_load(&live);
    run_failing(s, run, place, &status, &err);
    const long left = atomic_load(&live) - before;
    if (COUNTED && left > 0) {
        fail_msg("%s: allocation %ld fails: %ld blocks leak, %s \"%s\"", name, place, left, sqf_status_name(status),
                 err.text);
    }
    if (status != SQF_OK && (err.text[0] == '\0' || strchr(err.text, '\n'))) {
        fail_msg("%s: allocation %ld fails: %s without a sentence", name, place, sqf_status_name(status));
    }
    if (status != SQF_OK && sqf_path_exists(s->output)) {
        fail_msg("%s: allocation %ld fails: an output exists", name, place);
    }
    if (sqf_path_exists(s->output)) { /* a failure that nobody noticed must not have damaged it */
        assert_ok(sqf_check_model(s->context, s->output, NULL, NULL, NULL, &err), &err);
        remove_output(s);
    }
}

static void try_operation(const subject *s, size_t index, long wanted)
{
    const char *name = operations[index].name;
    sqf_status status;
    sqf_error err;
    for (int warm = 0; warm < 2; warm++) { /* lazy set-up of the libraries stays allocated */
        run_failing(s, operations[index].run, 0, &status, &err);
        assert_ok(status, &err);
        remove_output(s);
    }
    const long before = atomic_load(&live);
    const long all = run_failing(s, operations[index].run, 0, &status, &err);
    assert_ok(status, &err);
    if (COUNTED && atomic_load(&live) != before) {
        fail_msg("%s: %ld blocks leak without any failure", name, atomic_load(&live) - before);
    }
    remove_output(s);
    const long step = all > wanted ? all / wanted : 1;
    long tried = 0;
    for (long place = 1; place <= all; place += step) {
        check_place(s, name, operations[index].run, place);
        tried++;
    }
    print_message("%s: %ld allocations, %ld of them failed\n", name, all, tried);
}

static void test_failing_allocations_end_in_an_error(void **state)
{
    const char *text = getenv("SQF_ALLOCATIONS");
    const long wanted = text ? strtol(text, NULL, 0) : STANDARD_COUNT;
    static subject s;
    sqf_error err = {0};
    (void)state;
    victim_create(&s.v);
    snprintf(s.output, sizeof s.output, "%s-output", s.v.path[0]);
    const sqf_context_options options = {.threads = 1};
    assert_ok(sqf_context_create(&options, &s.context, &err), &err);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        try_operation(&s, i, wanted);
    }
    sqf_context_destroy(s.context);
    victim_remove(&s.v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failing_allocations_end_in_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
