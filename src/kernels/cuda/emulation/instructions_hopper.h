/* Emulation of CUDA on the host: the functions of kernels/cuda/instructions/hopper.h as the PTX manual describes the
 * instructions.
 *
 * A warp's part of a product is computed when the warp waits for its group and not before: until then A, B and D are
 * read and written by nobody. Who overwrites A, hands a stage of shared memory back or reads D too early therefore gets
 * other numbers. The four warps of a group must issue the same products, each behind a fence. */
#ifndef SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_HOPPER_H
#define SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_HOPPER_H

#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/block.h"
#include "kernels/cuda/emulation/halves.h"

#define __grid_constant__

/* ---- copies by a tensor map ---- */

struct cuda_tensor_map {
    const uint8_t *base;
    size_t row_bytes, rows, pitch;
    unsigned box_bytes, box_rows;
};

static inline sqf_status tensor_map_rows(cuda_tensor_map *map, void *base, size_t row_bytes, size_t rows, size_t pitch,
                                         unsigned box_bytes, unsigned box_rows, sqf_error *err)
{
    if ((uintptr_t)base % 16 || pitch % 16 || box_rows == 0 || box_rows > 256 || row_bytes == 0 || rows == 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuTensorMapEncodeTiled: error %d", 1);
    }
    *map = cuda_tensor_map{(const uint8_t *)base, row_bytes, rows, pitch, box_bytes, box_rows};
    return SQF_OK;
}

/* Where a byte of a box of rows of 64 or 128 bytes stands: chunks of 16 bytes change places by address bits 7 and up.
 */
static inline size_t emulated_swizzle(unsigned row_bytes, size_t at)
{
    return at ^ (at >> 3 & (row_bytes == 64 ? 0x30 : 0x70));
}

static inline void tensor_copy(void *shared, const cuda_tensor_map *map, int x, int y, uint64_t *barrier)
{
    static const uint8_t zeros[16] __attribute__((aligned(16))) = {0};
    uint8_t *const to = (uint8_t *)shared;
    if ((size_t)(to - emulated_shared(NULL)) % 1024 || x % 16) {
        emulated_fail("tensor_copy: a swizzled box must begin at a multiple of 1024 (and here column %d of 16)", x);
    }
    for (unsigned row = 0; row < map->box_rows; row++) {
        for (unsigned chunk = 0; chunk < map->box_bytes / 16; chunk++) {
            const size_t column = (size_t)x + 16 * chunk;
            const bool inside = column < map->row_bytes && (size_t)y + row < map->rows;
            emulated_bulk_copy(to + emulated_swizzle(map->box_bytes, row * map->box_bytes + chunk * 16),
                               inside ? map->base + ((size_t)y + row) * map->pitch + column : zeros, 16, barrier);
        }
    }
}

static inline void tensor_map_prefetch(const cuda_tensor_map *)
{
}

/* Bytes from the beginning of the dynamic shared memory. */
static inline uint32_t shared_address(const void *pointer)
{
    return (uint32_t)((const uint8_t *)pointer - emulated_shared(NULL));
}

/* ---- registers ---- */

template <int count> static inline void registers_decrease(void)
{
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "a multiple of 8");
    emulated_group_meet("setmaxnreg", NULL, NULL);
}

template <int count> static inline void registers_increase(void)
{
    registers_decrease<count>();
}

template <int count> static inline void registers_hold(uint32_t *)
{
}

static inline void rescale_integer(uint32_t *sum, float factor)
{
    *sum = cuda_bits<uint32_t>((float)(int32_t)*sum * factor);
}

static inline void rescale_float(uint32_t *sum, float factor)
{
    *sum = cuda_bits<uint32_t>(cuda_bits<float>(*sum) * factor);
}

/* ---- products ---- */

enum emulated_wgmma_kind { EMULATED_WGMMA_S8, EMULATED_WGMMA_BF16, EMULATED_WGMMA_FP8 };

