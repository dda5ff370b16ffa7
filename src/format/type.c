/* Element types: the table of their properties, their codes, half floats and the rounding of scales. Spec:
 * docs/format.md section 3. Conversions of half floats are written out, so that every build gives the same bits
 * whether or not the processor has instructions for them. */
#include "format/type.h"

#include <math.h>
#include <strings.h>

/* Codes with a special role. FP8_NAN is compared without the sign: E4M3 has no infinity and one NaN a sign; E5M2 has
 * an infinity and NaNs from E5M2_INFINITY on. The sentinels are codes that no value needs: the negative zeros of fp4
 * and fp6, a negative NaN of fp8. */
enum {
    FP4_NEGATIVE_ZERO = 0x8,
    FP6_NEGATIVE_ZERO = 0x20,
    FP8_NEGATIVE_ZERO = 0x80,
    FP8_NAN = 0x7f,
    E5M2_INFINITY = 0x7c,
    FP8_SENTINEL = 0xff,
    E8M0_NAN = 0xff,
    E8M0_BIAS = 127
};

/* What the format says of a type, one row each. */
typedef struct type_row {
    const char *name;
    unsigned bits;
    int multiplier;       /* see sqf_type_multiplier */
    size_t storage_bytes; /* 0 = packed */
    const char *dtype;    /* in safetensors */
} type_row;

static const type_row types[SQF_TYPE_COUNT] = {
    [SQF_TYPE_NONE] = {"none", 0, 0, 0, "U8"},    [SQF_TYPE_INT2] = {"int2", 2, 1, 0, "U8"},
    [SQF_TYPE_INT3] = {"int3", 3, 1, 0, "U8"},    [SQF_TYPE_INT4] = {"int4", 4, 1, 0, "U8"},
    [SQF_TYPE_INT5] = {"int5", 5, 1, 0, "U8"},    [SQF_TYPE_INT6] = {"int6", 6, 1, 0, "U8"},
    [SQF_TYPE_INT8] = {"int8", 8, 1, 1, "I8"},    [SQF_TYPE_FP4] = {"fp4", 4, 2, 0, "U8"},
    [SQF_TYPE_FP8] = {"fp8", 8, 0, 1, "F8_E4M3"}, [SQF_TYPE_FP16] = {"fp16", 16, 0, 2, "F16"},
    [SQF_TYPE_BF16] = {"bf16", 16, 0, 2, "BF16"}, [SQF_TYPE_FP32] = {"fp32", 32, 0, 4, "F32"},
    [SQF_TYPE_FP6] = {"fp6", 6, 8, 0, "U8"},      [SQF_TYPE_FP6_E3M2] = {"fp6e3m2", 6, 0, 0, "U8"},
    [SQF_TYPE_E8M0] = {"e8m0", 8, 0, 1, "U8"},    [SQF_TYPE_FP8_E5M2] = {"fp8e5m2", 8, 0, 0, "U8"},
};

const float sqf_type_limits[SQF_TYPE_COUNT] = {
    [SQF_TYPE_INT2] = 1.0f,         [SQF_TYPE_INT3] = 3.0f,        [SQF_TYPE_INT4] = 7.0f, [SQF_TYPE_INT5] = 15.0f,
    [SQF_TYPE_INT6] = 31.0f,        [SQF_TYPE_INT8] = 127.0f,      [SQF_TYPE_FP4] = 6.0f,  [SQF_TYPE_FP8] = 448.0f,
    [SQF_TYPE_FP16] = 65504.0f,     [SQF_TYPE_BF16] = 0x1.fep127f, [SQF_TYPE_FP6] = 7.5f,  [SQF_TYPE_FP6_E3M2] = 28.0f,
    [SQF_TYPE_FP8_E5M2] = 57344.0f, [SQF_TYPE_E8M0] = 0x1p127f,
};

static bool is_known(sqf_type type)
{
    return (unsigned)type < SQF_TYPE_COUNT;
}

/* int2 ... int8 */
static bool is_int(sqf_type type)
{
    return type >= SQF_TYPE_INT2 && type <= SQF_TYPE_INT8;
}

unsigned sqf_type_bits(sqf_type type)
{
    return is_known(type) ? types[type].bits : 0;
}

float sqf_type_max(sqf_type type)
{
    return sqf_type_has_scale(type) ? sqf_type_limits[type] : 0.0f;
}

const char *sqf_type_name(sqf_type type)
{
    return is_known(type) ? types[type].name : "unknown";
}

bool sqf_type_parse(const char *name, sqf_type *out)
{
    for (int type = 0; type < SQF_TYPE_COUNT; type++) {
        if (strcasecmp(name, types[type].name) == 0) {
            *out = (sqf_type)type;
            return true;
        }
    }
    return false;
}

bool sqf_type_is_integer(sqf_type type)
{
    return sqf_type_multiplier(type) != 0;
}

int sqf_type_multiplier(sqf_type type)
{
    return is_known(type) ? types[type].multiplier : 0;
}

