/* How weights and activations lie on the device, exhaustively: every element of a tile has a place of its own, packing
 * and its inverse agree, operands of the matrix instructions meet column by column, and no access to swizzled shared
 * memory meets a bank twice. */
#include <algorithm>
#include <map>
#include <set>

#include "emulated.hpp"

#include "kernels/cuda/linear/pack.h"
#include "kernels/cuda/linear/swizzle.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/product/gemm_integer_job.h"

extern "C" {
#include <cmocka.h>
}

/* Place of an element in half bytes from the beginning of its tile. */
static size_t place_of(sqf_cuda_form form, unsigned row, unsigned column)
{
    unsigned upper;
    switch (cuda_tile_bytes(form)) {
    case CUDA_NIBBLE_TILE: {
        const size_t at = cuda_nibble_offset(row, column, &upper);
        return 2 * at + upper;
    }
    case CUDA_BYTE_TILE: return 2 * cuda_byte_offset(row, column);
    case CUDA_HALF_TILE: return 2 * cuda_half_offset(row, column);
    default: return 2 * ((size_t)row * CUDA_UNIT + column) * 4;
    }
}

static const sqf_cuda_form forms[] = {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_SPLIT, SQF_CUDA_FP8,
                                      SQF_CUDA_BF16,    SQF_CUDA_FP16,  SQF_CUDA_FP32};

/* All elements of a tile, and only they, fill it: as many places as there are, each once. */
static void test_tiles(void **)
{
    for (sqf_cuda_form form : forms) {
        const size_t bytes = cuda_tile_bytes(form), size = 2 * bytes / (CUDA_TILE_ROWS * CUDA_UNIT);
        std::vector<int> taken(2 * bytes);
        for (unsigned row = 0; row < CUDA_TILE_ROWS; row++) {
            for (unsigned column = 0; column < CUDA_UNIT; column++) {
                const size_t at = place_of(form, row, column);
                assert_int_equal(at % size, 0);
                for (size_t i = 0; i < size; i++) {
                    taken[at + i]++;
                }
            }
        }
        assert_true(std::count(taken.begin(), taken.end(), 1) == (long)taken.size());
    }
}

/* The words of a tile name the elements that lie in them. */
static void test_words(void **)
{
    for (sqf_cuda_form form : forms) {
        for (unsigned word = 0; word < cuda_tile_bytes(form) / 4; word++) {
            const cuda_word where = cuda_word_of(form, word);
            for (unsigned i = 0; i < where.count; i++) {
                const size_t at = place_of(form, where.row, cuda_word_column(form, &where, i));
                assert_int_equal(at, (size_t)word * 8 + i * 8 / where.count);
            }
        }
    }
}

/* Columns to places and back. */
static void test_inverses(void **)
{
    std::set<unsigned> bytes, halves;
    for (unsigned column = 0; column < 32; column++) {
        assert_int_equal(cuda_byte_column(cuda_byte_place(column)), column);
        assert_int_equal(cuda_half_column(cuda_half_place(column)), column);
    }
    for (unsigned column = 0; column < CUDA_UNIT; column++) {
        bytes.insert(cuda_byte_unit_place(column));
        halves.insert(cuda_half_unit_place(column));
        assert_int_equal(cuda_byte_unit_place(column) / 32, column / 32);
        assert_int_equal(cuda_half_unit_place(column) / 32, column / 32);
    }
    assert_int_equal(bytes.size(), CUDA_UNIT);
    assert_int_equal(halves.size(), CUDA_UNIT);
    assert_int_equal(*bytes.rbegin(), CUDA_UNIT - 1);
    assert_int_equal(*halves.rbegin(), CUDA_UNIT - 1);
}

/* ---- packing ---- */

/* A source with segments of lengths that are no units. */
struct packed {
    std::vector<cuda_segment> segments;
    std::vector<uint8_t> codes, mask;
    std::vector<int8_t> high;
    std::vector<float> scales;
    cuda_pack_source source;

