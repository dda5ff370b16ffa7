/* Each emulated instruction against the definition in the PTX manual, written down once more: matrix instructions by
 * the index formulas of their fragments, element by element in long double or 64-bit integers. */
#include <algorithm>

#include "emulated.hpp"

static sqf_random random_state = {1};

static uint32_t draw(void)
{
    return (uint32_t)(sqf_random_u64(&random_state) >> 16);
}

/* ---- matrix instructions ---- */

struct registers {
    uint32_t a[32][4], b[32][2], c[32][4], d[32][4];
};

enum kind { S4, S8, S8_FROM, BF16, FP16, FP8 };

template <kind which> __global__ void mma_kernel(registers *all)
{
    const unsigned lane = threadIdx.x;
    uint32_t a[4], b[2];
    memcpy(a, all->a[lane], sizeof a);
    memcpy(b, all->b[lane], sizeof b);
    if (which <= S8_FROM) {
        int32_t c[4], d[4];
        memcpy(c, all->c[lane], sizeof c);
        if (which == S4) {
            mma_s4(c, a, b);
        } else if (which == S8) {
            mma_s8(c, a, b);
        } else {
            mma_s8_from(d, a, b, c);
            memcpy(c, d, sizeof c);
        }
        memcpy(all->d[lane], c, sizeof c);
    } else {
        float c[4];
        memcpy(c, all->c[lane], sizeof c);
        if (which == BF16) {
            mma_bf16(c, a, b);
        } else if (which == FP16) {
            mma_fp16(c, a, b);
        } else {
            mma_fp8(c, a, b);
        }
        memcpy(all->d[lane], c, sizeof c);
    }
}

/* Element i of a fragment: `bits` wide, from registers of 32. */
static uint32_t element(const uint32_t *fragment, int i, int bits)
{
    return fragment[i * bits / 32] >> i * bits % 32 & ((1u << bits) - 1);
}

static long double value(kind which, uint32_t bits)
{
    if (which == S4) {
        return (int)(bits ^ 8) - 8;
    }
    if (which == S8 || which == S8_FROM) {
        return (int)(bits ^ 128) - 128;
    }
    const int fraction_bits = which == BF16 ? 7 : which == FP16 ? 10 : 3;
    const int exponent_bits = which == BF16 ? 8 : which == FP16 ? 5 : 4;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
    const uint32_t exponent = bits >> fraction_bits & ((1u << exponent_bits) - 1);
    const long double sign = bits >> (fraction_bits + exponent_bits) ? -1 : 1;
    const long double significand = (long double)fraction / (1u << fraction_bits) + (exponent ? 1 : 0);
    return sign * ldexpl(significand, (exponent ? (int)exponent : 1) - bias);
}

static int width_of(kind which)
{
    return which == S4 ? 4 : which == S8 || which == S8_FROM || which == FP8 ? 8 : 16;
}

/* The formulas of the manual: with groupID = lane >> 2 and threadID_in_group = lane % 4, and n elements in a register
 * (8, 4 or 2), element i of A stands in row groupID where (i / n) is even, else groupID + 8, and in column
 * threadID_in_group * n + i % n, plus 4 n from register 2 on; of B in row threadID_in_group * n + i % n, plus 4 n in
 * register 1, and column groupID; of C in row groupID, plus 8 from 2 on, and column threadID_in_group * 2 + i % 2. */
struct matrices {
    long double a[16][64], b[64][8], c[16][8];
};

static void spread(kind which, const registers *from, matrices *to)
{
    const int bits = width_of(which), n = 32 / bits;
    for (int lane = 0; lane < 32; lane++) {
        const int group = lane >> 2, in_group = lane % 4;
        for (int i = 0; i < 4 * n; i++) {
            const int row = i / n % 2 == 0 ? group : group + 8,
                      column = in_group * n + i % n + (i >= 2 * n ? 4 * n : 0);
            to->a[row][column] = value(which, element(from->a[lane], i, bits));
        }
        for (int i = 0; i < 2 * n; i++) {
            to->b[in_group * n + i % n + (i >= n ? 4 * n : 0)][group] = value(which, element(from->b[lane], i, bits));
        }
        for (int i = 0; i < 4; i++) {
            float number;
            memcpy(&number, &from->c[lane][i], sizeof number);
            to->c[group + (i >= 2 ? 8 : 0)][in_group * 2 + i % 2] =
                which <= S8_FROM ? (long double)(int32_t)from->c[lane][i] : (long double)number;
        }
    }
}