bool sqf_type_has_scale(sqf_type type)
{
    return is_int(type) || type == SQF_TYPE_FP4 || type == SQF_TYPE_FP6 || type == SQF_TYPE_FP6_E3M2 ||
           type == SQF_TYPE_FP8 || type == SQF_TYPE_FP8_E5M2;
}

bool sqf_type_is_scale(sqf_type type)
{
    return type == SQF_TYPE_FP16 || type == SQF_TYPE_BF16 || type == SQF_TYPE_FP32 || type == SQF_TYPE_FP8 ||
           type == SQF_TYPE_E8M0;
}

size_t sqf_type_storage_bytes(sqf_type type)
{
    return is_known(type) ? types[type].storage_bytes : 0;
}

const char *sqf_type_dtype(sqf_type type)
{
    return is_known(type) ? types[type].dtype : "U8";
}

/* A small float (sign, exponent, `fraction` bits) from a value that is on its grid and not 0. */
static uint32_t small_float_encode(float value, unsigned exponent_bits, unsigned fraction, int bias)
{
    int exponent;
    const float m = frexpf(fabsf(value), &exponent); /* |value| = m * 2^exponent, m in [0.5, 1) */
    const uint32_t sign = (uint32_t)(value < 0.0f) << (exponent_bits + fraction);
    const int field = exponent - 1 + bias;
    if (field <= 0) {
        return sign | (uint32_t)ldexpf(m, exponent + bias - 1 + (int)fraction); /* subnormal: no hidden one */
    }
    const uint32_t digits = (uint32_t)ldexpf(m, (int)fraction + 1) - (1u << fraction);
    return sign | (uint32_t)field << fraction | digits;
}

/* The inverse, for every code that is not fp8's NaN. */
static float small_float_decode(uint32_t code, unsigned exponent_bits, unsigned fraction, int bias)
{
    const uint32_t digits = code & ((1u << fraction) - 1u);
    const uint32_t field = code >> fraction & ((1u << exponent_bits) - 1u);
    const float magnitude = field == 0 ? ldexpf((float)digits, 1 - bias - (int)fraction)
                                       : ldexpf((float)(digits + (1u << fraction)), (int)field - bias - (int)fraction);
    return code >> (exponent_bits + fraction) & 1u ? -magnitude : magnitude;
}

/* Integers are stored with an offset, so that codes are unsigned and the top one is free for the sentinel; floats by
 * their bits. */
uint32_t sqf_type_encode(sqf_type type, float value)
{
    if (is_int(type)) {
        return (uint32_t)((int)value + (int)sqf_type_limits[type]);
    }
    switch (type) {
    case SQF_TYPE_FP4: return value == 0.0f ? 0 : small_float_encode(value, 2, 1, 1);
    case SQF_TYPE_FP6: return value == 0.0f ? 0 : small_float_encode(value, 2, 3, 1);
    case SQF_TYPE_FP6_E3M2: return value == 0.0f ? 0 : small_float_encode(value, 3, 2, 3);
    case SQF_TYPE_FP8: return value == 0.0f ? 0 : small_float_encode(value, 4, 3, 7);
    case SQF_TYPE_FP8_E5M2: return value == 0.0f ? 0 : small_float_encode(value, 5, 2, 15);
    case SQF_TYPE_E8M0: return value == 0.0f ? 0 : (uint32_t)(ilogbf(value) + E8M0_BIAS);
    case SQF_TYPE_FP16: return sqf_fp16_from_float(value);
    case SQF_TYPE_BF16: return sqf_bf16_from_float(value);
    default: return 0;
    }
}

float sqf_type_decode(sqf_type type, uint32_t code)
{
    if (is_int(type)) {
        return (float)((int)code - (int)sqf_type_limits[type]);
    }
    switch (type) {
    case SQF_TYPE_FP4: return small_float_decode(code, 2, 1, 1);
    case SQF_TYPE_FP6: return small_float_decode(code, 2, 3, 1);
    case SQF_TYPE_FP6_E3M2: return small_float_decode(code, 3, 2, 3);
    case SQF_TYPE_FP8: return (code & FP8_NAN) == FP8_NAN ? NAN : small_float_decode(code, 4, 3, 7);
    case SQF_TYPE_FP8_E5M2: return (code & FP8_NAN) >= E5M2_INFINITY ? NAN : small_float_decode(code, 5, 2, 15);
    case SQF_TYPE_E8M0: return code == E8M0_NAN ? NAN : ldexpf(1.0f, (int)code - E8M0_BIAS);
    case SQF_TYPE_FP16: return sqf_fp16_to_float((uint16_t)code);
    case SQF_TYPE_BF16: return sqf_bf16_to_float((uint16_t)code);
    default: return 0.0f;
    }
}