    packed(sqf_cuda_form form, uint32_t rows, uint64_t seed)
    {
        sqf_random random = {seed};
        uint32_t column = 0, unit = 0;
        for (uint32_t length : {70u, 64u, 1u, 129u}) {
            const uint32_t units = (length + CUDA_UNIT - 1) / CUDA_UNIT;
            segments.push_back({unit, units, column, column + length, 0, 0});
            column += length;
            unit += units;
        }
        const size_t count = (size_t)rows * column;
        codes.resize(count * cuda_code_bytes(form));
        mask.resize(count);
        high.resize(count);
        scales.resize(rows * segments.size());
        for (uint8_t &code : codes) {
            code = (uint8_t)(sqf_random_u64(&random) % 255 + 1);
        }
        for (size_t i = 0; i < count; i++) {
            if (form == SQF_CUDA_NIBBLES || form == SQF_CUDA_SPLIT) {
                codes[i] = (uint8_t)((int)(sqf_random_u64(&random) % 15) - 7);
            }
            mask[i] = sqf_random_u64(&random) % 4 == 0;
            high[i] = (int8_t)(mask[i] ? (int)(sqf_random_u64(&random) % 255) - 127 : 0);
            if (form == SQF_CUDA_SPLIT && mask[i]) {
                codes[i] = 0;
            }
        }
        for (float &scale : scales) {
            scale = (float)(sqf_random_u64(&random) % 1000);
        }
        source = {form,
                  codes.data(),
                  high.data(),
                  mask.data(),
                  scales.data(),
                  rows,
                  column,
                  unit,
                  (uint32_t)segments.size(),
                  segments.data(),
                  64};
    }

    packed(const packed &) = delete;
};

/* The element of a packed matrix, through the places of layout.h alone. */
static uint32_t unpack(const packed &from, const std::vector<uint8_t> &tiles, uint32_t row, uint32_t unit,
                       unsigned column)
{
    const sqf_cuda_form form = from.source.form;
    const size_t tile = ((size_t)row / CUDA_TILE_ROWS * from.source.units + unit) * cuda_tile_bytes(form);
    const size_t at = place_of(form, row % CUDA_TILE_ROWS, column);
    if (cuda_tile_bytes(form) == CUDA_NIBBLE_TILE) {
        return tiles[tile + at / 2] >> 4 * (at % 2) & 15;
    }
    uint32_t bits = 0;
    memcpy(&bits, &tiles[tile + at / 2], cuda_code_bytes(form));
    return bits;
}

static void check_tiles(const packed &from, const std::vector<uint8_t> &tiles, uint32_t padded)
{
    const sqf_cuda_form form = from.source.form;
    const uint32_t limit = cuda_tile_bytes(form) == CUDA_NIBBLE_TILE ? 15 : UINT32_MAX;
    for (uint32_t row = 0; row < padded; row++) {
        for (const cuda_segment &segment : from.segments) {
            for (uint32_t i = 0; i < segment.units * CUDA_UNIT; i++) {
                const uint32_t k = segment.begin + i;
                const size_t at = (size_t)row * from.source.columns + k;
                uint32_t expected = 0;
                if (row < from.source.rows && k < segment.end) {
                    memcpy(&expected, &from.codes[at * cuda_code_bytes(form)], cuda_code_bytes(form));
                    expected = form == SQF_CUDA_SPLIT && from.mask[at] ? (uint32_t)CUDA_SPLIT_MARK : expected & limit;
                }
                assert_int_equal(unpack(from, tiles, row, segment.unit + i / CUDA_UNIT, i % CUDA_UNIT), expected);
            }
        }
    }
}

static void check_rest(const packed &from, const std::vector<int8_t> &high, const std::vector<float> &scales,
                       const std::vector<int32_t> &sums, const std::vector<int32_t> &high_sums, uint32_t padded)
{
    const size_t segments = from.segments.size();
    for (uint32_t row = 0; row < padded; row++) {
        const bool real = row < from.source.rows;
        for (size_t s = 0; s < segments; s++) {
            const size_t at = (row / CUDA_TILE_ROWS * segments + s) * CUDA_TILE_ROWS + row % CUDA_TILE_ROWS;
            const cuda_segment &segment = from.segments[s];
            int32_t low_sum = 0, high_sum = 0;
            for (uint32_t k = segment.begin; real && k < segment.end; k++) {
                low_sum += (int8_t)from.codes[(size_t)row * from.source.columns + k];
                high_sum += from.high[(size_t)row * from.source.columns + k];
            }
            assert_true(scales[at] == (real ? from.scales[row * segments + s] : 0.0f));
            assert_int_equal(sums[at], low_sum);
            assert_int_equal(high_sums[at], high_sum);
            for (uint32_t u = 0; u < segment.units; u++) {
                const int8_t *list =
                    &high[((size_t)(row / CUDA_TILE_ROWS * from.source.units + segment.unit + u) * CUDA_TILE_ROWS +
                           row % CUDA_TILE_ROWS) *
                          64];
                uint32_t found = 0;
                for (uint32_t k = segment.begin + u * 64; real && k < segment.end && k < segment.begin + u * 64 + 64;
                     k++) {
                    const size_t element = (size_t)row * from.source.columns + k;
                    if (from.mask[element]) {
                        assert_int_equal(list[found++], from.high[element]);
                    }
                }
                while (found < 64) {
                    assert_int_equal(list[found++], 0);
                }
            }
        }
    }
}

