/* Names of devices, and the sentences for every reason that one cannot be opened. */
#include "check.h"

#include "device/device.h"

static void parses(const char *text, int want)
{
    sqf_error err;
    int index = -2;
    assert_ok(sqf_device_parse(text, &index, &err), &err);
    assert_int_equal(index, want);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1x", "cuda:12345", "cuda0", "cpu:0"};
    sqf_error err;
    int index;
    parses("cpu", -1);
    parses("cuda", 0);
    parses("cuda:0", 0);
    parses("cuda:13", 13);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_fails(sqf_device_parse(bad[i], &index, &err), SQF_E_ARG, &err, "expected cpu, cuda or cuda:N, found");
    }
}

static void set(const char *name, const char *value)
{
    assert_int_equal(value ? setenv(name, value, 1) : unsetenv(name), 0);
}

/* Opening with SQF_FAKE as `fake` must fail with `part`. */
static void refuses(const char *library, const char *fake, const char *visible, int index, const char *part)
{
    sqf_error err;
    sqf_device *device;
    set("SQF_CUDA_LIBRARY", library);
    set("SQF_FAKE", fake);
    set("CUDA_VISIBLE_DEVICES", visible);
    assert_fails(sqf_device_open(index, &device, &err), SQF_E_SUPPORT, &err, part);
    assert_null(device);
    set("CUDA_VISIBLE_DEVICES", NULL);
}

static void test_refusals(void **state)
{
    (void)state;
    refuses("/nowhere/libsqf_cuda.so", "", NULL, 0, "cuda: SQF_CUDA_LIBRARY: /nowhere/libsqf_cuda.so");
    refuses("libm.so.6", "", NULL, 0, "libm.so.6: not a backend of sqf");
    refuses(FAKE_BACKEND, "version", NULL, 0, "expected version 1, found 2");
    refuses(FAKE_BACKEND, "driver", NULL, 0, "cuda: no NVIDIA driver is installed");
    refuses(FAKE_BACKEND, "none", NULL, 0, "cuda: no device found");
    refuses(FAKE_BACKEND, "none", "", 0, "no device found (CUDA_VISIBLE_DEVICES is \"\")");
    refuses(FAKE_BACKEND, "one", NULL, 1, "cuda:1: no such device, found 1: cuda:0");
    refuses(FAKE_BACKEND, "one", "3", 2, "(CUDA_VISIBLE_DEVICES is \"3\")");
    refuses(FAKE_BACKEND, "one", NULL, 0, "opening the device: busy");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
