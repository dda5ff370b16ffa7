/* Names of schemes in all spellings, what they mean, their bits, and what is refused. */
#include <math.h>

#include "random_matrix.h"

static sqf_scheme parse(const char *name)
{
    sqf_error err;
    sqf_scheme scheme = {0};
    assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
    return scheme;
}

static void assert_printed(const sqf_scheme *scheme, sqf_spelling spelling, const char *expected)
{
    char text[SQF_SCHEME_TEXT];
    sqf_scheme_print(scheme, spelling, text);
    assert_string_equal(text, expected);
}

static void assert_entries_are_names(const sqf_scheme_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const sqf_scheme a = parse(entries[i].name), b = parse(entries[i].shell_name);
        assert_true(sqf_scheme_equal(&a, &b));
        assert_printed(&a, SQF_SPELLING_SHORT, entries[i].name);
        assert_printed(&a, SQF_SPELLING_SHELL, entries[i].shell_name);
        assert_true(strlen(entries[i].description) > 10);
        for (size_t j = 0; j < i; j++) {
            const sqf_scheme other = parse(entries[j].name);
            assert_false(sqf_scheme_equal(&a, &other));
        }
    }
}

static void test_the_named_schemes_read_and_print_as_themselves(void **state)
{
    (void)state;
    size_t count;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    assert_int_equal(count, 20);
    assert_string_equal(entries[0].name, "BF16");
    assert_string_equal(entries[6].name, "W4A(SQ6)");
    assert_entries_are_names(entries, count);
    entries = sqf_scheme_rivals(&count);
    assert_int_equal(count, 19);
    assert_entries_are_names(entries, count);
    assert_non_null(strstr(sqf_scheme_help(), "W4A(SQ6)"));
}

static void test_long_forms_reach_every_field(void **state)
{
    (void)state;
    static const char weights_sq[] =
        "low=int4,high=int8,bank=64,high_per_bank=32,group=64,scale_type=fp16,scales=free,layout=vmask";
    static const char acts_8[] = "low=int8,high=none,scale=token,clip=1";
    char expected[SQF_SCHEME_TEXT];
    snprintf(expected, sizeof expected, "%s;%s", weights_sq, acts_8);
    const sqf_scheme a = parse("W(SQ6)A8");
    assert_printed(&a, SQF_SPELLING_LONG, expected);

    static const char all[] = "low=int2,high=int4,bank=3,high_per_bank=1,group=6,scale_type=bf16,scales=tied,"
                              "layout=bitmask;low=int4,high=bf16,bank=7,high_per_bank=2,group=3,mask=dynamic_weighted,"
                              "scale=group,clip=0.953,high_clip=0.25";
    const sqf_scheme b = parse(all);
    assert_printed(&b, SQF_SPELLING_LONG, all);
    assert_printed(&b, SQF_SPELLING_SHORT, all); /* 1 - 1/3 is no decimal */
    assert_int_equal(b.weights.layout, SQF_LAYOUT_BITMASK);
    assert_int_equal(b.activations.high, SQF_TYPE_BF16);
    assert_true(b.activations.dynamic_weighted && b.activations.clip == 0.953f && b.activations.high_clip == 0.25f);
}

static void assert_same(const char *a, const char *b)
{
    const sqf_scheme x = parse(a), y = parse(b);
    if (!sqf_scheme_equal(&x, &y)) {
        fail_msg("%s and %s differ", a, b);
    }
}