static void test_packing(void **)
{
    sqf_cuda_device *device;
    sqf_error err;
    assert_ok(cuda_open(0, &device, &err), &err);
    for (sqf_cuda_form form : forms) {
        for (uint32_t rows : {1u, 16u, 37u}) {
            const packed from(form, rows, 3 + rows);
            const uint32_t tiles = (rows + 15) / 16 + 1, units = from.source.units;
            const size_t scale_count = (size_t)tiles * from.segments.size() * CUDA_TILE_ROWS;
            const bool integers = cuda_code_bytes(form) == 1 && form != SQF_CUDA_FP8;
            std::vector<uint8_t> out((size_t)tiles * units * cuda_tile_bytes(form), 0xee);
            std::vector<int8_t> high((size_t)tiles * units * CUDA_TILE_ROWS * 64, 0x55);
            std::vector<float> scales(scale_count), high_scales(scale_count);
            std::vector<int32_t> sums(scale_count), high_sums(scale_count);
            const cuda_pack_target target = {
                (uint32_t *)out.data(), integers ? high.data() : NULL, scales.data(),
                high_scales.data(),     integers ? sums.data() : NULL, integers ? high_sums.data() : NULL,
                from.scales.data()};
            assert_ok(cuda_pack(device, &from.source, &target, tiles, &err), &err);
            assert_ok(cuda_finish(device, &err), &err);
            check_tiles(from, out, tiles * CUDA_TILE_ROWS);
            if (integers) {
                check_rest(from, high, scales, sums, high_sums, tiles * CUDA_TILE_ROWS);
            }
            assert_true(scales == high_scales);
        }
    }
    cuda_close(device);
}

/* ---- operands ---- */

/* Depth (bytes from the beginning of an instruction's 32 bytes of depth) that register `reg` of A stands for in lane
 * t of a quad, byte i; the B operand's bytes have the same number. From the PTX manual, by way of layout.h. */
static unsigned depth_of(unsigned reg, unsigned t, unsigned i)
{
    return 16 * (reg / 2) + 4 * t + i;
}

/* For every 32-bit register of a tile, the columns in it and the columns that stand at the same depth in a unit of
 * activations are the same: the product of one tile is the sum over equal columns. */
static void test_operands(void **)
{
    for (unsigned word = 0; word < CUDA_NIBBLE_TILE / 4; word++) { /* m16n8k64: natural order, eight a register */
        const cuda_word where = cuda_word_of(SQF_CUDA_NIBBLES, word);
        for (unsigned i = 0; i < 8; i++) {
            const unsigned depth = 2 * depth_of(word % 4, word / 4 % 4, i / 2) + i % 2;
            assert_int_equal(cuda_word_column(SQF_CUDA_NIBBLES, &where, i), depth);
        }
        for (unsigned i = 0; i < 4; i++) { /* m16n8k32 of the even and of the odd nibbles, as widened */
            const unsigned half = word % 4 / 2, t = word / 4 % 4;
            for (unsigned odd = 0; odd < 2; odd++) {
                const unsigned column = cuda_word_column(SQF_CUDA_NIBBLES, &where, 2 * i + odd);
                assert_int_equal(cuda_byte_unit_place(column), 32 * half + depth_of(2 * odd, t, i));
            }
        }
    }
    for (unsigned word = 0; word < CUDA_BYTE_TILE / 4; word++) {
        const cuda_word where = cuda_word_of(SQF_CUDA_BYTES, word);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(cuda_byte_unit_place(cuda_word_column(SQF_CUDA_BYTES, &where, i)),
                             word / 128 * 32 + depth_of(word % 4, word / 4 % 4, i));
        }
    }
    for (unsigned word = 0; word < CUDA_HALF_TILE / 4; word++) {
        const cuda_word where = cuda_word_of(SQF_CUDA_BF16, word);
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(2 * cuda_half_unit_place(cuda_word_column(SQF_CUDA_BF16, &where, i)),
                             word / 128 * 32 + depth_of(word % 4, word / 4 % 4, 2 * i));
        }
    }
}

