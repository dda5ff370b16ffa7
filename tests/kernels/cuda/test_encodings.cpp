/* Descriptors and fragments as an implementation of others encodes them: the numbers were computed with CUTLASS
 * (CuTe's bit fields and layouts), the index formulas are the PTX manual's. docs/cuda-emulation.md says what was
 * compared. */
#include "emulated.hpp"

#include "kernels/cuda/instructions/blackwell.h"
#include "kernels/cuda/instructions/hopper.h"

static sqf_random random_state = {1};

static uint32_t draw(void)
{
    return (uint32_t)(sqf_random_u64(&random_state) >> 16);
}

/* ---- descriptors ---- */

static void descriptors_are_those_of_others(void **)
{
    assert_true(wgmma_descriptor(0x8420) == 0x4000004000010842u);
    assert_true(tensor_descriptor(0x8420, 64) == 0x8000402000010842u);
    assert_true(tensor_descriptor(0x8420, 128) == 0x4000404000010842u);
    assert_int_equal(tensor_shape_fp4(128), 0x8a00480);
    assert_int_equal(tensor_shape_fp4(64), 0x8900480);
    assert_int_equal(tensor_shape_fp8(128), 0x8200010);
    assert_int_equal(tensor_shape_fp8(256), 0x8400010);
}

__global__ void descriptor_kernel(uint64_t descriptor)
{
    uint32_t d[64] = {}, a[4] = {};
    wgmma_fence();
    wgmma_s8_128(d, a, descriptor, 0);
    wgmma_commit();
    wgmma_wait<0>();
}

__global__ void tensor_kernel(uint64_t descriptor)
{
    __shared__ uint32_t address;
    __shared__ __align__(8) uint64_t barrier;
    tensor_allocate(&address);
    if (threadIdx.x == 0) {
        transaction_init(&barrier, 1);
        tensor_product_fp8(address, descriptor, tensor_descriptor(0, 128), tensor_shape_fp8(128), 0);
        tensor_commit(&barrier);
    }
    __syncwarp();
    tensor_release(address);
}

/* Each bit that stays empty, and rows whose number the address does not say. */
static void strange_descriptors_end_a_program(void **)
{
    const auto wgmma = [](uint64_t descriptor) {
        cuda_launch(NULL, descriptor_kernel, dim3(1), dim3(128), 32768, descriptor);
    };
    const auto tensor = [](uint64_t descriptor) {
        cuda_launch(NULL, tensor_kernel, dim3(1), dim3(32), 32768, descriptor);
    };
    for (uint32_t start = 0; start < 128; start += 32) {
        wgmma(wgmma_descriptor(1024 + start));
        tensor(tensor_descriptor(1024 + start, 128));
    }
    for (unsigned bit = 14; bit < 64; bit++) {
        const uint64_t set = (uint64_t)1 << bit;
        const bool gap = bit < 16 || bit == 30 || bit == 31 || bit >= 46;
        if (gap) {
            expect_text(text_of_end([&] { wgmma(wgmma_descriptor(0) ^ set); }), "a descriptor that the emulation");
            expect_text(text_of_end([&] { tensor(tensor_descriptor(0, 128) ^ set); }),
                        "a descriptor that the emulation");
        }
    }
    for (const uint32_t start : {112u, 128u, 512u}) {
        expect_text(text_of_end([&] { wgmma(wgmma_descriptor(start)); }), "a descriptor that the emulation");
        expect_text(text_of_end([&] { tensor(tensor_descriptor(start, 128)); }), "a descriptor that the emulation");
    }
    expect_text(text_of_end([&] { wgmma(wgmma_descriptor(0) - ((uint64_t)32 << 32)); }),
                "a descriptor that the emulation");
}

/* ---- what hardware does not do ---- */

enum misuse { NONE, KINDS, ACCUMULATOR, COLUMNS, LANES, RETURNED, BYTES_OF_A_BARRIER };

__global__ void misuse_kernel(misuse which)
{
    __shared__ uint32_t address;
    __shared__ __align__(8) uint64_t barrier;
    uint32_t r[16];
    const uint64_t rows = tensor_descriptor(0, 128);
    tensor_allocate(&address);
    tensor_fill(address + 256, 0x7f7f7f7f);
    if (threadIdx.x == 0) {
        transaction_init(&barrier, 2);
        if (which == BYTES_OF_A_BARRIER) {
            transaction_expect(&barrier, 1 << 20);
        }
        tensor_product_fp8(address, rows, rows, tensor_shape_fp8(128), 0);
        tensor_product_fp8(address, rows, rows, tensor_shape_fp8(128), 1);
        tensor_product_fp8(address + 128, rows, rows, tensor_shape_fp8(64), 0);
        if (which == KINDS) {
            tensor_product_fp8(address, rows, rows, tensor_shape_fp8(64), 1);
        } else if (which == ACCUMULATOR) {
            tensor_product_fp8(address + 400, rows, rows, tensor_shape_fp8(128), 0);
        }
        tensor_commit(&barrier);
    }
    __syncwarp();
    tensor_load(r, address + (which == COLUMNS ? 500 : which == LANES ? 32 << 16 : 496));
    tensor_release(address);
    if (which == RETURNED) {
        tensor_load(r, address);
    }
}

