/* Layers drawn at random: weights of ordinary size, activations with what published studies of large models report.
 * docs/beds.md says which study reports what. */
#include <math.h>
#include <string.h>

#include <sqf/bed.h>

#include "base/memory.h"
#include "base/random.h"
#include "bed/layer.h"

/* Shapes of the distributions: degrees of freedom of Student's t, spread of the channels' scales, range of the outlier
 * channels and size of the massive values (in units of the median channel), tokens that an outlier channel leaves out.
 */
enum { ACTIVATION_FREEDOM = 4, WEIGHT_FREEDOM = 5, MASSIVE_CHANNELS = 2 };
static const double channel_sigma = 0.5, weight_deviation = 0.02;
static const double outlier_least = 20.0, outlier_most = 100.0, outlier_missing = 0.05, massive_size = 1000.0;

sqf_layer_bed_options sqf_layer_bed_options_default(void)
{
    return (sqf_layer_bed_options){.rows = 256,
                                   .columns = 1024,
                                   .calibration_tokens = 2048,
                                   .held_out_tokens = 2048,
                                   .activations = SQF_BED_MIXED,
                                   .outlier_share = 0.005,
                                   .massive_share = 1.0 / 512};
}

const char *const *sqf_bed_activation_names(void)
{
    static const char *const names[] = {"gaussian", "channels", "tokens", "heavy", "mixed", NULL};
    return names;
}

const char *const *sqf_bed_weight_names(void)
{
    static const char *const names[] = {"gaussian", "heavy", NULL};
    return names;
}

/* ---- random numbers ---- */

/* Box and Muller's method, one of the two numbers. */
static double draw_normal(sqf_random *random)
{
    const double radius = sqrt(-2.0 * log(1.0 - sqf_random_unit(random)));
    return radius * cos(6.283185307179586 * sqf_random_unit(random));
}

/* Student's t scaled to variance 1; freedom 0 = normal. */
static double draw_student(sqf_random *random, int freedom)
{
    const double x = draw_normal(random);
    double squares = 0.0;
    for (int i = 0; i < freedom; i++) {
        const double y = draw_normal(random);
        squares += y * y;
    }
    return freedom == 0 ? x : x / sqrt(squares / (double)(freedom - 2));
}

/* ---- activations ---- */

/* What the tokens of calibration and held-out text have in common. */
typedef struct source {
    size_t columns;
    int freedom;
    float *scale;                     /* [columns] */
    uint8_t *outlier;                 /* [columns] */
    size_t massive[MASSIVE_CHANNELS]; /* channels */
    double massive_share;             /* of the tokens */
} source;

static bool has_channels(const sqf_layer_bed_options *o)
{
    return o->activations == SQF_BED_CHANNELS || o->activations == SQF_BED_MIXED;
}

static bool has_tokens(const sqf_layer_bed_options *o)
{
    return o->activations == SQF_BED_TOKENS || o->activations == SQF_BED_MIXED;
}

static sqf_status draw_source(const sqf_layer_bed_options *o, sqf_random *random, source *out, sqf_error *err)
{
    const bool heavy = o->activations == SQF_BED_HEAVY || o->activations == SQF_BED_MIXED;
    *out = (source){.columns = o->columns,
                    .freedom = heavy ? ACTIVATION_FREEDOM : 0,
                    .massive_share = has_tokens(o) ? o->massive_share : 0.0};
    SQF_TRY(SQF_ALLOC(&out->scale, o->columns, "channel scales", err));
    SQF_TRY(SQF_ALLOC(&out->outlier, o->columns, "outlier channels", err));
    for (size_t j = 0; j < o->columns; j++) {
        out->scale[j] = (float)exp(channel_sigma * draw_normal(random)); /* median 1 */
    }
    for (size_t left = has_channels(o) ? (size_t)ceil(o->outlier_share * (double)o->columns) : 0; left > 0;) {
        const size_t j = sqf_random_below(random, o->columns);
        if (!out->outlier[j]) {
            out->outlier[j] = 1;
            /* even on a logarithmic scale */
            out->scale[j] = (float)(outlier_least * pow(outlier_most / outlier_least, sqf_random_unit(random)));
            left--;
        }
    }
    for (size_t i = 0; i < MASSIVE_CHANNELS; i++) {
        out->massive[i] = sqf_random_below(random, o->columns);
    }
    return SQF_OK;
}

