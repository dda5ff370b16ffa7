/* Which kernels a product really calls: an integer scheme never calls one that multiplies in floating point. The counts
 * of a context say what a scheme means; this watches what runs. */
#include "check.h"

#include "base/random.h"
#include "format/matrix.h"
#include "kernels/kernels.h"
#include "kernels/linear.h"

enum { ROWS = 70, COLUMNS = 256, TOKENS = 40 };

/* The kernels that multiply weights, as called since watch(). */
static const sqf_kernels *watched;
static size_t integer_calls, float_calls;

static void watch_tile(const sqf_tile_job *job)
{
    integer_calls++;
    watched->tile(job);
}

static void watch_panel_dot(sqf_form form, const uint8_t *weights, size_t columns, const float *x, const float *scales,
                            float *out)
{
    float_calls++;
    watched->panel_dot(form, weights, columns, x, scales, out);
}

/* Weights as floats: what comes before a product by BLAS. */
static void watch_panel_dequantize(sqf_form form, const uint8_t *weights, size_t columns, const float *scales, bool add,
                                   float *tile)
{
    float_calls++;
    watched->panel_dequantize(form, weights, columns, scales, add, tile);
}

/* One thread, so that the counters need no lock. `table` must live as long as the context. */
static sqf_context *watch(const char *level, sqf_kernels *table)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = 1, .cpu = level};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    watched = context->kernels;
    *table = *watched;
    table->tile = watch_tile;
    table->panel_dot = watch_panel_dot;
    table->panel_dequantize = watch_panel_dequantize;
    context->kernels = table;
    integer_calls = float_calls = 0;
    return context;
}

/* Random values on the grid; the first elements of each bank are the high ones. */
static void fill_row(sqf_random *random, const sqf_matrix *matrix, sqf_row *row)
{
    const sqf_weight_spec *spec = &matrix->spec;
    for (size_t b = 0; b < sqf_partition_count(&matrix->banks); b++) {
        size_t begin, end;
        sqf_partition_range(&matrix->banks, b, &begin, &end);
        const size_t high =
            spec->high == SQF_TYPE_NONE ? 0 : sqf_bank_high(spec->bank, spec->high_per_bank, end - begin);
        for (size_t k = begin; k < end; k++) {
            row->mask[k] = k < begin + high;
            const sqf_type type = row->mask[k] ? spec->high : spec->low;
            const float value = (float)(sqf_random_unit(random) * 2 - 1) * sqf_type_max(type);
            row->value[k] = type == SQF_TYPE_NONE ? 0.0f : sqf_type_round(type, value, 1.0f);
        }
    }
    for (size_t g = 0; g < matrix->group_count; g++) {
        row->scale_low[g] = row->scale_high[g] = 0.5f;
    }
}

static void make_matrix(sqf_random *random, const sqf_scheme *scheme, sqf_matrix *matrix)
{
    sqf_error err;
    sqf_row row;
    const sqf_act_spec *act = &scheme->activations;
    const bool masked = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    int32_t channels[COLUMNS];
    for (int32_t k = 0; k < COLUMNS; k++) {
        channels[k] = k;
    }
    assert_ok(sqf_matrix_create(&scheme->weights, ROWS, COLUMNS, masked ? sqf_act_low_channels(act, COLUMNS) : COLUMNS,
                                masked ? channels : NULL, matrix, &err),
              &err);
    assert_ok(sqf_row_create(matrix, &row, &err), &err);
    for (size_t n = 0; n < ROWS; n++) {
        fill_row(random, matrix, &row);
        sqf_matrix_pack_row(matrix, n, &row);
    }
    sqf_row_clear(&row);
}

/* Runs one token (as decoding does) and many (as prefill does) through a random layer. */
static void run_layer(const sqf_scheme *scheme, const char *level)
{
    sqf_error err;
    sqf_random random = {.state = 11};
    sqf_matrix matrix;
    sqf_kernels table;
    sqf_linear *linear;
    sqf_input *input;
    static float x[TOKENS * COLUMNS], y[TOKENS * ROWS], column_norm[COLUMNS];
    make_matrix(&random, scheme, &matrix);
    for (size_t i = 0; i < TOKENS * COLUMNS; i++) {
        x[i] = (float)(sqf_random_unit(&random) - 0.5);
    }
    sqf_context *context = watch(level, &table);
    const sqf_linear_params params = {.name = "layer",
                                      .rows = ROWS,
                                      .columns = COLUMNS,
                                      .matrix = &matrix,
                                      .activations = scheme->activations,
                                      .column_norm = column_norm};
    assert_ok(sqf_linear_create(context, &params, &linear, &err), &err);
    assert_ok(sqf_input_create(&input, &err), &err);
    for (size_t tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1) {
        assert_ok(sqf_input_prepare(context, input, linear, x, tokens, &err), &err);
        assert_ok(sqf_linear_forward(context, linear, input, y, &err), &err);
    }
    sqf_input_destroy(input);
    sqf_linear_destroy(linear);
    sqf_context_destroy(context);
    sqf_matrix_clear(&matrix);
}

static bool is_float(sqf_type type)
{
    return type == SQF_TYPE_FP8 || type == SQF_TYPE_FP16 || type == SQF_TYPE_BF16 || type == SQF_TYPE_FP32;
}

static bool has_floats(sqf_type low, sqf_type high)
{
    return is_float(low) || is_float(high);
}

static bool has_integers(sqf_type low, sqf_type high)
{
    return (low != SQF_TYPE_NONE && !is_float(low)) || (high != SQF_TYPE_NONE && !is_float(high));
}

static void check_paths(const char *name, const sqf_scheme *scheme)
{
    const sqf_weight_spec *w = &scheme->weights;
    const sqf_act_spec *a = &scheme->activations;
    const bool floats = has_floats(w->low, w->high) || has_floats(a->low, a->high);
    const bool integers = has_integers(w->low, w->high) && has_integers(a->low, a->high);
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        run_layer(scheme, *level);
        if ((float_calls > 0) != floats || (integer_calls > 0) != integers) {
            fail_msg("%s, %s: %zu calls in floating point, %zu in integers", name, *level, float_calls, integer_calls);
        }
    }
}

static void named_schemes_run_on_the_path_that_their_types_say(void **state)
{
    (void)state;
    size_t count;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    for (size_t i = 0; i < count; i++) {
        sqf_error err;
        sqf_scheme scheme;
        assert_ok(sqf_scheme_parse(entries[i].name, &scheme, &err), &err);
        if (!sqf_weight_spec_is_dense(&scheme.weights)) {
            check_paths(entries[i].name, &scheme);
        }
    }
}

static void so_do_masks_and_scales_of_every_kind(void **state)
{
    (void)state;
    static const char *const names[] = {
        "W4A(SQ6);mask=dynamic",
        "W4A(SQ6);mask=dynamic_weighted",
        "W(SQ6)A8;scale=group",
        "W4A(SQ6);scale=group",
        "W(SQ6)A(SQ6);mask=dynamic",
        "W(SQ6)A8,scales=tied",
        "W4A8,group=row",
        "WFP4AFP4",
        "WFP8A8",
        "W4AFP8",
        "W(SQ6)A8,high=bf16",
        "W4A(SQ6);high=fp8",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sqf_error err;
        sqf_scheme scheme;
        assert_ok(sqf_scheme_parse(names[i], &scheme, &err), &err);
        check_paths(names[i], &scheme);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_schemes_run_on_the_path_that_their_types_say),
        cmocka_unit_test(so_do_masks_and_scales_of_every_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