static void test_different_names_of_one_scheme_are_equal(void **state)
{
    (void)state;
    assert_same("W4A(SQ6)", "w4A(16-(8/4)-0.5)");
    assert_same("W(SQ5)A8", "W(64-(int8/int4)-0.750)A8");
    assert_same("W(SQ4.25)A8", "W(64-(8/4)-0.9375)A8");
    assert_same("W8A8-2:4", "W(4-(8/none)-0.5)A8");
    assert_same("W4A8-4:8", "low=0,high=int4,bank=8,sparsity=0.5;low=int8");
    assert_same("W8A16-2:4", "low=none,high=8");
    assert_same("W4A16", "low=int4");
    assert_same("W4A4", "W4A4,group=128;clip=1.0");
    assert_same("W4A8+scale=static", "W4A8;scale=static");
    assert_same("W(SQ6)A8,bank=32", "W(32-(8/4)-0.5)A8");
    assert_same("W(SQ6)A8,high_per_bank=16", "W(SQ5)A8");
    assert_same("W4A8;high=int8,low=int4", "W4A(SQ6)");
    assert_same("W3A16", "low=int3,scale_type=fp16,group=128");
    assert_same("WFP8AFP8", "low=fp8;low=fp8");
    assert_same("W4A(64-(fp8/fp4)-0.75)", "low=4;low=fp4,high=fp8,bank=64,sparsity=0.75");
    assert_same("FP16", "low=fp16,high=none;low=fp32");
}

static void test_defaults_are_those_of_the_format(void **state)
{
    (void)state;
    sqf_scheme s = parse("W4A8");
    assert_int_equal(s.weights.group, 128);
    assert_int_equal(s.weights.bank, 128);
    assert_int_equal(s.weights.scale_type, SQF_TYPE_FP16);
    assert_int_equal(s.activations.scale, SQF_ACT_TOKEN);
    assert_true(s.activations.clip == 1.0f);
    s = parse("W(SQ5)A(SQ5)");
    assert_int_equal(s.weights.bank, 64);
    assert_int_equal(s.weights.group, 64);
    assert_int_equal(s.weights.high_per_bank, 16);
    assert_int_equal(s.weights.layout, SQF_LAYOUT_VMASK);
    assert_int_equal(s.weights.scales, SQF_SCALES_FREE);
    assert_int_equal(s.activations.bank, 16);
    assert_int_equal(s.activations.high_per_bank, 4);
    assert_int_equal(s.activations.mask, SQF_MASK_STATIC);
    s = parse("W8A8-2:4");
    assert_int_equal(s.weights.low, SQF_TYPE_NONE);
    assert_int_equal(s.weights.layout, SQF_LAYOUT_BITMASK);
    assert_int_equal(s.weights.group, 128);
    assert_int_equal(parse("W8A8-1:3").weights.group, 126);
    assert_int_equal(parse("W8A8-100:200").weights.group, 200);
    assert_int_equal(parse("W8A8,group=row").weights.bank, SQF_BANK_MAX);
    assert_true(sqf_weight_spec_is_dense(&(sqf_weight_spec){.low = SQF_TYPE_FP32}));
}

static void test_short_names_carry_the_fields_that_differ(void **state)
{
    (void)state;
    sqf_scheme s = parse("low=int4,group=32;low=int8,scale=group");
    assert_printed(&s, SQF_SPELLING_SHORT, "W4A8,group=32;scale=group");
    assert_printed(&s, SQF_SPELLING_SHELL, "w4a8,group=32+scale=group");
    s = parse("w(sq6)a16,scales=tied,group=row");
    assert_printed(&s, SQF_SPELLING_SHORT, "W(SQ6)A16,group=row,scales=tied");
    s = parse("W8A(SQ6)-2:4;mask=dynamic,clip=0.9,scale=group,group=256");
    assert_printed(&s, SQF_SPELLING_SHORT, "W8A(SQ6)-2:4;group=256,mask=dynamic,scale=group,clip=0.9");
    s = parse("W4A(SQ5);zero=point");
    assert_printed(&s, SQF_SPELLING_SHORT, "W4A(SQ5);zero=point");
    assert_printed(&s, SQF_SPELLING_SHELL, "w4a-sq5+zero=point");
    assert_printed(
        &s, SQF_SPELLING_LONG,
        "low=int4,high=none,group=128,scale_type=fp16;low=int4,high=int8,bank=16,high_per_bank=4,mask=static,"
        "scale=token,clip=1,zero=point");
    s = parse("W4A4;zero=none"); /* not said in the long form, so that older files stay the same bytes */
    assert_printed(&s, SQF_SPELLING_LONG,
                   "low=int4,high=none,group=128,scale_type=fp16;low=int4,high=none,scale=token,clip=1");
    s = parse("w-16-fp16-3-0.875-a-32-8-0-0.5");
    assert_printed(&s, SQF_SPELLING_SHORT, "W(16-(fp16/3)-0.875)A(32-(8/0)-0.5)");
}

