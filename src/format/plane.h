/* Bits inside a stored row: codes one after the other, the first in the lowest bits of the first byte (docs/format.md
 * section 7, packed rows). Cursors for reading and writing, and the codes of the high plane. Inline, because every
 * element of every matrix goes through here. */
#ifndef SQF_FORMAT_PLANE_H
#define SQF_FORMAT_PLANE_H

#include "format/type.h"

typedef struct plane_reader {
    const uint8_t *bytes; /* the next byte */
    uint32_t held;        /* bits read from memory and not yet given out */
    unsigned count;       /* how many; below 8 between calls */
} plane_reader;

/* Zero-initialise but for `bytes`; plane_finish writes what is left. */
typedef struct plane_writer {
    uint8_t *bytes;
    uint32_t held;
    unsigned count;
} plane_writer;

/* 1 <= bits <= 16. Reads a byte only when its first bit is needed: never beyond the row. `held` has at most 7 + 16
 * bits. */
static inline uint32_t plane_read(plane_reader *reader, unsigned bits)
{
    while (reader->count < bits) {
        reader->held |= (uint32_t)*reader->bytes++ << reader->count;
        reader->count += 8;
    }
    const uint32_t code = reader->held & ((1u << bits) - 1u);
    reader->held >>= bits;
    reader->count -= bits;
    return code;
}

/* 1 <= bits <= 16; code < 2^bits. The same bound holds. */
static inline void plane_write(plane_writer *writer, uint32_t code, unsigned bits)
{
    writer->held |= code << writer->count;
    writer->count += bits;
    while (writer->count >= 8) {
        *writer->bytes++ = (uint8_t)writer->held;
        writer->held >>= 8;
        writer->count -= 8;
    }
}

/* The last byte, its reserved bits 0. */
static inline void plane_finish(plane_writer *writer)
{
    if (writer->count > 0) {
        *writer->bytes++ = (uint8_t)writer->held;
    }
}

/* Codes of the high plane: those of the low plane, but int8 as two's complement, so that the tensor is a plain I8. */
static inline uint32_t plane_code(sqf_type type, float value)
{
    return type == SQF_TYPE_INT8 ? (uint8_t)(int8_t)value : sqf_type_encode(type, value);
}

static inline float plane_value(sqf_type type, uint32_t code)
{
    return type == SQF_TYPE_INT8 ? (float)(int8_t)(uint8_t)code : sqf_type_decode(type, code);
}

static inline bool plane_code_valid(sqf_type type, uint32_t code)
{
    return type == SQF_TYPE_INT8 ? code != 0x80u : sqf_type_code_valid(type, code);
}

/* Scale number `at` of an array of a scale type, byte by byte because a mapped file has any alignment. */
static inline float plane_get_scale(const uint8_t *scales, size_t at, sqf_type type)
{
    if (type == SQF_TYPE_FP32) {
        const uint8_t *p = scales + 4 * at;
        const uint32_t bits = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    if (sqf_type_storage_bytes(type) == 1) {
        return sqf_type_decode(type, scales[at]);
    }
    const uint8_t *p = scales + 2 * at;
    return sqf_type_decode(type, p[0] | (uint32_t)p[1] << 8);
}

/* The inverse; x is a value of the type (sqf_scale_round), so that nothing is rounded here, but what dividing by the
 * unit of fp8 scales left in the last bits. */
static inline void plane_put_scale(uint8_t *scales, size_t at, sqf_type type, float x)
{
    const size_t size = sqf_type_storage_bytes(type);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = type == SQF_TYPE_FP32 ? bits
                                 : sqf_type_encode(type, sqf_type_has_scale(type) ? sqf_type_round(type, x, 1.0f) : x);
    for (size_t i = 0; i < size; i++) {
        scales[size * at + i] = (uint8_t)(bits >> 8 * i);
    }
}

#endif
