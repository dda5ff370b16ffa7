/* Masks, clipping ratios and quotas that are chosen by the output error of sampled tokens. */
#include "algorithm_data.h"

#include "format/partition.h"
#include "format/reference.h"
#include "ptq/mask/alpha.h"
#include "small.h"

/* An input with its sample, and the matrices that read it. */
typedef struct bed {
    sqf_context *context;
    float *x, *w[2];
    size_t rows[2], channels, tokens;
    sqf_statistics statistics;
    sqf_mask_input input;
} bed;

/* x [tokens, channels] and w[i] [rows[i], channels] are set; takes them over. */
static void bed_finish(bed *b, unsigned threads)
{
    sqf_error err = {0};
    b->context = make_context(threads);
    assert_ok(sqf_statistics_create(b->channels, false, &b->statistics, &err), &err);
    assert_ok(sqf_statistics_keep(&b->statistics, b->tokens, b->tokens, &err), &err);
    assert_ok(sqf_statistics_add(b->context, &b->statistics, b->x, b->tokens, &err), &err);
    assert_int_equal(b->statistics.sample_tokens, b->tokens);
    b->input = (sqf_mask_input){.context = b->context,
                                .statistics = &b->statistics,
                                .weights = (const float *const *)b->w,
                                .rows = b->rows,
                                .count = 2,
                                .weight_group = 128};
}

static void bed_random(bed *b, uint64_t seed, size_t rows, size_t channels, size_t tokens, unsigned threads)
{
    sqf_random random = {.state = seed};
    *b = (bed){.rows = {rows, 3}, .channels = channels, .tokens = tokens};
    b->x = make_inputs(&random, tokens, channels);
    b->w[0] = make_weights(&random, rows, channels);
    b->w[1] = make_weights(&random, 3, channels);
    bed_finish(b, threads);
}

static void bed_clear(bed *b)
{
    sqf_statistics_clear(&b->statistics);
    sqf_context_destroy(b->context);
    free(b->x);
    free(b->w[0]);
    free(b->w[1]);
}

static sqf_act_spec split_spec(uint32_t bank, uint32_t high)
{
    return (sqf_act_spec){
        .low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = bank, .high_per_bank = high, .clip = 1.0f};
}

static double measured(const bed *b, const sqf_act_spec *act, const int32_t *order, size_t border)
{
    sqf_error err = {0};
    sqf_output_error measure;
    double error;
    assert_ok(sqf_output_error_create(&b->input, SIZE_MAX, &measure, &err), &err);
    assert_ok(sqf_output_error_measure(&measure, act, order, border, &error, &err), &err);
    sqf_output_error_clear(&measure);
    return error;
}

/* The error after a choice; order [channels] is filled. */
static double chosen(const bed *b, sqf_mask_score score, bool search_clip, sqf_act_spec *act, int32_t *order,
                     size_t *border)
{
    sqf_error err = {0};
    const sqf_mask_wishes wishes = {.score = score, .search_clip = search_clip, .seed = 3};
    assert_ok(sqf_mask_choose(&b->input, &wishes, act, order, border, &err), &err);
    return measured(b, act, order, *border);
}

/* ---- the sample ---- */

static void test_a_sample_is_evenly_spaced_and_smoothed_with_the_rest(void **state)
{
    (void)state;
    enum { TOKENS = 1000, ROOM = 37 };
    sqf_error err = {0};
    sqf_statistics s;
    sqf_context *context = make_context(2);
    float x[TOKENS * 2];
    const float factors[2] = {2.0f, 0.5f};
    for (size_t t = 0; t < TOKENS; t++) {
        x[2 * t] = x[2 * t + 1] = (float)t;
    }
    assert_ok(sqf_statistics_create(2, false, &s, &err), &err);
    assert_ok(sqf_statistics_keep(&s, ROOM, TOKENS, &err), &err);
    for (size_t t = 0; t < TOKENS; t += 250) { /* in pieces, as windows come */
        assert_ok(sqf_statistics_add(context, &s, x + 2 * t, 250, &err), &err);
    }
    assert_int_equal(s.sample_tokens, ROOM);
    for (size_t i = 1; i < ROOM; i++) {
        const float gap = s.sample[2 * i] - s.sample[2 * (i - 1)];
        assert_true(gap == 27.0f || gap == 28.0f); /* 1000 / 37 = 27.03 */
    }
    const float kept = s.sample[2 * 5];
    sqf_statistics_smooth(context, &s, factors);
    assert_true(s.sample[2 * 5] == kept / 2 && s.sample[2 * 5 + 1] == kept * 2);
    sqf_statistics_clear(&s);
    sqf_context_destroy(context);
}