/* Small numbers and their bits: a number is one of these in every form. */
static const int numbers[] = {0, 1, 2, 4, -1, -2, -4};

static uint32_t bits_of(sqf_cuda_form form, int number)
{
    const unsigned power = number == 0 ? 0 : __builtin_ctz((unsigned)abs(number)), sign = number < 0;
    switch (form) {
    case SQF_CUDA_NIBBLES: return (uint32_t)number & 15;
    case SQF_CUDA_BYTES: return (uint32_t)number & 255;
    case SQF_CUDA_FP8: return number == 0 ? 0 : sign << 7 | (7 + power) << 3;
    case SQF_CUDA_BF16: return number == 0 ? 0 : sign << 15 | (127 + power) << 7;
    default: return number == 0 ? 0 : sign << 15 | (15 + power) << 10;
    }
}

/* One tile times a unit of eight tokens by the instruction of its form, one warp: out [16][8]. */
static __global__ void tile_product(sqf_cuda_form form, const uint8_t *tile, const uint8_t *unit, float *out)
{
    const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const unsigned token_bytes = cuda_tile_bytes(form) / CUDA_TILE_ROWS;
    int32_t integers[4] = {0, 0, 0, 0};
    float floats[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (unsigned step = 0; step < cuda_tile_bytes(form) / 512; step++) {
        uint32_t a[4], b[2];
        memcpy(a, tile + step * 512 + lane * 16, 16);
        memcpy(&b[0], unit + g * token_bytes + step * 32 + t * 4, 4);
        memcpy(&b[1], unit + g * token_bytes + step * 32 + t * 4 + 16, 4);
        switch (form) {
        case SQF_CUDA_NIBBLES: mma_s4(integers, a, b); break;
        case SQF_CUDA_BYTES: mma_s8(integers, a, b); break;
        case SQF_CUDA_FP8: mma_fp8(floats, a, b); break;
        case SQF_CUDA_BF16: mma_bf16(floats, a, b); break;
        default: mma_fp16(floats, a, b); break;
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = floats[i] + (float)integers[i];
    }
}

/* Writes an element of `size` half bytes. */
static void put(std::vector<uint8_t> *to, size_t half_bytes, size_t size, uint32_t bits)
{
    for (size_t i = 0; i < size; i++) {
        uint8_t *byte = &(*to)[(half_bytes + i) / 2];
        const unsigned shift = (half_bytes + i) % 2 * 4;
        *byte = (uint8_t)((*byte & ~(15u << shift)) | (bits >> 4 * i & 15) << shift);
    }
}

/* The product of a tile in place order is the plain product in column order. */
static void test_products(void **)
{
    setenv("SQF_EMULATION_ARCH", "89", 1); /* has them all */
    sqf_random random = {4};
    for (sqf_cuda_form form : {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_FP8, SQF_CUDA_BF16, SQF_CUDA_FP16}) {
        const size_t bytes = cuda_tile_bytes(form), size = 2 * bytes / (CUDA_TILE_ROWS * CUDA_UNIT);
        std::vector<uint8_t> tile(bytes), unit(bytes / 2);
        int weights[CUDA_TILE_ROWS][CUDA_UNIT], values[8][CUDA_UNIT];
        for (unsigned k = 0; k < CUDA_UNIT; k++) {
            const unsigned place = bytes == CUDA_BYTE_TILE   ? cuda_byte_unit_place(k)
                                   : bytes == CUDA_HALF_TILE ? cuda_half_unit_place(k)
                                                             : k;
            for (unsigned row = 0; row < CUDA_TILE_ROWS; row++) {
                weights[row][k] = numbers[sqf_random_u64(&random) % 7];
                put(&tile, place_of(form, row, k), size, bits_of(form, weights[row][k]));
            }
            for (unsigned token = 0; token < 8; token++) {
                values[token][k] = numbers[sqf_random_u64(&random) % 7];
                put(&unit, (token * CUDA_UNIT + place) * size, size, bits_of(form, values[token][k]));
            }
        }
        float out[CUDA_TILE_ROWS][8];
        must_launch(cuda_launch(NULL, tile_product, dim3(1), dim3(32), 0, form, tile.data(), unit.data(), &out[0][0]));
        for (unsigned row = 0; row < CUDA_TILE_ROWS; row++) {
            for (unsigned token = 0; token < 8; token++) {
                int expected = 0;
                for (unsigned k = 0; k < CUDA_UNIT; k++) {
                    expected += weights[row][k] * values[token][k];
                }
                assert_true(out[row][token] == (float)expected);
            }
        }
    }
    unsetenv("SQF_EMULATION_ARCH");
}

/* ---- shared memory ---- */

/* The 16-byte accesses of eight lanes are one phase: together they must touch each bank once. */
static void expect_no_conflict(const unsigned places[8])
{
    std::set<unsigned> groups;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(places[i] % 16, 0);
        groups.insert(places[i] / 16 % 8);
    }
    assert_int_equal(groups.size(), 8);
}

static void test_banks(void **)
{
    std::set<unsigned> places;
    for (unsigned row = 0; row < 128; row++) {
        for (unsigned piece = 0; piece < 8; piece++) {
            places.insert(swizzle_wide(row, piece));
        }
    }
    assert_int_equal(places.size(), 128 * 8);
    assert_int_equal(*places.rbegin(), 128 * 128 - 16);
    unsigned phase[8];
    for (unsigned first = 0; first < 128; first += 8) {
        for (unsigned piece = 0; piece < 8; piece++) { /* ldmatrix: eight rows of a piece */
            for (unsigned i = 0; i < 8; i++) {
                phase[i] = swizzle_wide(first + i, piece);
            }
            expect_no_conflict(phase);
        }
    }
    for (unsigned row = 0; row < 128; row++) { /* copies: eight pieces of a row */
        for (unsigned i = 0; i < 8; i++) {
            phase[i] = swizzle_wide(row, i);
        }
        expect_no_conflict(phase);
    }
}

/* Sums that change places: the floats of a warp's store, and of its load, lie in 32 banks. */
static void test_flush_banks(void **)
{
    for (unsigned register_ = 0; register_ < 16; register_++) {
        const unsigned j = register_ / 8, m = register_ / 4 % 2, i = register_ % 4;
        std::set<unsigned> banks;
        for (unsigned lane = 0; lane < 32; lane++) {
            const unsigned g = lane / 4, t = lane % 4;
            banks.insert(((8 * j + 2 * t + i % 2) * INTEGER_FLUSH + 16 * m + g + i / 2 * 8) % 32);
        }
        assert_int_equal(banks.size(), 32);
    }
}

/* Every block of a grid has a place and a part of its own, and the parts are all chunks. */
static void test_blocks(void **)
{
    for (uint32_t row_blocks : {1u, 2u, 15u, 16u, 17u, 33u, 48u}) {
        for (uint32_t bits : {0u, 1u, 3u}) {
            integer_job job = integer_job();
            job.split_bits = bits;
            job.chunk_count = 33;
            job.share = (33 + (1u << bits) - 1) >> bits;
            std::map<std::pair<uint32_t, uint32_t>, uint32_t> chunks;
            const uint32_t groups = (row_blocks + INTEGER_BANDS - 1) / INTEGER_BANDS;
            for (uint3 index = {0, 0, 0}; index.z < groups << bits; index.z++) {
                for (index.y = 0; index.y < 3; index.y++) {
                    for (index.x = 0; index.x < INTEGER_BANDS; index.x++) {
                        const integer_block block = integer_place(job, index, 64, NULL);
                        uint32_t *found = &chunks[{block.first_row, block.first_token}];
                        assert_true(block.begin >= block.end || block.begin == *found);
                        *found += block.begin < block.end ? block.end - block.begin : 0;
                    }
                }
            }
            for (uint32_t r = 0; r < row_blocks; r++) {
                for (uint32_t m = 0; m < 3; m++) {
                    const uint32_t found = chunks[{r * (uint32_t)INTEGER_ROWS, m * 64}];
                    assert_int_equal(found, 33);
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles),   cmocka_unit_test(test_words),       cmocka_unit_test(test_inverses),
        cmocka_unit_test(test_packing), cmocka_unit_test(test_operands),    cmocka_unit_test(test_products),
        cmocka_unit_test(test_banks),   cmocka_unit_test(test_flush_banks), cmocka_unit_test(test_blocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
