/* A device: its stream, its workspace, and how kernels are launched. Internal to the backend. */
#ifndef SQF_KERNELS_CUDA_DEVICE_H
#define SQF_KERNELS_CUDA_DEVICE_H

#include "base/error.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.h"

/* Where the first bad activation of a pass stands; written by the quantizing kernels with atomicMin on `key`. */
typedef struct cuda_fault {
    unsigned long long key; /* UINT64_MAX = none; else token << 32 | channel */
} cuda_fault;

struct sqf_cuda_device {
    int index;
    cudaStream_t stream;
    sqf_cuda_info info;
    int arch;        /* major * 10 + minor: 80, 86, 89, 90, 100, 120 */
    void *workspace; /* grows by cuda_workspace; contents mean nothing between operations */
    size_t workspace_bytes;
    struct cuda_retired *retired; /* workspaces that grew while recorded graphs still pointed to them */
    size_t graphs;                /* recorded and not destroyed */
    bool capturing;
    cuda_fault *fault;    /* device memory */
    char fault_name[128]; /* layer of the input that was prepared last */
    cudaEvent_t marks[2];
    uint32_t *counters;         /* device memory, 0 between operations; made by gemv.cu when first needed */
    struct cuda_solver *solver; /* cuBLAS and cuSOLVER handles, made when first needed (hessian.cu) */
};

/* At least `bytes` of device->workspace. While a graph is recorded it must be large enough already: SQF_E_MEMORY. */
sqf_status cuda_workspace(sqf_cuda_device *device, size_t bytes, sqf_error *err);

/* The status of a CUDA call: "what: cudaGetErrorString". */
sqf_status cuda_check(cudaError_t error, const char *what, sqf_error *err);

#define CUDA_TRY(call, what) SQF_TRY(cuda_check((call), (what), err))

#endif