static void misuse_ends_a_program(void **)
{
    const auto run = [](misuse which) {
        must_launch(cuda_launch(NULL, misuse_kernel, dim3(1), dim3(32), 32768, which));
    };
    run(NONE);
    expect_text(text_of_end([&] { run(KINDS); }), "of different kinds on one accumulator");
    expect_text(text_of_end([&] { run(ACCUMULATOR); }), "an accumulator at 190");
    expect_text(text_of_end([&] { run(COLUMNS); }), "columns from 500 on");
    expect_text(text_of_end([&] { run(LANES); }), "lanes from 32 on");
    expect_text(text_of_end([&] { run(RETURNED); }), "columns from 0 on");
    expect_text(text_of_end([&] { run(BYTES_OF_A_BARRIER); }), "cannot count 1048576 bytes more");
}

/* ---- swizzled boxes ---- */

__global__ void box_kernel(const cuda_tensor_map map, uint8_t *out, unsigned bytes)
{
    CUDA_SHARED(shared);
    uint64_t *const barrier = reinterpret_cast<uint64_t *>(shared + bytes);
    transaction_init(barrier, 1);
    transaction_fence();
    transaction_expect(barrier, bytes);
    tensor_copy(shared, &map, 0, 0, barrier);
    transaction_wait(barrier, 0);
    memcpy(out, shared, bytes);
}

/* Bytes (row, byte of it) and where they stand. */
static void boxes_are_swizzled_as_by_others(void **)
{
    static const struct {
        unsigned row_bytes, row, byte, place;
    } known[] = {{128, 3, 80, 480}, {128, 7, 17, 993}, {128, 12, 3, 1603}, {64, 3, 16, 192},
                 {64, 6, 50, 386},  {64, 1, 63, 127},  {64, 9, 5, 581}};
    for (const auto &k : known) {
        std::vector<uint8_t> matrix(16 * k.row_bytes, 0);
        matrix[k.row * k.row_bytes + k.byte] = 1;
        device_vector<uint8_t> from(matrix), out(matrix.size());
        cuda_tensor_map map = {};
        sqf_error err;
        assert_int_equal(tensor_map_rows(&map, from.data, k.row_bytes, 16, k.row_bytes, k.row_bytes, 16, &err), SQF_OK);
        must_launch(
            cuda_launch(NULL, box_kernel, dim3(1), dim3(1), matrix.size() + 8, map, out.data, (unsigned)matrix.size()));
        for (unsigned i = 0; i < matrix.size(); i++) {
            assert_int_equal(out.data[i], i == k.place);
        }
    }
}

/* ---- fragments ---- */

enum kind { BYTES, HALVES, FLOATS8, FLOATS4 };

/* A small number in each element, and what it is. */
static uint32_t element_of(kind which, int number)
{
    static const uint8_t fp8[] = {0xc0, 0xb8, 0x00, 0x38, 0x40}, fp4[] = {12, 10, 0, 2, 4};
    static const uint16_t bf16[] = {0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000};
    return which == BYTES     ? (uint8_t)number
           : which == HALVES  ? bf16[number + 2]
           : which == FLOATS8 ? fp8[number + 2]
                              : fp4[number + 2];
}

static int number_of(uint32_t seed)
{
    return (int)(seed % 5) - 2;
}

struct operands {
    uint32_t a[128][4], b[4096], d[128][128];
};

/* 64 x 256 products of a warpgroup, B in 256 rows of 128 bytes; the third 32 bytes of each. */
template <kind which> __global__ void group_kernel(operands *all)
{
    CUDA_SHARED(shared);
    uint32_t d[128];
    for (unsigned i = 0; i < 8192 / 128; i++) {
        reinterpret_cast<uint32_t *>(shared)[i * 128 + threadIdx.x] = i < 32 ? all->b[i * 128 + threadIdx.x] : 0;
    }
    fence_async_proxy();
    __syncthreads();
    const uint64_t b = wgmma_descriptor(shared_address(shared) + 64);
    wgmma_fence();
    which == BYTES    ? wgmma_s8_256(d, all->a[threadIdx.x], b, 0)
    : which == HALVES ? wgmma_bf16_256(d, all->a[threadIdx.x], b, 0)
                      : wgmma_fp8_256(d, all->a[threadIdx.x], b, 0);
    wgmma_commit();
    wgmma_wait<0>();
    memcpy(all->d[threadIdx.x], d, sizeof d);
}

