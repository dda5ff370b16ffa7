/* The pipeline over decoder layers: what its steps share. */
#ifndef SQF_PTQ_PIPELINE_H
#define SQF_PTQ_PIPELINE_H

#include "ptq/algorithm.h"
#include "ptq/engine.h"
#include "ptq/output.h"
#include "ptq/report.h"
#include "ptq/stages.h"

struct sqf_pipeline;
struct sqf_layer_work;

/* Who looks on, or measures in place of quantizing (src/budget). Members may be NULL. */
typedef struct sqf_pipeline_visitor {
    void *user;
    /* sqf_pipeline_measure: a layer in float32 with the statistics of its inputs, before smoothing. */
    sqf_status (*layer)(void *user, struct sqf_pipeline *pipeline, struct sqf_layer_work *work, sqf_error *err);
    /* sqf_pipeline_quantize: everything but report.json stands in `directory`, which is about to take its place. What
     * it puts into `section` (NULL; a reference for the pipeline to release) becomes the member "budget" of
     * report.json; a failure gives the output up. */
    sqf_status (*written)(void *user, const char *directory, json_t **section, sqf_error *err);
} sqf_pipeline_visitor;

/* One quantization of one model. */
typedef struct sqf_pipeline {
    sqf_context *context;
    const sqf_quantize_options *options;
    sqf_checkpoint checkpoint;
    sqf_plan plan;
    sqf_calibration calibration;
    sqf_model_output output;
    sqf_report report;
    float *hidden;            /* [windows, length, hidden]: the inputs of the layer at work */
    float *original;          /* the same of the original model; NULL unless some module asks (plan.follows_model) */
    float *basis;             /* [hidden, hidden] of the rotated residual stream; NULL = the checkpoint's */
    float *window;            /* [length, hidden] scratch */
    const sqf_engine *engine; /* what computes the heavy steps */
    sqf_kv_cache *cache;      /* the CPU's: of the layer at work, [length]; and its workspace of forward passes */
    sqf_workspace *workspace;
    struct sqf_engine_state *device; /* what a device holds; NULL = the CPU computes */
    uint64_t done, total;            /* progress, in windows (in layers where no text runs) */
    sqf_stages stages;
    double started;                      /* by sqf_clock_seconds */
    const sqf_pipeline_visitor *visitor; /* NULL = none */
    bool measuring;                      /* nothing is written: the output has no writer */
} sqf_pipeline;

/* sqf_quantize with somebody who looks on. */
sqf_status sqf_pipeline_quantize(sqf_context *context, const char *model_directory, const char *output_directory,
                                 const sqf_recipe *recipe, const sqf_quantize_options *options,
                                 const sqf_pipeline_visitor *visitor, sqf_quantize_summary *summary, sqf_error *err);

/* Runs the calibration text through the original model and shows each layer to the visitor; writes nothing. `recipe`
 * says which modules are looked at; follow_model: keep the original stream too, for compensate=gptq-model. */
sqf_status sqf_pipeline_measure(sqf_context *context, const char *model_directory, const sqf_recipe *recipe,
                                const sqf_quantize_options *options, bool follow_model,
                                const sqf_pipeline_visitor *visitor, sqf_error *err);

/* One decoder layer at work. Zero-initialise; release with sqf_layer_work_clear. */
typedef struct sqf_layer_work {
    size_t index;
    sqf_layer_plan *plan;             /* quotas and clipping ratios of the activations go into it */
    bool forward;                     /* calibration text runs through this layer */
    bool feeds;                       /* ... and its outputs are the inputs of another pass */
    bool chained;                     /* ... or a module compensates errors of its input: quantized ones stand in */
    sqf_layer reference;              /* plan.follows_model: the layer before smoothing, in float32 */
    sqf_layer layer;                  /* norms, and the linear layers of the pass at hand */
    float *weights[SQF_LINEAR_COUNT]; /* [rows, columns] until the module is quantized; NULL if not needed */
    float *bias[SQF_LINEAR_COUNT];    /* [rows] or NULL */
    sqf_statistics statistics[SQF_INPUT_COUNT];
    float *factors[SQF_INPUT_COUNT];  /* smoothing factors [channels]; NULL = not smoothed */
    float alpha[SQF_INPUT_COUNT];     /* that they were made with */
    double output_error, worst_error; /* sum and largest over the layer's matrices */
    size_t matrices;
} sqf_layer_work;

void sqf_layer_work_clear(sqf_layer_work *work);

/* Runs a window of a stream [windows, length, hidden] through a layer that engine->begin was called for. With a tap the
 * output is dropped, without one it replaces the input. */
sqf_status sqf_pipeline_run_window(sqf_pipeline *pipeline, const sqf_layer *layer, float *stream, size_t window,
                                   const sqf_layer_tap *tap, sqf_error *err);
/* Every window; each is one unit of progress. */
sqf_status sqf_pipeline_run_windows(sqf_pipeline *pipeline, const sqf_layer *layer, float *stream,
                                    const sqf_layer_tap *tap, sqf_error *err);
/* One unit of progress. SQF_E_CANCELLED. */
sqf_status sqf_pipeline_advance(sqf_pipeline *pipeline, sqf_error *err);

/* Static scales and zero points of the low and the high part: from the calibrated ends of their channels' values.
 * channels: stored order, NULL = as they come. Zero points are left alone where there are none. */
void sqf_static_scale_find(const sqf_act_spec *act, const sqf_statistics *statistics, const int32_t *channels,
                           size_t border, float scale[2], int32_t zero[2]);

/* sums[j] += the squares of the dequantized column j; values [columns] is scratch. */
sqf_status sqf_matrix_add_squares(const sqf_matrix *matrix, float *values, double *sums, sqf_error *err);

/* Work of the stages (pipeline_work.c): weights of one linear layer and of all of a decoder layer; operations of a
 * window through a layer, of statistics, of a factor, of a matrix, of the output matrix (0 where there is no work left
 * for it). */
double sqf_linear_weights(const sqf_config *config, sqf_linear_kind kind);
double sqf_layer_weights(const sqf_config *config);
double sqf_forward_operations(const sqf_config *config, size_t tokens);
double sqf_hessian_operations(size_t channels, size_t tokens);
double sqf_factor_operations(size_t channels);
double sqf_quantize_operations(size_t rows, size_t columns, bool calibrated);
double sqf_vocabulary_operations(const sqf_pipeline *pipeline);

/* Announces all of it to the stages, once plan and calibration are known. */
void sqf_pipeline_expect(sqf_pipeline *pipeline);

/* Activations in float32: those of a layer that is not quantized. */
extern const sqf_act_spec sqf_float_activations;

/* Loads norms, biases and weights in float32. */
sqf_status sqf_layer_work_load(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* Makes float32 linear layers of the weights as they are; they borrow work->weights. */
sqf_status sqf_layer_work_linears(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* Tells the engine that the layers of the work are gone, then clears it. */
void sqf_layer_work_end(sqf_pipeline *pipeline, sqf_layer_work *work);

/* Factors of all smoothed inputs from original weights and statistics; then weights, biases, norms and statistics
 * change so that the layer computes the same function with smoothed inputs. */
sqf_status sqf_layer_work_smooth(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* Quantizes and writes the modules that read an input, and writes those that stay dense. With work->feeds their linear
 * layers take the place of the original ones. Weights that are no longer needed are freed. */
sqf_status sqf_layer_work_quantize(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_error *err);

/* Writes the layer's norms: as they are, or in float32 where smoothing changed them. */
sqf_status sqf_layer_work_write_norms(sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_error *err);

#endif
