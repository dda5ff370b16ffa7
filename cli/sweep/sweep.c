/* sqf sweep: what a grid file asks for and a results file does not have yet is measured, one line of JSON a point. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../command.h"
#include "../output.h"
#include "workers.h"

/* One run of the command. */
typedef struct sweep {
    const cli_arguments *arguments;
    grid_file grid;
    sweep_points points;
    store store;
    sweep_work work;
    char scratch[4096];
    size_t listed, skipped, copied, measured, failed; /* points */
    size_t to_do;                                     /* that were neither skipped nor copied */
} sweep;

/* The head of a line: what was asked. The figures, or the error, come behind. */
static json_t *begin_line(const sweep *s, const sweep_task *task)
{
    const grid_section *section = task->point->section, *base = &s->grid.base;
    char scheme[SQF_SCHEME_TEXT], *recipe = NULL;
    sqf_scheme_print(&sqf_recipe_base(task->point->recipe)->scheme, SQF_SPELLING_SHORT, scheme);
    sqf_error err;
    sqf_recipe_print(task->point->recipe, &recipe, &err);
    json_t *line = json_object();
    json_object_set_new(line, "id", json_string(task->id));
    json_object_set_new(line, "grid", json_string_or_null(task->point->grid));
    json_object_set_new(line, "title", json_string_or_null(section->title ? section->title : base->title));
    json_object_set_new(line, "question", json_string_or_null(section->question ? section->question : base->question));
    json_object_set_new(line, "label", json_string_or_null(task->point->label));
    json_object_set_new(line, "scheme", json_string_or_null(scheme));
    json_object_set(line, "seed", json_object_get(task->point->settings, "seed"));
    json_object_set(line, "settings", task->point->settings);
    json_object_set_new(line, "recipe", json_string_or_null(recipe));
    json_object_set_new(line, "version", json_string(sqf_version()));
    free(recipe);
    return line;
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void print_row(const sweep *s, const sweep_task *task, const json_t *figures)
{
    if (arguments_given(s->arguments, "json") || arguments_given(s->arguments, "quiet")) {
        return;
    }
    progress_clear();
    printf("%4zu of %zu  perplexity %9.4f  %+8.3f %% (%.3f)  %6.3f bits  cost %.3f  %6.1f s  %s: %s\n",
           s->measured + s->failed, s->to_do, number_of(figures, "perplexity"), 100 * (number_of(figures, "ratio") - 1),
           100 * number_of(figures, "ratio_error"), number_of(figures, "stored_bits"),
           number_of(figures, "predicted_cost"), number_of(figures, "seconds"), task->point->grid, task->point->label);
    fflush(stdout);
}

/* The line of one point with the figures that were measured for it or its twin. */
static int write_line(sweep *s, const sweep_task *task, json_t *figures, const char *error)
{
    json_t *line = begin_line(s, task);
    json_object_set_new(line, "status", json_string(error ? "failed" : "done"));
    if (error) {
        json_object_set_new(line, "error", json_text(error, strlen(error)));
    } else {
        json_object_update_missing(line, figures);
    }
    return store_append(&s->store, line);
}

/* A point was measured, or failed: its line and those of its twins. */
static int finish_task(void *user, size_t index, json_t *figures, const char *error)
{
    sweep *s = user;
    int code = EXIT_DONE;
    for (size_t i = index; i < s->work.task_count && code == EXIT_DONE; i++) {
        sweep_task *task = &s->work.tasks[i];
        if (task->twin != index) {
            continue;
        }
        task->state = error ? WORK_FAILED : WORK_FINISHED;
        *(error ? &s->failed : &s->measured) += 1;
        code = write_line(s, task, figures, error);
        if (error) {
            fail_input("%s: %s: %s", task->point->grid, task->point->label, error);
        } else if (code == EXIT_DONE) {
            print_row(s, task, figures);
        }
    }
    json_decref(figures);
    progress_show("points", s->measured + s->failed, s->to_do);
    return code;
}

/* A point that some other grid has measured gets that line under its own name. */
static int copy_line(sweep *s, sweep_task *task, const json_t *done)
{
    json_t *figures = json_copy((json_t *)done);
    const int code = write_line(s, task, figures, NULL);
    json_decref(figures);
    task->state = WORK_FINISHED;
    s->copied++;
    return code;
}

/* Reads every model and text once: one that is not there ends the sweep here. */
static int identify(sweep *s)
{
    content_hashes hashes = {0};
    int code = EXIT_DONE;
    for (size_t i = 0; i < s->points.count && code == EXIT_DONE; i++) {
        sweep_task *task = &s->work.tasks[s->work.task_count++];
        *task = (sweep_task){.point = &s->points.items[i], .twin = i};
        code = point_identify(task->point, &hashes, task->id);
    }
    content_hashes_clear(&hashes);
    return code;
}

/* What is done already, what another grid has, and what an earlier point of this sweep stands for. */
static int sort_out(sweep *s)
{
    int code = EXIT_DONE;
    for (size_t i = 0; i < s->work.task_count && code == EXIT_DONE; i++) {
        sweep_task *task = &s->work.tasks[i];
        const json_t *other = store_find(&s->store, task->id, NULL);
        if (store_find(&s->store, task->id, task->point->grid)) {
            task->state = WORK_FINISHED;
            s->skipped++;
        } else if (other) {
            code = copy_line(s, task, other);
        } else {
            for (size_t j = 0; j < i && task->twin == i; j++) {
                task->twin = strcmp(s->work.tasks[j].id, task->id) == 0 ? s->work.tasks[j].twin : i;
            }
            s->to_do++;
        }
    }
    return code;
}

/* Whether scores that one point needs serve another as well. */
static bool same_reference(const sweep_reference *reference, const json_t *settings, const char *text)
{
    static const char *const keys[] = {"model", "window", "max_tokens"};
    bool same = strcmp(reference->text, text) == 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        same = same && json_equal(json_object_get(reference->settings, keys[i]), json_object_get(settings, keys[i]));
    }
    return same;
}