/* A thread's part of a product. */
struct emulated_wgmma {
    emulated_wgmma_kind kind;
    int columns;
    uint64_t b;
    int accumulate;
    uint32_t *d;
    const uint32_t *a;
    unsigned group;
};

/* What a thread has under way. Empty at the end of every kernel. */
struct emulated_wgmma_queue {
    std::vector<emulated_wgmma> products;
    unsigned groups;
    bool fenced;
};

static inline emulated_wgmma_queue *emulated_wgmma_mine(void)
{
    static thread_local emulated_wgmma_queue queues[1024];
    return &queues[emulated_thread()];
}

static inline double emulated_fp8_value(unsigned bits)
{
    const int exponent = bits >> 3 & 15, fraction = bits & 7;
    const double magnitude = (bits & 127) == 127 ? NAN
                             : exponent          ? ldexp(8 + fraction, exponent - 10)
                                                 : ldexp(fraction, -9);
    return bits & 128 ? -magnitude : magnitude;
}

/* Whether a descriptor's gaps are empty and its swizzled rows of `row_bytes` begin where hardware takes their number
 * from the address: eight of them at a multiple of their size, the first 32 bytes to be read within the first of them.
 */
static inline bool emulated_descriptor_places(uint64_t descriptor, unsigned row_bytes)
{
    const size_t start = (size_t)(descriptor & 0x3fff) << 4, atom = (size_t)(descriptor >> 32 & 0x3fff) << 4;
    return !(descriptor & 0xc000c000u) && start % (8 * row_bytes) <= row_bytes - 32 && atom % (8 * row_bytes) == 0;
}

/* Byte `k` (0..31) of column n of B in shared memory. */
static inline const uint8_t *emulated_wgmma_b(uint64_t descriptor, unsigned n, unsigned k)
{
    const size_t start = (size_t)(descriptor & 0x3fff) << 4, atom = (size_t)(descriptor >> 32 & 0x3fff) << 4;
    size_t at = start + n / 8 * atom + n % 8 * 128 + k;
    at ^= at >> 3 & 0x70; /* chunk of 16 bytes by the row of 128 */
    size_t limit;
    const uint8_t *const shared = emulated_shared(&limit);
    if (at >= limit) {
        emulated_fail("wgmma: B reaches beyond the shared memory");
    }
    return shared + at;
}

/* Element of a row of A or a column of B as a number. */
static inline double emulated_wgmma_value(emulated_wgmma_kind kind, const uint8_t *at)
{
    if (kind == EMULATED_WGMMA_BF16) {
        return emulated_bf16_value((uint32_t)at[0] | (uint32_t)at[1] << 8);
    }
    return kind == EMULATED_WGMMA_S8 ? (double)(int8_t)at[0] : emulated_fp8_value(at[0]);
}

/* One product of a warp: `parts` of its 32 lanes. */
static inline void emulated_wgmma_run(emulated_wgmma *const parts[EMULATED_WARP])
{
    const emulated_wgmma_kind kind = parts[0]->kind;
    const unsigned size = kind == EMULATED_WGMMA_BF16 ? 2 : 1, depth = 32 / size;
    double a[16][32], b[32];
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned k = 0; k < depth; k++) {
            const unsigned byte = k * size, lane = row % 8 * 4 + byte % 16 / 4, reg = row / 8 + byte / 16 * 2;
            a[row][k] = emulated_wgmma_value(kind, (const uint8_t *)&parts[lane]->a[reg] + byte % 4);
        }
    }
    for (unsigned n = 0; n < (unsigned)parts[0]->columns; n++) {
        for (unsigned k = 0; k < depth; k++) {
            b[k] = emulated_wgmma_value(kind, emulated_wgmma_b(parts[0]->b, n, k * size));
        }
        for (unsigned row = 0; row < 16; row++) {
            emulated_wgmma *const part = parts[row % 8 * 4 + n % 8 / 2];
            uint32_t *const d = &part->d[n / 8 * 4 + row / 8 * 2 + n % 2];
            double sum = 0;
            for (unsigned k = 0; k < depth; k++) {
                sum += a[row][k] * b[k];
            }
            if (kind == EMULATED_WGMMA_S8) {
                *d = (part->accumulate ? *d : 0) + (uint32_t)(int32_t)sum;
            } else {
                *d = cuda_bits<uint32_t>((float)((part->accumulate ? (double)cuda_bits<float>(*d) : 0.0) + sum));
            }
        }
    }
}

