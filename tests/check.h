/* What every unit-test program shares: cmocka with its headers, scratch directories, the shared data folder. */
#ifndef SQF_TESTS_CHECK_H
#define SQF_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <sqf/status.h>

/* The call must succeed; otherwise its sentence is printed. */
#define assert_ok(call, err)                                                                                           \
    do {                                                                                                               \
        const sqf_status status_ = (call);                                                                             \
        if (status_ != SQF_OK) {                                                                                       \
            fail_msg("%s: %s: %s", #call, sqf_status_name(status_), (err)->text);                                      \
        }                                                                                                              \
    } while (0)

/* The call must fail with this status and a message that holds `part`. */
#define assert_fails(call, expected, err, part)                                                                        \
    do {                                                                                                               \
        memset((err), 0, sizeof *(err));                                                                               \
        const sqf_status status_ = (call);                                                                             \
        if (status_ != (expected) || !strstr((err)->text, (part)) || strchr((err)->text, '\n')) {                      \
            fail_msg("%s: found %s \"%s\", expected %s \"...%s...\"", #call, sqf_status_name(status_), (err)->text,    \
                     sqf_status_name(expected), (part));                                                               \
        }                                                                                                              \
    } while (0)

/* A fresh scratch directory; `path` must hold 64 bytes. Removed by remove_scratch. */
static inline void make_scratch(char path[64])
{
    snprintf(path, 64, "/tmp/sqf-test-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static inline void remove_scratch(const char *path)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

/* "SOURCE/../shared/NAME" if it exists, else false: the test is to be skipped. */
static inline bool find_shared(const char *name, char *path, size_t room)
{
    snprintf(path, room, "%s/../shared/%s", SQF_SOURCE_DIR, name);
    return access(path, R_OK) == 0;
}

/* The seed of a randomised test: SQF_TEST_SEED, else the given one; printed, so that a failure can be repeated. */
static inline uint64_t test_seed(const char *name, uint64_t standard)
{
    const char *text = getenv("SQF_TEST_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 0) : standard;
    print_message("%s: SQF_TEST_SEED=%llu\n", name, (unsigned long long)seed);
    return seed;
}

#endif