/* ---- the measure ---- */

/* In float64, value by value. */
static double literal_error(const bed *b, const sqf_act_spec *act, const int32_t *order, size_t border)
{
    double error = 0.0, size = 0.0;
    const size_t n = b->channels;
    double *e = make_array(n, sizeof *e);
    for (size_t t = 0; t < b->tokens; t++) {
        const float *x = b->x + t * n;
        for (int part = 0; part < 2; part++) {
            const size_t begin = part ? border : 0, end = part ? n : border;
            const float most = part ? 127.0f : 7.0f;
            float largest = 0.0f;
            for (size_t j = begin; j < end; j++) {
                largest = fmaxf(largest, fabsf(x[order[j]]));
            }
            const float scale = sqf_act_part_clip(act, part == 1) * largest / most;
            for (size_t j = begin; j < end; j++) {
                const double code = fmax(-(double)most, fmin((double)most, rint((double)(x[order[j]] / scale))));
                e[order[j]] = code * (double)scale - (double)x[order[j]];
            }
        }
        for (size_t m = 0; m < 2; m++) {
            for (size_t r = 0; r < b->rows[m]; r++) {
                double off = 0.0, output = 0.0;
                for (size_t j = 0; j < n; j++) {
                    off += e[j] * (double)b->w[m][r * n + j];
                    output += (double)x[j] * (double)b->w[m][r * n + j];
                }
                error += off * off;
                size += output * output;
            }
        }
    }
    free(e);
    return error / size;
}

static void test_the_measure_is_the_relative_error_of_the_outputs(void **state)
{
    (void)state;
    bed b;
    int32_t order[72];
    size_t border;
    sqf_error err = {0};
    bed_random(&b, 1, 40, 72, 70, 2);
    sqf_act_spec act = split_spec(16, 4);
    assert_ok(sqf_activation_mask(&b.statistics, &act, SQF_MASK_SCORE_RANDOM, NULL, NULL, 0, 5, order, &border, &err),
              &err);
    const float clips[][2] = {{1.0f, 0.0f}, {0.8f, 0.0f}, {0.7f, 1.0f}};
    for (size_t i = 0; i < 3; i++) {
        act.clip = clips[i][0];
        act.high_clip = clips[i][1];
        assert_true(fabs(measured(&b, &act, order, border) / literal_error(&b, &act, order, border) - 1) < 1e-4);
    }
    bed_clear(&b);
    /* more rows than are looked at one by one */
    bed_random(&b, 2, 900, 72, 200, 2);
    assert_ok(sqf_activation_mask(&b.statistics, &act, SQF_MASK_SCORE_RANDOM, NULL, NULL, 0, 5, order, &border, &err),
              &err);
    assert_true(fabs(measured(&b, &act, order, border) / literal_error(&b, &act, order, border) - 1) < 0.15);
    bed_clear(&b);
}

/* ---- masks ---- */

static void test_every_choice_holds_the_quota_of_every_bank(void **state)
{
    (void)state;
    static const struct {
        uint32_t bank, high;
    } quotas[] = {{16, 4}, {16, 1}, {16, 15}, {7, 3}, {72, 9}, {SQF_BANK_MAX, SQF_BANK_MAX / 8}};
    bed b;
    bed_random(&b, 3, 20, 72, 100, 2);
    for (size_t q = 0; q < sizeof quotas / sizeof *quotas; q++) {
        for (int score = SQF_MASK_SCORE_PAPER; score <= (int)SQF_MASK_SCORE_BEST; score++) {
            int32_t order[72];
            size_t border;
            sqf_error err = {0};
            sqf_act_spec act = split_spec(quotas[q].bank, quotas[q].high);
            chosen(&b, (sqf_mask_score)score, score % 2 == 0, &act, order, &border);
            assert_int_equal(border, sqf_act_low_channels(&act, 72));
            assert_ok(sqf_channels_check(order, 72, border, &act, "mask", &err), &err);
        }
    }
    bed_clear(&b);
}

