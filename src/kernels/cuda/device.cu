/* The device itself: opening, memory, copies, recorded graphs, time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/operations.h"

struct sqf_cuda_graph {
    cudaGraphExec_t exec;
};

/* A workspace that a graph may still use. */
struct cuda_retired {
    void *memory;
    struct cuda_retired *next;
};

sqf_status cuda_check(cudaError_t error, const char *what, sqf_error *err)
{
    if (error == cudaSuccess) {
        return SQF_OK;
    }
    (void)cudaGetLastError(); /* reported: the next call shall not meet it again */
    return sqf_fail(err, error == cudaErrorMemoryAllocation ? SQF_E_MEMORY : SQF_E_SUPPORT, "%s: %s", what,
                    cudaGetErrorString(error));
}

/* ---- opening ---- */

sqf_status cuda_count(int *devices, sqf_error *err)
{
    *devices = 0;
    const cudaError_t error = cudaGetDeviceCount(devices);
    if (error == cudaSuccess && *devices > 0) {
        return SQF_OK;
    }
    *devices = 0;
    (void)cudaGetLastError();
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    if (error == cudaErrorInsufficientDriver && driver == 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda: no NVIDIA driver is installed");
    }
    if (error == cudaErrorInsufficientDriver) {
        int runtime = 0;
        (void)cudaRuntimeGetVersion(&runtime);
        return sqf_fail(err, SQF_E_SUPPORT, "cuda: the NVIDIA driver knows CUDA %d.%d, this library needs %d.%d",
                        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    return sqf_fail(err, SQF_E_SUPPORT, "cuda: %s",
                    error == cudaSuccess || error == cudaErrorNoDevice ? "no device found" : cudaGetErrorString(error));
}

/* An attribute that may be unknown: 0 then. */
static int attribute(cudaDeviceAttr which, int index)
{
    int value = 0;
    if (cudaDeviceGetAttribute(&value, which, index) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return value;
}

static sqf_status read_info(int index, sqf_cuda_info *info, sqf_error *err)
{
    cudaDeviceProp properties;
    CUDA_TRY(cudaGetDeviceProperties(&properties, index), "cuda: reading the device's properties");
    snprintf(info->name, sizeof info->name, "%s", properties.name);
    info->major = properties.major;
    info->minor = properties.minor;
    info->multiprocessors = properties.multiProcessorCount;
    info->clock_khz = attribute(cudaDevAttrClockRate, index);
    info->memory_clock_khz = attribute(cudaDevAttrMemoryClockRate, index);
    info->memory_bus_bits = properties.memoryBusWidth;
    info->l2_bytes = properties.l2CacheSize;
    info->shared_bytes = properties.sharedMemPerBlockOptin;
    info->total_bytes = properties.totalGlobalMem;
    CUDA_TRY(cudaDriverGetVersion(&info->driver_version), "cuda: reading the driver's version");
    CUDA_TRY(cudaRuntimeGetVersion(&info->runtime_version), "cuda: reading the runtime's version");
    info->native_int4 = info->major == 8;
#ifndef __CUDACC__
    info->emulated = true;
#endif
    return SQF_OK;
}

static sqf_status open_device(sqf_cuda_device *device, sqf_error *err)
{
    CUDA_TRY(cudaSetDevice(device->index), "cuda: opening the device");
    SQF_TRY(read_info(device->index, &device->info, err));
    device->arch = device->info.major * 10 + device->info.minor;
    if (device->arch < 80) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda:%d: %s has compute capability %d.%d, expected 8.0 or later",
                        device->index, device->info.name, device->info.major, device->info.minor);
    }
    CUDA_TRY(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking), "cuda: making a stream");
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaEventCreate(&device->marks[i]), "cuda: making an event");
    }
    CUDA_TRY(cudaMalloc(&device->fault, sizeof *device->fault), "cuda: the place of errors");
    CUDA_TRY(cudaMemsetAsync(device->fault, 0xff, sizeof *device->fault, device->stream), "cuda: the place of errors");
    return SQF_OK;
}

sqf_status cuda_open(int index, sqf_cuda_device **out, sqf_error *err)
{
    int count;
    *out = NULL;
    SQF_TRY(cuda_count(&count, err));
    if (index < 0 || index >= count) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuda:%d: no such device, found %d", index, count);
    }
    sqf_cuda_device *device = (sqf_cuda_device *)calloc(1, sizeof *device);
    if (!device) {
        return sqf_fail(err, SQF_E_MEMORY, "cuda:%d: no memory for a device", index);
    }
    device->index = index;
    const sqf_status status = open_device(device, err);
    if (status != SQF_OK) {
        cuda_close(device);
        return status;
    }
    *out = device;
    return SQF_OK;
}

static void free_retired(sqf_cuda_device *device)
{
    while (device->retired) {
        struct cuda_retired *next = device->retired->next;
        (void)cudaFree(device->retired->memory);
        free(device->retired);
        device->retired = next;
    }
}

void cuda_close(sqf_cuda_device *device)
{
    if (!device) {
        return;
    }
    (void)cudaSetDevice(device->index);
    if (device->stream) {
        (void)cudaStreamSynchronize(device->stream);
    }
    cuda_solver_destroy(device->solver);
    free_retired(device);
    (void)cudaFree(device->workspace);
    (void)cudaFree(device->fault);
    (void)cudaFree(device->counters);
    for (int i = 0; i < 2; i++) {
        if (device->marks[i]) {
            (void)cudaEventDestroy(device->marks[i]);
        }
    }
    if (device->stream) {
        (void)cudaStreamDestroy(device->stream);
    }
    free(device);
}

sqf_status cuda_info(sqf_cuda_device *device, sqf_cuda_info *out, sqf_error *err)
{
    size_t total;
    CUDA_TRY(cudaMemGetInfo(&device->info.free_bytes, &total), "cuda: asking for free memory");
    *out = device->info;
    return SQF_OK;
}

/* ---- memory ---- */

sqf_status cuda_allocate(sqf_cuda_device *device, size_t bytes, void **out, sqf_error *err)
{
    *out = NULL;
    if (device->capturing) {
        return sqf_fail(err, SQF_E_MEMORY, "cuda:%d: memory of %zu bytes was asked for while a graph is recorded",
                        device->index, bytes);
    }
    const cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total;
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&free_bytes, &total);
        return sqf_fail(err, SQF_E_MEMORY, "cuda:%d: %zu bytes of device memory were asked for, %zu are free",
                        device->index, bytes, free_bytes);
    }
    return cuda_check(error, "cuda: device memory", err);
}

void cuda_release(sqf_cuda_device *, void *memory)
{
    (void)cudaFree(memory);
}

/* The workspace before stays where recorded graphs may use it. */
static sqf_status retire_workspace(sqf_cuda_device *device, sqf_error *err)
{
    if (device->graphs == 0 || !device->workspace) {
        CUDA_TRY(cudaFree(device->workspace), "cuda: the workspace"); /* waits for those that use it */
    } else {
        struct cuda_retired *retired = (struct cuda_retired *)malloc(sizeof *retired);
        if (!retired) {
            return sqf_fail(err, SQF_E_MEMORY, "cuda:%d: no memory for a workspace", device->index);
        }
        *retired = {device->workspace, device->retired};
        device->retired = retired;
    }
    device->workspace = NULL;
    device->workspace_bytes = 0;
    return SQF_OK;
}

sqf_status cuda_workspace(sqf_cuda_device *device, size_t bytes, sqf_error *err)
{
    if (bytes <= device->workspace_bytes) {
        return SQF_OK;
    }
    if (device->capturing) {
        return sqf_fail(err, SQF_E_MEMORY, "cuda:%d: a recorded graph needs a workspace of %zu bytes, found %zu",
                        device->index, bytes, device->workspace_bytes);
    }
    SQF_TRY(retire_workspace(device, err));
    SQF_TRY(cuda_allocate(device, bytes, &device->workspace, err));
    device->workspace_bytes = bytes;
    return SQF_OK;
}

sqf_status cuda_upload(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err)
{
    return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->stream), "cuda: upload", err);
}

