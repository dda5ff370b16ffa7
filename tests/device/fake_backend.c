/* A CUDA backend that has no GPU, as SQF_FAKE says: "version" (that of another library), "driver" (none is installed),
 * "none" (no device) or "one" (a device that cannot be opened). */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/ops.h"

static sqf_status fail(sqf_error *err, const char *text)
{
    err->status = SQF_E_SUPPORT;
    strcpy(err->text, text);
    return SQF_E_SUPPORT;
}

static const char *wanted(void)
{
    const char *text = getenv("SQF_FAKE");
    return text ? text : "";
}

static sqf_status count(int *devices, sqf_error *err)
{
    *devices = strcmp(wanted(), "one") == 0;
    return strcmp(wanted(), "driver") == 0 ? fail(err, "cuda: no NVIDIA driver is installed") : SQF_OK;
}

static sqf_status open_none(int index, sqf_cuda_device **out, sqf_error *err)
{
    (void)index;
    *out = NULL;
    return fail(err, "cuda: opening the device: busy");
}

__attribute__((visibility("default"))) const sqf_cuda_ops *sqf_cuda_operations(void)
{
    static sqf_cuda_ops ops = {.description = "nothing", .count = count, .open = open_none};
    ops.version = strcmp(wanted(), "version") == 0 ? SQF_CUDA_OPS_VERSION + 1 : SQF_CUDA_OPS_VERSION;
    return &ops;
}