static bool need_reference(sweep *s, const json_t *settings, const char *text, size_t *index)
{
    sweep_work *work = &s->work;
    for (*index = 0; *index < work->reference_count; (*index)++) {
        if (same_reference(&work->references[*index].reference, settings, text)) {
            return true;
        }
    }
    reference_task *larger = realloc(work->references, (*index + 1) * sizeof *larger);
    if (!larger) {
        return false;
    }
    work->references = larger;
    larger[*index] = (reference_task){.reference = {.settings = settings, .text = text}};
    snprintf(larger[*index].reference.path, sizeof larger->reference.path, "%.4000s/reference-%zu", s->scratch, *index);
    work->reference_count++;
    return true;
}

/* Points that do without KL divergence share one run of the reference for each text. */
static int plan_references(sweep *s)
{
    for (size_t i = 0; i < s->work.task_count; i++) {
        sweep_task *task = &s->work.tasks[i];
        const json_t *settings = task->point->settings, *texts = json_object_get(settings, "text");
        if (task->state != WORK_WAITING || task->twin != i || settings_switch(settings, "kl")) {
            continue;
        }
        task->references = calloc(json_array_size(texts) + 1, sizeof *task->references);
        for (size_t t = 0; t < json_array_size(texts); t++) {
            const char *text = json_string_value(json_array_get(texts, t));
            if (!task->references || !need_reference(s, settings, text, &task->references[t])) {
                return fail_input("out of memory");
            }
        }
    }
    return EXIT_DONE;
}

/* Bytes of memory of this machine that a sweep takes where nothing is said: four fifths. */
static uint64_t usual_memory(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 5 * 4 : UINT64_MAX;
}

/* Processes, threads and memory. A context tells how many threads this process may use; none may exist when a process
 * is forked. */
