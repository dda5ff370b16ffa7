/** @file context.h
 *  What a computation runs on: threads, the CPU's kernels, a GPU, and where talk and progress go. */
#ifndef SQF_CONTEXT_H
#define SQF_CONTEXT_H

#include <sqf/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sqf_log_level { SQF_LOG_WARNING = 0, SQF_LOG_INFO = 1, SQF_LOG_DEBUG = 2 } sqf_log_level;

/** Receives one line of talk without a line end. Called from the thread that called the library. */
typedef void (*sqf_log_fn)(void *user, sqf_log_level level, const char *line);

/** Receives progress: `done` of `total` units of `what` ("tokens", "MB of weights", ...).
 *  @return true to go on, false to cancel (the call then fails with SQF_E_CANCELLED and leaves nothing behind).
 *  Called from the thread that called the library, at most some ten times a second. */
typedef bool (*sqf_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

typedef struct sqf_context sqf_context;

typedef struct sqf_context_options {
    unsigned threads; /**< 0 = one for each processor this process may run on. Never changes a result. */
    const char *cpu;  /**< kernel level by name ("scalar", "avx2", ...); NULL = SQF_CPU, else the best. */
    /** Where models run: "cpu", "cuda" (the first GPU) or "cuda:N"; NULL = SQF_DEVICE, else "cpu". */
    const char *device;
    sqf_log_fn log; /**< NULL = silent */
    void *log_user;
    sqf_progress_fn progress; /**< NULL = none */
    void *progress_user;
} sqf_context_options;

/** The defaults above: all processors, best kernels, silent. */
SQF_API sqf_context_options sqf_context_options_default(void);

/** Create a context and its threads.
 *
 * Sets OpenBLAS to one thread for the whole process: the library divides work itself, in chunks that do not
 * depend on the number of threads, so that results do not either.
 *
 * @param options  NULL = defaults.
 * @param out      the context; NULL on every failure. The caller owns it: sqf_context_destroy.
 * With a GPU the CUDA backend, a shared library of its own, is loaded: from SQF_CUDA_LIBRARY if that is set, else from
 * beside this library or the program, their ../lib, or wherever the system's loader finds it. Which GPUs there are is
 * the CUDA runtime's matter: CUDA_VISIBLE_DEVICES counts.
 *
 * @return SQF_OK; SQF_E_SUPPORT (unknown CPU level, or one that this machine lacks; no CUDA backend, or one of another
 *         version; no driver, no such GPU); SQF_E_ARG (a device's name that means nothing); SQF_E_MEMORY.
 *
 * A context serves one calling thread at a time; different contexts are independent. */
SQF_API sqf_status sqf_context_create(const sqf_context_options *options, sqf_context **out, sqf_error *err);

/** Destroy a context. Models opened with it must be destroyed before. NULL is fine. */
SQF_API void sqf_context_destroy(sqf_context *context);

/** Number of threads that the context computes with. */
SQF_API unsigned sqf_context_threads(const sqf_context *context);

/** Seconds that the call at work will still take, for a progress callback; negative where it cannot tell. Better than
 *  what follows from the units done, where these differ in size: sqf_quantize times each of its stages. */
SQF_API double sqf_context_time_left(const sqf_context *context);

/** Name of the kernel level in use, e.g. "avx2". A static string. */
SQF_API const char *sqf_context_cpu(const sqf_context *context);

/** The device that models run on, for people: "cpu", or "cuda:0: NVIDIA H100 ..."; lives as long as the context. */
SQF_API const char *sqf_context_device(const sqf_context *context);

/** The same in short: "cpu", "cuda:0". */
SQF_API const char *sqf_context_device_name(const sqf_context *context);

/** The level's names that this build has and this machine can run, best first, NULL-terminated; static. */
SQF_API const char *const *sqf_cpu_levels(void);

/** Multiply-accumulates of linear layers since the context was created or the counts were reset, by the path that
 *  computed them. The proof that a product which a scheme calls an integer product ran in integers. */
typedef struct sqf_product_counts {
    uint64_t dense;        /**< weights that are not quantized */
    uint64_t floating;     /**< quantized weights, computed in floating point (A16, or an fp8/fp16/bf16 part) */
    uint64_t integer_high; /**< integers, an operand of more than 4 bits */
    uint64_t integer_low;  /**< integers, both operands of 4 bits or fewer: the low rate */
    uint64_t dropped;      /**< weights that pruning removed: no work */
} sqf_product_counts;

/** The counts so far. */
SQF_API sqf_product_counts sqf_context_products(const sqf_context *context);
/** Set the counts to zero. */
SQF_API void sqf_context_products_reset(sqf_context *context);

/** Version of the library, "0.1.0"; a static string. */
SQF_API const char *sqf_version(void);

/** One line about the BLAS in use (name, version, kernel); a static string. */
SQF_API const char *sqf_blas_description(void);

#ifdef __cplusplus
}
#endif
#endif