/* One token. An outlier channel keeps its size and nearly always its sign, as a channel with a large bias does. */
static void draw_token(const source *s, sqf_random *random, float *x)
{
    for (size_t j = 0; j < s->columns; j++) {
        double value = draw_student(random, s->freedom);
        if (s->outlier[j]) {
            const bool missing = sqf_random_unit(random) < outlier_missing;
            value = missing ? value / (double)s->scale[j] : 1.0 + 0.25 * value;
        }
        x[j] = (float)((double)s->scale[j] * value);
    }
}

/* The number of massive tokens is fixed, not drawn: few tokens decide much, and both texts must have their share. */
static void add_massive(const source *s, sqf_random *random, size_t tokens, float *x)
{
    const size_t count = (size_t)ceil(s->massive_share * (double)tokens);
    for (size_t i = 0; i < count; i++) {
        /* one in each of `count` equal stretches */
        const size_t begin = i * tokens / count, end = (i + 1) * tokens / count;
        float *token = x + (begin + sqf_random_below(random, end - begin)) * s->columns;
        for (size_t c = 0; c < MASSIVE_CHANNELS; c++) {
            token[s->massive[c]] = (float)(massive_size * (1.0 + 0.1 * draw_normal(random)));
        }
    }
}

static sqf_status draw_tokens(const source *s, sqf_random *random, size_t tokens, float **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, tokens * s->columns, "activations", err));
    for (size_t t = 0; t < tokens; t++) {
        draw_token(s, random, *out + t * s->columns);
    }
    add_massive(s, random, tokens, *out);
    return SQF_OK;
}

/* ---- the whole layer ---- */

static sqf_status check_options(const sqf_layer_bed_options *o, sqf_error *err)
{
    const bool shares =
        o->outlier_share >= 0 && o->outlier_share <= 0.5 && o->massive_share >= 0 && o->massive_share <= 0.5;
    if ((unsigned)o->activations > SQF_BED_MIXED || (unsigned)o->weights > SQF_BED_WEIGHTS_HEAVY) {
        return sqf_fail(err, SQF_E_ARG, "layer bed: unknown distribution of activations or weights");
    }
    return shares ? SQF_OK
                  : sqf_fail(err, SQF_E_ARG,
                             "layer bed: shares of outlier channels and massive tokens: expected 0 to "
                             "0.5, found %g and %g",
                             o->outlier_share, o->massive_share);
}

static sqf_status draw_weights(const sqf_layer_bed_options *o, sqf_random *random, float **out, sqf_error *err)
{
    const int freedom = o->weights == SQF_BED_WEIGHTS_HEAVY ? WEIGHT_FREEDOM : 0;
    SQF_TRY(SQF_ALLOC(out, o->rows * o->columns, "weights", err));
    for (size_t i = 0; i < o->rows * o->columns; i++) {
        (*out)[i] = (float)(weight_deviation * draw_student(random, freedom));
    }
    return SQF_OK;
}

sqf_status sqf_bed_layer_draw(const sqf_layer_bed_options *options, sqf_layer_data *out, sqf_error *err)
{
    *out = (sqf_layer_data){.rows = options->rows,
                            .columns = options->columns,
                            .calibration_tokens = options->calibration_tokens,
                            .held_out_tokens = options->held_out_tokens};
    sqf_random random = {.state = options->seed};
    source s = {0};
    sqf_status status = check_options(options, err);
    SQF_TRY_GOTO(status, status, done);
    SQF_TRY_GOTO(status, sqf_bed_layer_check(out, err), done);
    SQF_TRY_GOTO(status, draw_weights(options, &random, &out->weights, err), done);
    SQF_TRY_GOTO(status, draw_source(options, &random, &s, err), done);
    SQF_TRY_GOTO(status, draw_tokens(&s, &random, out->calibration_tokens, &out->calibration, err), done);
    SQF_TRY_GOTO(status, draw_tokens(&s, &random, out->held_out_tokens, &out->held_out, err), done);
done:
    free(s.scale);
    free(s.outlier);
    if (status != SQF_OK) {
        sqf_bed_layer_clear(out);
    }
    return status;
}

void sqf_bed_layer_clear(sqf_layer_data *data)
{
    free(data->weights);
    free(data->calibration);
    free(data->held_out);
    *data = (sqf_layer_data){0};
}
