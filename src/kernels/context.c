/* Contexts: threads, kernel level, device, counts, and what the library says of itself (version, BLAS). This is the one
 * place where the number of threads, the kernels and the device are chosen; everything below takes them as given. It
 * stands in this folder because it must know the kernel tables; the struct itself is declared in base/context.h. */
#define _GNU_SOURCE /* sched_getaffinity */

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <cblas.h>

#include "base/context.h"
#include "base/memory.h"
#include "device/device.h"
#include "kernels/dispatch.h"

#define TEXT_OF(x)                        #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

sqf_context_options sqf_context_options_default(void)
{
    return (sqf_context_options){0};
}

/* Processors that this process may run on, at least 1: the affinity mask, which containers and taskset set, and not
 * the number of processors of the machine. More than CPU_SETSIZE (1024) processors give 1; --threads then helps. */
static unsigned available_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    const int count = CPU_COUNT(&set);
    return count > 0 ? (unsigned)count : 1;
}

/* The table that the caller asked for, else the one of the environment variable SQF_CPU, else the best. A level that
 * is missing is an error and not a fallback: a test that asks for avx2 must not pass on scalar. `asked` may be NULL. */
static sqf_status choose_kernels(const char *asked, const sqf_kernels **out, sqf_error *err)
{
    const char *source = "cpu level";
    if (!asked) {
        asked = getenv("SQF_CPU");
        source = "SQF_CPU";
        if (asked && !*asked) {
            asked = NULL; /* set but empty counts as not set */
        }
    }
    *out = sqf_kernels_find(asked);
    if (*out) {
        return SQF_OK;
    }
    char possible[128] = "";
    for (const char *const *name = sqf_cpu_levels(); *name; name++) {
        const size_t used = strlen(possible);
        snprintf(possible + used, sizeof possible - used, "%s%s", used ? ", " : "", *name);
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: \"%s\" is not available here, expected one of: %s", source, asked,
                    possible);
}

/* The device that the caller asked for, else that of the environment variable SQF_DEVICE, else none. */
static sqf_status open_device(const char *asked, sqf_device **out, sqf_error *err)
{
    int index;
    *out = NULL;
    if (!asked) {
        asked = getenv("SQF_DEVICE");
        if (!asked || !*asked) {
            return SQF_OK;
        }
    }
    SQF_TRY(sqf_device_parse(asked, &index, err));
    return index < 0 ? SQF_OK : sqf_device_open(index, out, err);
}

sqf_status sqf_context_create(const sqf_context_options *options, sqf_context **out, sqf_error *err)
{
    *out = NULL;
    const sqf_kernels *kernels;
    SQF_TRY(choose_kernels(options ? options->cpu : NULL, &kernels, err));
    sqf_context *context;
    SQF_TRY(SQF_ALLOC(&context, 1, "context", err));
    context->time_left = -1.0;
    context->options = options ? *options : sqf_context_options_default();
    context->kernels = kernels;
    context->options.cpu = kernels->name; /* the caller's string need not live on */
    const unsigned threads = context->options.threads ? context->options.threads : available_processors();
    sqf_status status = sqf_pool_create(threads, &context->pool, err);
    if (status == SQF_OK) {
        status = open_device(context->options.device, &context->device, err);
        context->options.device = NULL; /* nor need this one */
    }
    if (status != SQF_OK) {
        sqf_context_destroy(context);
        return status;
    }
    /* For the whole process, as documented: OpenBLAS cuts its sums by its number of threads, and ours call it in
     * parallel. */
    openblas_set_num_threads(1);
    *out = context;
    return SQF_OK;
}

void sqf_context_destroy(sqf_context *context)
{
    if (context) {
        sqf_device_close(context->device);
        sqf_pool_destroy(context->pool);
        free(context);
    }
}

unsigned sqf_context_threads(const sqf_context *context)
{
    return sqf_pool_threads(context->pool);
}

const char *sqf_context_cpu(const sqf_context *context)
{
    return context->kernels->name;
}

const char *sqf_context_device(const sqf_context *context)
{
    return context->device ? context->device->description : "cpu";
}

const char *sqf_context_device_name(const sqf_context *context)
{
    return context->device ? context->device->name : "cpu";
}

sqf_product_counts sqf_context_products(const sqf_context *context)
{
    return context->products;
}

void sqf_context_products_reset(sqf_context *context)
{
    context->products = (sqf_product_counts){0};
}

const char *sqf_version(void)
{
    return VERSION_TEXT(SQF_VERSION_MAJOR, SQF_VERSION_MINOR, SQF_VERSION_PATCH);
}

const char *sqf_blas_description(void)
{
    return openblas_get_config();
}
