/* Bit flips, cuts, splices, and values of JSON exchanged. */
#include "mutation.h"

#include <string.h>

#include "base/json.h"

enum { GROWTH_MAX = 4096 };

static size_t below(sqf_random *random, size_t n)
{
    return (size_t)sqf_random_below(random, n);
}

/* ---- plain bytes ---- */

static void overwrite(sqf_buffer *bytes, sqf_random *random)
{
    static const uint8_t special[] = {0x00, 0xff, 0x7f, 0x80, '"', '{', '}',  '[',
                                      ']',  ',',  ':',  '\\', '-', '9', '\n', ' '};
    for (size_t count = 1 + below(random, 4); count > 0 && bytes->size > 0; count--) {
        bytes->data[below(random, bytes->size)] = (char)special[below(random, sizeof special)];
    }
}

static void flip_bits(sqf_buffer *bytes, sqf_random *random)
{
    for (size_t count = 1 + below(random, 8); count > 0 && bytes->size > 0; count--) {
        const size_t at = below(random, bytes->size);
        bytes->data[at] = (char)(bytes->data[at] ^ (1 << below(random, 8)));
    }
}

/* Copies a stretch of the file over, or in front of, another place of it. */
static void splice(sqf_buffer *bytes, sqf_random *random, bool insert)
{
    if (bytes->size == 0) {
        return;
    }
    const size_t from = below(random, bytes->size), to = below(random, bytes->size);
    size_t n = 1 + below(random, GROWTH_MAX);
    n = n > bytes->size - from ? bytes->size - from : n;
    char copy[GROWTH_MAX];
    memcpy(copy, bytes->data + from, n);
    if (insert && sqf_buffer_reserve(bytes, n, NULL) == SQF_OK) {
        memmove(bytes->data + to + n, bytes->data + to, bytes->size - to);
        bytes->size += n;
    }
    memcpy(bytes->data + to, copy, n > bytes->size - to ? bytes->size - to : n);
}

static void remove_stretch(sqf_buffer *bytes, sqf_random *random)
{
    if (bytes->size == 0) {
        return;
    }
    const size_t from = below(random, bytes->size), n = 1 + below(random, bytes->size - from);
    memmove(bytes->data + from, bytes->data + from + n, bytes->size - from - n);
    bytes->size -= n;
}

static void mutate_bytes(sqf_buffer *bytes, sqf_random *random)
{
    switch (below(random, 8)) {
    case 0: bytes->size = below(random, bytes->size + 1); break;
    case 1: splice(bytes, random, false); break;
    case 2: splice(bytes, random, true); break;
    case 3: remove_stretch(bytes, random); break;
    case 4:
    case 5: overwrite(bytes, random); break;
    default: flip_bits(bytes, random); break;
    }
}

/* ---- JSON ---- */

typedef struct place {
    json_t *parent; /* array or object */
    const char *key;
    size_t index;
} place;

/* Counts the values below `json`; stops at number `wanted` and tells its place. */
static size_t count_values(json_t *json, size_t seen, size_t wanted, place *out)
{
    const char *key;
    size_t index;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        if (seen++ == wanted) {
            *out = (place){.parent = json, .key = key};
        }
        seen = count_values(value, seen, wanted, out);
    }
    json_array_foreach(json, index, value)
    {
        if (seen++ == wanted) {
            *out = (place){.parent = json, .index = index};
        }
        seen = count_values(value, seen, wanted, out);
    }
    return seen;
}

static place random_place(json_t *root, sqf_random *random)
{
    place found = {0};
    const size_t count = count_values(root, 0, SIZE_MAX, &found);
    if (count > 0) {
        count_values(root, 0, below(random, count), &found);
    }
    return found;
}

static json_t *value_at(const place *p)
{
    return p->key ? json_object_get(p->parent, p->key) : json_array_get(p->parent, p->index);
}

static json_t *long_text(size_t n, char c)
{
    char *text = malloc(n);
    if (!text) {
        return NULL;
    }
    memset(text, c, n);
    json_t *value = json_stringn(text, n);
    free(text);
    return value;
}

static json_t *nested(size_t depth)
{
    json_t *value = json_array();
    while (depth-- > 0) {
        json_t *outer = json_array();
        json_array_append_new(outer, value);
        value = outer;
    }
    return value;
}

static json_t *strange_number(sqf_random *random)
{
    static const json_int_t whole[] = {
        0,         -1,       1, 2, 7, 255, 65536, 2147483647, -10, 4294967295, 2147483648, 1073741824, 9007199254740993,
        INT64_MAX, INT64_MIN};
    static const double real[] = {3.5, -0.0, 1e30, -1e30, 1e-30, 1e308, 0.5, 5e-324};
    const size_t wholes = sizeof whole / sizeof *whole, pick = below(random, wholes + sizeof real / sizeof *real);
    return pick < wholes ? json_integer(whole[pick]) : json_real(real[pick - wholes]);
}

static json_t *strange_text(sqf_random *random)
{
    static const char *const texts[] = {"",
                                        ".",
                                        "../..",
                                        "/",
                                        "U8",
                                        "F64",
                                        "BF16",
                                        "Regex",
                                        "(a+)+$",
                                        "(?:",
                                        "[",
                                        "\\p{",
                                        "A",
                                        "\n",
                                        "W4A4",
                                        "low=int4,high=int8,bank=65536,high_per_bank=1;low=int8",
                                        "%s%n",
                                        "Sequence",
                                        "xxh3-128:",
                                        "re:(",
                                        "(?R)",
                                        "a{99999}",
                                        "(?<=a+)b",
                                        "$&",
                                        "\xef\xbf\xbd"};
    const size_t count = sizeof texts / sizeof *texts, pick = below(random, count + 2);
    return pick < count ? json_string(texts[pick]) : pick == count ? long_text(70000, '(') : json_stringn("a\0b", 3);
}

