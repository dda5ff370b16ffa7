/* Emulation of CUDA on the host: keywords, vector types and the indices of a thread. */
#ifndef SQF_KERNELS_CUDA_EMULATION_TYPES_H
#define SQF_KERNELS_CUDA_EMULATION_TYPES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* All threads of a block run on one thread of the host, so that its thread-local storage is what they share. */
#define __shared__ static thread_local

#define CUDA_VECTOR2(name, type, alignment)                                                                            \
    struct __attribute__((aligned(alignment))) name {                                                                  \
        type x, y;                                                                                                     \
    };                                                                                                                 \
    static inline name make_##name(type x, type y)                                                                     \
    {                                                                                                                  \
        return name{x, y};                                                                                             \
    }
#define CUDA_VECTOR4(name, type, alignment)                                                                            \
    struct __attribute__((aligned(alignment))) name {                                                                  \
        type x, y, z, w;                                                                                               \
    };                                                                                                                 \
    static inline name make_##name(type x, type y, type z, type w)                                                     \
    {                                                                                                                  \
        return name{x, y, z, w};                                                                                       \
    }

/* Alignments as in CUDA: a load of one of these is one instruction there. */
CUDA_VECTOR2(char2, signed char, 2)
CUDA_VECTOR2(uchar2, unsigned char, 2)
CUDA_VECTOR2(short2, short, 4)
CUDA_VECTOR2(ushort2, unsigned short, 4)
CUDA_VECTOR2(int2, int, 8)
CUDA_VECTOR2(uint2, unsigned, 8)
CUDA_VECTOR2(float2, float, 8)
CUDA_VECTOR2(double2, double, 16)
CUDA_VECTOR2(longlong2, long long, 16)
CUDA_VECTOR2(ulonglong2, unsigned long long, 16)
CUDA_VECTOR4(char4, signed char, 4)
CUDA_VECTOR4(uchar4, unsigned char, 4)
CUDA_VECTOR4(short4, short, 8)
CUDA_VECTOR4(ushort4, unsigned short, 8)
CUDA_VECTOR4(int4, int, 16)
CUDA_VECTOR4(uint4, unsigned, 16)
CUDA_VECTOR4(float4, float, 16)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* Set by the scheduler whenever another fiber continues. Not in static thread-local storage: a library that is loaded
 * at run time gets hardly any of that, and the shared memory of kernels lies beside them. */
#define CUDA_INDEX extern __attribute__((visibility("hidden"))) __thread
CUDA_INDEX uint3 threadIdx;
CUDA_INDEX uint3 blockIdx;
CUDA_INDEX dim3 blockDim;
CUDA_INDEX dim3 gridDim;
static const int warpSize = 32;

#endif