static uint32_t random_element(kind which)
{
    const uint32_t bits = draw() & ((1u << width_of(which)) - 1);
    /* Finite ones: no exponent of ones in 16 bits, no 0x7f in e4m3; bf16 within the reach of a float's sums. */
    if (which == BF16) {
        return (bits & 0x807f) | (100 + bits % 50) << 7;
    }
    if (which == FP16 && (bits & 0x7c00) == 0x7c00) {
        return bits & 0x83ff;
    }
    return which == FP8 && (bits & 0x7f) == 0x7f ? 0x80 : bits;
}

template <kind which> static void check_mma(void)
{
    device_vector<registers> all(1);
    const int n = 32 / width_of(which);
    for (int lane = 0; lane < 32; lane++) {
        for (int r = 0; r < 4; r++) {
            for (int i = 0; i < n; i++) {
                uint32_t *a = &all.data->a[lane][r], *b = &all.data->b[lane][r % 2];
                *a = *a << width_of(which) % 32 | random_element(which);
                *b = *b << width_of(which) % 32 | random_element(which);
            }
            const float start = (float)((int)(draw() % 2001) - 1000);
            memcpy(&all.data->c[lane][r], &start, sizeof start);
            if (which <= S8_FROM) {
                all.data->c[lane][r] = draw() % 3 ? draw() % 100000 : draw(); /* sums wrap */
            }
        }
    }
    matrices m;
    spread(which, all.data, &m);
    must_launch(cuda_launch(NULL, mma_kernel<which>, dim3(1), dim3(32), 0, all.data));
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            const int row = (lane >> 2) + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
            long double sum = m.c[row][column], terms = fabsl(sum);
            for (int k = 0; k < 8 * n; k++) {
                sum += m.a[row][k] * m.b[k][column];
                terms += fabsl(m.a[row][k] * m.b[k][column]);
            }
            if (which <= S8_FROM) {
                assert_int_equal((int32_t)all.data->d[lane][i], (int32_t)(int64_t)sum);
            } else {
                float found;
                memcpy(&found, &all.data->d[lane][i], sizeof found);
                assert_true(fabsl(found - sum) <= terms * 0x1p-23L);
            }
        }
    }
}

static void matrix_instructions_multiply(void **)
{
    in_all_orders([] {
        for (int i = 0; i < 5; i++) {
            check_mma<S4>();
            check_mma<S8>();
            check_mma<S8_FROM>();
            check_mma<BF16>();
            check_mma<FP16>();
            check_mma<FP8>();
        }
    });
}

/* ---- ldmatrix ---- */

/* Rows of 16 bytes are given in an order of the test's own. */
__global__ void load_kernel(const uint16_t *from, const int *places, uint32_t *out)
{
    CUDA_SHARED(memory);
    uint16_t *const numbers = reinterpret_cast<uint16_t *>(memory);
    const unsigned lane = threadIdx.x;
    for (unsigned i = lane; i < 32 * 8; i += 32) {
        numbers[i] = from[i];
    }
    __syncwarp();
    uint32_t r[4];
    load_matrix_x4(r, numbers + places[lane] * 8);
    memcpy(out + lane * 10, r, 16);
    load_matrix_x4_transposed(r, numbers + places[lane] * 8);
    memcpy(out + lane * 10 + 4, r, 16);
    load_matrix_x2(r, lane < 16 ? numbers + places[lane] * 8 : NULL);
    memcpy(out + lane * 10 + 8, r, 8);
}

static void matrices_are_loaded_by_rows(void **)
{
    std::vector<uint16_t> numbers(256);
    std::vector<int> places(32);
    for (int i = 0; i < 256; i++) {
        numbers[(size_t)i] = (uint16_t)draw();
    }
    for (int i = 0; i < 32; i++) {
        places[(size_t)i] = i * 11 % 32;
    }
    device_vector<uint16_t> from(numbers);
    device_vector<int> where(places);
    in_all_orders([&] {
        device_vector<uint32_t> out(320);
        must_launch(cuda_launch(NULL, load_kernel, dim3(1), dim3(32), 512, from.data, where.data, out.data));
        for (int lane = 0; lane < 32; lane++) {
            const uint32_t *r = out.data + lane * 10;
            for (int m = 0; m < 4; m++) {
                for (int i = 0; i < 2; i++) {
                    /* Row lane / 4, elements 2 (lane % 4) and the next; transposed: the column. */
                    const int row = lane / 4, column = lane % 4 * 2 + i;
                    const auto at = [&](int line, int place) {
                        return numbers[(size_t)(places[(size_t)(8 * m + line)] * 8 + place)];
                    };
                    assert_int_equal(r[m] >> 16 * i & 0xffff, at(row, column));
                    assert_int_equal(r[4 + m] >> 16 * i & 0xffff, at(column, row));
                    if (m < 2) {
                        assert_int_equal(r[8 + m] >> 16 * i & 0xffff, at(row, column));
                    }
                }
            }
        }
    });
}