/* In each bank of 8: two channels that are large in every token; one with a single spike, which the largest magnitude
 * falls for; one that is small but whose weights all have one sign, which the sum of weights falls for. */
static void test_best_finds_the_channels_that_spoil_every_token(void **state)
{
    (void)state;
    enum { N = 64, TOKENS = 256, ROWS = 24 };
    sqf_random random = {.state = test_seed("planted channels", 7)};
    bed b = {.rows = {ROWS, 3}, .channels = N, .tokens = TOKENS};
    b.x = make_floats(TOKENS * N);
    b.w[0] = make_floats(ROWS * N);
    b.w[1] = make_floats(3 * N);
    for (size_t i = 0; i < TOKENS * N; i++) {
        const size_t place = i % N % 8;
        b.x[i] = random_normal(&random) * (place == 2 || place == 5 ? 6.0f : place == 3 ? 0.3f : 1.0f);
    }
    for (size_t bank = 0; bank < N / 8; bank++) {
        for (size_t place = 0; place < 2; place++) {
            b.x[(bank * 5 + place) * N + bank * 8 + place * 4] = 40.0f;
        }
    }
    for (size_t i = 0; i < ROWS * N; i++) {
        b.w[0][i] = i % N % 8 == 3 ? 1.5f : random_normal(&random);
    }
    for (size_t i = 0; i < 3 * N; i++) {
        b.w[1][i] = random_normal(&random);
    }
    bed_finish(&b, 2);
    int32_t order[N];
    size_t border;
    sqf_act_spec act = split_spec(8, 2);
    const double paper = chosen(&b, SQF_MASK_SCORE_PAPER, false, &act, order, &border);
    const double max = chosen(&b, SQF_MASK_SCORE_MAX, false, &act, order, &border);
    const double best = chosen(&b, SQF_MASK_SCORE_BEST, false, &act, order, &border);
    print_message("errors: paper %g, max %g, best %g\n", paper, max, best);
    assert_true(best < 0.6 * paper && best < 0.6 * max);
    size_t found = 0;
    for (size_t j = border; j < N; j++) {
        found += order[j] % 8 == 2 || order[j] % 8 == 5;
    }
    assert_true(found >= 15); /* of 16 */
    bed_clear(&b);
}

static void test_exchanges_lower_the_error_and_say_what_it_is(void **state)
{
    (void)state;
    const uint64_t seed = test_seed("exchanges", 11);
    for (uint64_t round = 0; round < 8; round++) {
        bed b;
        int32_t order[72];
        size_t border;
        double error, before;
        sqf_error err = {0};
        sqf_output_error measure;
        bed_random(&b, seed + round, 20, 72, 100, 2);
        sqf_act_spec act = split_spec(round % 2 ? 16 : SQF_BANK_MAX, round % 2 ? 4 : SQF_BANK_MAX / 4);
        act.scale = round % 4 < 2 ? SQF_ACT_TOKEN : SQF_ACT_GROUP;
        act.group = 16;
        act.zero = round % 3 == 2 ? SQF_ACT_ZERO_POINT : SQF_ACT_ZERO_NONE;
        assert_ok(
            sqf_activation_mask(&b.statistics, &act, SQF_MASK_SCORE_RANDOM, NULL, NULL, 0, round, order, &border, &err),
            &err);
        assert_ok(sqf_output_error_create(&b.input, SIZE_MAX, &measure, &err), &err);
        assert_ok(sqf_output_error_measure(&measure, &act, order, border, &before, &err), &err);
        error = before;
        assert_ok(sqf_mask_exchange(&measure, &act, order, border, &error, &err), &err);
        assert_true(error < before); /* a random mask leaves room */
        assert_true(error == measured(&b, &act, order, border));
        assert_ok(sqf_channels_check(order, 72, border, &act, "mask", &err), &err);
        before = error;
        assert_ok(sqf_mask_exchange(&measure, &act, order, border, &error, &err), &err);
        assert_true(error <= before);
        sqf_output_error_clear(&measure);
        bed_clear(&b);
    }
}