sqf_status cuda_download(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream), "cuda: download");
    return cuda_check(cudaStreamSynchronize(device->stream), "cuda: download", err);
}

sqf_status cuda_copy(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err)
{
    return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device->stream), "cuda: copy", err);
}

sqf_status cuda_clear(sqf_cuda_device *device, void *memory, size_t bytes, sqf_error *err)
{
    return cuda_check(cudaMemsetAsync(memory, 0, bytes, device->stream), "cuda: clear", err);
}

/* ---- waiting ---- */

sqf_status cuda_finish(sqf_cuda_device *device, sqf_error *err)
{
    cuda_fault fault;
    SQF_TRY(cuda_download(device, &fault, device->fault, sizeof fault, err));
    if (fault.key == UINT64_MAX) {
        return SQF_OK;
    }
    CUDA_TRY(cudaMemsetAsync(device->fault, 0xff, sizeof fault, device->stream), "cuda: the place of errors");
    return sqf_fail(err, SQF_E_VALUE, "%s: input of token %llu, channel %llu is not a finite number",
                    device->fault_name, fault.key >> 32, fault.key & 0xffffffffu);
}

sqf_status cuda_mark(sqf_cuda_device *device, int which, sqf_error *err)
{
    if (which < 0 || which > 1) {
        return sqf_fail(err, SQF_E_ARG, "mark: expected 0 or 1, found %d", which);
    }
    return cuda_check(cudaEventRecord(device->marks[which], device->stream), "cuda: a mark", err);
}

sqf_status cuda_elapsed(sqf_cuda_device *device, double *seconds, sqf_error *err)
{
    float milliseconds = 0.0f;
    *seconds = 0.0;
    CUDA_TRY(cudaEventSynchronize(device->marks[1]), "cuda: waiting for a mark");
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, device->marks[0], device->marks[1]), "cuda: time between marks");
    *seconds = 1e-3 * milliseconds;
    return SQF_OK;
}

/* ---- graphs ---- */

sqf_status cuda_graph_begin(sqf_cuda_device *device, sqf_error *err)
{
    if (device->capturing) {
        return sqf_fail(err, SQF_E_ARG, "cuda:%d: a graph is being recorded already", device->index);
    }
    CUDA_TRY(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal), "cuda: recording a graph");
    device->capturing = true;
    return SQF_OK;
}

sqf_status cuda_graph_end(sqf_cuda_device *device, sqf_cuda_graph **out, sqf_error *err)
{
    cudaGraph_t recorded = NULL;
    *out = NULL;
    if (!device->capturing) {
        return sqf_fail(err, SQF_E_ARG, "cuda:%d: no graph is being recorded", device->index);
    }
    device->capturing = false;
    CUDA_TRY(cudaStreamEndCapture(device->stream, &recorded), "cuda: recording a graph");
    sqf_cuda_graph *graph = (sqf_cuda_graph *)calloc(1, sizeof *graph);
    sqf_status status = graph ? SQF_OK : sqf_fail(err, SQF_E_MEMORY, "cuda:%d: no memory for a graph", device->index);
    if (graph) {
        status = cuda_check(cudaGraphInstantiate(&graph->exec, recorded, 0), "cuda: making a graph", err);
    }
    (void)cudaGraphDestroy(recorded);
    if (status != SQF_OK) {
        free(graph);
        return status;
    }
    device->graphs++;
    *out = graph;
    return SQF_OK;
}

sqf_status cuda_graph_run(sqf_cuda_device *device, sqf_cuda_graph *graph, sqf_error *err)
{
    return cuda_check(cudaGraphLaunch(graph->exec, device->stream), "cuda: running a graph", err);
}

void cuda_graph_destroy(sqf_cuda_device *device, sqf_cuda_graph *graph)
{
    if (!graph) {
        return;
    }
    (void)cudaStreamSynchronize(device->stream);
    (void)cudaGraphExecDestroy(graph->exec);
    free(graph);
    device->graphs--;
    if (device->graphs == 0) {
        free_retired(device);
    }
}