static inline void emulated_wgmma_same(void *const operands[128])
{
    const emulated_wgmma *const first = (const emulated_wgmma *)operands[0];
    for (int i = 1; i < 128; i++) {
        const emulated_wgmma *const other = (const emulated_wgmma *)operands[i];
        if (other->kind != first->kind || other->columns != first->columns || other->b != first->b ||
            other->accumulate != first->accumulate) {
            emulated_fail("wgmma: the threads of a warpgroup ask for different products");
        }
    }
    if (first->b >> 46 != 1 << 16 || !emulated_descriptor_places(first->b, 128)) {
        emulated_fail("wgmma: a descriptor that the emulation does not know: %llx", (unsigned long long)first->b);
    }
}

static inline void emulated_wgmma_issue(emulated_wgmma_kind kind, int columns, uint32_t *d, const uint32_t *a,
                                        uint64_t b, int accumulate)
{
    emulated_wgmma_queue *const queue = emulated_wgmma_mine();
    if (!queue->fenced) {
        emulated_fail("wgmma without a fence behind the last group");
    }
    emulated_wgmma part = {kind, columns, b, accumulate != 0, d, a, queue->groups};
    emulated_group_meet("wgmma", &part, emulated_wgmma_same);
    queue->products.push_back(part);
}

#define EMULATED_WGMMA(name, kind)                                                                                     \
    static inline void name##_128(uint32_t *d, const uint32_t *a, uint64_t b, int accumulate)                          \
    {                                                                                                                  \
        emulated_wgmma_issue(kind, 128, d, a, b, accumulate);                                                          \
    }                                                                                                                  \
    static inline void name##_256(uint32_t *d, const uint32_t *a, uint64_t b, int accumulate)                          \
    {                                                                                                                  \
        emulated_wgmma_issue(kind, 256, d, a, b, accumulate);                                                          \
    }
EMULATED_WGMMA(wgmma_s8, EMULATED_WGMMA_S8)
EMULATED_WGMMA(wgmma_bf16, EMULATED_WGMMA_BF16)
EMULATED_WGMMA(wgmma_fp8, EMULATED_WGMMA_FP8)

static inline void wgmma_fence(void)
{
    emulated_wgmma_mine()->fenced = true;
}

static inline void wgmma_commit(void)
{
    emulated_wgmma_queue *const queue = emulated_wgmma_mine();
    queue->groups++;
    queue->fenced = false;
}

/* Runs what the lanes' queues hold of groups that must be done. */
template <int left> static inline void emulated_wgmma_finish(void *const operands[EMULATED_WARP])
{
    emulated_wgmma_queue *queues[EMULATED_WARP];
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        queues[lane] = (emulated_wgmma_queue *)operands[lane];
    }
    size_t done = 0;
    while (done < queues[0]->products.size() && queues[0]->products[done].group + left < queues[0]->groups) {
        emulated_wgmma *parts[EMULATED_WARP];
        for (int lane = 0; lane < EMULATED_WARP; lane++) {
            parts[lane] = &queues[lane]->products[done];
        }
        emulated_wgmma_run(parts);
        done++;
    }
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        queues[lane]->products.erase(queues[lane]->products.begin(), queues[lane]->products.begin() + (long)done);
    }
}

template <int left> static inline void wgmma_wait(void)
{
    emulated_warp_meet("wgmma_wait", EMULATED_ALL, emulated_wgmma_mine(), emulated_wgmma_finish<left>);
}

#endif
