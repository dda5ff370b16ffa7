/* Finding, loading and opening the CUDA backend. Messages say what is missing and what helps, because a machine without
 * a GPU, a driver or the library is the usual one. */
#define _GNU_SOURCE /* dladdr */

#include "device/device.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

#define LIBRARY "libsqf_cuda.so"

sqf_status sqf_device_parse(const char *text, int *index, sqf_error *err)
{
    *index = -1;
    if (strcmp(text, "cpu") == 0) {
        return SQF_OK;
    }
    if (strcmp(text, "cuda") == 0) {
        *index = 0;
        return SQF_OK;
    }
    const char *digits = strncmp(text, "cuda:", 5) == 0 ? text + 5 : "";
    const size_t length = strlen(digits);
    if (length < 1 || length > 4 || digits[strspn(digits, "0123456789")] != '\0') {
        return sqf_fail(err, SQF_E_ARG, "device: expected cpu, cuda or cuda:N, found \"%.80s\"", text);
    }
    *index = atoi(digits);
    return SQF_OK;
}

/* ---- the library ---- */

/* Opens DIRECTORY/MORE/libsqf_cuda.so where there is such a file. */
static sqf_status load_beside(const char *file, const char *more, void **library, sqf_error *err)
{
    char path[PATH_MAX];
    const char *slash = strrchr(file, '/');
    if (!slash || snprintf(path, sizeof path, "%.*s%s/" LIBRARY, (int)(slash - file), file, more) >= (int)sizeof path ||
        access(path, F_OK) != 0) {
        return SQF_OK;
    }
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return *library ? SQF_OK : sqf_fail(err, SQF_E_SUPPORT, "cuda: %s", dlerror());
}

/* Beside the file that holds this code (the program, or libsqf), in ../lib of it, then wherever the loader looks. */
static sqf_status find_library(void **library, sqf_error *err)
{
    char program[PATH_MAX] = "";
    Dl_info own;
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = '\0';
    const char *const files[] = {dladdr((const void *)LIBRARY, &own) && own.dli_fname ? own.dli_fname : "", program};
    static const char *const places[] = {"", "/../lib"};
    for (size_t i = 0; !*library && i < 4; i++) {
        SQF_TRY(load_beside(files[i / 2], places[i % 2], library, err));
    }
    if (!*library) {
        *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    }
    return *library ? SQF_OK
                    : sqf_fail(err, SQF_E_SUPPORT,
                               "cuda: " LIBRARY " not found beside the program, in ../lib or by the loader: `make "
                               "cuda` builds it, SQF_CUDA_LIBRARY names it elsewhere");
}

/* The library stays loaded until the process ends: the CUDA runtime does not survive being unloaded. */
static sqf_status load(void **library, const sqf_cuda_ops **ops, sqf_error *err)
{
    const char *asked = getenv("SQF_CUDA_LIBRARY");
    *library = NULL;
    if (asked && *asked) {
        *library = dlopen(asked, RTLD_NOW | RTLD_LOCAL);
        if (!*library) {
            return sqf_fail(err, SQF_E_SUPPORT, "cuda: SQF_CUDA_LIBRARY: %s", dlerror());
        }
    } else {
        SQF_TRY(find_library(library, err));
    }
    const sqf_cuda_ops *(*operations)(void) = NULL;
    void *symbol = dlsym(*library, "sqf_cuda_operations");
    if (!symbol) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda: %s: not a backend of sqf: it exports no sqf_cuda_operations",
                        asked && *asked ? asked : LIBRARY);
    }
    memcpy(&operations, &symbol, sizeof operations);
    *ops = operations();
    if ((*ops)->version != SQF_CUDA_OPS_VERSION) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda: %s: expected version %d, found %" PRIu32 ": build it again",
                        asked && *asked ? asked : LIBRARY, (int)SQF_CUDA_OPS_VERSION, (*ops)->version);
    }
    return SQF_OK;
}

/* ---- the device ---- */