static json_t *strange_value(json_t *root, json_t *old, sqf_random *random)
{
    switch (below(random, 9)) {
    case 0: return json_null();
    case 1: return json_boolean(!json_is_true(old));
    case 2: return json_object();
    case 3: return below(random, 4) == 0 ? nested(3000) : json_array();
    case 4: return strange_text(random);
    case 5: {
        const place other = random_place(root, random);
        return other.parent ? json_deep_copy(value_at(&other)) : json_null();
    }
    case 6:
        if (json_is_integer(old)) {
            const json_int_t value = json_integer_value(old);
            return json_integer((json_int_t)((uint64_t)value + (below(random, 2) == 0 ? 1 : UINT64_MAX)));
        }
        return strange_number(random);
    default: return strange_number(random);
    }
}

/* One value of the tree is exchanged, removed, or gets a neighbour. */
static void mutate_tree(json_t *root, sqf_random *random)
{
    const place p = random_place(root, random);
    if (!p.parent) {
        return;
    }
    json_t *value = strange_value(root, value_at(&p), random);
    const size_t action = below(random, 6);
    if (p.key && action == 0) {
        json_object_del(p.parent, p.key);
    } else if (p.key && action == 1) {
        json_object_set_new(p.parent, "surprise", json_incref(value));
    } else if (p.key) {
        json_object_set(p.parent, p.key, value);
    } else if (action == 0) {
        json_array_remove(p.parent, p.index);
    } else if (action == 1) {
        json_array_insert(p.parent, p.index, value);
    } else {
        json_array_set(p.parent, p.index, value);
    }
    json_decref(value);
}

/* The text of a tree made from bytes[n], damaged; false if the bytes are no JSON. */
static bool mutate_json_text(const char *bytes, size_t n, sqf_random *random, sqf_buffer *out)
{
    json_t *root = json_loadb(bytes, n, JSON_ALLOW_NUL, NULL);
    if (!root) {
        return false;
    }
    for (size_t count = 1 + below(random, 3); count > 0; count--) {
        mutate_tree(root, random);
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17));
    const bool made = text && sqf_buffer_append(out, text, strlen(text), NULL) == SQF_OK;
    free(text);
    json_decref(root);
    return made;
}

/* ---- safetensors ---- */

static size_t header_length(const uint8_t *bytes)
{
    size_t length = 0;
    for (unsigned i = 0; i < 8; i++) {
        length |= (size_t)bytes[i] << (8 * i);
    }
    return length;
}

static bool mutate_header(const uint8_t *bytes, size_t n, sqf_random *random, sqf_buffer *out)
{
    static const uint8_t room[8];
    const size_t length = header_length(bytes);
    sqf_buffer_append(out, room, 8, NULL);
    if (!mutate_json_text((const char *)bytes + 8, length, random, out)) {
        return false;
    }
    const size_t made = out->size - 8;
    for (unsigned i = 0; i < 8; i++) {
        out->data[i] = (char)(made >> (8 * i));
    }
    return sqf_buffer_append(out, bytes + 8 + length, n - 8 - length, NULL) == SQF_OK;
}

/* Drops the recorded hashes, so that damage of the data reaches the checks behind them. */
static void forget_hashes(sqf_buffer *bytes)
{
    const size_t length = header_length((const uint8_t *)bytes->data);
    char *at = bytes->data + 8, *const end = at + length;
    for (; at + 6 < end; at++) {
        if (memcmp(at, "\"hash.", 6) == 0) {
            at[1] = 'x'; /* another member of the metadata, which a reader ignores */
        }
    }
}

static void damage_data(sqf_buffer *bytes, sqf_random *random)
{
    const size_t begin = 8 + header_length((const uint8_t *)bytes->data), n = bytes->size - begin;
    for (size_t count = 1 + below(random, 6); count > 0 && n > 0; count--) {
        const size_t at = begin + below(random, n);
        if (below(random, 2) == 0) {
            bytes->data[at] = (char)(bytes->data[at] ^ (1 << below(random, 8)));
        } else {
            bytes->data[at] = (char)below(random, 256);
        }
    }
}

static void mutate_safetensors(const uint8_t *bytes, size_t n, sqf_random *random, sqf_buffer *out)
{
    const size_t way = below(random, 4);
    if (way < 2 && mutate_header(bytes, n, random, out)) {
        return;
    }
    out->size = 0;
    sqf_buffer_append(out, bytes, n, NULL);
    if (way == 3) {
        mutate_bytes(out, random);
        return;
    }
    if (below(random, 4) != 0) {
        forget_hashes(out);
    }
    damage_data(out, random);
}

void mutate(mutation_kind kind, const uint8_t *bytes, size_t n, sqf_random *random, sqf_buffer *out)
{
    *out = (sqf_buffer){0};
    if (kind == MUTATE_SAFETENSORS) {
        mutate_safetensors(bytes, n, random, out);
        return;
    }
    if (kind == MUTATE_JSON && below(random, 3) != 0 && mutate_json_text((const char *)bytes, n, random, out)) {
        return;
    }
    out->size = 0;
    sqf_buffer_append(out, bytes, n, NULL);
    mutate_bytes(out, random);
}
