/* Emulation of CUDA on the host: the functions of kernels/cuda/instructions/blackwell.h as the PTX manual describes the
 * instructions. */
#ifndef SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_BLACKWELL_H
#define SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_BLACKWELL_H

#include <vector>

#include "kernels/cuda/emulation/instructions.h"
#include "kernels/cuda/emulation/instructions_hopper.h"

/* The nibble of column `k` (0..63) in four or two registers of a fragment: eight columns a lane, 32 a register. */
static inline float emulated_e2m1(const uint32_t *registers, unsigned stride, unsigned k)
{
    static const float values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    const uint32_t nibble = registers[k / 32 * stride] >> k % 8 * 4 & 15;
    return nibble & 8 ? -values[nibble & 7] : values[nibble & 7];
}

static inline void emulated_mma_fp4(void *const operands[EMULATED_WARP])
{
    for (unsigned lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_mma *to = (const emulated_mma *)operands[lane];
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = 0;
            for (unsigned k = 0; k < 64; k++) {
                const emulated_mma *a = (const emulated_mma *)operands[row % 8 * 4 + k % 32 / 8];
                const emulated_mma *b = (const emulated_mma *)operands[column * 4 + k % 32 / 8];
                sum += (double)emulated_e2m1(a->a + row / 8, 2, k) * emulated_e2m1(b->b, 1, k);
            }
            ((float *)to->d)[i] = (float)(((const float *)to->c)[i] + sum);
        }
    }
}

static inline void mma_fp4(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_fp4", EMULATED_ALL, &operand, emulated_mma_fp4);
}

/* ---- tensor memory ----
 * Products run when they are committed; what they read of shared memory and when, is up to then. */

struct emulated_tensor_product {
    bool fp4;
    uint32_t d, shape;
    uint64_t a, b;
    int accumulate;
};

struct emulated_tensor_memory {
    uint32_t cell[128][512];
    std::vector<emulated_tensor_product> products;
    bool taken;
};

static inline emulated_tensor_memory *emulated_tensor(void)
{
    static thread_local emulated_tensor_memory memory;
    return &memory;
}

static inline void tensor_allocate(uint32_t *shared)
{
    emulated_tensor_memory *memory = emulated_tensor();
    if (emulated_lane() == 0) {
        if (memory->taken) {
            emulated_fail("tcgen05.alloc: another block has not given its tensor memory back");
        }
        memory->taken = true;
        memset(memory->cell, 0xff, sizeof memory->cell);
        *shared = 0;
    }
    __syncwarp();
}

static inline void tensor_release(uint32_t)
{
    __syncwarp();
    emulated_tensor()->taken = false;
}

static inline void tensor_fence_before(void)
{
}

static inline void tensor_fence_after(void)
{
}

/* The running thread's lane, for `columns` columns from an address of its warp on. */
static inline unsigned emulated_tensor_lane(uint32_t address, uint32_t columns)
{
    const unsigned first = (unsigned)emulated_thread() / 32 % 4 * 32;
    if (address >> 16 != first) {
        emulated_fail("tensor memory: lanes from %u on, which the warp does not reach", address >> 16);
    }
    if (!emulated_tensor()->taken || (address & 0xffff) + columns > 512) {
        emulated_fail("tensor memory: columns from %u on, which the block does not have", address & 0xffff);
    }
    return first + (unsigned)emulated_lane();
}

static inline void tensor_fill(uint32_t address, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        emulated_tensor()->cell[emulated_tensor_lane(address, 4)][(address & 0xffff) + i] = value;
    }
    __syncwarp();
}

static inline void tensor_load(uint32_t r[16], uint32_t address)
{
    memcpy(r, &emulated_tensor()->cell[emulated_tensor_lane(address, 16)][address & 0xffff], 16 * sizeof *r);
    __syncwarp();
}

/* Hardware keeps the order of products on one accumulator only where they are of the same kind and shape. */
static inline void emulated_tensor_issue(const emulated_tensor_product &product)
{
    emulated_tensor_memory *memory = emulated_tensor();
    if (!memory->taken || product.d >> 16 || product.d + (product.shape >> 17 & 63) * 8 > 512) {
        emulated_fail("tcgen05.mma: an accumulator at %x, which is not the block's", product.d);
    }
    for (const emulated_tensor_product &other : memory->products) {
        if (other.d == product.d && (other.fp4 != product.fp4 || other.shape != product.shape)) {
            emulated_fail("tcgen05.mma: nothing orders products of different kinds on one accumulator");
        }
    }
    memory->products.push_back(product);
}

