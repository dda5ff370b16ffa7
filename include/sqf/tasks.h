/** @file tasks.h
 *  Benchmarks: multiple choice, partial evaluation, last words and generated answers, by the rules of lm-eval, and how
 *  far the generated text of two models agrees. Definitions of every figure: docs/evaluation.md. */
#ifndef SQF_TASKS_H
#define SQF_TASKS_H

#include <sqf/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How an item is put to a model. */
typedef enum sqf_task_kind {
    SQF_TASK_CHOICE = 0, /**< one context, several continuations: the most probable one is chosen */
    SQF_TASK_PARTIAL,    /**< several contexts, one continuation that is scored after each (WinoGrande) */
    SQF_TASK_CLOZE,      /**< one context, one continuation: is it what greedy decoding gives? (LAMBADA) */
    SQF_TASK_GENERATE    /**< greedy text, from which an answer is extracted (GSM8K) */
} sqf_task_kind;

/** "choice", "partial", "cloze", "generate"; a static string. */
SQF_API const char *sqf_task_kind_name(sqf_task_kind kind);

/** Figures of a task; which ones a kind has: docs/evaluation.md. Each is a mean over items, except perplexity. */
typedef enum sqf_task_metric {
    SQF_METRIC_ACC = 0,   /**< choice: largest sum; cloze: greedy; generate: strict extraction */
    SQF_METRIC_ACC_NORM,  /**< sum divided by the choice's characters (code points), as lm-eval's acc_norm */
    SQF_METRIC_ACC_BYTES, /**< divided by its bytes, as lm-eval's acc_bytes */
    SQF_METRIC_FLEXIBLE,  /**< generate: flexible extraction */
    SQF_METRIC_PERPLEXITY /**< cloze: exp(- mean log-likelihood of the items) */
} sqf_task_metric;
enum { SQF_METRIC_COUNT = 5 };

/** "acc", "acc_norm", "acc_bytes", "acc_flexible", "perplexity"; a static string. */
SQF_API const char *sqf_task_metric_name(sqf_task_metric metric);

/** A definition that comes with the library. Static strings. */
typedef struct sqf_task_builtin {
    const char *name;       /**< files of this name, or of one that begins with it and '-' or '_', are read by it */
    const char *summary;    /**< one line */
    const char *definition; /**< a task file (docs/evaluation.md) */
} sqf_task_builtin;

/** All of them; *count is their number. Static. */
SQF_API const sqf_task_builtin *sqf_task_builtins(size_t *count);

/** A definition and the items of one file. Immutable once loaded. */
typedef struct sqf_task sqf_task;

/** Read items.
 *
 * @param path       JSON, one object a line; empty lines are skipped. At most 16 MiB a line.
 * @param task_file  NULL: the built-in definition that the file's name says; else a task file.
 * @param out        the task; NULL on every failure. The caller owns it: sqf_task_destroy.
 * @return SQF_OK; SQF_E_IO; SQF_E_FORMAT (the task file or a line of the items is not what it should be; file and line
 *         are named); SQF_E_ARG (no built-in definition of this name); SQF_E_MEMORY. */
SQF_API sqf_status sqf_task_load(const char *path, const char *task_file, sqf_task **out, sqf_error *err);

/** Destroy a task. NULL is fine. */
SQF_API void sqf_task_destroy(sqf_task *task);

/** Facts of a task. Strings are borrowed from it. */
typedef struct sqf_task_info {
    const char *name;       /**< the items' file name without its ending */
    const char *definition; /**< name of the definition, e.g. "hellaswag" */
    const char *path;       /**< of the items */
    sqf_task_kind kind;
    size_t items;
    size_t few_shot;       /**< examples in front of an item that the definition asks for */
    size_t max_new_tokens; /**< SQF_TASK_GENERATE: that the definition asks for */
} sqf_task_info;
SQF_API sqf_task_info sqf_task_info_get(const sqf_task *task);

/** What to run. */
typedef struct sqf_tasks_options {
    size_t limit;          /**< only the first so many items of each task; 0 = all */
    size_t few_shot;       /**< examples in front of an item; SIZE_MAX = as the task's definition says */
    size_t max_new_tokens; /**< of a generated answer; 0 = as the task's definition says */
    size_t resamples;      /**< of the bootstrap, >= 2 */
    uint64_t seed;         /**< of the bootstrap */
    const char *items;     /**< NULL, or a file that receives one line of JSON an item, as soon as it is computed */
    bool resume;           /**< `items` may exist: what is in it is not computed again */
    sqf_kv_type kv;        /**< type of the model's KV cache; a reference keeps float32 */
} sqf_tasks_options;

/** Everything, examples and length as the definitions say, 1000 resamples of seed 1234, no items file. */
SQF_API sqf_tasks_options sqf_tasks_options_default(void);

/** One figure. NaN where the kind of task does not have it. */
typedef struct sqf_task_figure {
    double value;
    double error;          /**< standard error, by bootstrap over items */
    double analytic_error; /**< sd / sqrt(n), sd with n - 1; of perplexity by the delta method; 0 for one item */
} sqf_task_figure;

/** Model minus reference, of the same items. NaN (or zero) without a reference. */
typedef struct sqf_task_change {
    double difference;
    double error;        /**< standard error of the paired difference, by bootstrap over items */
    size_t gained, lost; /**< items that only the model, only the reference gets right */
    double p_value;      /**< two-sided: of accuracies McNemar's exact test; of perplexity the paired bootstrap */
    bool significant;    /**< p_value < 0.05 */
} sqf_task_change;