static sqf_scheme_bits bits_of(const char *name)
{
    const sqf_scheme scheme = parse(name);
    return sqf_scheme_bits_of(&scheme);
}

static void test_block_formats_have_names(void **state)
{
    (void)state;
    static const char *const names[][3] = {
        {"MXFP4", "mxfp4",
         "low=fp4,high=none,group=32,scale_type=e8m0;low=fp4,high=none,group=32,scale_type=e8m0,scale=group,clip=1"},
        {"NVFP4", "nvfp4",
         "low=fp4,high=none,group=16,scale_type=fp8;low=fp4,high=none,group=16,scale_type=fp8,scale=group,clip=1"},
        {"MXFP6", "mxfp6",
         "low=fp6,high=none,group=32,scale_type=e8m0;low=fp6,high=none,group=32,scale_type=e8m0,scale=group,clip=1"},
        {"MXFP8", "mxfp8",
         "low=fp8,high=none,group=32,scale_type=e8m0;low=fp8,high=none,group=32,scale_type=e8m0,scale=group,clip=1"},
        {"NVFP4A16", "nvfp4a16", "low=fp4,high=none,group=16,scale_type=fp8;low=fp32,high=none"},
        {"W(MXFP4)A(MXFP8)", "w-mxfp4-a-mxfp8",
         "low=fp4,high=none,group=32,scale_type=e8m0;low=fp8,high=none,group=32,scale_type=e8m0,scale=group,clip=1"},
        {"W(MXFP4)A8", "w-mxfp4-a8",
         "low=fp4,high=none,group=32,scale_type=e8m0;low=int8,high=none,scale=token,clip=1"},
        {"W(MXFP4)A(32-(mxfp8/mxfp4)-0.75)", "w-mxfp4-a-32-mxfp8-mxfp4-0.75",
         "low=fp4,high=none,group=32,scale_type=e8m0;low=fp4,high=fp8,bank=32,high_per_bank=8,group=32,scale_type="
         "e8m0,mask=static,scale=group,clip=1"},
        {"MXFP6E3M2", "mxfp6e3m2",
         "low=fp6e3m2,high=none,group=32,scale_type=e8m0;low=fp6e3m2,high=none,group=32,scale_type=e8m0,scale=group,"
         "clip=1"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const sqf_scheme scheme = parse(names[i][0]);
        assert_printed(&scheme, SQF_SPELLING_SHORT, names[i][0]);
        assert_printed(&scheme, SQF_SPELLING_SHELL, names[i][1]);
        assert_printed(&scheme, SQF_SPELLING_LONG, names[i][2]);
        assert_same(names[i][0], names[i][1]);
        assert_same(names[i][0], names[i][2]);
    }
    assert_same("MXFP4A8", "W(MXFP4)A8");
    assert_same("MXFP4A(MXFP8)", "mxfp4-a-mxfp8");
    assert_same("MXFP4,group=16,scale_type=fp8;group=16,scale_type=fp8", "NVFP4");
    assert_same("MXFP4;scale=token,scale_type=fp32", "W(MXFP4)AFP4");
    const sqf_scheme_bits bits = bits_of("NVFP4");
    assert_true(bits.weights_stored == 4.5 && bits.low_rate_share == 1.0);
    assert_true(bits_of("MXFP4").weights_stored == 4.25 && bits_of("MXFP6").weights_stored == 6.25);
}

static void test_an_operand_alone_means_weights(void **state)
{
    (void)state;
    const char *const pairs[][2] = {{"64-(8/4)-0.75", "W(SQ5)A16"},
                                    {"32-(FP8/FP4)-0.5", "W(32-(fp8/fp4)-0.5)A16"},
                                    {"64-(8/4)-0.75,scales=tied", "W(SQ5)A16,scales=tied"},
                                    {"64-(8/4)-0.5;low=int8", "W(SQ6)A8"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        sqf_error err;
        sqf_scheme alone, whole;
        assert_ok(sqf_scheme_parse(pairs[i][0], &alone, &err), &err);
        assert_ok(sqf_scheme_parse(pairs[i][1], &whole, &err), &err);
        assert_true(sqf_scheme_equal(&alone, &whole));
    }
}

static void test_names_that_mean_nothing_are_refused_with_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *name, *message;
    } bad[] = {
        {"", "scheme \"\": at its end: expected BF16"},
        {"hello", "at \"hello\": expected BF16, FP16"},
        {"W9A8", "at \"9a8\": expected a type"},
        {"W16A16", "at \"16a16\": expected a type"},
        {"WBF16A8", "at \"bf16a8\": expected 8, 6, 5"},
        {"W4Afp32", "at \"fp32\": expected 16, 8, 6"},
        {"W4A", "at its end: expected a type"},
        {"W4A8x", "at \"x\": expected \",\""},
        {"W4", "at its end: expected a"},
        {"W4A(SQ6", "at its end: expected )"},
        {"W4A(SQ9)", "at \"9)\": expected 4 to 8 equivalent bits"},
        {"W4A(SQ3.9)", "expected 4 to 8 equivalent bits"},
        {"W4A(64-8/4-0.5)", "at \"/4-0.5)\": expected -"},
        {"W4A(64-(8/4)-x)", "expected a sparsity from 0 to 1"},
        {"W4A(64-(8/4)-0.5.5)", "at \".5)\": expected )"},
        {"W4A(64-(8/4)-0.)", "expected a sparsity from 0 to 1"},
        {"W4A(64-(8/4)-0.1234567890123456)", "at most 15 digits"},
        {"W4A(6.5-(8/4)-0.5)", "at \"6.5-(8/4)-0.5)\": expected SQ6"},
        {"W(64-(8/4)-0.7)A8", "sparsity=0.7 of bank=64: 19.2 high elements, expected a whole number: sparsity 0.703125 "
                              "or 0.6875"},
        {"W(64-(8/4)-1.5)A8", "sparsity=1.5: expected 0..1"},
        {"W(64-(4/8)-0.5)A8", "high=int4 is narrower than low=int8"},
        {"W(64-(0/0)-0.5)A8", "at \"0/0)-0.5)a8\": expected a high type"},
        {"W(64-(0/4)-0.5)A8", "at \"0/4)-0.5)a8\": expected a high type"},
        {"low=none", "low=none and high=none: at least one part needs a type"},
        {"W8A8-5:4", "at \"5:4\": expected N:M with N <= M"},
        {"W8A8-0:0", "expected N:M"},
        {"W(SQ6)A8-2:4", "expected N:M with N <= M, behind weights of one type"},
        {"W8A8-2", "at its end: expected :"},
        {"W8A8-2:70000", "bank=70000: expected 1..65536"},
        {"W4A8,", "at its end: expected low="},
        {"W4A8;", "at its end: expected low="},
        {"W4A8,mask=static",
         "at \"mask=static\": expected low=, high=, bank=, sparsity=, high_per_bank=, group=, scale_t"},
        {"W4A8;layout=vmask", "expected low=, high=, bank=, sparsity=, high_per_bank=, group=, scale_type=, mask="},
        {"W4A8,group=0", "at \"0\": expected a number of columns from 1 or row"},
        {"W4A8,group=4294967296", "expected a number of columns"},
        {"W4A8,group=32,group=64", "at \"group=64\": expected each field once"},
        {"W4A8,bank=64", "weights: bank has no meaning with low=int4, high=none"},
        {"W4A8;group=64", "activations: group has no meaning with low=int8, high=none and without scale=group"},
        {"BF16,group=64", "weights: group has no meaning with low=bf16, high=none"},
        {"W4A16;clip=0.9", "activations: clip has no meaning"},
        {"W(SQ6)A8,sparsity=0.5,high_per_bank=32", "expected only one of them"},
        {"W(SQ6)A8,high_per_bank=65", "high_per_bank=65: expected 0..64"},
        {"W(SQ6)A8,group=100", "group=100: expected row, a multiple or a divisor of the bank, 64"},
        {"W(SQ6)A8,scale_type=int8", "weights: scale_type=int8: expected fp16, bf16, fp32, fp8 or e8m0"},
        {"W(SQ6)A8,scales=loose", "at \"loose\": expected free or tied"},
        {"W(SQ6)A8,layout=free", "at \"free\": expected vmask or bitmask"},
        {"W(64-(fp8/4)-0.5)A8,scales=tied", "scales=tied with fp8/int4: expected two integer types"},
        {"W8A8-2:4,layout=vmask", "layout=vmask with low=none"},
        {"low=fp16,high=int8", "low=fp16 is unquantized"},
        {"low=int4,high=fp32", "high=fp32: expected int2"},
        {"low=int4;low=bf16", "activations: low=bf16: expected int2"},
        {"low=int4;low=fp32,high=int8", "activations: low=fp32 is unquantized"},
        {"low=int4;low=int8,clip=0", "clip=0: expected 0.001..1"},
        {"low=int4;low=int8,clip=1.01", "clip=1.01: expected 0.001..1"},
        {"W4A8;high_clip=0.5", "activations: high_clip has no meaning with low=int8, high=none"},
        {"W4A(SQ6);high_clip=1.5", "high_clip=1.5: expected 0.001..1"},
        {"BF16;low=int8", "low=int8 with unquantized weights"},
        {"W4A8,group=96;scale=group,group=64", "group=64: expected a divisor or a multiple of the weights' group, 96"},
        {"W4A8,group", "at \"group\": expected low="},
        {"W4A(SQ6);mask=mine", "expected static, dynamic or dynamic_weighted"},
        {"W4A8;scale=all", "expected token, group or static"},
        {"W(SQ6)A8,scale_type=e8m0,scales=tied", "scales=tied with scale_type=e8m0: expected fp16"},
        {"WE8M0A8", "at \"e8m0a8\": expected 8, 6"},
        {"W4A8;scale_type=int8", "activations: scale_type=int8: expected fp32"},
        {"W4A8;scale=static,scale_type=e8m0", "activations: scale_type has no meaning"},
        {"W4A8;zero=half", "at \"half\": expected none, point or low"},
        {"W4A8,zero=point", "expected low=, high="},
        {"WFP4AFP4;zero=point", "activations: zero has no meaning with low=fp4, high=none"},
        {"W4A8;zero=point,scale_type=fp16", "activations: a zero point with scale_type=fp16: expected fp32"},
        {"W4A8;zero=low", "activations: zero=low with high=none: expected none or point"},
        {"W4A(8-(4/fp4)-0.5);zero=low", "activations: a zero point with low=fp4, high=int4: expected an integer type"},
        {"W(32-(mxfp8/4)-0.5)A8", "at \"mxfp8/4)-0.5)a8\": expected two block formats"},
        {"W(32-(mxfp8/nvfp4)-0.5)A8", "expected two block formats with the same blocks"},
        {"MXFP5", "expected BF16"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sqf_error err;
        sqf_scheme scheme, before;
        memset(&scheme, 0x5a, sizeof scheme);
        before = scheme;
        assert_fails(sqf_scheme_parse(bad[i].name, &scheme, &err), SQF_E_ARG, &err, bad[i].message);
        assert_memory_equal(&scheme, &before, sizeof scheme);
    }
    char endless[600];
    memset(endless, 'w', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    sqf_error err;
    sqf_scheme scheme;
    assert_fails(sqf_scheme_parse(endless, &scheme, &err), SQF_E_ARG, &err, "599 characters, expected at most 511");
    endless[511] = '\0';
    assert_fails(sqf_scheme_parse(endless, &scheme, &err), SQF_E_ARG, &err, "scheme \"www");
    assert_int_equal(sqf_scheme_parse("x", &scheme, NULL), SQF_E_ARG);
}

static void test_fields_out_of_range_are_refused_in_structures_too(void **state)
{
    (void)state;
    sqf_error err;
    const sqf_scheme good = parse("W(SQ6)A(SQ6)");
    sqf_scheme s = good;
    s.weights.high = SQF_TYPE_NONE;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "high_per_bank=32 with high=none");
    s = good;
    s.weights.scales = (sqf_scales)7;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "scales=7");
    s = good;
    s.weights.layout = (sqf_layout)7;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "layout=7");
    s = good;
    s.weights.bank = 0;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "bank=0: expected 1..65536");
    s = good;
    s.weights.low = (sqf_type)1000;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "low=unknown");
    s = good;
    s.activations.mask = (sqf_mask_mode)7;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "mask=7");
    s = good;
    s.activations.scale = (sqf_act_scale)7;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "scale=7");
    s = good;
    s.activations.clip = NAN;
    assert_fails(sqf_scheme_check(&s, &err), SQF_E_ARG, &err, "clip=nan");
}

