/* Emulation of CUDA on the host: matrix instructions. The last lane of a warp computes for all: fragments become plain
 * matrices, whose products a compiler vectorizes. Integer sums are exact modulo 2^32. Floats are summed in double and
 * rounded once: at least as good as any hardware, which promises no order. */
#include "kernels/cuda/emulation/instructions.h"

namespace
{

enum { ROWS = 16, COLUMNS = 8 };

/* Where the words of the fragments go: word 0..7 of a row of A, which are 2 x 4 words of depth; B alike by column. */
struct words {
    uint32_t a[ROWS][8], b[COLUMNS][8];
};

void gather(void *const operands[EMULATED_WARP], words *out)
{
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_mma *from = (const emulated_mma *)operands[lane];
        const int g = lane / 4, t = lane % 4;
        out->a[g][t] = from->a[0];
        out->a[g + 8][t] = from->a[1];
        out->a[g][t + 4] = from->a[2];
        out->a[g + 8][t + 4] = from->a[3];
        out->b[g][t] = from->b[0];
        out->b[g][t + 4] = from->b[1];
    }
}

/* Element i of a lane's c or d is place[i] of the matrix. */
struct quad {
    int row[4], column[4];
};

quad places(int lane)
{
    const int g = lane / 4, t = lane % 4;
    return {{g, g, g + 8, g + 8}, {2 * t, 2 * t + 1, 2 * t, 2 * t + 1}};
}

template <int depth>
void multiply(const int16_t a[ROWS][depth], const int16_t b[COLUMNS][depth], void *const operands[EMULATED_WARP])
{
    int32_t product[ROWS][COLUMNS];
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < COLUMNS; j++) {
            int32_t sum = 0;
            for (int k = 0; k < depth; k++) {
                sum += a[i][k] * b[j][k];
            }
            product[i][j] = sum;
        }
    }
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_mma *to = (const emulated_mma *)operands[lane];
        const quad at = places(lane);
        for (int i = 0; i < 4; i++) {
            const uint32_t c = ((const uint32_t *)to->c)[i];
            ((uint32_t *)to->d)[i] = c + (uint32_t)product[at.row[i]][at.column[i]];
        }
    }
}

/* b lies row by row: the columns of a row are the lanes of vectors. */
template <int depth>
void multiply(const float a[ROWS][depth], const double b[depth][COLUMNS], void *const operands[EMULATED_WARP])
{
    double product[ROWS][COLUMNS];
    for (int i = 0; i < ROWS; i++) {
        double sum[COLUMNS] = {};
        for (int k = 0; k < depth; k++) {
            for (int j = 0; j < COLUMNS; j++) {
                sum[j] += a[i][k] * b[k][j];
            }
        }
        memcpy(product[i], sum, sizeof sum);
    }
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_mma *to = (const emulated_mma *)operands[lane];
        const quad at = places(lane);
        for (int i = 0; i < 4; i++) {
            const float c = ((const float *)to->c)[i];
            ((float *)to->d)[i] = (float)(c + product[at.row[i]][at.column[i]]);
        }
    }
}

template <int count> void widen_s4(const uint32_t from[][8], int16_t to[][64])
{
    for (int i = 0; i < count; i++) {
        const uint8_t *bytes = (const uint8_t *)from[i];
        for (int k = 0; k < 32; k++) {
            to[i][2 * k] = (int16_t)((int8_t)(bytes[k] << 4) >> 4);
            to[i][2 * k + 1] = (int16_t)((int8_t)bytes[k] >> 4);
        }
    }
}

template <int count> void widen_s8(const uint32_t from[][8], int16_t to[][32])
{
    for (int i = 0; i < count; i++) {
        const int8_t *bytes = (const int8_t *)from[i];
        for (int k = 0; k < 32; k++) {
            to[i][k] = bytes[k];
        }
    }
}

float from_bf16(uint16_t bits)
{
    const uint32_t word = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

/* The exponent is moved by a product that is exact, denormals included. */
float from_fp16(uint16_t bits)
{
    const uint32_t magnitude = bits & 0x7fff, word = magnitude << 13;
    float x;
    memcpy(&x, &word, sizeof x);
    x *= 0x1p112f;
    uint32_t raised;
    memcpy(&raised, &x, sizeof raised);
    raised = (magnitude >= 0x7c00 ? word | 0x7f800000u : raised) | (uint32_t)(bits & 0x8000) << 16;
    memcpy(&x, &raised, sizeof x);
    return x;
}

float from_e4m3(uint8_t bits)
{
    const uint32_t magnitude = bits & 0x7f, word = magnitude << 20;
    float x;
    memcpy(&x, &word, sizeof x);
    x *= 0x1p120f;
    x = magnitude == 0x7f ? NAN : x;
    return bits & 0x80 ? -x : x;
}

template <int count, typename T, int depth, float (*convert)(T)> void widen(const uint32_t from[][8], float to[][depth])
{
    for (int i = 0; i < count; i++) {
        T row[depth];
        memcpy(row, from[i], sizeof row);
        for (int k = 0; k < depth; k++) {
            to[i][k] = convert(row[k]);
        }
    }
}

template <typename T, int depth, float (*convert)(T)> void multiply_floats(void *const operands[EMULATED_WARP])
{
    words all;
    float a[ROWS][depth], columns[COLUMNS][depth];
    double b[depth][COLUMNS];
    gather(operands, &all);
    widen<ROWS, T, depth, convert>(all.a, a);
    widen<COLUMNS, T, depth, convert>(all.b, columns);
    for (int j = 0; j < COLUMNS; j++) {
        for (int k = 0; k < depth; k++) {
            b[k][j] = columns[j][k];
        }
    }
    multiply<depth>(a, b, operands);
}

} // namespace

void emulated_mma_s4(void *const operands[EMULATED_WARP])
{
    words all;
    int16_t a[ROWS][64], b[COLUMNS][64];
    gather(operands, &all);
    widen_s4<ROWS>(all.a, a);
    widen_s4<COLUMNS>(all.b, b);
    multiply<64>(a, b, operands);
}

void emulated_mma_s8(void *const operands[EMULATED_WARP])
{
    words all;
    int16_t a[ROWS][32], b[COLUMNS][32];
    gather(operands, &all);
    widen_s8<ROWS>(all.a, a);
    widen_s8<COLUMNS>(all.b, b);
    multiply<32>(a, b, operands);
}

void emulated_mma_bf16(void *const operands[EMULATED_WARP])
{
    multiply_floats<uint16_t, 16, from_bf16>(operands);
}

void emulated_mma_fp16(void *const operands[EMULATED_WARP])
{
    multiply_floats<uint16_t, 16, from_fp16>(operands);
}

void emulated_mma_fp8(void *const operands[EMULATED_WARP])
{
    multiply_floats<uint8_t, 32, from_e4m3>(operands);
}
