/* The device of a context: the CPU, or a GPU by way of the CUDA backend (kernels/cuda/ops.h), which is a shared library
 * of its own and loaded when it is asked for. Below the kernels: a context opens its device. */
#ifndef SQF_DEVICE_DEVICE_H
#define SQF_DEVICE_DEVICE_H

#include "base/context.h"
#include "kernels/cuda/ops.h"

/* An opened GPU. Owned by its context; one host thread at a time. */
typedef struct sqf_device {
    const sqf_cuda_ops *ops;
    sqf_cuda_device *cuda; /* what the operations take */
    sqf_cuda_info info;    /* as it was when the device was opened: free_bytes changes */
    char name[16];         /* "cuda:0" */
    char description[384]; /* "cuda:0: NVIDIA H100 80GB HBM3, compute capability 9.0, 85.0 GB, CUDA 13.0" */
    void *library;
    bool slow;   /* a layer was made that runs without tensor instructions, and that was said */
    bool graphs; /* decoding steps are recorded and replayed; SQF_CUDA_GRAPHS=0 turns it off */
} sqf_device;

/* What the name of a device says: "cpu" (-1), "cuda" (0), "cuda:N" (N). SQF_E_ARG with a line that names what was found
 * and what is possible. */
sqf_status sqf_device_parse(const char *text, int *index, sqf_error *err);

/* Loads the library, once more for each device, and opens GPU `index`. SQF_E_SUPPORT where there is no library, one of
 * another version, no driver or no such device: the line says which and what helps. */
sqf_status sqf_device_open(int index, sqf_device **out, sqf_error *err);
void sqf_device_close(sqf_device *device);

/* SQF_E_SUPPORT where `what` computes on the CPU alone and the context's models are on a device. */
sqf_status sqf_device_refuse(const sqf_context *context, const char *what, sqf_error *err);

/* What a computation will take of the device's memory, in bytes. */
typedef struct sqf_device_plan {
    uint64_t weights, cache, buffers;
} sqf_device_plan;

/* SQF_E_MEMORY if more is needed than is free: "cuda:0: needs 17.3 GB (weights 15.9, KV cache 1.1, buffers 0.3), 15.2
 * GB are free: 2.1 GB short". */
sqf_status sqf_device_plan_check(const sqf_device *device, const sqf_device_plan *plan, sqf_error *err);

/* Device memory of count * size bytes; *out is NULL after a failure, which names `what`. */
sqf_status sqf_device_alloc(const sqf_device *device, void **out, size_t count, size_t size, const char *what,
                            sqf_error *err);
/* The same filled with count * size bytes of the host. */
sqf_status sqf_device_place(const sqf_device *device, void **out, const void *from, size_t count, size_t size,
                            const char *what, sqf_error *err);
/* NULL is fine. */
void sqf_device_release(const sqf_device *device, void *memory);

/* Typed front, as SQF_ALLOC. */
#define SQF_DEVICE_ALLOC(device, pointer, count, what, err)                                                            \
    sqf_device_alloc((device), (void **)(pointer), (count), sizeof **(pointer), (what), (err))

#endif
