/* Repacked planes against their description in kernels.h: every byte of them is computed again from plain rows. */
#include "format/random_matrix.h"
#include "kernels/layout.h"

/* What a test repacks. */
typedef struct subject {
    sqf_scheme scheme;
    size_t rows, columns;
    sqf_matrix matrix;
    int32_t *row_order;
} subject;

/* The subject at hand, for messages. */
static char described[SQF_SCHEME_TEXT + 64];

/* Uniform integers a third of the time, because most files are; the rest of all that is allowed. */
static sqf_weight_spec draw_weights(sqf_random *random)
{
    static const sqf_type common[] = {SQF_TYPE_INT4, SQF_TYPE_INT4, SQF_TYPE_INT8, SQF_TYPE_INT3,
                                      SQF_TYPE_INT2, SQF_TYPE_INT6, SQF_TYPE_FP4,  SQF_TYPE_FP6};
    sqf_weight_spec spec = random_weights(random, 40);
    if (sqf_random_below(random, 3) == 0) {
        spec = (sqf_weight_spec){.low = common[sqf_random_below(random, sizeof common / sizeof *common)],
                                 .bank = 1,
                                 .group = 8 * (uint32_t)sqf_random_below(random, 20),
                                 .scale_type = random_scale_type(random)};
    }
    return spec;
}

static void make_subject(sqf_random *random, subject *s)
{
    sqf_error err;
    sqf_row row;
    do {
        s->scheme = (sqf_scheme){draw_weights(random), random_activations(random, 40)};
    } while (sqf_scheme_check(&s->scheme, &err) != SQF_OK);
    const sqf_act_spec *act = &s->scheme.activations;
    s->rows = random_between(random, 1, 70);
    s->columns = random_between(random, 1, sqf_random_below(random, 4) ? 300 : 2000);
    const bool masked = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    const size_t border = masked ? sqf_act_low_channels(act, s->columns) : s->columns;
    assert_ok(sqf_matrix_create(&s->scheme.weights, s->rows, s->columns, border, NULL, &s->matrix, &err), &err);
    assert_ok(sqf_row_create(&s->matrix, &row, &err), &err);
    for (size_t n = 0; n < s->rows; n++) {
        random_row(random, &s->matrix, &row);
        sqf_matrix_pack_row(&s->matrix, n, &row);
    }
    sqf_row_clear(&row);
    s->row_order = NULL;
    if (sqf_random_below(random, 2)) {
        s->row_order = malloc(s->rows * sizeof *s->row_order);
        for (size_t n = 0; n < s->rows; n++) {
            s->row_order[n] = (int32_t)(s->rows - 1 - n);
        }
    }
}

/* The number that a plane holds at padded column kp of row r of a panel. */
static float read_plane(const weight_plane *plane, size_t panel, size_t kp, size_t r)
{
    const uint8_t *data = plane->data + panel * plane->panel_bytes;
    uint16_t bits;
    switch (plane->form) {
    case SQF_FORM_NIBBLES: {
        const unsigned pair = data[kp / 8 * 64 + r * 4 + kp % 4];
        return (float)((int)(kp % 8 < 4 ? pair & 15 : pair >> 4) - SQF_NIBBLE_OFFSET);
    }
    case SQF_FORM_BYTES: return (float)(int8_t)data[kp / 4 * 64 + r * 4 + kp % 4];
    default:
        memcpy(&bits, data + 2 * (kp * SQF_PANEL_ROWS + r), sizeof bits);
        return plane->form == SQF_FORM_FP16 ? sqf_fp16_to_float(bits) : sqf_bf16_to_float(bits);
    }
}

/* Which part a plane holds: low, high, or (tied integers) both on the grid of the high one. */
typedef struct part {
    bool low, high;
} part;

static float expected_value(const part *held, const weight_plane *plane, const sqf_row *row, size_t k, size_t group)
{
    const int multiplier = sqf_type_is_integer(plane->type) ? sqf_type_multiplier(plane->type) : 1;
    if (!(row->mask[k] ? held->high : held->low)) {
        return 0.0f;
    }
    const bool raised = held->low && held->high && !row->mask[k];
    return row->value[k] * (float)multiplier * (raised ? ldexpf(1.0f, row->shift[group]) : 1.0f);
}