static inline void tensor_product_fp4(uint32_t d, uint64_t a, uint64_t b, uint32_t shape, uint32_t ones, int accumulate)
{
    emulated_tensor_memory *memory = emulated_tensor();
    for (unsigned lane = 0; lane < 128; lane++) {
        if (memory->cell[lane][ones & 0xffff] != 0x7f7f7f7f || memory->cell[lane][(ones & 0xffff) + 15] != 0x7f7f7f7f) {
            emulated_fail("tcgen05.mma: scales that are not 1");
        }
    }
    emulated_tensor_issue({true, d, shape, a, b, accumulate});
}

static inline void tensor_product_fp8(uint32_t d, uint64_t a, uint64_t b, uint32_t shape, int accumulate)
{
    emulated_tensor_issue({false, d, shape, a, b, accumulate});
}

/* Row `row` of an operand as numbers, 64 or 32 of them. */
static inline void emulated_tensor_row(uint64_t descriptor, bool fp4, unsigned row, float out[64])
{
    const unsigned row_bytes = descriptor >> 61 == 4 ? 64 : 128;
    const size_t start = (size_t)(descriptor & 0x3fff) << 4, atom = (size_t)(descriptor >> 32 & 0x3fff) << 4;
    size_t limit;
    const uint8_t *const shared = emulated_shared(&limit);
    if ((descriptor >> 61 != 4 && descriptor >> 61 != 2) || (descriptor >> 46 & 0x7fff) != 1 ||
        !emulated_descriptor_places(descriptor, row_bytes)) {
        emulated_fail("tcgen05.mma: a descriptor that the emulation does not know: %llx",
                      (unsigned long long)descriptor);
    }
    for (unsigned byte = 0; byte < 32; byte++) {
        const size_t at = emulated_swizzle(row_bytes, start + row / 8 * atom + row % 8 * row_bytes + byte);
        if (at >= limit) {
            emulated_fail("tcgen05.mma: an operand reaches beyond the shared memory");
        }
        if (fp4) {
            const uint32_t both = shared[at];
            out[2 * byte] = emulated_e2m1(&both, 1, 0);
            out[2 * byte + 1] = emulated_e2m1(&both, 1, 1);
        } else {
            out[byte] = (float)emulated_fp8_value(shared[at]);
        }
    }
}

static inline void emulated_tensor_run(emulated_tensor_memory *memory, const emulated_tensor_product &product)
{
    const unsigned columns = (product.shape >> 17 & 63) * 8, depth = product.fp4 ? 64 : 32;
    const uint32_t expected = product.fp4 ? 1u << 7 | 1u << 10 | 1u << 23 : 1u << 4;
    std::vector<float> a(128 * 64), b((size_t)columns * 64);
    if ((product.shape & ~(63u << 17)) != (expected | 8u << 24)) {
        emulated_fail("tcgen05.mma: a shape that the emulation does not know: %x", product.shape);
    }
    for (unsigned row = 0; row < 128; row++) {
        emulated_tensor_row(product.a, product.fp4, row, &a[(size_t)row * 64]);
    }
    for (unsigned column = 0; column < columns; column++) {
        emulated_tensor_row(product.b, product.fp4, column, &b[(size_t)column * 64]);
    }
    for (unsigned row = 0; row < 128; row++) {
        for (unsigned column = 0; column < columns; column++) {
            uint32_t *d = &memory->cell[row][(product.d & 0xffff) + column];
            double sum = product.accumulate ? (double)cuda_bits<float>(*d) : 0.0;
            for (unsigned k = 0; k < depth; k++) {
                sum += (double)a[(size_t)row * 64 + k] * b[(size_t)column * 64 + k];
            }
            *d = cuda_bits<uint32_t>((float)sum);
        }
    }
}

static inline void tensor_commit(uint64_t *barrier)
{
    emulated_tensor_memory *memory = emulated_tensor();
    for (const emulated_tensor_product &product : memory->products) {
        emulated_tensor_run(memory, product);
    }
    memory->products.clear();
    emulated_transaction_arrive(barrier, 0);
}

#endif
