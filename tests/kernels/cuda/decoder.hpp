/* What the tests of attention share: device memory, a batch of sequences, and the same caches on the CPU. */
#ifndef SQF_TESTS_KERNELS_CUDA_DECODER_HPP
#define SQF_TESTS_KERNELS_CUDA_DECODER_HPP

#include <math.h>

#include <vector>

extern "C" {
#include "check.h"

#include "base/memory.h"
#include "base/random.h"
#include "format/type.h"
#include "kernels/attention.h"
#include "kernels/ops.h"
}

#include "kernels/cuda/operations.h"

static const sqf_kv_type types[] = {SQF_KV_F32, SQF_KV_F16, SQF_KV_INT8};

static inline const char *name_of(sqf_kv_type type)
{
    return type == SQF_KV_F32 ? "f32" : type == SQF_KV_F16 ? "f16" : "int8";
}

/* Device memory with what a vector holds. */
template <typename T> struct device_array {
    sqf_cuda_device *device;
    void *memory = NULL;
    size_t count;

    device_array(sqf_cuda_device *owner, const std::vector<T> &from) : device(owner), count(from.size())
    {
        sqf_error err;
        assert_ok(cuda_allocate(device, (count ? count : 1) * sizeof(T), &memory, &err), &err);
        set(from);
    }
    ~device_array()
    {
        cuda_release(device, memory);
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;

    void set(const std::vector<T> &from)
    {
        sqf_error err;
        assert_ok(cuda_upload(device, memory, from.data(), from.size() * sizeof(T), &err), &err);
    }
    std::vector<T> get() const
    {
        sqf_error err;
        std::vector<T> out(count);
        assert_ok(cuda_download(device, out.data(), memory, count * sizeof(T), &err), &err);
        return out;
    }
    T *pointer() const
    {
        return (T *)memory;
    }
};

static inline std::vector<float> random_floats(sqf_random *random, size_t n, double spread)
{
    std::vector<float> x(n);
    for (float &v : x) {
        /* nearly normal */
        v = (float)(spread * (sqf_random_unit(random) + sqf_random_unit(random) + sqf_random_unit(random) - 1.5) * 2);
    }
    return x;
}

/* A sequence of a batch: tokens new ones behind `past` ones. */
struct sequence {
    size_t tokens, past;
};

/* Tokens of sequences one behind the other, as sqf_cuda_batch says. */
struct batch {
    std::vector<sequence> sequences;
    std::vector<int32_t> position, sequence_of, begin;
    size_t longest = 0, reach = 0;

    explicit batch(const std::vector<sequence> &from) : sequences(from)
    {
        for (size_t s = 0; s < from.size(); s++) {
            begin.push_back((int32_t)position.size());
            for (size_t t = 0; t < from[s].tokens; t++) {
                position.push_back((int32_t)(from[s].past + t));
                sequence_of.push_back((int32_t)s);
            }
            longest = from[s].tokens > longest ? from[s].tokens : longest;
            reach = from[s].past + from[s].tokens > reach ? from[s].past + from[s].tokens : reach;
        }
        begin.push_back((int32_t)position.size());
    }
};

struct device_batch {
    device_array<int32_t> position, sequence_of, begin;
    sqf_cuda_batch view = {};

    device_batch(sqf_cuda_device *device, const batch &from)
        : position(device, from.position), sequence_of(device, from.sequence_of), begin(device, from.begin)
    {
        view.position = position.pointer();
        view.sequence = sequence_of.pointer();
        view.begin = begin.pointer();
        view.tokens = from.position.size();
        view.sequences = from.sequences.size();
        view.longest = from.longest;
        view.reach = from.reach;
    }
};

/* A cache of one sequence on the host, of the device's form: bytes of keys, of values, scales of both. */
struct host_cache {
    std::vector<uint8_t> key, value;
    std::vector<float> key_scales, value_scales;
};

/* Caches of all sequences on the device, full of NaN: whoever reads what was not stored shows it. */
struct device_caches {
    std::vector<device_array<uint8_t> *> bytes;
    std::vector<device_array<float> *> scales;
    device_array<sqf_cuda_kv> views;

    device_caches(sqf_cuda_device *device, const sqf_cuda_attention_spec &spec, size_t sequences)
        : views(device, std::vector<sqf_cuda_kv>(sequences))
    {
        const size_t slots = spec.kv_heads * spec.capacity;
        const std::vector<uint8_t> nothing(slots * spec.head_dim * sqf_kv_element(spec.type), 0xff);
        std::vector<sqf_cuda_kv> all;
        for (size_t s = 0; s < sequences; s++) {
            for (int i = 0; i < 2; i++) {
                bytes.push_back(new device_array<uint8_t>(device, nothing));
                scales.push_back(new device_array<float>(device, std::vector<float>(slots, NAN)));
            }
            all.push_back({bytes[2 * s]->pointer(), bytes[2 * s + 1]->pointer(), scales[2 * s]->pointer(),
                           scales[2 * s + 1]->pointer()});
        }
        views.set(all);
    }
    ~device_caches()
    {
        for (size_t i = 0; i < bytes.size(); i++) {
            delete bytes[i];
            delete scales[i];
        }
    }
    host_cache get(size_t s) const
    {
        return {bytes[2 * s]->get(), bytes[2 * s + 1]->get(), scales[2 * s]->get(), scales[2 * s + 1]->get()};
    }
};

/* A cache of one sequence as the CPU has it. */
struct cpu_cache {
    sqf_kv_view view = {};
    std::vector<uint8_t> key, value;
    std::vector<float> key_scales, value_scales;

    cpu_cache(const sqf_cuda_attention_spec &spec)
    {
        view.type = spec.type;
        view.kv_heads = spec.kv_heads;
        view.head_dim = spec.head_dim;
        view.capacity = sqf_ceil_div(spec.capacity, SQF_KV_PANEL) * SQF_KV_PANEL;
        const size_t slots = view.kv_heads * view.capacity, element = sqf_kv_element(view.type);
        key.assign(slots * view.head_dim * element, 0xff);
        value.assign(slots * sqf_kv_value_width(view.head_dim) * element, 0xff);
        key_scales.assign(slots, NAN);
        value_scales.assign(slots, NAN);
        view.key = key.data();
        view.value = value.data();
        view.key_scales = key_scales.data();
        view.value_scales = value_scales.data();
    }

    /* Positions first .. first + count - 1 in the device's form. */
    void put(const host_cache &from, const sqf_cuda_attention_spec &spec, size_t first, size_t count)
    {
        const size_t element = sqf_kv_element(view.type), dim = view.head_dim, width = sqf_kv_value_width(dim);
        for (size_t i = 0; i < view.kv_heads * count * dim; i++) {
            const size_t d = i % dim, head = i / dim / count, p = first + i / dim % count;
            const size_t slot = head * view.capacity + p, other = head * spec.capacity + p;
            memcpy(&key[((slot / 16 * dim + d) * 16 + slot % 16) * element], &from.key[(other * dim + d) * element],
                   element);
            memcpy(&value[(slot * width + d) * element], &from.value[(other * dim + d) * element], element);
            key_scales[slot] = from.key_scales[other];
            value_scales[slot] = from.value_scales[other];
            for (size_t j = dim; j < width; j++) {
                memset(&value[(slot * width + j) * element], 0, element);
            }
        }
    }
};

/* The device and a context of the CPU's scalar level, for a group of tests. */
struct fixture {
    sqf_cuda_device *device = NULL;
    sqf_context *context = NULL;
};

static inline int open_fixture(void **state)
{
    sqf_error err;
    fixture *f = new fixture;
    sqf_context_options options = {};
    options.threads = 1;
    options.cpu = "scalar";
    assert_ok(sqf_context_create(&options, &f->context, &err), &err);
    assert_ok(cuda_open(0, &f->device, &err), &err);
    *state = f;
    return 0;
}

static inline int close_fixture(void **state)
{
    fixture *f = (fixture *)*state;
    cuda_close(f->device);
    sqf_context_destroy(f->context);
    delete f;
    return 0;
}

#endif
