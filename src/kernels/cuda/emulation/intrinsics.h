/* Emulation of CUDA on the host: functions of one thread. Each computes what the CUDA manual says; where hardware
 * approximates (__expf, rsqrtf, ...) the host rounds correctly or nearly so. */
#ifndef SQF_KERNELS_CUDA_EMULATION_INTRINSICS_H
#define SQF_KERNELS_CUDA_EMULATION_INTRINSICS_H

#include "kernels/cuda/emulation/types.h"

/* ---- bits ---- */

template <typename To, typename From> static inline To cuda_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "a change of type, not of size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline int __float_as_int(float x)
{
    return cuda_bits<int>(x);
}

static inline unsigned __float_as_uint(float x)
{
    return cuda_bits<unsigned>(x);
}

static inline float __int_as_float(int x)
{
    return cuda_bits<float>(x);
}

static inline float __uint_as_float(unsigned x)
{
    return cuda_bits<float>(x);
}

static inline long long __double_as_longlong(double x)
{
    return cuda_bits<long long>(x);
}

static inline double __longlong_as_double(long long x)
{
    return cuda_bits<double>(x);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}

static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++) {
        y |= (x >> i & 1) << (31 - i);
    }
    return y;
}

/* Bytes of y:x chosen by the low three bits of the nibbles of s. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    const uint64_t both = (uint64_t)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        result |= (unsigned)(both >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
    }
    return result;
}

static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
}

static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}

static inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift)
{
    return shift >= 32 ? low : (unsigned)((((uint64_t)high << 32 | low) << shift) >> 32);
}

static inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift)
{
    return shift >= 32 ? high : (unsigned)(((uint64_t)high << 32 | low) >> shift);
}

static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) {
        c = (int)((unsigned)c + (unsigned)((int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i)));
    }
    return c;
}

static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 4; i++) {
        c += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
    }
    return c;
}

static inline int __mulhi(int a, int b)
{
    return (int)((int64_t)a * b >> 32);
}

static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

/* ---- memory ---- */

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}

template <typename T> static inline T __ldcs(const T *p)
{
    return *p;
}

template <typename T> static inline T __ldcg(const T *p)
{
    return *p;
}

template <typename T> static inline void __stcs(T *p, T value)
{
    *p = value;
}

template <typename T> static inline void __stcg(T *p, T value)
{
    *p = value;
}

static inline void __threadfence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void __threadfence_block(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The value before. */
#define CUDA_ATOMICS(type)                                                                                             \
    static inline type atomicAdd(type *p, type x)                                                                      \
    {                                                                                                                  \
        return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);                                                             \
    }                                                                                                                  \
    static inline type atomicExch(type *p, type x)                                                                     \
    {                                                                                                                  \
        return __atomic_exchange_n(p, x, __ATOMIC_RELAXED);                                                            \
    }                                                                                                                  \
    static inline type atomicOr(type *p, type x)                                                                       \
    {                                                                                                                  \
        return __atomic_fetch_or(p, x, __ATOMIC_RELAXED);                                                              \
    }                                                                                                                  \
    static inline type atomicAnd(type *p, type x)                                                                      \
    {                                                                                                                  \
        return __atomic_fetch_and(p, x, __ATOMIC_RELAXED);                                                             \
    }                                                                                                                  \
    static inline type atomicCAS(type *p, type expected, type x)                                                       \
    {                                                                                                                  \
        __atomic_compare_exchange_n(p, &expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                       \
        return expected;                                                                                               \
    }                                                                                                                  \
    static inline type atomicMin(type *p, type x)                                                                      \
    {                                                                                                                  \
        type old = __atomic_load_n(p, __ATOMIC_RELAXED);                                                               \
        while (x < old && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {       \
        }                                                                                                              \
        return old;                                                                                                    \
    }                                                                                                                  \
    static inline type atomicMax(type *p, type x)                                                                      \
    {                                                                                                                  \
        type old = __atomic_load_n(p, __ATOMIC_RELAXED);                                                               \
        while (x > old && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {       \
        }                                                                                                              \
        return old;                                                                                                    \
    }
CUDA_ATOMICS(int)
CUDA_ATOMICS(unsigned)
CUDA_ATOMICS(long long)
CUDA_ATOMICS(unsigned long long)

static inline unsigned atomicInc(unsigned *p, unsigned limit)
{
    unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (
        !__atomic_compare_exchange_n(p, &old, old >= limit ? 0 : old + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

static inline float atomicAdd(float *p, float x)
{
    unsigned *bits = (unsigned *)(void *)p;
    unsigned old = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &old, __float_as_uint(__uint_as_float(old) + x), false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return __uint_as_float(old);
}

/* ---- arithmetic ---- */

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}

static inline float __fsub_rn(float a, float b)
{
    return a - b;
}

static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

static inline float __fdividef(float a, float b)
{
    return a / b;
}

static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}

static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}

/* Names that a C library may have for itself. */
#define rsqrtf(a)  (1.0f / sqrtf(a))
#define __expf(a)  expf(a)
#define __logf(a)  logf(a)
#define __log2f(a) log2f(a)

static inline float __frsqrt_rn(float a)
{
    return (float)(1.0 / sqrt((double)a));
}

static inline float __saturatef(float a)
{
    return a > 0.0f ? a < 1.0f ? a : 1.0f : 0.0f;
}

static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}

/* Round half even, clamped to the range of the type; NaN gives 0. */
static inline int __float2int_rn(float x)
{
    return x != x ? 0 : x >= 2147483648.0f ? INT32_MAX : x <= -2147483648.0f ? INT32_MIN : (int)rintf(x);
}

static inline int __float2int_rz(float x)
{
    return x != x ? 0 : x >= 2147483648.0f ? INT32_MAX : x <= -2147483648.0f ? INT32_MIN : (int)x;
}

static inline int __float2int_rd(float x)
{
    return __float2int_rz(floorf(x));
}

static inline unsigned __float2uint_rn(float x)
{
    return !(x > 0.0f) ? 0 : x >= 4294967296.0f ? UINT32_MAX : (unsigned)rintf(x);
}

static inline unsigned __float2uint_rz(float x)
{
    return !(x > 0.0f) ? 0 : x >= 4294967296.0f ? UINT32_MAX : (unsigned)x;
}

static inline float __int2float_rn(int x)
{
    return (float)x;
}

static inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}

#define CUDA_MINMAX(a_type, b_type, type)                                                                              \
    static inline type min(a_type a, b_type b)                                                                         \
    {                                                                                                                  \
        return (type)a < (type)b ? (type)a : (type)b;                                                                  \
    }                                                                                                                  \
    static inline type max(a_type a, b_type b)                                                                         \
    {                                                                                                                  \
        return (type)a > (type)b ? (type)a : (type)b;                                                                  \
    }
CUDA_MINMAX(int, int, int)
CUDA_MINMAX(unsigned, unsigned, unsigned)
CUDA_MINMAX(int, unsigned, unsigned)
CUDA_MINMAX(unsigned, int, unsigned)
CUDA_MINMAX(long, long, long)
CUDA_MINMAX(unsigned long, unsigned long, unsigned long)
CUDA_MINMAX(long long, long long, long long)
CUDA_MINMAX(unsigned long long, unsigned long long, unsigned long long)

static inline float min(float a, float b)
{
    return fminf(a, b);
}

static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

static inline double min(double a, double b)
{
    return fmin(a, b);
}

static inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
