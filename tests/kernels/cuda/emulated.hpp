/* What tests of kernels share: launching on the host in each order of threads, children that are expected to end, and
 * memory of the emulated device. */
#ifndef SQF_TESTS_KERNELS_CUDA_EMULATED_HPP
#define SQF_TESTS_KERNELS_CUDA_EMULATED_HPP

#include <sys/wait.h>

#include <string>
#include <vector>

extern "C" {
#include "check.h"

#include "base/random.h"
}

#include "kernels/cuda/instructions/common.h"

/* The orders in which a kernel's result must be the same. */
static const char *const emulated_orders[] = {"ascending", "descending", "shuffled"};

static inline void choose_order(const char *order, unsigned seed = 1)
{
    char text[16];
    snprintf(text, sizeof text, "%u", seed);
    setenv("SQF_EMULATION_ORDER", order, 1);
    setenv("SQF_EMULATION_SEED", text, 1);
}

static inline void choose_copies(const char *when)
{
    setenv("SQF_EMULATION_COPIES", when, 1);
}

static inline void choose_default(void)
{
    unsetenv("SQF_EMULATION_ORDER");
    unsetenv("SQF_EMULATION_SEED");
    unsetenv("SQF_EMULATION_COPIES");
}

/* Runs body with each order, and shuffled with several seeds. */
template <typename Body> static inline void in_all_orders(Body body)
{
    for (const char *order : emulated_orders) {
        const unsigned seeds = strcmp(order, "shuffled") == 0 ? 4 : 1;
        for (unsigned seed = 1; seed <= seeds; seed++) {
            choose_order(order, seed);
            body();
        }
    }
    choose_default();
}

/* Device memory with contents. */
template <typename T> struct device_vector {
    T *data = NULL;
    size_t count;

    explicit device_vector(size_t n) : count(n)
    {
        if (cudaMalloc(&data, n * sizeof(T)) != cudaSuccess) {
            fail_msg("no memory for %zu elements", n);
        }
    }
    explicit device_vector(const std::vector<T> &from) : device_vector(from.size())
    {
        memcpy(data, from.data(), count * sizeof(T));
    }
    ~device_vector()
    {
        (void)cudaFree(data);
    }
    device_vector(const device_vector &) = delete;
    device_vector &operator=(const device_vector &) = delete;

    std::vector<T> host() const
    {
        return std::vector<T>(data, data + count);
    }
};

/* What body, which must end the program, writes to stderr. */
template <typename Body> static inline std::string text_of_end(Body body)
{
    int ends[2];
    if (pipe(ends)) {
        fail_msg("no pipe");
    }
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char part[256];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) {
        text.append(part, (size_t)n);
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) {
        fail_msg("expected an end by abort, found status %d: %s", status, text.c_str());
    }
    return text;
}

static inline void expect_text(const std::string &text, const char *part)
{
    if (text.find(part) == std::string::npos) {
        fail_msg("expected \"%s\" in \"%s\"", part, text.c_str());
    }
}

static inline void must_launch(cudaError_t error)
{
    if (error != cudaSuccess) {
        fail_msg("launch: %s", cudaGetErrorString(error));
    }
}

#endif
