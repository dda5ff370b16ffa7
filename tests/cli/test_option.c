/* Command lines: every spelling of an option is read, every mistake is named. */
#include "check.h"

#include "option.h"

static const char *const modes[] = {"fast", "slow", NULL};

static const cli_option options[] = {
    {.name = "output", .letter = 'o', .kind = OPTION_TEXT, .required = true, .value = "OUT", .text = "where to"},
    {.name = "bank",
     .letter = 'b',
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "16",
     .least = 4,
     .most = 64,
     .text = "bank size"},
    {.name = "seed", .kind = OPTION_COUNT, .value = "N", .standard = "0", .most = UINT64_MAX, .text = "seed"},
    {.name = "temp", .kind = OPTION_REAL, .value = "T", .standard = "0.5", .low = -1, .high = 2, .text = "heat"},
    {.name = "mode", .kind = OPTION_CHOICE, .standard = "slow", .choices = modes, .text = "how"},
    {.name = "force", .letter = 'f', .text = "replace"},
};

static const cli_command command = {
    .name = "make",
    .operands = "MODEL [TENSOR]",
    .least_operands = 1,
    .most_operands = 2,
    .options = options,
    .option_count = sizeof options / sizeof options[0],
};

enum { MAX_WORDS = 16 };

typedef struct line {
    char text[512];
    char *words[MAX_WORDS];
    int count;
    cli_arguments arguments;
    char message[USAGE_TEXT];
} line;

/* Words are separated by single blanks. */
static bool parse(line *l, const char *text)
{
    *l = (line){0};
    snprintf(l->text, sizeof l->text, "%s", text);
    for (char *word = strtok(l->text, " "); word; word = strtok(NULL, " ")) {
        assert_true(l->count < MAX_WORDS);
        l->words[l->count++] = word;
    }
    return arguments_parse(&command, l->count, l->words, &l->arguments, l->message);
}

static void assert_refused(const char *text, const char *message)
{
    line l;
    if (parse(&l, text)) {
        fail_msg("%s: accepted", text);
    }
    assert_string_equal(l.message, message);
    arguments_clear(&l.arguments);
}

static void test_values_are_read_in_every_spelling(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "m --output out --bank 32 --temp -0.25 --mode fast --force",
        "m --output=out --bank=32 --temp=-0.25 --mode=fast --force",
        "-o out -b 32 m -f --temp -2.5e-1 --mode fast",
        "-oout -b32 -f m --temp -.25 --mode fast",
        "-foout --bank 4 --bank 32 m --temp=-0.25 --mode slow --mode fast", /* the last one counts */
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        line l;
        if (!parse(&l, lines[i])) {
            fail_msg("%s: %s", lines[i], l.message);
        }
        assert_string_equal(arguments_text(&l.arguments, "output"), "out");
        assert_int_equal(arguments_count(&l.arguments, "bank"), 32);
        assert_true(arguments_real(&l.arguments, "temp") == -0.25);
        assert_int_equal(arguments_choice(&l.arguments, "mode"), 0);
        assert_true(arguments_given(&l.arguments, "force"));
        assert_int_equal(l.arguments.operand_count, 1);
        assert_string_equal(l.arguments.operands[0], "m");
        arguments_clear(&l.arguments);
    }
}

static void test_defaults_come_from_the_table(void **state)
{
    (void)state;
    line l;
    assert_true(parse(&l, "-o out m t"));
    assert_int_equal(arguments_count(&l.arguments, "bank"), 16);
    assert_true(arguments_real(&l.arguments, "temp") == 0.5);
    assert_int_equal(arguments_choice(&l.arguments, "mode"), 1);
    assert_false(arguments_given(&l.arguments, "force"));
    assert_int_equal(arguments_count(&l.arguments, "threads"), 0);
    assert_int_equal(l.arguments.operand_count, 2);
    arguments_clear(&l.arguments);
}

static void test_a_value_may_look_like_an_option(void **state)
{
    (void)state;
    line l;
    assert_true(parse(&l, "-o --force -- -m"));
    assert_string_equal(arguments_text(&l.arguments, "output"), "--force");
    assert_false(arguments_given(&l.arguments, "force"));
    assert_string_equal(l.arguments.operands[0], "-m");
    arguments_clear(&l.arguments);
}

static void test_numbers_are_strict(void **state)
{
    (void)state;
    static const char *const bad_banks[] = {"3",  "65",   "",    "+8",  "-8",
                                            "8x", "0x10", "8.0", "1e1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad_banks / sizeof bad_banks[0]; i++) {
        char text[64], message[128];
        snprintf(text, sizeof text, "-o out m --bank=%s", bad_banks[i]);
        snprintf(message, sizeof message, "--bank %s: expected a whole number from 4 to 64 (default 16)", bad_banks[i]);
        assert_refused(text, message);
    }
    static const char *const bad_temps[] = {"nan", "inf", "0x1p1", "2.5", "-1.5", "1,5", "1e999", "1e", "--1"};
    for (size_t i = 0; i < sizeof bad_temps / sizeof bad_temps[0]; i++) {
        char text[64], message[128];
        snprintf(text, sizeof text, "-o out m --temp=%s", bad_temps[i]);
        snprintf(message, sizeof message, "--temp %s: expected a number from -1 to 2 (default 0.5)", bad_temps[i]);
        assert_refused(text, message);
    }
    line l;
    assert_true(parse(&l, "-o out m --seed 18446744073709551615"));
    assert_true(arguments_count(&l.arguments, "seed") == UINT64_MAX);
    arguments_clear(&l.arguments);
    assert_refused("-o out m --seed 18446744073709551616",
                   "--seed 18446744073709551616: expected a whole number from 0 (default 0)");
}

static void test_mistakes_are_named(void **state)
{
    (void)state;
    assert_refused("-o out m --mode quick", "--mode quick: expected one of fast, slow (default slow)");
    assert_refused("-o out m --bnak 4", "--bnak: unknown option, see sqf make --help");
    assert_refused("-o out m --bnak=4", "--bnak: unknown option, see sqf make --help");
    assert_refused("-o out m --ban 4", "--ban: unknown option, see sqf make --help");
    assert_refused("-o out m -x", "-x: unknown option, see sqf make --help");
    assert_refused("-o out m --bank", "--bank: expected a value (N)");
    assert_refused("m -o", "-o: expected a value (OUT)");
    assert_refused("-o out m --force=yes", "--force: takes no value, found 'yes'");
    assert_refused("-o out m t u", "u: unexpected, usage: sqf make MODEL [TENSOR] [options]");
    assert_refused("-o out", "make: expected MODEL [TENSOR], see sqf make --help");
    assert_refused("m", "make: --output is missing, see sqf make --help");
}

static void test_help_wins_over_mistakes(void **state)
{
    (void)state;
    line l;
    assert_true(parse(&l, "--bank 65 --nonsense -h"));
    assert_true(l.arguments.help);
    arguments_clear(&l.arguments);
    assert_true(parse(&l, "-o --help m"));
    assert_false(l.arguments.help); /* it is the output's name */
    arguments_clear(&l.arguments);
    assert_true(parse(&l, "-o out -- --help"));
    assert_false(l.arguments.help);
    arguments_clear(&l.arguments);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_read_in_every_spelling),
        cmocka_unit_test(test_defaults_come_from_the_table),
        cmocka_unit_test(test_a_value_may_look_like_an_option),
        cmocka_unit_test(test_numbers_are_strict),
        cmocka_unit_test(test_mistakes_are_named),
        cmocka_unit_test(test_help_wins_over_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