uint32_t sqf_type_sentinel(sqf_type type)
{
    switch (type) {
    case SQF_TYPE_FP4: return FP4_NEGATIVE_ZERO;
    case SQF_TYPE_FP6:
    case SQF_TYPE_FP6_E3M2: return FP6_NEGATIVE_ZERO;
    case SQF_TYPE_FP8:
    case SQF_TYPE_FP8_E5M2: return FP8_SENTINEL;
    default: return (1u << sqf_type_bits(type)) - 1u;
    }
}

bool sqf_type_code_valid(sqf_type type, uint32_t code)
{
    if (is_int(type)) {
        return code <= 2u * (uint32_t)sqf_type_limits[type];
    }
    switch (type) {
    case SQF_TYPE_FP4: return code < 16 && code != FP4_NEGATIVE_ZERO;
    case SQF_TYPE_FP6:
    case SQF_TYPE_FP6_E3M2: return code < 64 && code != FP6_NEGATIVE_ZERO;
    case SQF_TYPE_FP8: return code < 256 && code != FP8_NEGATIVE_ZERO && (code & FP8_NAN) != FP8_NAN;
    case SQF_TYPE_FP8_E5M2: return code < 256 && code != FP8_NEGATIVE_ZERO && (code & FP8_NAN) < E5M2_INFINITY;
    case SQF_TYPE_E8M0: return code < E8M0_NAN;
    case SQF_TYPE_FP16: return code < 65536 && (code & 0x7c00u) != 0x7c00u;
    case SQF_TYPE_BF16: return code < 65536 && (code & 0x7f80u) != 0x7f80u;
    default: return false;
    }
}

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Half to even in all three ranges: overflow, subnormal, normal. */
uint16_t sqf_fp16_from_float(float x)
{
    const uint32_t bits = float_bits(x);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* 65520, half way from 65504 to the 65536 that does not exist */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)sqf_round_to_step(float_from_bits(magnitude) * 0x1p24f, 1.0f));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u); /* half to even at bit 13 */
    return (uint16_t)(sign | ((rounded >> 13) - (112u << 10)));           /* exponent bias 127 -> 15 */
}

float sqf_fp16_to_float(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = bits >> 10 & 0x1fu;
    const uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0) {
        return float_from_bits(sign | float_bits((float)fraction * 0x1p-24f));
    }
    const uint32_t field = exponent == 31 ? 255u : exponent + 112u;
    return float_from_bits(sign | field << 23 | fraction << 13);
}

/* bf16 is the upper half of a float: rounding is an addition to the lower one. A carry runs through fraction and
 * exponent alike, up to infinity, as it should. */
uint16_t sqf_bf16_from_float(float x)
{
    const uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40u); /* a quiet NaN even if its payload was in the lost bits */
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float sqf_bf16_to_float(uint16_t bits)
{
    return float_from_bits((uint32_t)bits << 16);
}

static float power_of_two(int exponent)
{
    return ldexpf(1.0f, exponent < -E8M0_BIAS ? -E8M0_BIAS : exponent > E8M0_BIAS ? E8M0_BIAS : exponent);
}

/* Saturates at both ends (docs/format.md section 3, scales): infinity would be refused by every reader, and 0 for a
 * group that is not all zeros would throw it away. */
float sqf_scale_round(sqf_type scale_type, float scale)
{
    if (scale_type == SQF_TYPE_E8M0) {
        return power_of_two(scale > 0.0f ? ilogbf(scale) : -E8M0_BIAS);
    }
    if (scale_type == SQF_TYPE_FP32 || scale == 0.0f) {
        return scale;
    }
    /* the smallest subnormals: a scale must not vanish, or the whole group would */
    const float smallest = scale_type == SQF_TYPE_FP16 ? 0x1p-24f : scale_type == SQF_TYPE_FP8 ? 0x1p-9f : 0x1p-133f;
    const float limit = sqf_type_limits[scale_type];
    const float rounded = scale_type == SQF_TYPE_FP8 ? sqf_type_round(SQF_TYPE_FP8, scale, 1.0f)
                                                     : sqf_type_decode(scale_type, sqf_type_encode(scale_type, scale));
    return rounded > limit ? limit : rounded < smallest ? smallest : rounded;
}

/* ilogb is exact, also of subnormals; a logarithm would not be. */
float sqf_scale_for_max(sqf_type scale_type, sqf_type type, float max, float unit)
{
    if (scale_type == SQF_TYPE_E8M0) {
        return power_of_two(max > 0.0f ? ilogbf(max) - ilogbf(sqf_type_limits[type]) : -E8M0_BIAS);
    }
    const float scale = max / sqf_type_limits[type];
    return scale_type == SQF_TYPE_FP8 ? unit * sqf_scale_round(scale_type, scale / unit)
                                      : sqf_scale_round(scale_type, scale);
}

float sqf_scale_unit(sqf_type scale_type, sqf_type type, float max)
{
    if (scale_type != SQF_TYPE_FP8 || !sqf_type_has_scale(type)) {
        return 1.0f;
    }
    const float unit = max / sqf_type_limits[type] / sqf_type_limits[SQF_TYPE_FP8];
    return unit < 0x1p-100f ? 0x1p-100f : unit;
}
