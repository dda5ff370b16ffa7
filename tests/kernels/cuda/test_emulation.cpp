/* The emulation of CUDA itself: threads that meet, orders that bring races to light, copies that happen late, ends that
 * say why, memory and graphs. */
#include "emulated.hpp"

#include "kernels/cuda/emulation/switch.h"

/* ---- barriers ---- */

/* Each thread writes its number and reads its mirror image's; whether a barrier stands between is the question. */
template <bool barrier> __global__ void mirror_kernel(int *out)
{
    __shared__ int numbers[256];
    numbers[threadIdx.x] = -1;
    __syncthreads();
    numbers[threadIdx.x] = (int)(blockIdx.x * 1000 + threadIdx.x);
    if (barrier) {
        __syncthreads();
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = numbers[blockDim.x - 1 - threadIdx.x];
}

template <bool barrier> static std::vector<int> mirrored(const char *order)
{
    device_vector<int> out(3 * 96);
    choose_order(order);
    must_launch(cuda_launch(NULL, mirror_kernel<barrier>, dim3(3), dim3(96), 0, out.data));
    choose_default();
    return out.host();
}

static void barriers_separate_phases(void **)
{
    in_all_orders([] {
        device_vector<int> out(3 * 96);
        must_launch(cuda_launch(NULL, mirror_kernel<true>, dim3(3), dim3(96), 0, out.data));
        for (int i = 0; i < 3 * 96; i++) {
            assert_int_equal(out.data[i], i / 96 * 1000 + 95 - i % 96);
        }
    });
}

static void missing_barriers_show(void **)
{
    assert_true(mirrored<true>("ascending") == mirrored<true>("descending"));
    assert_false(mirrored<false>("ascending") == mirrored<false>("descending"));
    assert_false(mirrored<false>("ascending") == mirrored<true>("ascending"));
}

/* The same within a warp. */
template <bool barrier> __global__ void warp_mirror_kernel(int *out)
{
    __shared__ int numbers[32];
    numbers[threadIdx.x] = -1;
    __syncwarp();
    numbers[threadIdx.x] = (int)threadIdx.x;
    if (barrier) {
        __syncwarp();
    }
    out[threadIdx.x] = numbers[31 - threadIdx.x];
}

static void missing_barriers_of_a_warp_show(void **)
{
    device_vector<int> with(32), without(32);
    for (const char *order : emulated_orders) {
        choose_order(order);
        must_launch(cuda_launch(NULL, warp_mirror_kernel<true>, dim3(1), dim3(32), 0, with.data));
        must_launch(cuda_launch(NULL, warp_mirror_kernel<false>, dim3(1), dim3(32), 0, without.data));
        int wrong = 0;
        for (int i = 0; i < 32; i++) {
            assert_int_equal(with.data[i], 31 - i);
            wrong += without.data[i] != 31 - i;
        }
        assert_true(wrong > 0);
    }
    choose_default();
}

__global__ void vote_kernel(int *out)
{
    const int t = (int)threadIdx.x;
    out[3 * t] = __syncthreads_count(t % 3 == 0);
    out[3 * t + 1] = __syncthreads_or(t == 70);
    out[3 * t + 2] = __syncthreads_and(t != 70);
}

static void barriers_count(void **)
{
    in_all_orders([] {
        device_vector<int> out(3 * 96);
        must_launch(cuda_launch(NULL, vote_kernel, dim3(1), dim3(96), 0, out.data));
        for (int t = 0; t < 96; t++) {
            assert_int_equal(out.data[3 * t], 32);
            assert_int_equal(out.data[3 * t + 1], 1);
            assert_int_equal(out.data[3 * t + 2], 0);
        }
    });
}

/* Warps 0 and 1 hand a buffer to warps 2 and 3 and back, over two barriers of 128 threads. */
__global__ void relay_kernel(int *out)
{
    __shared__ int buffer[64];
    const int t = (int)threadIdx.x;
    int sum = 0;
    for (int round = 0; round < 5; round++) {
        if (t < 64) {
            buffer[t] = round * 100 + t;
            named_barrier(1, 128);
            named_barrier(2, 128);
        } else {
            named_barrier(1, 128);
            sum += buffer[127 - t];
            named_barrier(2, 128);
        }
    }
    out[t] = sum;
}

static void named_barriers_meet(void **)
{
    in_all_orders([] {
        device_vector<int> out(128);
        must_launch(cuda_launch(NULL, relay_kernel, dim3(1), dim3(128), 0, out.data));
        for (int t = 0; t < 128; t++) {
            assert_int_equal(out.data[t], t < 64 ? 0 : 1000 + 5 * (127 - t));
        }
    });
}

__global__ void leave_kernel(int *out)
{
    if (threadIdx.x >= 40) {
        return;
    }
    __syncthreads();
    out[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] += out[39 - threadIdx.x] > 0;
}

static void barriers_do_not_wait_for_those_that_left(void **)
{
    in_all_orders([] {
        device_vector<int> out(64);
        must_launch(cuda_launch(NULL, leave_kernel, dim3(1), dim3(64), 0, out.data));
        for (int t = 0; t < 40; t++) {
            assert_int_equal(out.data[t], 2);
        }
    });
}

/* ---- ends ---- */

__global__ void divergent_kernel(int *out)
{
    if (threadIdx.x < 16) {
        __syncwarp();
    } else {
        __syncthreads();
    }
    out[0] = 1;
}

static void deadlocks_are_explained(void **)
{
    device_vector<int> out(1);
    const std::string text = text_of_end([&] { cuda_launch(NULL, divergent_kernel, dim3(1), dim3(64), 0, out.data); });
    expect_text(text,
                "emulation: divergent_kernel: block (0, 0, 0): nobody can go on: threads 0 to 15 at __syncwarp of "
                "lanes ffffffff; threads 16 to 63 at __syncthreads");
    assert_true(text.find("\n", text.find("emulation:")) == text.size() - 1);
}

__global__ void early_kernel(int *out)
{
    if (threadIdx.x != 5) {
        out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, out[threadIdx.x], 1);
    }
}