static void test_every_valid_scheme_survives_every_spelling(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 21)};
    for (int i = 0; i < 20000; i++) {
        sqf_scheme scheme = {.weights = random_weights(&random, i % 2 ? 64 : SQF_BANK_MAX),
                             .activations = random_activations(&random, i % 2 ? 16 : SQF_BANK_MAX)};
        if (i % 16 == 0) {
            scheme = (sqf_scheme){.weights = {.low = SQF_TYPE_FP32}, .activations = {.low = SQF_TYPE_FP32}};
        }
        if (sqf_scheme_check(&scheme, NULL) != SQF_OK) {
            continue; /* groups that do not nest */
        }
        for (int spelling = 0; spelling < 3; spelling++) {
            sqf_error err;
            sqf_scheme back;
            char text[SQF_SCHEME_TEXT], again[SQF_SCHEME_TEXT];
            sqf_scheme_print(&scheme, (sqf_spelling)spelling, text);
            assert_ok(sqf_scheme_parse(text, &back, &err), &err);
            if (!sqf_scheme_equal(&scheme, &back)) {
                fail_msg("%s came back as another scheme", text);
            }
            sqf_scheme_print(&back, (sqf_spelling)spelling, again);
            assert_string_equal(text, again);
            assert_null(spelling == SQF_SPELLING_SHELL ? strpbrk(text, "()/; '\"&|<>*?$") : NULL);
        }
    }
}

