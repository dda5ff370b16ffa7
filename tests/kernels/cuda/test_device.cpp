/* The device itself, through the table of operations as libsqf calls it: memory, copies, graphs, errors, several
 * devices and threads. */
#include <thread>

#include "emulated.hpp"

#include "kernels/cuda/operations.h"

static const sqf_cuda_ops *ops;
static sqf_cuda_device *device;
static sqf_error err;

static int open_first(void **)
{
    ops = sqf_cuda_operations();
    return ops->open(0, &device, &err) == SQF_OK ? 0 : -1;
}

static int close_first(void **)
{
    ops->close(device);
    return 0;
}

static void *allocated(sqf_cuda_device *owner, size_t bytes)
{
    void *memory;
    assert_ok(ops->allocate(owner, bytes, &memory, &err), &err);
    return memory;
}

static void facts_are_reported(void **)
{
    sqf_cuda_info info;
    void *memory = allocated(device, 1000);
    assert_ok(ops->info(device, &info, &err), &err);
    assert_string_equal(info.name, "emulated sm_80");
    assert_true(info.emulated && info.native_int4 && info.major == 8 && info.minor == 0);
    assert_int_equal(info.shared_bytes, 163 * 1024);
    assert_true(info.free_bytes <= info.total_bytes - 1000);
    ops->release(device, memory);
    ops->release(device, NULL);
    setenv("SQF_EMULATION_ARCH", "90", 1);
    sqf_cuda_device *hopper;
    assert_ok(ops->open(0, &hopper, &err), &err);
    assert_ok(ops->info(hopper, &info, &err), &err);
    assert_true(info.major == 9 && !info.native_int4);
    ops->close(hopper);
    setenv("SQF_EMULATION_ARCH", "75", 1);
    assert_fails(ops->open(0, &hopper, &err), SQF_E_SUPPORT, &err, "compute capability 7.5, expected 8.0");
    unsetenv("SQF_EMULATION_ARCH");
    assert_fails(ops->open(1, &hopper, &err), SQF_E_SUPPORT, &err, "cuda:1: no such device, found 1");
    assert_null(hopper);
}

static void missing_devices_are_explained(void **)
{
    int count = -1;
    sqf_cuda_device *none;
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    assert_fails(ops->count(&count, &err), SQF_E_SUPPORT, &err, "cuda: no device found");
    assert_int_equal(count, 0);
    assert_fails(ops->open(0, &none, &err), SQF_E_SUPPORT, &err, "cuda: no device found");
    unsetenv("CUDA_VISIBLE_DEVICES");
    assert_ok(ops->count(&count, &err), &err);
    assert_int_equal(count, 1);
}

static void memory_moves(void **)
{
    const std::vector<uint8_t> from = {1, 2, 3, 4, 5};
    std::vector<uint8_t> back(5);
    void *a = allocated(device, 5), *b = allocated(device, 5);
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_ok(ops->upload(device, a, from.data(), 5, &err), &err);
    assert_ok(ops->clear(device, b, 5, &err), &err);
    assert_ok(ops->copy(device, b, a, 3, &err), &err);
    assert_ok(ops->download(device, back.data(), b, 5, &err), &err);
    assert_true((back == std::vector<uint8_t>{1, 2, 3, 0, 0}));
    ops->release(device, a);
    ops->release(device, b);
}

static void missing_memory_is_counted(void **)
{
    void *memory;
    setenv("SQF_EMULATION_MEMORY", "1000000", 1);
    assert_fails(ops->allocate(device, 2000000, &memory, &err), SQF_E_MEMORY, &err,
                 "cuda:0: 2000000 bytes of device memory were asked for, ");
    assert_null(memory);
    unsetenv("SQF_EMULATION_MEMORY");
    assert_ok(ops->finish(device, &err), &err); /* nothing is left behind */
}

static void faults_are_reported_once(void **)
{
    const cuda_fault fault = {(unsigned long long)7 << 32 | 11};
    snprintf(device->fault_name, sizeof device->fault_name, "model.layers.3.mlp");
    assert_ok(ops->upload(device, device->fault, &fault, sizeof fault, &err), &err);
    assert_fails(ops->finish(device, &err), SQF_E_VALUE, &err, "model.layers.3.mlp: input of token 7, channel 11");
    assert_ok(ops->finish(device, &err), &err);
}