/* ---- shuffles and votes ---- */

struct warp_results {
    int index, up, down, exchanged, masked;
    unsigned ballot, match, sum;
    int any, all, smallest, largest;
    double wide;
};

__global__ void warp_kernel(const int *numbers, warp_results *out)
{
    const unsigned lane = threadIdx.x, all = 0xffffffffu;
    const int x = numbers[lane];
    warp_results *r = &out[lane];
    r->index = __shfl_sync(all, x, (int)lane * 5 + 3, 8);
    r->up = __shfl_up_sync(all, x, 3, 16);
    r->down = __shfl_down_sync(all, x, 3, 16);
    r->exchanged = __shfl_xor_sync(all, x, 9);
    r->wide = __shfl_sync(all, 0.5 * x, 31 - (int)lane);
    r->ballot = __ballot_sync(all, x % 2);
    r->match = __match_any_sync(all, x % 5);
    r->any = __any_sync(all, x == numbers[17]);
    r->all = __all_sync(all, x != numbers[17]);
    r->sum = __reduce_add_sync(all, (unsigned)x);
    r->smallest = __reduce_min_sync(all, x);
    r->largest = __reduce_max_sync(all, x);
    r->masked = 0;
    if (lane % 2) {
        r->masked = __shfl_xor_sync(0xaaaaaaaau, x, 2);
    } else {
        r->masked = -__shfl_xor_sync(0x55555555u, x, 2);
    }
}

static void warps_exchange(void **)
{
    std::vector<int> x(32);
    for (int &number : x) {
        number = (int)(draw() % 1000) - 500;
    }
    device_vector<int> numbers(x);
    const auto at = [&](int lane) { return x[(size_t)lane]; };
    in_all_orders([&] {
        device_vector<warp_results> out(32);
        must_launch(cuda_launch(NULL, warp_kernel, dim3(1), dim3(32), 0, numbers.data, out.data));
        for (int lane = 0; lane < 32; lane++) {
            const warp_results *r = &out.data[lane];
            unsigned ballot = 0, match = 0, sum = 0;
            int smallest = at(0), largest = at(0);
            for (int i = 0; i < 32; i++) {
                ballot |= (unsigned)(at(i) % 2 != 0) << i;
                match |= (unsigned)(at(i) % 5 == at(lane) % 5) << i;
                sum += (unsigned)at(i);
                smallest = at(i) < smallest ? at(i) : smallest;
                largest = at(i) > largest ? at(i) : largest;
            }
            assert_int_equal(r->index, at(lane / 8 * 8 + (lane * 5 + 3) % 8));
            assert_int_equal(r->up, at(lane % 16 >= 3 ? lane - 3 : lane));
            assert_int_equal(r->down, at(lane % 16 + 3 < 16 ? lane + 3 : lane));
            assert_int_equal(r->exchanged, at(lane ^ 9));
            assert_true(r->wide == 0.5 * at(31 - lane));
            assert_int_equal(r->ballot, ballot);
            assert_int_equal(r->match, match);
            assert_int_equal(r->sum, sum);
            assert_int_equal(r->smallest, smallest);
            assert_int_equal(r->largest, largest);
            assert_int_equal(r->any, 1);
            assert_int_equal(r->all, 0);
            assert_int_equal(r->masked, lane % 2 ? at(lane ^ 2) : -at(lane ^ 2));
        }
    });
}

/* ---- one thread ---- */

static uint8_t byte_of(uint64_t x, unsigned i)
{
    return (uint8_t)(x >> 8 * i);
}