static void test_equality_looks_at_every_used_field(void **state)
{
    (void)state;
    static const char *const names[] = {"W(SQ6)A(SQ6)",
                                        "W(SQ5)A(SQ6)",
                                        "W(SQ6)A(SQ5)",
                                        "W(SQ6)A8",
                                        "W4A(SQ6)",
                                        "W(SQ6)A(SQ6),bank=32",
                                        "W(SQ6)A(SQ6),group=128",
                                        "W(SQ6)A(SQ6),scale_type=bf16",
                                        "W(SQ6)A(SQ6),scales=tied",
                                        "W(SQ6)A(SQ6),layout=bitmask",
                                        "W(SQ6)A(SQ6),low=3",
                                        "W(SQ6)A(SQ6),high=6",
                                        "W(SQ6)A(SQ6);mask=dynamic",
                                        "W(SQ6)A(SQ6);mask=dynamic_weighted",
                                        "W(SQ6)A(SQ6);scale=group",
                                        "W(SQ6)A(SQ6);scale=group,group=128",
                                        "W(SQ6)A(SQ6);clip=0.9",
                                        "W(SQ6)A(SQ6);high_clip=0.9",
                                        "W(SQ6)A(SQ6);bank=8",
                                        "W(SQ6)A(SQ6);low=2",
                                        "W(SQ6)A(SQ6);high=6",
                                        "W8A8",
                                        "W8A8,group=64",
                                        "W8A8;scale=static",
                                        "W8A16",
                                        "BF16",
                                        "FP16"};
    const size_t count = sizeof names / sizeof *names;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            const sqf_scheme a = parse(names[i]), b = parse(names[j]);
            assert_int_equal(sqf_scheme_equal(&a, &b), i == j);
        }
    }
    sqf_scheme a = parse("W8A8"), b = a;
    b.weights.bank = 5;
    b.weights.layout = SQF_LAYOUT_BITMASK;
    b.activations.bank = 9;
    assert_true(sqf_scheme_equal(&a, &b));
}