static void graphs_replay(void **)
{
    sqf_cuda_graph *graph, *none;
    void *a = allocated(device, 4), *b = allocated(device, 4), *memory;
    int number = 0;
    assert_ok(ops->clear(device, b, 4, &err), &err);
    assert_ok(ops->graph_begin(device, &err), &err);
    assert_fails(ops->graph_begin(device, &err), SQF_E_ARG, &err, "being recorded already");
    assert_fails(ops->allocate(device, 8, &memory, &err), SQF_E_MEMORY, &err, "while a graph is recorded");
    assert_ok(ops->copy(device, b, a, 4, &err), &err);
    assert_ok(ops->graph_end(device, &graph, &err), &err);
    for (int i = 5; i < 8; i++) {
        assert_ok(ops->upload(device, a, &i, 4, &err), &err);
        assert_ok(ops->download(device, &number, b, 4, &err), &err);
        assert_int_equal(number, i == 5 ? 0 : i - 1);
        assert_ok(ops->graph_run(device, graph, &err), &err);
        assert_ok(ops->download(device, &number, b, 4, &err), &err);
        assert_int_equal(number, i);
    }
    assert_fails(ops->graph_end(device, &none, &err), SQF_E_ARG, &err, "no graph is being recorded");
    ops->graph_destroy(device, graph);
    ops->graph_destroy(device, NULL);
    ops->release(device, a);
    ops->release(device, b);
}

static void workspaces_outlive_their_graphs(void **)
{
    sqf_cuda_graph *graph;
    sqf_cuda_device *own;
    assert_ok(ops->open(0, &own, &err), &err);
    assert_ok(cuda_workspace(own, 1000, &err), &err);
    uint8_t *first = (uint8_t *)own->workspace;
    assert_ok(ops->graph_begin(own, &err), &err);
    assert_fails(cuda_workspace(own, 1001, &err), SQF_E_MEMORY, &err, "needs a workspace of 1001 bytes, found 1000");
    assert_ok(ops->clear(own, first, 1000, &err), &err);
    assert_ok(ops->graph_end(own, &graph, &err), &err);
    assert_ok(cuda_workspace(own, 500, &err), &err);
    assert_ptr_equal(own->workspace, first);
    assert_ok(cuda_workspace(own, 2000, &err), &err);
    assert_ptr_not_equal(own->workspace, first);
    first[999] = 9;
    assert_ok(ops->graph_run(own, graph, &err), &err); /* writes to the workspace of its time */
    assert_int_equal(first[999], 0);
    assert_non_null(own->retired);
    ops->graph_destroy(own, graph);
    assert_null(own->retired);
    ops->close(own);
}

static void devices_keep_apart(void **)
{
    setenv("SQF_EMULATION_DEVICES", "2", 1);
    sqf_cuda_device *second;
    assert_ok(ops->open(1, &second, &err), &err);
    const auto use = [](sqf_cuda_device *one) {
        sqf_error own;
        void *memory;
        int from = 4, to = 0;
        return ops->allocate(one, 4, &memory, &own) == SQF_OK && ops->upload(one, memory, &from, 4, &own) == SQF_OK &&
               ops->download(one, &to, memory, 4, &own) == SQF_OK && to == 4 &&
               (ops->release(one, memory), ops->finish(one, &own) == SQF_OK);
    };
    assert_true(use(device));
    assert_true(use(second));
    assert_true(use(device));
    bool fine = false;
    std::thread([&] { fine = use(second); }).join(); /* a thread begins with device 0 */
    assert_true(fine);
    ops->close(second);
    unsetenv("SQF_EMULATION_DEVICES");
}

static void time_passes(void **)
{
    double seconds = -1.0;
    assert_ok(ops->mark(device, 0, &err), &err);
    assert_ok(ops->mark(device, 1, &err), &err);
    assert_ok(ops->elapsed(device, &seconds, &err), &err);
    assert_true(seconds >= 0.0 && seconds < 10.0);
    assert_fails(ops->mark(device, 2, &err), SQF_E_ARG, &err, "expected 0 or 1, found 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(facts_are_reported, open_first, close_first),
        cmocka_unit_test_setup_teardown(missing_devices_are_explained, open_first, close_first),
        cmocka_unit_test_setup_teardown(memory_moves, open_first, close_first),
        cmocka_unit_test_setup_teardown(missing_memory_is_counted, open_first, close_first),
        cmocka_unit_test_setup_teardown(faults_are_reported_once, open_first, close_first),
        cmocka_unit_test_setup_teardown(graphs_replay, open_first, close_first),
        cmocka_unit_test_setup_teardown(workspaces_outlive_their_graphs, open_first, close_first),
        cmocka_unit_test_setup_teardown(devices_keep_apart, open_first, close_first),
        cmocka_unit_test_setup_teardown(time_passes, open_first, close_first),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