static void lanes_that_left_are_missed(void **)
{
    device_vector<int> out(32);
    for (const char *order : emulated_orders) {
        const std::string text = text_of_end([&] {
            choose_order(order);
            cuda_launch(NULL, early_kernel, dim3(1), dim3(32), 0, out.data);
        });
        expect_text(text, "left the kernel");
    }
}

__global__ void overrun_kernel(void)
{
    CUDA_SHARED(memory);
    memory[100] = 1;
}

static void overruns_of_shared_memory_are_found(void **)
{
#if EMULATION_ASAN
    skip(); /* the sanitizer ends the program in its own way */
#endif
    expect_text(text_of_end([] { cuda_launch(NULL, overrun_kernel, dim3(1), dim3(1), 100); }), "beyond its shared");
}

__global__ void unaligned_kernel(const uint8_t *from)
{
    CUDA_SHARED(memory);
    async_copy(memory, from + 8, true);
}

static void unaligned_copies_are_found(void **)
{
    device_vector<uint8_t> from(64);
    expect_text(text_of_end([&] { cuda_launch(NULL, unaligned_kernel, dim3(1), dim3(1), 64, from.data); }),
                "not aligned");
}

static void limits_are_those_of_a_device(void **)
{
    device_vector<int> out(4096);
    setenv("SQF_EMULATION_ARCH", "86", 1);
    assert_int_equal(cuda_launch(NULL, vote_kernel, dim3(1), dim3(1025), 0, out.data), cudaErrorInvalidConfiguration);
    assert_int_equal(cuda_launch(NULL, vote_kernel, dim3(1, 65536), dim3(32), 0, out.data),
                     cudaErrorInvalidConfiguration);
    assert_int_equal(cuda_launch(NULL, vote_kernel, dim3(0), dim3(32), 0, out.data), cudaErrorInvalidConfiguration);
    assert_int_equal(cuda_launch(NULL, vote_kernel, dim3(1), dim3(32), 99 * 1024 + 1, out.data), cudaErrorInvalidValue);
    setenv("SQF_EMULATION_ARCH", "90", 1);
    assert_int_equal(cuda_launch(NULL, vote_kernel, dim3(1), dim3(32), 227 * 1024, out.data), cudaSuccess);
    unsetenv("SQF_EMULATION_ARCH");
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
}

/* ---- copies ---- */