static void words_are_permuted_and_shifted(void **)
{
    for (int round = 0; round < 1000; round++) {
        const uint32_t x = draw(), y = draw(), s = draw();
        const uint64_t both = (uint64_t)y << 32 | x;
        const uint32_t plain = __byte_perm(x, y, s), with_sign = permute_bytes(x, y, s);
        for (unsigned i = 0; i < 4; i++) {
            const unsigned choice = s >> 4 * i & 15;
            const uint8_t byte = byte_of(both, choice & 7);
            assert_int_equal(byte_of(plain, i), byte);
            assert_int_equal(byte_of(with_sign, i), choice < 8 ? byte : byte >= 128 ? 255 : 0);
        }
        const unsigned n = s % 40, wrapped = n % 32, clamped = n < 32 ? n : 32;
        assert_int_equal(__funnelshift_l(x, y, n), wrapped ? y << wrapped | x >> (32 - wrapped) : y);
        assert_int_equal(__funnelshift_r(x, y, n), wrapped ? x >> wrapped | y << (32 - wrapped) : x);
        assert_int_equal(__funnelshift_lc(x, y, n), clamped == 32 ? x : __funnelshift_l(x, y, n));
        assert_int_equal(__funnelshift_rc(x, y, n), clamped == 32 ? y : __funnelshift_r(x, y, n));
        int dot = (int)s;
        unsigned unsigned_dot = s;
        for (unsigned i = 0; i < 4; i++) {
            dot = (int)((unsigned)dot + (unsigned)((int8_t)byte_of(x, i) * (int8_t)byte_of(y, i)));
            unsigned_dot += (unsigned)byte_of(x, i) * byte_of(y, i);
        }
        assert_int_equal(__dp4a((int)x, (int)y, (int)s), dot);
        assert_int_equal(__dp4a(x, y, s), unsigned_dot);
    }
}

static void bits_are_counted(void **)
{
    assert_int_equal(__popc(0xf0f01u), 9);
    assert_int_equal(__clz(0), 32);
    assert_int_equal(__clz(1), 31);
    assert_int_equal(__clz(-1), 0);
    assert_int_equal(__ffs(0), 0);
    assert_int_equal(__ffs(8), 4);
    assert_int_equal(__ffsll(1ll << 40), 41);
    assert_int_equal(__brev(1), 0x80000000u);
    assert_int_equal(__brev(0x12345678u), 0x1e6a2c48u);
    assert_int_equal(__umulhi(0xffffffffu, 0xffffffffu), 0xfffffffeu);
    assert_int_equal(__mulhi(-1, 1), -1);
}

static void floats_become_integers(void **)
{
    assert_int_equal(__float2int_rn(2.5f), 2);
    assert_int_equal(__float2int_rn(-3.5f), -4);
    assert_int_equal(__float2int_rn(3e9f), INT32_MAX);
    assert_int_equal(__float2int_rn(NAN), 0);
    assert_int_equal(__float2int_rz(-2.9f), -2);
    assert_int_equal(__float2int_rd(-2.1f), -3);
    assert_int_equal(__float2uint_rn(-1.0f), 0);
    assert_int_equal(__float_as_int(1.0f), 0x3f800000);
    assert_true(__uint_as_float(0x4b400000u) == 12582912.0f);
    assert_true(__saturatef(NAN) == 0.0f);
}

__global__ void atomic_kernel(int *whole, unsigned long long *wide, float *sum, unsigned *old)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    old[i] = (unsigned)atomicAdd(&whole[0], 1);
    atomicMax(&whole[1], (int)i * 7 % 61);
    atomicMin(&wide[0], 1000ull - i);
    atomicAdd(sum, 1.0f);
    unsigned long long expected = wide[1];
    for (unsigned long long found; (found = atomicCAS(&wide[1], expected, expected + 2)) != expected;) {
        expected = found;
    }
}

static void atomics_add_up(void **)
{
    in_all_orders([] {
        device_vector<int> whole(std::vector<int>(2, 0));
        device_vector<unsigned long long> wide(std::vector<unsigned long long>{~0ull, 0});
        device_vector<float> sum(std::vector<float>(1, 0.0f));
        device_vector<unsigned> old(128);
        must_launch(cuda_launch(NULL, atomic_kernel, dim3(2), dim3(64), 0, whole.data, wide.data, sum.data, old.data));
        std::vector<unsigned> seen = old.host();
        std::sort(seen.begin(), seen.end());
        for (unsigned i = 0; i < 128; i++) {
            assert_int_equal(seen[i], i);
        }
        assert_int_equal(whole.data[0], 128);
        assert_int_equal(whole.data[1], 60);
        assert_int_equal(wide.data[0], 1000 - 127);
        assert_int_equal(wide.data[1], 256);
        assert_true(sum.data[0] == 128.0f);
    });
}

int main(void)
{
    random_state = sqf_random{test_seed("instructions", 20261121)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrix_instructions_multiply),
        cmocka_unit_test(matrices_are_loaded_by_rows),
        cmocka_unit_test(warps_exchange),
        cmocka_unit_test(words_are_permuted_and_shifted),
        cmocka_unit_test(bits_are_counted),
        cmocka_unit_test(floats_become_integers),
        cmocka_unit_test(atomics_add_up),
    };
    return cmocka_run_group_tests_name("instructions", tests, NULL, NULL);
}
