/* A backend as libsqf loads it: its table is complete, and a machine without a driver is told so in one line.
 * usage: library LIBRARY */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/ops.h"

/* Every pointer of the table behind the version. */
static int check_complete(const sqf_cuda_ops *operations)
{
    int missing = 0;
    for (size_t at = offsetof(sqf_cuda_ops, description); at < sizeof *operations; at += sizeof(void *)) {
        void *entry;
        memcpy(&entry, (const char *)operations + at, sizeof entry);
        if (!entry) {
            printf("entry %zu of the table is missing\n", (at - offsetof(sqf_cuda_ops, description)) / sizeof entry);
            missing++;
        }
    }
    return missing;
}

static int check_count(const sqf_cuda_ops *operations)
{
    int count = -1;
    sqf_error err = {SQF_OK, ""};
    const sqf_status status = operations->count(&count, &err);
    printf("%s: %d devices, %s %s\n", operations->description, count, sqf_status_name(status), err.text);
    if (status == SQF_OK) {
        return count < 1;
    }
    const int one_line = strncmp(err.text, "cuda: ", 6) == 0 && strlen(err.text) > 10 && !strchr(err.text, '\n');
    const int names_driver = strstr(err.text, "driver") || access("/proc/driver/nvidia/version", F_OK) == 0;
    return status != SQF_E_SUPPORT || count != 0 || !one_line || !names_driver;
}

int main(int argc, char **argv)
{
    if (argc != 2 || access(argv[1], R_OK) != 0) {
        printf("library: %s is not there\n", argc == 2 ? argv[1] : "LIBRARY");
        return 77;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "sqf_cuda_operations") : NULL;
    if (!symbol) {
        printf("%s\n", dlerror());
        return 1;
    }
    const sqf_cuda_ops *(*get)(void);
    memcpy(&get, &symbol, sizeof get);
    const sqf_cuda_ops *operations = get();
    if (operations->version != SQF_CUDA_OPS_VERSION) {
        printf("version %u, expected %d\n", operations->version, (int)SQF_CUDA_OPS_VERSION);
        return 1;
    }
    return check_complete(operations) + check_count(operations) > 0;
}