/* Two stages of copies; which groups are waited for is the question. */
template <int left> __global__ void staged_kernel(const int *from, int *out)
{
    CUDA_SHARED(memory);
    int *stage = reinterpret_cast<int *>(memory) + threadIdx.x * 8;
    async_copy(stage, from + threadIdx.x * 8, true);
    async_commit();
    async_copy(stage + 4, from + threadIdx.x * 8 + 4, threadIdx.x != 1);
    async_commit();
    async_wait<left>();
    for (int i = 0; i < 8; i++) {
        out[threadIdx.x * 8 + i] = stage[i];
    }
}

static void copies_happen_when_waited_for(void **)
{
    std::vector<int> numbers(4 * 8);
    for (size_t i = 0; i < numbers.size(); i++) {
        numbers[i] = (int)i + 1;
    }
    device_vector<int> from(numbers), all(numbers.size()), one(numbers.size()), none(numbers.size());
    must_launch(cuda_launch(NULL, staged_kernel<0>, dim3(1), dim3(4), 4 * 32, from.data, all.data));
    must_launch(cuda_launch(NULL, staged_kernel<1>, dim3(1), dim3(4), 4 * 32, from.data, one.data));
    must_launch(cuda_launch(NULL, staged_kernel<2>, dim3(1), dim3(4), 4 * 32, from.data, none.data));
    for (size_t i = 0; i < numbers.size(); i++) {
        const int expected = i / 8 == 1 && i % 8 >= 4 ? 0 : numbers[i];
        assert_int_equal(all.data[i], expected);
        assert_int_equal(one.data[i], i % 8 < 4 ? expected : -1); /* what nobody wrote */
        assert_int_equal(none.data[i], -1);
    }
    choose_copies("early");
    must_launch(cuda_launch(NULL, staged_kernel<2>, dim3(1), dim3(4), 4 * 32, from.data, none.data));
    choose_default();
    assert_int_equal(none.data[0], 1);
}

/* A producer warp fills two stages by bulk copies for a consumer warp, which gives each back when it has read it, or
 * when it is `hasty` before. */
template <bool waits, bool hasty> __global__ void pipeline_kernel(const int *from, int rounds, int *out)
{
    CUDA_SHARED(memory);
    __shared__ __align__(8) uint64_t full[2], empty[2];
    int *const stages = reinterpret_cast<int *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            transaction_init(&full[i], 1);
            transaction_init(&empty[i], 32);
        }
        transaction_fence();
    }
    __syncthreads();
    for (int i = 0; i < rounds; i++) {
        const int stage = i % 2;
        const unsigned parity = (unsigned)(i / 2 % 2);
        if (threadIdx.x == 0) {
            transaction_wait(&empty[stage], parity ^ 1);
            transaction_expect(&full[stage], 128);
            bulk_copy(stages + stage * 32, from + i * 32, 128, &full[stage]);
        } else if (threadIdx.x >= 32) {
            if (waits) {
                transaction_wait(&full[stage], parity);
            }
            if (hasty) {
                transaction_arrive(&empty[stage]);
                __syncwarp();
            }
            const int read = stages[stage * 32 + 63 - (int)threadIdx.x];
            if (!hasty) {
                transaction_arrive(&empty[stage]);
            }
            out[i * 32 + (int)threadIdx.x - 32] = read;
        }
    }
}

template <bool waits, bool hasty> static int pipeline_errors(int rounds)
{
    std::vector<int> numbers((size_t)rounds * 32);
    for (size_t i = 0; i < numbers.size(); i++) {
        numbers[i] = (int)i;
    }
    device_vector<int> from(numbers), out(numbers.size());
    const auto kernel = pipeline_kernel<waits, hasty>;
    must_launch(cuda_launch(NULL, kernel, dim3(1), dim3(64), 256, from.data, rounds, out.data));
    int errors = 0;
    for (int i = 0; i < rounds * 32; i++) {
        errors += out.data[i] != i / 32 * 32 + 31 - i % 32;
    }
    return errors;
}

static void bulk_copies_follow_their_barriers(void **)
{
    for (const char *copies : {"late", "early", "shuffled"}) {
        in_all_orders([&] {
            choose_copies(copies);
            assert_int_equal((pipeline_errors<true, false>(9)), 0);
        });
    }
}