/* Groups of 4 make poor predictions of what a swap saves: the measure has the last word. */
static void test_exchanges_never_raise_the_error_of_a_good_mask(void **state)
{
    (void)state;
    size_t lower = 0;
    const uint64_t seed = test_seed("good masks", 13);
    for (uint64_t round = 0; round < 8; round++) {
        bed b;
        int32_t order[72];
        size_t border;
        sqf_act_spec act = split_spec(8, 2);
        bed_random(&b, seed + round, 20, 72, 40, 2);
        for (int group = 0; group < 2; group++) {
            act.scale = group ? SQF_ACT_GROUP : SQF_ACT_TOKEN;
            act.group = 4;
            const double before = chosen(&b, SQF_MASK_SCORE_L2, false, &act, order, &border);
            const double after = chosen(&b, SQF_MASK_SCORE_BEST, false, &act, order, &border);
            assert_true(after <= before);
            lower += after < before;
        }
        bed_clear(&b);
    }
    assert_true(lower >= 8); /* of 16 */
}

static void test_choices_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    int32_t order[2][200];
    double error[2];
    sqf_act_spec act[2] = {split_spec(16, 4), split_spec(16, 4)};
    for (unsigned i = 0; i < 2; i++) {
        bed b;
        size_t border;
        bed_random(&b, 5, 300, 200, 150, i == 0 ? 1 : 5);
        error[i] = chosen(&b, SQF_MASK_SCORE_BEST, true, &act[i], order[i], &border);
        bed_clear(&b);
    }
    assert_memory_equal(order[0], order[1], sizeof order[0]);
    assert_true(error[0] == error[1] && act[0].clip == act[1].clip && act[0].high_clip == act[1].high_clip);
}

/* ---- clipping ---- */

static void test_a_searched_ratio_is_never_worse_than_none(void **state)
{
    (void)state;
    size_t clipped = 0;
    const uint64_t seed = test_seed("clipping", 17);
    for (uint64_t round = 0; round < 12; round++) {
        static const sqf_type types[] = {SQF_TYPE_INT4, SQF_TYPE_INT3, SQF_TYPE_FP4, SQF_TYPE_INT8};
        bed b;
        double error;
        sqf_error err = {0};
        sqf_output_error measure;
        bed_random(&b, seed + round, 20, 72, 100, 2);
        sqf_act_spec act = split_spec(16, round % 3 == 0 ? 0 : 4);
        act.low = types[round % 4];
        act.high = round % 3 == 0 ? SQF_TYPE_NONE : round % 3 == 1 ? SQF_TYPE_INT8 : SQF_TYPE_INT4;
        int32_t order[72];
        size_t border = 72;
        const bool split = sqf_act_spec_is_split(&act);
        if (split) {
            assert_ok(
                sqf_activation_mask(&b.statistics, &act, SQF_MASK_SCORE_MAX, NULL, NULL, 0, 0, order, &border, &err),
                &err);
        }
        const double without = measured(&b, &act, split ? order : NULL, border);
        assert_ok(sqf_output_error_create(&b.input, SIZE_MAX, &measure, &err), &err);
        assert_ok(sqf_clip_search(&measure, &act, split ? order : NULL, border, &error, &err), &err);
        assert_true(error <= without);
        assert_true(error == measured(&b, &act, split ? order : NULL, border));
        assert_true(act.low != SQF_TYPE_INT8 || act.clip == 1.0f);
        assert_true((act.clip < 1.0f) == (error < without) || act.high_clip < 1.0f);
        clipped += error < 0.98 * without;
        sqf_output_error_clear(&measure);
        bed_clear(&b);
    }
    assert_true(clipped >= 4);
}

/* ---- smoothing ---- */

/* Channels of 20 times the size of the others: where the activations are coarse their range must go into the weights,
 * where the weights are coarse it must not. */