static void test_bits_are_those_of_the_worked_figures(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double weights, activations, stored, low_rate;
    } expected[] = {
        {"BF16", 16, 16, 16, 0},
        {"FP32", 32, 16, 32, 0},
        {"W8A8", 8, 8, 8.125, 0},
        {"W4A4", 4, 4, 4.125, 1},
        {"W4A4,group=row", 4, 4, 4, 1},
        {"W4A(SQ6)", 4, 6, 4.125, 0.5},
        {"W(SQ6)A(SQ6)", 6, 6, 8.5, 0.25},
        {"W(SQ5)A4", 5, 4, 6.5, 0.75},
        {"W(64-(8/4)-0.5)A8", 6, 8, 8.5, 0},
        {"W(64-(8/4)-0.5)A8,layout=bitmask", 6, 8, 7.5, 0},
        {"W(64-(8/4)-0.75)A8", 5, 8, 6.5, 0},
        {"W(64-(8/4)-0.75)A8,layout=bitmask", 5, 8, 6.5, 0},
        {"W(64-(8/4)-0.875)A8", 4.5, 8, 5.5, 0},
        {"W(64-(8/4)-0.875)A8,layout=bitmask", 4.5, 8, 6.0, 0},
        {"W(64-(8/2)-0.75)A8", 3.5, 8, 4.5, 0},
        {"W(64-(4/2)-0.75)A8", 2.5, 8, 3.5, 0},
        {"W(64-(4/2)-0.75)A4", 2.5, 4, 3.5, 1},
        {"W(64-(8/4)-0.75)A8,scales=tied", 5, 8, 6.375, 0},
        {"W(64-(fp16/4)-0.75)A16", 7, 16, 8.25, 0},
        {"W8A8-2:4", 4, 8, 5.125, 0},
        {"W4A4-2:4", 2, 4, 3.125, 1},
        {"W4A(SQ6)-2:4", 2, 6, 3.125, 0.5},
        {"W4A(16-(8/0)-0.5)", 4, 4, 4.125, 0},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const sqf_scheme scheme = parse(expected[i].name);
        const sqf_scheme_bits bits = sqf_scheme_bits_of(&scheme);
        assert_true(bits.weights_equivalent == expected[i].weights);
        assert_true(bits.activations_equivalent == expected[i].activations);
        assert_true(bits.weights_stored == expected[i].stored);
        assert_true(bits.low_rate_share == expected[i].low_rate);
    }
    const sqf_scheme nothing = parse("W4A(16-(8/0)-1)"); /* every activation dropped */
    assert_true(sqf_scheme_bits_of(&nothing).low_rate_share == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_named_schemes_read_and_print_as_themselves),
        cmocka_unit_test(test_long_forms_reach_every_field),
        cmocka_unit_test(test_different_names_of_one_scheme_are_equal),
        cmocka_unit_test(test_defaults_are_those_of_the_format),
        cmocka_unit_test(test_short_names_carry_the_fields_that_differ),
        cmocka_unit_test(test_block_formats_have_names),
        cmocka_unit_test(test_an_operand_alone_means_weights),
        cmocka_unit_test(test_names_that_mean_nothing_are_refused_with_the_place),
        cmocka_unit_test(test_fields_out_of_range_are_refused_in_structures_too),
        cmocka_unit_test(test_every_valid_scheme_survives_every_spelling),
        cmocka_unit_test(test_equality_looks_at_every_used_field),
        cmocka_unit_test(test_bits_are_those_of_the_worked_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