/* A consumer that does not wait leaves before its data; one that gives a stage back too early is overtaken. */
static void misused_pipelines_show(void **)
{
    expect_text(text_of_end([] { (void)pipeline_errors<false, false>(2); }), "that nobody waited for");
    int errors = 0;
    for (unsigned seed = 1; seed <= 8; seed++) {
        choose_order("shuffled", seed);
        choose_copies("early");
        errors += pipeline_errors<true, true>(9);
    }
    choose_default();
    assert_true(errors > 0);
}

__global__ void overfull_kernel(void)
{
    __shared__ __align__(8) uint64_t barrier;
    transaction_init(&barrier, 2);
    transaction_arrive(&barrier);
    transaction_wait(&barrier, 0);
}

static void transactions_that_never_end_are_explained(void **)
{
    expect_text(text_of_end([] { cuda_launch(NULL, overfull_kernel, dim3(2), dim3(1), 0); }),
                "block (0, 0, 0): nobody can go on: thread 0 at a transaction barrier, phase 0");
}

/* ---- streams, graphs, memory ---- */

__global__ void add_kernel(int *numbers, int by)
{
    numbers[blockIdx.x * blockDim.x + threadIdx.x] += by;
}

static void graphs_replay_what_was_recorded(void **)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    device_vector<int> numbers(std::vector<int>(64, 0)), copies(64);
    assert_int_equal(cudaStreamCreate(&stream), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    must_launch(cuda_launch(stream, add_kernel, dim3(2), dim3(32), 0, numbers.data, 3));
    assert_int_equal(cudaMemcpyAsync(copies.data, numbers.data, 256, cudaMemcpyDeviceToDevice, stream), cudaSuccess);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    assert_int_equal(numbers.data[0], 0); /* recorded, not run */
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(cudaGraphLaunch(exec, stream), cudaSuccess);
        assert_int_equal(copies.data[63], 3 * i);
    }
    assert_int_equal(cudaGraphExecDestroy(exec), cudaSuccess);

    /* Waiting and allocating have no place in a recording. */
    void *memory;
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(cudaMalloc(&memory, 16), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    (void)cudaGetLastError();
}

static void memory_is_finite(void **)
{
    setenv("SQF_EMULATION_MEMORY", "1000000", 1);
    size_t free_bytes, total;
    uint8_t *a, *b;
    assert_int_equal(cudaMalloc(&a, 600000), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
    assert_int_equal(free_bytes, 400000);
    assert_int_equal(cudaMalloc(&b, 400001), cudaErrorMemoryAllocation);
    assert_null(b);
    assert_int_equal(a[12345], 0xff);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaFree(a + 1), cudaErrorInvalidValue);
    unsetenv("SQF_EMULATION_MEMORY");
    (void)cudaGetLastError();
}

static void visible_devices_count(void **)
{
    const struct {
        const char *visible;
        int count;
    } cases[] = {{"0,1", 2}, {"2", 1}, {"", 0}, {"-1", 0}, {"1,7,2", 1}};
    setenv("SQF_EMULATION_DEVICES", "3", 1);
    for (const auto &at : cases) {
        int count = -1;
        setenv("CUDA_VISIBLE_DEVICES", at.visible, 1);
        (void)cudaGetDeviceCount(&count);
        assert_int_equal(count, at.count);
    }
    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("SQF_EMULATION_DEVICES");
    (void)cudaGetLastError();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_separate_phases),
        cmocka_unit_test(missing_barriers_show),
        cmocka_unit_test(missing_barriers_of_a_warp_show),
        cmocka_unit_test(barriers_count),
        cmocka_unit_test(named_barriers_meet),
        cmocka_unit_test(barriers_do_not_wait_for_those_that_left),
        cmocka_unit_test(deadlocks_are_explained),
        cmocka_unit_test(lanes_that_left_are_missed),
        cmocka_unit_test(overruns_of_shared_memory_are_found),
        cmocka_unit_test(unaligned_copies_are_found),
        cmocka_unit_test(limits_are_those_of_a_device),
        cmocka_unit_test(copies_happen_when_waited_for),
        cmocka_unit_test(bulk_copies_follow_their_barriers),
        cmocka_unit_test(misused_pipelines_show),
        cmocka_unit_test(transactions_that_never_end_are_explained),
        cmocka_unit_test(graphs_replay_what_was_recorded),
        cmocka_unit_test(memory_is_finite),
        cmocka_unit_test(visible_devices_count),
    };
    return cmocka_run_group_tests_name("emulation", tests, NULL, NULL);
}