/* What hides devices is said where one is missing. */
static sqf_status check_count(const sqf_cuda_ops *ops, int index, sqf_error *err)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char hint[128] = "";
    int count = 0;
    if (visible) {
        snprintf(hint, sizeof hint, " (CUDA_VISIBLE_DEVICES is \"%.60s\")", visible);
    }
    const sqf_status status = ops->count(&count, err);
    if (status != SQF_OK) {
        char text[SQF_ERROR_TEXT] = "";
        if (err) {
            snprintf(text, sizeof text, "%s", err->text);
        }
        return sqf_fail(err, status, "%s%s%s", strncmp(text, "cuda", 4) == 0 ? "" : "cuda: ", text, hint);
    }
    if (count == 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda: no device found%s", hint);
    }
    if (index >= count) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda:%d: no such device, found %d%s: cuda:0%s", index, count,
                        count == 1 ? "" : " of them", hint);
    }
    return SQF_OK;
}

static void describe(sqf_device *device)
{
    const sqf_cuda_info *info = &device->info;
    snprintf(device->description, sizeof device->description, "%s: %.200s, compute capability %d.%d, %.1f GB, %.60s",
             device->name, info->name, info->major, info->minor, (double)info->total_bytes * 1e-9,
             device->ops->description);
}

static sqf_status open_device(sqf_device *device, int index, sqf_error *err)
{
    const char *graphs = getenv("SQF_CUDA_GRAPHS");
    device->graphs = !(graphs && strcmp(graphs, "0") == 0);
    snprintf(device->name, sizeof device->name, "cuda:%d", index);
    SQF_TRY(load(&device->library, &device->ops, err));
    SQF_TRY(check_count(device->ops, index, err));
    SQF_TRY(device->ops->open(index, &device->cuda, err));
    SQF_TRY(device->ops->info(device->cuda, &device->info, err));
    describe(device);
    return SQF_OK;
}

sqf_status sqf_device_open(int index, sqf_device **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "device", err));
    const sqf_status status = open_device(*out, index, err);
    if (status != SQF_OK) {
        sqf_device_close(*out);
        *out = NULL;
    }
    return status;
}

void sqf_device_close(sqf_device *device)
{
    if (device) {
        if (device->cuda) {
            device->ops->close(device->cuda);
        }
        free(device);
    }
}

sqf_status sqf_device_refuse(const sqf_context *context, const char *what, sqf_error *err)
{
    return !context->device ? SQF_OK
                            : sqf_fail(err, SQF_E_SUPPORT, "%s: runs on the CPU alone, found a context on %s", what,
                                       context->device->name);
}

/* ---- memory ---- */

sqf_status sqf_device_plan_check(const sqf_device *device, const sqf_device_plan *plan, sqf_error *err)
{
    const uint64_t need = plan->weights + plan->cache + plan->buffers;
    sqf_cuda_info info;
    SQF_TRY(device->ops->info(device->cuda, &info, err));
    if (need <= info.free_bytes) {
        return SQF_OK;
    }
    /* All in one unit, so that the sums can be checked by eye. */
    const bool large = need >= 1000000000;
    const double unit = large ? 1e-9 : 1e-6;
    return sqf_fail(err, SQF_E_MEMORY,
                    "%s: needs %.1f %s (weights %.1f, KV cache %.1f, buffers %.1f), %.1f %s are free: %.1f %s short",
                    device->name, (double)need * unit, large ? "GB" : "MB", (double)plan->weights * unit,
                    (double)plan->cache * unit, (double)plan->buffers * unit, (double)info.free_bytes * unit,
                    large ? "GB" : "MB", (double)(need - info.free_bytes) * unit, large ? "GB" : "MB");
}

sqf_status sqf_device_alloc(const sqf_device *device, void **out, size_t count, size_t size, const char *what,
                            sqf_error *err)
{
    size_t bytes;
    *out = NULL;
    if (!sqf_mul_size(&bytes, count, size)) {
        return sqf_fail(err, SQF_E_MEMORY, "%s: %zu elements are too many", what, count);
    }
    const sqf_status status = device->ops->allocate(device->cuda, bytes > 0 ? bytes : 1, out, err);
    return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, what);
}

sqf_status sqf_device_place(const sqf_device *device, void **out, const void *from, size_t count, size_t size,
                            const char *what, sqf_error *err)
{
    SQF_TRY(sqf_device_alloc(device, out, count, size, what, err));
    const sqf_status status = device->ops->upload(device->cuda, *out, from, count * size, err);
    if (status != SQF_OK) {
        sqf_device_release(device, *out);
        *out = NULL;
    }
    return status;
}

void sqf_device_release(const sqf_device *device, void *memory)
{
    if (memory) {
        device->ops->release(device->cuda, memory);
    }
}
