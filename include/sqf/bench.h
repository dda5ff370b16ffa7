/** @file bench.h
 *  Speed of a model: prefill and decode, in the manner of llama-bench. */
#ifndef SQF_BENCH_H
#define SQF_BENCH_H

#include <sqf/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What is timed. */
typedef struct sqf_bench_options {
    size_t prefill;     /**< tokens of the prompt, run at once; 0 = not timed */
    size_t decode;      /**< tokens run one at a time; 0 = not timed */
    size_t repetitions; /**< >= 1; one run before them is not counted */
    size_t depth;       /**< tokens in the cache before each of them; computed once, not timed */
    size_t batch;       /**< sequences that are decoded together, each at this depth; 0 = 1. Prefill has one */
    sqf_kv_type kv;     /**< type of the KV cache */
} sqf_bench_options;

/** 512, 64, 3, 0, 1 and float32. */
SQF_API sqf_bench_options sqf_bench_options_default(void);

/** Room for the name of a processor. */
enum { SQF_BENCH_CPU = 128 };

/** The times. Release with sqf_bench_result_clear. */
typedef struct sqf_bench_result {
    size_t repetitions;
    double *prefill_tokens_per_s; /**< [repetitions], owned; NULL if not timed */
    double *decode_tokens_per_s;  /**< [repetitions], owned; of all sequences; NULL if not timed */
    uint64_t cache_bytes;         /**< of the keys and values of one position of a sequence */
    char cpu[SQF_BENCH_CPU];      /**< the processor's name as the system tells it; "unknown" */
    sqf_product_counts prefill_products, decode_products; /**< of the last repetition */
} sqf_bench_result;

/** Time a model on fixed synthetic tokens. Each repetition computes the logits of its last token (decode: of every
 *  token); nothing is sampled.
 *
 * @return SQF_OK; SQF_E_ARG (no repetition; more tokens, the depth included, than the model has positions: both are
 *         named); SQF_E_MEMORY;
 *         SQF_E_CANCELLED; errors of sqf_session_forward. *result is empty after a failure.
 *
 * Sets the context's product counts to zero before each run. Reports progress in "repetitions", between runs only, so
 * that it does not disturb them. */
SQF_API sqf_status sqf_bench_run(sqf_context *context, const sqf_model *model, const sqf_bench_options *options,
                                 sqf_bench_result *result, sqf_error *err);

/** Free the lists and zero the result. NULL is fine. */
SQF_API void sqf_bench_result_clear(sqf_bench_result *result);

/** Room for the roofs of one kernel level. */
enum { SQF_BENCH_ROOFS = 4 };

/** A rate of products that nothing but one pattern of instructions reaches. */
typedef struct sqf_bench_roof {
    const char *name;  /**< the instructions; static */
    double gmac_per_s; /**< 10^9 multiply-accumulates a second, all threads together */
} sqf_bench_roof;

/** What all threads of a context reach together when they do nothing else. */
typedef struct sqf_bench_roofs {
    double read_gb_per_s;    /**< 10^9 bytes a second from memory, through huge pages where the system grants them */
    double float_gmac_per_s; /**< float32 multiply-adds of the kernel level in use */
    size_t integer_count;    /**< byte products of the kernel level in use; 0 for the portable level */
    sqf_bench_roof integer[SQF_BENCH_ROOFS];
} sqf_bench_roofs;

/** Measure the roofs of the context's kernel level and threads: best of several rounds, about two seconds and 1 GiB.
 *
 * @return SQF_OK; SQF_E_MEMORY; SQF_E_CANCELLED. *roofs is zero after a failure. */
SQF_API sqf_status sqf_bench_roofs_measure(sqf_context *context, sqf_bench_roofs *roofs, sqf_error *err);

/** The highest of the integer roofs, 0 if there is none. */
SQF_API double sqf_bench_roofs_integer(const sqf_bench_roofs *roofs);

/** Write the processor's name as the system tells it, "unknown" if it does not. */
SQF_API void sqf_cpu_name(char name[SQF_BENCH_CPU]);

#ifdef __cplusplus
}
#endif
#endif