static void test_a_searched_alpha_spares_the_coarser_operand(void **state)
{
    (void)state;
    enum { N = 64, TOKENS = 200, ROWS = 48 };
    static const struct {
        const char *scheme;
        float least, most;
    } cases[] = {{"W8A4", 0.7f, 0.9f}, {"W3A8", 0.2f, 0.4f}};
    sqf_random random = {.state = test_seed("alpha", 31)};
    for (size_t i = 0; i < 2; i++) {
        sqf_error err = {0};
        float alpha, factors[N], expected[N];
        float *x = make_floats(TOKENS * N), *w = make_floats(ROWS * N);
        for (size_t j = 0; j < TOKENS * N; j++) {
            x[j] = random_normal(&random) * (j % N % 16 == 5 ? 20.0f : 1.0f);
        }
        for (size_t j = 0; j < ROWS * N; j++) {
            w[j] = random_normal(&random);
        }
        sqf_context *context = make_context(2);
        sqf_statistics statistics;
        sqf_scheme scheme;
        assert_ok(sqf_scheme_parse(cases[i].scheme, &scheme, &err), &err);
        const sqf_module_recipe recipe = sqf_module_recipe_default(&scheme), *recipes[] = {&recipe};
        const float *weights[] = {w};
        const size_t rows[] = {ROWS};
        assert_ok(sqf_statistics_create(N, true, &statistics, &err), &err);
        assert_ok(sqf_statistics_keep(&statistics, TOKENS, TOKENS, &err), &err);
        assert_ok(sqf_statistics_add(context, &statistics, x, TOKENS, &err), &err);
        sqf_statistics_finish(context, &statistics);
        const sqf_alpha_search search = {
            .statistics = &statistics, .weights = weights, .rows = rows, .recipes = recipes, .count = 1};
        assert_ok(sqf_alpha_find(context, &search, factors, &alpha, &err), &err);
        print_message("%s: alpha %g\n", cases[i].scheme, (double)alpha);
        assert_true(alpha >= cases[i].least - 0.01f && alpha <= cases[i].most + 0.01f);
        assert_ok(sqf_smooth_factors(&statistics, weights, rows, 1, alpha, expected, &err), &err);
        assert_memory_equal(factors, expected, sizeof factors);
        sqf_statistics_clear(&statistics);
        sqf_context_destroy(context);
        free(x);
        free(w);
    }
}

/* ---- quotas ---- */

static double total_error(const sqf_quota_curve *curve, size_t count)
{
    double error = 0.0;
    for (size_t i = 0; i < count; i++) {
        error += curve[i].levels ? curve[i].error[curve[i].level] : 0.0;
    }
    return error;
}

static void test_quotas_keep_the_budget_and_beat_equal_ones(void **state)
{
    (void)state;
    sqf_random random = {.state = test_seed("quotas", 23)};
    for (int round = 0; round < 200; round++) {
        sqf_quota_curve curve[4] = {{0}}, equal[4];
        double budget = 0.0, spent = 0.0;
        for (size_t i = 0; i < 4; i++) {
            sqf_quota_curve *c = &curve[i];
            c->levels = i == 1 ? 0 : 16;
            c->products = 1 + (double)sqf_random_below(&random, 9);
            budget += c->levels ? c->products * 4 / 16 : 0.0;
            c->error[16] = 0.0;
            for (int level = 15; level >= 0; level--) { /* convex */
                const double slope = level < 15 ? c->error[level + 1] - c->error[level + 2 > 16 ? 16 : level + 2] : 0.0;
                c->error[level] = c->error[level + 1] + slope + sqf_random_unit(&random);
            }
        }
        memcpy(equal, curve, sizeof equal);
        for (size_t i = 0; i < 4; i++) {
            equal[i].level = equal[i].levels / 4;
        }
        sqf_quota_deal(curve, 4, budget + 1e-9);
        for (size_t i = 0; i < 4; i++) {
            spent += curve[i].levels ? curve[i].products * (double)curve[i].level / 16 : 0.0;
        }
        assert_true(spent <= budget + 1e-9);
        for (size_t i = 0; i < 4; i++) { /* what is left is too little for one more step */
            assert_true(curve[i].level == curve[i].levels || spent + curve[i].products / 16 > budget);
        }
        assert_int_equal(curve[1].level, 0);
        /* greedy may lose what is left of the budget, less than the longest step is worth */
        assert_true(total_error(curve, 4) <= 1.05 * total_error(equal, 4));
    }
}