/** What became of one task. */
typedef struct sqf_task_result {
    size_t items;     /**< that were scored */
    size_t resumed;   /**< of those, taken from the items file */
    size_t few_shot;  /**< examples in front of each */
    size_t truncated; /**< computed items of which an input was longer than the model's positions: cut at the left */
    size_t max_new_tokens;
    uint64_t tokens_run, tokens_reused; /**< tokens that went through the model; that were found in its cache */
    double seconds;                     /**< of computing, the reference included */
    bool compared;                      /**< there was a reference */
    sqf_task_figure model[SQF_METRIC_COUNT], reference[SQF_METRIC_COUNT];
    sqf_task_change change[SQF_METRIC_COUNT];
} sqf_task_result;

/** Run tasks, item by item.
 *
 * Inputs are tokenized and cut as lm-eval does: context and continuation are encoded together with the tokens that the
 * tokenizer puts in front; white space at the end of a context belongs to the continuation; what is longer than the
 * model's positions loses its beginning. A prompt of a generated answer is cut to the positions less max_new_tokens.
 * What the inputs of an item have in common is computed once, the few-shot examples once for all items.
 *
 * @param model      opened with `context`.
 * @param reference  NULL, or a model with the same tokenizer; may have other positions.
 * @param tokenizer  of both.
 * @param tasks      [count]
 * @param results    [count] written on success.
 * @return SQF_OK; SQF_E_ARG (options; vocabularies that differ; max_new_tokens not below a model's positions; too few
 *         items for the examples; two tasks of one name);
 *         SQF_E_VALUE (an item's choice without a token of its own, or with more than the model has positions; file and
 *         line are named); SQF_E_EXISTS (the items file is there and `resume` false); SQF_E_FORMAT (a line of it is of
 *         another model or task: both hashes are named); SQF_E_IO; SQF_E_MEMORY; SQF_E_CANCELLED (the items file keeps
 *         what was computed).
 *
 * Reports progress in "items". Results depend neither on threads nor on what was resumed or limited. */
SQF_API sqf_status sqf_tasks_run(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                                 const sqf_tokenizer *tokenizer, const sqf_task *const *tasks, size_t count,
                                 const sqf_tasks_options *options, sqf_task_result *results, sqf_error *err);

/** Greedy text of two models after the same prompts. */
typedef struct sqf_agreement_options {
    size_t prompt_tokens; /**< >= 1 */
    size_t new_tokens;    /**< >= 1; prompt and new tokens must fit into the models' positions */
    size_t prompts;       /**< at most; spread evenly over the text; 0 = as many as it has without overlap */
    size_t resamples;     /**< of the bootstrap over prompts, >= 2 */
    uint64_t seed;        /**< of the bootstrap */
    sqf_kv_type kv;       /**< type of the model's KV cache; the reference keeps float32 */
} sqf_agreement_options;

/** Prompts of 64 tokens, 128 new ones, 100 prompts, 1000 resamples of seed 1234. */
SQF_API sqf_agreement_options sqf_agreement_options_default(void);

/** Lengths of which the share of equal continuations is told: new_tokens and its halves, largest first. */
enum { SQF_AGREEMENT_LENGTHS = 6 };

typedef struct sqf_agreement {
    size_t prompts;
    double first_divergence; /**< mean number of equal tokens before the first other one; new_tokens if there is none */
    double first_divergence_error;
    double divergence_rate; /**< first divergences / tokens that could have diverged: of a token, given equal text */
    double divergence_rate_error;
    size_t lengths; /**< used entries of the three arrays below */
    size_t length[SQF_AGREEMENT_LENGTHS];
    double equal[SQF_AGREEMENT_LENGTHS]; /**< share of prompts whose first `length` new tokens are all equal */
    double equal_error[SQF_AGREEMENT_LENGTHS];
    double model_nll;     /**< mean -log p that the reference gives the model's new tokens, in nats */
    double reference_nll; /**< the same of its own */
    double nll_difference,
        nll_difference_error; /**< paired over prompts: how much worse the reference finds the text */
    double teacher_top; /**< share of the reference's new tokens that the model, given the reference's text, finds most
                           probable: agreement without divergence */
} sqf_agreement;

/** Let both models continue prompts cut from a text greedily, and compare. End tokens do not stop them, so that all
 * continuations are of one length.
 *
 * @param ids  the text, count ids: at least prompt_tokens.
 * @return SQF_OK; SQF_E_ARG (options, positions, too little text, vocabularies that differ); SQF_E_VALUE; SQF_E_MEMORY;
 *         SQF_E_CANCELLED.
 *
 * Reports progress in "prompts". Errors are standard errors by bootstrap over prompts. */
SQF_API sqf_status sqf_agreement_run(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                                     const uint32_t *ids, size_t count, const sqf_agreement_options *options,
                                     sqf_agreement *result, sqf_error *err);

/** sqf_agreement_run on the content of a regular file, encoded without special tokens; messages about the text begin
 *  with its path. SQF_E_IO if it cannot be read. */
SQF_API sqf_status sqf_agreement_file(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                                      const sqf_tokenizer *tokenizer, const char *path,
                                      const sqf_agreement_options *options, sqf_agreement *result, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif
