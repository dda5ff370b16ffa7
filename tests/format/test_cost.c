/* The cost model: worked figures, and products and float operations counted one by one on random shapes. */
#include <sqf/cost.h>

#include "check.h"
#include "format/random_matrix.h"
#include "format/reference.h"

static double cost_of(const char *name)
{
    sqf_scheme scheme;
    sqf_error err = {0};
    assert_int_equal(sqf_scheme_parse(name, &scheme, &err), SQF_OK);
    return sqf_scheme_cost(&scheme, NULL);
}

/* By hand: rates 0.5, 1 and 2; a group of g columns adds 4 * operations / g. */
static void worked_figures(void **state)
{
    (void)state;
    const struct {
        const char *name;
        double cost;
    } cases[] = {
        {"BF16", 2},
        {"W4A16", 2 + 4 * 2.0 / 128},
        {"W8A8", 1 + 4 * 2.0 / 128},
        {"W4A8", 1 + 4 * 2.0 / 128},
        {"W4A4", 0.5 + 4 * 2.0 / 128},
        {"W4A4,group=row", 0.5},
        {"W4A4,group=32", 0.5 + 4 * 2.0 / 32},
        {"W4A4;scale=group,group=128", 0.5 + 4 * 3.0 / 128},
        {"W4A4;scale=group,group=32", 0.5 + 4 * (2.0 / 32 + 1.0 / 128)}, /* the weights' scale once in 128 */
        {"W4A4,group=32;scale=group,group=128", 0.5 + 4 * (2.0 / 32 + 1.0 / 128)},
        {"W4A4;scale=static", 0.5 + 4 * 2.0 / 128},
        {"W4A4;zero=point", 0.5 + 4 * 2.0 / 128}, /* once a row */
        {"W4A4;scale=group,group=128,zero=point", 0.5 + 4 * 5.0 / 128},
        {"W4A4,group=32;scale=group,group=128,zero=point", 0.5 + 4 * (2.0 / 32 + 3.0 / 128)},
        {"W4A(SQ5);scale=group,zero=low", 0.625 + 4 * (3.0 + 2.0 * 0.75) / 128},
        {"W4A(SQ5);scale=group,mask=dynamic,zero=point", 0.625 + 4 * 9.0 / 128},
        {"W4A(16-(fp8/4)-0.75);scale=group,zero=point", 0.625 + 4 * (3.0 + 2.0 * 0.75) / 128},
        {"W4A(SQ6)", 0.75 + 4 * 2.0 / 128},
        {"W4A(SQ5)", 0.625 + 4 * 2.0 / 128},
        {"W4A(SQ5);mask=dynamic", 0.625 + 4 * 4.0 / 128}, /* two sums: either part of the input */
        {"W(SQ5)A8", 1 + 4 * 4.0 / 64},                   /* two sums: either part of the weights */
        {"W(SQ5)A8,scales=tied", 1 + 4 * 2.0 / 64},
        {"W4A8-2:4", 0.5 + 4 * 2.0 / 128}, /* dropped products take nothing */
        {"WFP4AFP4", 0.5 + 4 * 2.0 / 128},
        {"WFP8AFP4", 1 + 4 * 2.0 / 128},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double found = cost_of(cases[i].name);
        if (fabs(found - cases[i].cost) > 1e-4) {
            fail_msg("%s: %g, expected %g", cases[i].name, found, cases[i].cost);
        }
    }
}

/* A GPU's figure: nothing for scales. */
static void free_scales_leave_the_products(void **state)
{
    (void)state;
    sqf_cost_model overlapped = sqf_cost_model_default();
    overlapped.scale = 0;
    sqf_scheme scheme;
    sqf_error err = {0};
    assert_int_equal(sqf_scheme_parse("W4A(SQ5),group=32;scale=group", &scheme, &err), SQF_OK);
    assert_true(fabs(sqf_scheme_cost(&scheme, &overlapped) - 0.625) < 1e-12);
}

/* Sections of 24 and 9 columns, groups of 10 on either side. */
static void real_borders_and_tails_count(void **state)
{
    (void)state;
    sqf_scheme scheme;
    sqf_error err = {0};
    assert_int_equal(sqf_scheme_parse("W4A(SQ5),group=10;scale=group", &scheme, &err), SQF_OK);
    const sqf_cost cost = sqf_cost_linear(&scheme, 7, 33); /* banks of 16, 16 and 1: 4 + 4 + 1 high */
    assert_true(cost.products == 7 * 33);
    assert_true(cost.low == 7 * 24 && cost.high == 7 * 9 && cost.wide == 0);
    assert_true(cost.operations == 7 * (2 * 4 + 4 - 1)); /* groups of 10, 10, 4 and 9: three each, less an addition */
}

/* Adding a decoder's layers up and what a rotation takes on top. */
static void sums_and_added_operations(void **state)
{
    (void)state;
    sqf_scheme scheme;
    sqf_error err = {0};
    assert_int_equal(sqf_scheme_parse("W8A8,group=row", &scheme, &err), SQF_OK);
    sqf_cost sum = {0};
    assert_true(sqf_cost_per_product(&sum, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        const sqf_cost part = sqf_cost_linear(&scheme, 100, 50);
        sqf_cost_add(&sum, &part);
    }
    assert_int_equal(sqf_scheme_parse("W8A8,group=row;zero=point", &scheme, &err), SQF_OK);
    assert_true(sqf_cost_linear(&scheme, 100, 50).operations == 400);
    assert_true(sum.products == 15000 && sum.high == 15000 && sum.operations == 600);
    sum.operations += 900;
    assert_true(fabs(sqf_cost_per_product(&sum, NULL) - (1 + 4 * 1500.0 / 15000)) < 1e-12);
}

/* Counted by walking the columns: the stretches with constant scales, and the pairs of types that meet. */
static void counts_match_a_walk(void **state)
{
    (void)state;
    sqf_random random = {test_seed("counts_match_a_walk", 4)};
    for (int round = 0; round < 2000; round++) {
        const uint32_t bank = (uint32_t)random_between(&random, 1, 20), k = (uint32_t)random_between(&random, 0, bank);
        const uint32_t times = (uint32_t)random_between(&random, 1, 4), group = 8;
        const size_t columns = random_between(&random, 1, 300);
        const bool finer = random_between(&random, 0, 1) == 1;
        const sqf_scheme scheme = {
            .weights = {.low = SQF_TYPE_INT4, .group = finer ? group * times : group, .scale_type = SQF_TYPE_FP16},
            .activations = {.low = SQF_TYPE_INT4,
                            .high = SQF_TYPE_INT8,
                            .bank = bank,
                            .high_per_bank = k,
                            .scale = SQF_ACT_GROUP,
                            .group = finer ? group : group * times,
                            .clip = 1}};
        sqf_error err = {0};
        assert_int_equal(sqf_scheme_check(&scheme, &err), SQF_OK);
        const size_t border = sqf_act_low_channels(&scheme.activations, columns);
        const sqf_partition weights = sqf_partition_make(columns, border, scheme.weights.group);
        const sqf_partition acts = sqf_partition_make(columns, border, scheme.activations.group);
        size_t sums = 0, coarse = 0;
        for (size_t j = 0; j < columns; j++) {
            const bool first = j == 0;
            const bool weight = first || sqf_partition_find(&weights, j) != sqf_partition_find(&weights, j - 1);
            const bool act = first || sqf_partition_find(&acts, j) != sqf_partition_find(&acts, j - 1);
            sums += weight || act;
            coarse += weight && act;
        }
        const sqf_cost cost = sqf_cost_linear(&scheme, 1, columns);
        assert_true(cost.low == (double)border && cost.high == (double)(columns - border));
        assert_true(cost.operations == (double)(2 * sums + coarse - 1));
    }
}

static void rotations_count_rounds_and_the_factor(void **state)
{
    (void)state;
    assert_true(sqf_cost_rotation(256, 1, false).operations == 256 * 8);
    assert_true(sqf_cost_rotation(768, 12, true).operations == 768 * (24 + 6));
    assert_true(sqf_cost_rotation(768, 3, false).operations == 768 * 8);
    assert_true(sqf_cost_rotation(768, 768, true).operations == 768 * 1536);
    assert_true(sqf_cost_rotation(768, 3, false).products == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worked_figures),
        cmocka_unit_test(rotations_count_rounds_and_the_factor),
        cmocka_unit_test(free_scales_leave_the_products),
        cmocka_unit_test(real_borders_and_tails_count),
        cmocka_unit_test(sums_and_added_operations),
        cmocka_unit_test(counts_match_a_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