static int choose_limits(sweep *s)
{
    sqf_context *context;
    const int code = context_open(s->arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    s->work.threads = sqf_context_threads(context);
    sqf_context_destroy(context);
    const uint64_t jobs = arguments_count(s->arguments, "jobs");
    s->work.jobs = jobs ? (unsigned)jobs : s->work.threads;
    const double gigabytes = arguments_real(s->arguments, "memory");
    s->work.memory = gigabytes > 0 ? (uint64_t)(gigabytes * 1e9) : usual_memory();
    return EXIT_DONE;
}

static int make_directories(sweep *s)
{
    s->work.keep = arguments_text(s->arguments, "keep");
    if (s->work.keep && mkdir(s->work.keep, 0777) != 0 && errno != EEXIST) {
        return fail_input("%s: cannot create: %s", s->work.keep, strerror(errno));
    }
    /* one name for all sweeps of this file, of which the lock lets one run: what a killed one left goes away */
    snprintf(s->scratch, sizeof s->scratch, "%.4000s.sweep-scratch", s->store.path);
    remove_directory(s->scratch);
    if (mkdir(s->scratch, 0777) != 0) {
        fail_input("%s: cannot create: %s", s->scratch, strerror(errno));
        s->scratch[0] = '\0';
        return EXIT_BAD;
    }
    s->work.scratch = s->scratch;
    return EXIT_DONE;
}

/* MODEL, and --set KEY=VALUE. */
static int apply_given(sweep *s)
{
    const cli_arguments *arguments = s->arguments;
    int code = arguments->operand_count > 1 ? grid_file_set(&s->grid, "model", arguments->operands[1]) : EXIT_DONE;
    for (size_t i = 0; i < arguments->value_count && code == EXIT_DONE; i++) {
        char key[64];
        const option_value *value = &arguments->values[i];
        const char *equals = value->text ? strchr(value->text, '=') : NULL;
        if (strcmp(value->option->name, "set") != 0) {
            continue;
        }
        if (!equals || (size_t)(equals - value->text) >= sizeof key) {
            return fail_usage("--set %.100s: expected KEY=VALUE", value->text);
        }
        snprintf(key, sizeof key, "%.*s", (int)(equals - value->text), value->text);
        code = grid_file_set(&s->grid, key, equals + 1);
    }
    return code;
}

/* All that can be wrong before the first point. */
static int prepare(sweep *s)
{
    const cli_arguments *arguments = s->arguments;
    int code = grid_file_load(arguments->operands[0], &s->grid);
    if (code == EXIT_DONE) {
        code = apply_given(s);
    }
    if (code == EXIT_DONE) {
        code = grid_expand(&s->grid, &s->points);
    }
    if (code == EXIT_DONE) {
        code = choose_limits(s);
    }
    if (code == EXIT_DONE) {
        s->listed = s->points.count;
        s->work.tasks = calloc(s->points.count + 1, sizeof *s->work.tasks);
        code = s->work.tasks ? identify(s) : fail_input("out of memory");
    }
    if (code == EXIT_DONE) {
        code = store_open(arguments_text(arguments, "output"), arguments_given(arguments, "list"), &s->store);
    }
    return code;
}

/* What the file asks for, with what is there already. */
static int list_points(const sweep *s)
{
    json_t *list = json_array();
    for (size_t i = 0; i < s->work.task_count; i++) {
        const sweep_task *task = &s->work.tasks[i];
        const bool done = store_find(&s->store, task->id, NULL) != NULL;
        if (arguments_given(s->arguments, "json")) {
            json_t *row = json_object();
            json_object_set_new(row, "id", json_string(task->id));
            json_object_set_new(row, "grid", json_string_or_null(task->point->grid));
            json_object_set_new(row, "label", json_string_or_null(task->point->label));
            json_object_set_new(row, "done", json_boolean(done));
            json_object_set(row, "settings", task->point->settings);
            json_array_append_new(list, row);
        } else {
            printf("%s  %-7s  %s: %s\n", task->id, done ? "done" : "to do", task->point->grid, task->point->label);
        }
    }
    json_t *object = json_object();
    json_object_set(object, "points", list);
    json_decref(list);
    if (arguments_given(s->arguments, "json")) {
        return print_json(object);
    }
    json_decref(object);
    return EXIT_DONE;
}

static int measure(sweep *s)
{
    int code = sort_out(s);
    if (code != EXIT_DONE || s->to_do == 0) {
        return code;
    }
    code = make_directories(s);
    if (code == EXIT_DONE) {
        code = plan_references(s);
    }
    if (code == EXIT_DONE) {
        progress_show("points", 0, s->to_do);
        code = workers_run(&s->work);
    }
    return code;
}

static int print_summary(const sweep *s)
{
    if (arguments_given(s->arguments, "json")) {
        json_t *object = json_object();
        json_object_set_new(object, "results", json_string_or_null(s->store.path));
        json_object_set_new(object, "points", json_count(s->listed));
        json_object_set_new(object, "skipped", json_count(s->skipped));
        json_object_set_new(object, "copied", json_count(s->copied));
        json_object_set_new(object, "measured", json_count(s->measured));
        json_object_set_new(object, "failed", json_count(s->failed));
        print_json(object);
    } else if (!arguments_given(s->arguments, "quiet")) {
        printf("%s: %zu points, %zu of them done before, %zu copied from another grid, %zu measured, %zu failed\n",
               s->store.path, s->listed, s->skipped, s->copied, s->measured, s->failed);
    }
    return s->failed ? EXIT_BAD : EXIT_DONE;
}

static void clear(sweep *s)
{
    if (s->scratch[0]) {
        remove_directory(s->scratch);
    }
    for (size_t i = 0; i < s->work.task_count; i++) {
        free(s->work.tasks[i].references);
    }
    free(s->work.tasks);
    free(s->work.references);
    store_close(&s->store);
    sweep_points_clear(&s->points);
    grid_file_clear(&s->grid);
}

static int run_sweep(const cli_arguments *arguments)
{
    sweep s = {.arguments = arguments};
    s.work.finish = finish_task;
    s.work.user = &s;
    int code = prepare(&s);
    if (code == EXIT_DONE) {
        code = arguments_given(arguments, "list") ? list_points(&s) : measure(&s);
    }
    if (code == EXIT_DONE && !arguments_given(arguments, "list")) {
        code = print_summary(&s);
    }
    clear(&s);
    return code;
}

const cli_command *sweep_command(void)
{
    static const cli_option options[] = {
        {.name = "output",
         .letter = 'o',
         .kind = OPTION_TEXT,
         .required = true,
         .value = "RESULTS",
         .text = "file of results, one line of JSON a point; points that it holds are not measured again"},
        {.name = "set",
         .kind = OPTION_TEXT,
         .value = "KEY=VALUE",
         .text =
             "in place of all that the file says of a key, in every grid; given several times for one key: an axis"},
        {.name = "list", .text = "list the points and whether they are done; measure nothing"},
        {.name = "jobs",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "0",
         .most = 1024,
         .text = "points at a time, which share the threads; 0 = one for each thread"},
        {.name = "memory",
         .kind = OPTION_REAL,
         .value = "GB",
         .standard = "0",
         .high = 1e6,
         .text = "gigabytes that all points at a time may take; the first point of each model is measured alone and "
                 "decides how many fit; 0 = four fifths of the machine's"},
        {.name = "keep",
         .kind = OPTION_TEXT,
         .value = "DIR",
         .text = "keep the quantized models, each in a folder named by the id of its point"},
    };
    static const char *const examples[] = {"sqf sweep findings/scales.yaml -o scales.jsonl",
                                           "sqf sweep grid.yaml -o results.jsonl MODEL --jobs 4 --memory 16", NULL};
    static const cli_command command = {
        .name = "sweep",
        .operands = "GRID [MODEL]",
        .least_operands = 1,
        .most_operands = 2,
        .summary = "measure every point of a grid of settings, in parallel and resumable",
        .description =
            "Reads a grid file (YAML): keys of a recipe and of the measurement, where a list of values is an axis. All "
            "axes are crossed; grids: holds sections that add to the settings outside of them, points: lists settings "
            "one by one. docs/sweep.md describes all keys. MODEL takes the place of the file's model.\n\n"
            "    model: models/demo\n"
            "    calib: models/demo/text/calib.txt\n"
            "    length: 512\n"
            "    text: models/demo/text/eval.txt\n"
            "    window: 512\n"
            "    seed: [0, 1, 2]\n"
            "    calib_random: yes\n"
            "    grids:\n"
            "      - name: banks\n"
            "        scheme: 'W(SQ6)A16'\n"
            "        bank: [16, 32, 64]\n"
            "        sparsity: [0.5, 0.75]\n\n"
            "Each point is quantized, opened and evaluated in a process of its own. Its line holds id, grid, "
            "settings, recipe, seed, perplexity, difference and ratio to the model that was quantized with errors of "
            "the paired difference, kl, same_top, stored and equivalent bits, low_rate_share, predicted_cost, "
            "seconds, peak_memory_bytes and version. A point is the same if its settings, the program's version and "
            "the contents of its model and texts are: it is skipped, or copied where only its grid's name is new. A "
            "last line that was torn is dropped. A point that fails leaves a line with its error, the others go on; "
            "the exit code is 1 then, and the next run tries it again. sqf report makes tables and pictures of the "
            "results.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_sweep,
    };
    return &command;
}