/* With n elements in a register: element i of A in row groupID of the warp's 16, + 8 where (i / n) is odd, and column
 * threadID_in_group * n + i % n, + 4 n from register 2 on; of D in row groupID, + 8 where (i / 2) is odd, and column
 * 8 (i / 4) + threadID_in_group * 2 + i % 2. Byte k of row r of B stands in chunk (k / 16) ^ (r % 8) of the row. */
template <kind which> static void check_group(void)
{
    device_vector<operands> all(1);
    const unsigned size = which == HALVES ? 2 : 1, n = 4 / size, depth = 8 * n;
    std::vector<int> a(64 * depth), b(128 * depth);
    memset(all.data, 0x77, sizeof(operands)); /* the other three quarters of B */
    memset(all.data->a, 0, sizeof all.data->a);
    for (unsigned thread = 0; thread < 128; thread++) {
        const unsigned lane = thread % 32;
        for (unsigned i = 0; i < 4 * n; i++) {
            const unsigned row = thread / 32 * 16 + lane / 4 + i / n % 2 * 8;
            const int number = number_of(draw());
            a[row * depth + lane % 4 * n + i % n + i / n / 2 * 4 * n] = number;
            all.data->a[thread][i / n] |= element_of(which, number) << i % n * size * 8;
        }
    }
    for (unsigned row = 0; row < 128; row++) {
        for (unsigned k = 0; k < depth; k++) {
            const unsigned byte = 64 + k * size, place = row * 128 + ((byte / 16 ^ row % 8) * 16 | byte % 16);
            const uint32_t bits = element_of(which, b[row * depth + k] = number_of(draw()));
            memcpy(reinterpret_cast<uint8_t *>(all.data->b) + place, &bits, size);
        }
    }
    must_launch(cuda_launch(NULL, group_kernel<which>, dim3(1), dim3(128), 32768, all.data));
    for (unsigned thread = 0; thread < 128; thread++) {
        for (unsigned i = 0; i < 128; i++) {
            const unsigned row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
            const unsigned column = i / 4 * 8 + thread % 4 * 2 + i % 2;
            int sum = 0;
            for (unsigned k = 0; column < 128 && k < depth; k++) {
                sum += a[row * depth + k] * b[column * depth + k];
            }
            float found;
            memcpy(&found, &all.data->d[thread][i], sizeof found);
            assert_int_equal(which == BYTES ? (int)all.data->d[thread][i] : (int)found, sum);
        }
    }
}

static void warpgroups_multiply(void **)
{
    in_all_orders([] {
        check_group<BYTES>();
        check_group<HALVES>();
        check_group<FLOATS8>();
    });
}

__global__ void fp4_kernel(operands *all)
{
    float c[4];
    memcpy(c, all->d[threadIdx.x], sizeof c);
    mma_fp4(c, all->a[threadIdx.x], all->b + threadIdx.x * 2);
    memcpy(all->d[threadIdx.x], c, sizeof c);
}

/* m16n8k64: as above with n = 8; element i of B in column groupID and row threadID_in_group * 8 + i % 8, + 32 in
 * register 1. */
static void blocks_of_four_bits_multiply(void **)
{
    in_all_orders([] {
        device_vector<operands> all(1);
        int a[16][64], b[8][64];
        memset(all.data, 0, sizeof(operands));
        for (unsigned lane = 0; lane < 32; lane++) {
            for (unsigned i = 0; i < 32; i++) {
                const int number = number_of(draw());
                a[lane / 4 + i / 8 % 2 * 8][lane % 4 * 8 + i % 8 + i / 16 * 32] = number;
                all.data->a[lane][i / 8] |= element_of(FLOATS4, number) << i % 8 * 4;
            }
            for (unsigned i = 0; i < 16; i++) {
                const int number = number_of(draw());
                b[lane / 4][lane % 4 * 8 + i % 8 + i / 8 * 32] = number;
                all.data->b[lane * 2 + i / 8] |= element_of(FLOATS4, number) << i % 8 * 4;
            }
        }
        must_launch(cuda_launch(NULL, fp4_kernel, dim3(1), dim3(32), 0, all.data));
        for (unsigned lane = 0; lane < 32; lane++) {
            for (unsigned i = 0; i < 4; i++) {
                int sum = 0;
                for (unsigned k = 0; k < 64; k++) {
                    sum += a[lane / 4 + i / 2 * 8][k] * b[lane % 4 * 2 + i % 2][k];
                }
                float found;
                memcpy(&found, &all.data->d[lane][i], sizeof found);
                assert_true(found == (float)sum);
            }
        }
    });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_are_those_of_others),
        cmocka_unit_test(strange_descriptors_end_a_program),
        cmocka_unit_test(misuse_ends_a_program),
        cmocka_unit_test(boxes_are_swizzled_as_by_others),
        cmocka_unit_test(warpgroups_multiply),
        cmocka_unit_test(blocks_of_four_bits_multiply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
