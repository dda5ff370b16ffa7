/* Emulation of CUDA on the host: the runtime's functions. */
#include "kernels/cuda/emulation/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

struct emulated_graph {
    std::vector<std::function<void()>> work;
};

struct emulated_graph_exec {
    std::vector<std::function<void()>> work;
};

struct emulated_stream {
    std::unique_ptr<emulated_graph> recording;
    bool invalid; /* something that waits or allocates was called while recording */
    int device;
};

struct emulated_event {
    double seconds;
};

namespace
{

std::mutex lock;
std::map<void *, size_t> allocated;
size_t allocated_bytes;
thread_local cudaError_t last_error;
thread_local int recording_streams;
thread_local int current_device;

cudaError_t note(cudaError_t error)
{
    if (error != cudaSuccess) {
        last_error = error;
    }
    return error;
}

long long setting(const char *name, long long otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoll(text, NULL, 10) : otherwise;
}

/* Shared memory that one block may use at most. */
int block_shared_bytes(int arch)
{
    return (arch == 80 || arch == 87 ? 163 : arch == 90 || arch == 100 ? 227 : 99) * 1024;
}

size_t device_bytes(void)
{
    return (size_t)setting("SQF_EMULATION_MEMORY", 8ll << 30);
}

} // namespace

int emulated_arch(void)
{
    return (int)setting("SQF_EMULATION_ARCH", 80);
}

/* ---- errors ---- */

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error)
{
    return cudaGetErrorString(error);
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

/* ---- devices ---- */

/* SQF_EMULATION_DEVICES devices, of which CUDA_VISIBLE_DEVICES leaves those up to its first wrong number. */
cudaError_t cudaGetDeviceCount(int *count)
{
    const long long devices = setting("SQF_EMULATION_DEVICES", 1);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    *count = (int)devices;
    if (visible) {
        *count = 0;
        char *end;
        for (const char *c = visible; *c; c = *end ? end + 1 : end) {
            const long index = strtol(c, &end, 10);
            if (end == c || index < 0 || index >= devices) {
                break;
            }
            ++*count;
        }
    }
    return note(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    int count;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || device < 0 || device >= count) {
        return note(error != cudaSuccess ? error : cudaErrorInvalidDevice);
    }
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    int count;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || device < 0 || device >= count) {
        return note(error != cudaSuccess ? error : cudaErrorInvalidDevice);
    }
    const int arch = emulated_arch();
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "emulated sm_%d", arch);
    properties->totalGlobalMem = device_bytes();
    properties->sharedMemPerBlock = 48 * 1024;
    properties->sharedMemPerBlockOptin = (size_t)block_shared_bytes(arch);
    properties->sharedMemPerMultiprocessor = (size_t)block_shared_bytes(arch) + 1024;
    properties->major = arch / 10;
    properties->minor = arch % 10;
    properties->multiProcessorCount = (int)setting("SQF_EMULATION_MULTIPROCESSORS", 4);
    properties->l2CacheSize = 4 << 20;
    properties->memoryBusWidth = 64;
    properties->maxThreadsPerBlock = 1024;
    properties->warpSize = EMULATED_WARP;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
        return error;
    }
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)properties.sharedMemPerBlock; break;
    case cudaDevAttrClockRate: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMemoryClockRate: *value = 0; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = properties.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)properties.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)properties.sharedMemPerBlockOptin; break;
    }
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    return note(recording_streams ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    const std::lock_guard<std::mutex> guard(lock);
    *total = device_bytes();
    *free = *total > allocated_bytes ? *total - allocated_bytes : 0;
    return cudaSuccess;
}

cudaError_t emulated_malloc(void **out, size_t bytes)
{
    const std::lock_guard<std::mutex> guard(lock);
    *out = NULL;
    if (recording_streams) {
        return note(cudaErrorStreamCaptureUnsupported);
    }
    if (bytes == 0) {
        return cudaSuccess;
    }
    if (bytes > device_bytes() || allocated_bytes > device_bytes() - bytes || posix_memalign(out, 256, bytes)) {
        *out = NULL;
        return note(cudaErrorMemoryAllocation);
    }
    memset(*out, 0xff, bytes); /* NaN: what nobody wrote shall not look like a number */
    allocated[*out] = bytes;
    allocated_bytes += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    const std::lock_guard<std::mutex> guard(lock);
    if (!memory) {
        return cudaSuccess;
    }
    const auto found = allocated.find(memory);
    if (found == allocated.end()) {
        return note(cudaErrorInvalidValue);
    }
    allocated_bytes -= found->second;
    allocated.erase(found);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    return cudaFree(memory);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind)
{
    if (recording_streams) {
        return note(cudaErrorStreamCaptureUnsupported);
    }
    memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream)
{
    return emulated_enqueue(stream, [=]() { memmove(to, from, bytes); });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream)
{
    return emulated_enqueue(stream, [=]() {
        for (size_t i = 0; i < height; i++) {
            memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
        }
    });
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    return emulated_enqueue(NULL, [=]() { memset(memory, value, bytes); });
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    return emulated_enqueue(stream, [=]() { memset(memory, value, bytes); });
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    *stream = new emulated_stream();
    (*stream)->device = current_device;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    return cudaStreamCreate(stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (stream && stream->recording) {
        stream->invalid = true;
        return note(cudaErrorStreamCaptureUnsupported);
    }
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess;
}

cudaError_t emulated_enqueue(cudaStream_t stream, std::function<void()> work)
{
    if (stream && stream->device != current_device) {
        return note(cudaErrorInvalidResourceHandle);
    }
    if (stream && stream->recording) {
        stream->recording->work.push_back(std::move(work));
    } else {
        work();
    }
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (!stream || stream->recording) {
        return note(cudaErrorStreamCaptureUnsupported);
    }
    stream->recording.reset(new emulated_graph());
    stream->invalid = false;
    recording_streams++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = NULL;
    if (!stream || !stream->recording) {
        return note(cudaErrorInvalidValue);
    }
    recording_streams--;
    std::unique_ptr<emulated_graph> recorded = std::move(stream->recording);
    if (stream->invalid) {
        return note(cudaErrorStreamCaptureInvalidated);
    }
    *graph = recorded.release();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new emulated_event();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return emulated_enqueue(stream, [=]() {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    *milliseconds = (float)(1e3 * (end->seconds - begin->seconds));
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new emulated_graph_exec{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    for (const std::function<void()> &work : exec->work) {
        emulated_enqueue(stream, work);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

/* ---- kernels ---- */

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute attribute, int value)
{
    const bool fits = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize ||
                      (value >= 0 && value <= block_shared_bytes(emulated_arch()));
    return note(fits ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t emulated_check_launch(dim3 grid, dim3 block, size_t shared)
{
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    const bool grid_fits =
        grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535;
    if (!grid_fits || threads == 0 || threads > 1024 || block.z > 64) {
        return note(cudaErrorInvalidConfiguration);
    }
    return note(shared <= (size_t)block_shared_bytes(emulated_arch()) ? cudaSuccess : cudaErrorInvalidValue);
}