/* One row of one plane: elements, padding, scales, sums. */
static void check_row(const input_layout *layout, const weight_plane *plane, const part *held, const sqf_row *row,
                      size_t n)
{
    const size_t panel = n / SQF_PANEL_ROWS, r = n % SQF_PANEL_ROWS;
    const int multiplier = sqf_type_is_integer(plane->type) ? sqf_type_multiplier(plane->type) : 1;
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        const size_t end = g + 1 < layout->segment_count ? segment[1].offset : layout->padded;
        const size_t at = (panel * layout->segment_count + g) * SQF_PANEL_ROWS + r;
        int32_t sum = 0;
        for (size_t kp = segment->offset; kp < end; kp++) {
            const size_t k = segment->begin + kp - segment->offset;
            const float value =
                row && k < segment->end ? expected_value(held, plane, row, k, segment->weight_group) : 0.0f;
            if (read_plane(plane, panel, kp, r) != value) {
                fail_msg("%s: row %zu column %zu: found %g, expected %g", described, n, k,
                         (double)read_plane(plane, panel, kp, r), (double)value);
            }
            sum += plane->column_sums ? (int32_t)value : 0;
        }
        const float *scales = !row ? NULL : held->high ? row->scale_high : row->scale_low;
        const float scale = row ? scales[segment->weight_group] / (float)multiplier : 0.0f;
        assert_memory_equal(&plane->scales[at], &scale, sizeof scale);
        if (plane->column_sums) {
            assert_int_equal(plane->column_sums[at], sum);
        }
    }
}

/* The planes of weight_planes_create. */
static void check_planes(const subject *s, const input_layout *layout, const weight_plane *planes, size_t count)
{
    sqf_error err;
    sqf_row row;
    const sqf_matrix *m = &s->matrix;
    const sqf_type low = m->spec.low, high = m->spec.high;
    const bool one = count == 1 && m->high_count > 0 && m->spec.scales == SQF_SCALES_TIED && m->high_count < m->columns;
    assert_ok(sqf_row_create(m, &row, &err), &err);
    const size_t padded_rows = sqf_ceil_div(s->rows, SQF_PANEL_ROWS) * SQF_PANEL_ROWS;
    for (size_t n = 0; n < padded_rows; n++) {
        const bool exists = n < s->rows;
        if (exists) {
            sqf_matrix_unpack_row(m, s->row_order ? (size_t)s->row_order[n] : n, &row);
        }
        for (size_t p = 0; p < count; p++) {
            const bool is_high = m->high_count > 0 && p + 1 == count;
            const part held = {.low = !is_high || one, .high = is_high};
            assert_int_equal(planes[p].type, is_high ? high : low);
            check_row(layout, &planes[p], &held, exists ? &row : NULL, n);
        }
    }
    sqf_row_clear(&row);
}

/* Memory that is not zero where nothing was written. */
static void soil(size_t bytes)
{
    uint8_t *memory = malloc(bytes);
    memset(memory, 0xa5, bytes);
    free(memory);
}

static void repack_one(sqf_random *random, sqf_context *context, size_t forms[8])
{
    sqf_error err;
    subject s;
    input_layout layout;
    weight_plane planes[PARTS];
    size_t count;
    make_subject(random, &s);
    sqf_arena *arena = NULL;
    if (sqf_random_below(random, 2)) {
        assert_ok(sqf_arena_create(sqf_random_below(random, 100000), &arena, &err), &err);
    }
    soil(1 << 16);
    const sqf_linear_params params = {.name = "layer",
                                      .rows = s.rows,
                                      .columns = s.columns,
                                      .matrix = &s.matrix,
                                      .row_order = s.row_order,
                                      .activations = s.scheme.activations,
                                      .arena = arena};
    assert_ok(input_layout_init(&params, &layout, &err), &err);
    assert_ok(weight_planes_create(context, &params, &layout, planes, &count, &err), &err);
    if (count > 0) {
        forms[planes[count - 1].form]++;
    }
    if (count > 0 && planes[0].form != SQF_FORM_SPLIT) { /* which has a test of its own */
        char text[SQF_SCHEME_TEXT];
        sqf_scheme_print(&s.scheme, SQF_SPELLING_LONG, text);
        snprintf(described, sizeof described, "%zu x %zu %s", s.rows, s.columns, text);
        check_planes(&s, &layout, planes, count);
    }
    weight_planes_clear(planes, count);
    sqf_arena_destroy(arena);
    input_layout_clear(&layout);
    sqf_matrix_clear(&s.matrix);
    free(s.row_order);
}

static void test_planes_hold_what_the_rows_hold(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 21)};
    size_t forms[8] = {0};
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        sqf_error err;
        sqf_context *context;
        const sqf_context_options options = {.threads = threads};
        assert_ok(sqf_context_create(&options, &context, &err), &err);
        for (int trial = 0; trial < 500; trial++) {
            repack_one(&random, context, forms);
        }
        sqf_context_destroy(context);
    }
    assert_true(forms[SQF_FORM_NIBBLES] > 50 && forms[SQF_FORM_BYTES] > 50 && forms[SQF_FORM_BF16] > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planes_hold_what_the_rows_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
