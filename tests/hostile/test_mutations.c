/* Random damage to every file of tiny models: the library succeeds, or says in one line why not. The program is most
 * useful under the address and undefined-behaviour sanitizers. SQF_MUTATIONS sets the number of damaged inputs,
 * SQF_TEST_SEED the first seed. */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#include "base/file.h"
#include "exercise.h"
#include "mutation.h"
#include "victim.h"

enum { FILES_MAX = 16, STANDARD_COUNT = 1000 };

/* A file of a victim, held in memory. */
typedef struct source {
    size_t kind; /* index of the victim's directory */
    char name[64];
    mutation_kind mutation;
    sqf_buffer bytes;
} source;

static source sources[VICTIM_KINDS * FILES_MAX];
static size_t source_count;

static mutation_kind kind_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && strcmp(dot, ".safetensors") == 0 ? MUTATE_SAFETENSORS
           : dot && strcmp(dot, ".json") == 0      ? MUTATE_JSON
                                                   : MUTATE_BYTES;
}

static bool is_read_by_library(const char *name)
{
    return name[0] != '.' && strcmp(name, "report.json") != 0 && strcmp(name, "recipe.yaml") != 0;
}

static void read_sources(const victim *v)
{
    sqf_error err = {0};
    for (size_t kind = 0; kind < VICTIM_KINDS; kind++) {
        DIR *directory = opendir(v->path[kind]);
        assert_non_null(directory);
        for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
            if (!is_read_by_library(entry->d_name)) {
                continue;
            }
            source *s = &sources[source_count++];
            char path[2 * VICTIM_PATH];
            s->kind = kind;
            s->mutation = kind_of(entry->d_name);
            snprintf(s->name, sizeof s->name, "%.60s", entry->d_name);
            snprintf(path, sizeof path, "%s/%.60s", v->path[kind], entry->d_name);
            assert_ok(sqf_file_read(path, 1 << 24, &s->bytes, &err), &err);
        }
        closedir(directory);
    }
}

/* Without the sync of sqf_file_write, which would take most of the time. */
static void write_bytes(const char *path, const sqf_buffer *bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes->data, 1, bytes->size, file), bytes->size);
    assert_int_equal(fclose(file), 0);
}

/* A directory of links to the victim's files, one of them replaced by damaged bytes. */
static void lay_out(const char *directory, const victim *v, const source *damaged, const sqf_buffer *bytes)
{
    for (size_t i = 0; i < source_count; i++) {
        char from[2 * VICTIM_PATH], to[2 * VICTIM_PATH];
        if (sources[i].kind != damaged->kind) {
            continue;
        }
        snprintf(from, sizeof from, "%s/%s", v->path[damaged->kind], sources[i].name);
        snprintf(to, sizeof to, "%s/%s", directory, sources[i].name);
        unlink(to);
        if (&sources[i] == damaged) {
            write_bytes(to, bytes);
        } else {
            assert_int_equal(symlink(from, to), 0);
        }
    }
}

static void clear_directory(const char *directory)
{
    for (size_t i = 0; i < source_count; i++) {
        char path[2 * VICTIM_PATH];
        snprintf(path, sizeof path, "%s/%s", directory, sources[i].name);
        unlink(path);
    }
}

/* Damage with one seed. A crash leaves the seed in the output: it is printed every time SQF_VERBOSE is set. */
static void try_seed(sqf_context *context, const victim *v, const char *directory, uint64_t seed,
                     exercise_counts *counts)
{
    sqf_random random = {.state = seed};
    sqf_buffer bytes;
    char scratch[VICTIM_PATH + 16];
    const size_t pick = (size_t)sqf_random_below(&random, source_count + 1);
    if (getenv("SQF_VERBOSE")) {
        fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed,
                pick < source_count ? sources[pick].name : "recipe.yaml");
    }
    if (pick == source_count) {
        mutate(MUTATE_BYTES, (const uint8_t *)victim_recipe, strlen(victim_recipe), &random, &bytes);
        exercise_recipe(bytes.data, bytes.size, counts);
        free(bytes.data);
        return;
    }
    const source *s = &sources[pick];
    const exercise_extra extra = (exercise_extra)sqf_random_below(&random, 4);
    mutate(s->mutation, (const uint8_t *)s->bytes.data, s->bytes.size, &random, &bytes);
    lay_out(directory, v, s, &bytes);
    free(bytes.data);
    snprintf(scratch, sizeof scratch, "%s/output", v->path[1]);
    exercise_directory(context, directory, v->path[0], scratch, extra, counts);
    clear_directory(directory);
}

static void test_random_damage_ends_in_one_line(void **state)
{
    const char *text = getenv("SQF_MUTATIONS");
    const unsigned long count = text ? strtoul(text, NULL, 0) : STANDARD_COUNT;
    const uint64_t seed = test_seed("mutations", 1);
    victim v;
    sqf_error err = {0};
    sqf_context *context;
    char directory[64];
    exercise_counts counts = {0};
    (void)state;
    victim_create(&v);
    read_sources(&v);
    make_scratch(directory);
    const sqf_context_options options = {.threads = 1};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    for (unsigned long i = 0; i < count; i++) {
        try_seed(context, &v, directory, seed + i, &counts);
        if (counts.broken > 0) {
            fail_msg("seed %llu: %s", (unsigned long long)(seed + i), counts.complaint);
        }
    }
    print_message("%lu damaged inputs: %lu calls fine, %lu refused\n", count, counts.fine, counts.refused);
    assert_true(counts.fine > 0 && counts.refused > count / 4);
    sqf_context_destroy(context);
    for (size_t i = 0; i < source_count; i++) {
        free(sources[i].bytes.data);
    }
    remove_scratch(directory);
    victim_remove(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_damage_ends_in_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