/* Share of a layer's products that are held high, and whether inputs differ. */
static double high_share(const sqf_checkpoint *checkpoint, size_t layer, bool *differ)
{
    double high = 0.0, all = 0.0, first = -1.0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        char name[SQF_MODULE_NAME];
        size_t rows, columns;
        sqf_linear_name(layer, (sqf_linear_kind)kind, name);
        sqf_linear_shape(&checkpoint->config, (sqf_linear_kind)kind, &rows, &columns);
        const sqf_act_spec act = sqf_module_schemes_get(checkpoint->schemes, name).activations;
        const double part =
            sqf_act_spec_is_split(&act) ? (double)act.high_per_bank / act.bank : (double)(act.low == SQF_TYPE_INT8);
        high += part * (double)(rows * columns);
        all += (double)(rows * columns);
        *differ = *differ || (first >= 0.0 && part != first);
        first = first < 0.0 ? part : first;
    }
    return high / all;
}

static void test_a_model_with_allotted_quotas_costs_what_its_scheme_says(void **state)
{
    (void)state;
    static const char *const recipes[] = {"scheme: W4A(SQ5)", "scheme: W4A(SQ6)\nmask: l2\nquota: allotted",
                                          "scheme: W4A(SQ5)\nact_bank: row", "scheme: W4A(SQ5)\nquota: equal"};
    for (size_t i = 0; i < 4; i++) {
        small s;
        sqf_error err = {0};
        sqf_checkpoint checkpoint;
        bool differ = false;
        const double wanted = i == 1 ? 0.5 : 0.25;
        small_llama(&s);
        small_must_quantize(&s, recipes[i]);
        must(sqf_checkpoint_open(s.output, &checkpoint, &err), &err);
        for (size_t layer = 0; layer < checkpoint.config.layers; layer++) {
            const double share = high_share(&checkpoint, layer, &differ);
            assert_true(share <= wanted + 1e-9 && share > wanted - 0.02);
        }
        assert_true(differ == (i < 3));
        sqf_checkpoint_close(&checkpoint);
        assert_true(small_error(&s) < 1.6);
        small_remove(&s);
    }
}

static void test_every_search_runs_in_the_pipeline(void **state)
{
    (void)state;
    static const char *const recipes[] = {
        "scheme: W4A4\nact_clip: search\nsmooth: search",
        "scheme: W4A(SQ5)\nsmooth: search\nact_zero_point: point",
        "scheme: W4A(SQ6)\nmask: paper\nact_clip: search\nquota: allotted\nact_scale: group\nact_group: 32",
        "scheme: W(SQ6)A(SQ5)\nmask_mode: dynamic\nact_clip: search",
        "scheme: W4A(SQ5)\nact_scale: static\nact_clip: search",
        "scheme: W4A(SQ5)\noverrides:\n  - {match: '.*down_proj', quota: equal}\nignore: ['re:.*o_proj']",
    };
    small s;
    small_llama(&s);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        small_must_quantize(&s, recipes[i]);
        assert_true(small_error(&s) < 1.6);
    }
    small_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_sample_is_evenly_spaced_and_smoothed_with_the_rest),
        cmocka_unit_test(test_the_measure_is_the_relative_error_of_the_outputs),
        cmocka_unit_test(test_every_choice_holds_the_quota_of_every_bank),
        cmocka_unit_test(test_best_finds_the_channels_that_spoil_every_token),
        cmocka_unit_test(test_exchanges_lower_the_error_and_say_what_it_is),
        cmocka_unit_test(test_exchanges_never_raise_the_error_of_a_good_mask),
        cmocka_unit_test(test_choices_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(test_a_searched_ratio_is_never_worse_than_none),
        cmocka_unit_test(test_a_searched_alpha_spares_the_coarser_operand),
        cmocka_unit_test(test_quotas_keep_the_budget_and_beat_equal_ones),
        cmocka_unit_test(test_a_model_with_allotted_quotas_costs_what_its_scheme_says),
        cmocka_unit_test(test_every_search_runs_in_the_pipeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
