/* Regular expressions as Oniguruma reads them: what each construct matches, and which ones are refused by name. */
#include "check.h"

#include "tokenizer/regex/regex.h"

typedef struct match_case {
    const char *pattern, *text;
    const char *marked; /* the text with every match in <> */
} match_case;

static void mark(const char *text, const sqf_matcher *matcher, char *out, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < matcher->count; i++) {
        const sqf_span *span = &matcher->spans[i];
        n += (size_t)snprintf(out + n, room - n, span->match ? "<%.*s>" : "%.*s", (int)(span->end - span->start),
                              text + span->start);
        assert_true(n < room);
    }
    out[n] = '\0';
}

static void expect_matches(const match_case *cases, size_t count)
{
    sqf_matcher matcher = {0};
    for (size_t i = 0; i < count; i++) {
        const match_case *c = &cases[i];
        sqf_error err;
        sqf_regex *regex;
        char marked[256];
        assert_ok(sqf_regex_compile(c->pattern, false, "test", &regex, &err), &err);
        assert_ok(sqf_regex_match(regex, c->text, strlen(c->text), &matcher, &err), &err);
        mark(c->text, &matcher, marked, sizeof marked);
        if (strcmp(marked, c->marked) != 0) {
            fail_msg("%s on \"%s\": found %s, expected %s", c->pattern, c->text, marked, c->marked);
        }
        sqf_regex_destroy(regex);
    }
    sqf_matcher_clear(&matcher);
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void classes_are_unions_and_intersections_of_sets(void **state)
{
    (void)state;
    static const match_case CASES[] = {
        {"[[:digit:]]+", "ab12c", "ab<12>c"},
        {"[[:^alpha:]]+", "ab 1c", "ab< 1>c"},
        {"[^[:space:]]+", "a b\tc", "<a> <b>\t<c>"},
        {"[[:upper:]_]+", "aB_c", "a<B_>c"},
        {"[[a-c][x-z]]+", "abyd", "<aby>d"},
        {"[a-d&&[^b]]+", "abcd", "<a>b<cd>"},
        {"[a-z&&b-y&&[^m]]+", "abmyz", "a<b>m<y>z"},
        {"[^a-c&&b-d]+", "abcde", "<a>bc<de>"},
        {"[\\D]+", "1ab2", "1<ab>2"},
        {"[\\S]+", "a b", "<a> <b>"},
        {"[\\Sx ]+", "a b", "<a b>"},
        {"[\\W\\d]+", "a1 b", "a<1 >b"},
        {"[^\\P{L}]+", "ab1c", "<ab>1<c>"},
        {"[\\P{Lu}1]+", "Ab1C", "A<b1>C"},
        {"\\p{^L}+", "ab1 c", "ab<1 >c"},
        {"\\h+", "xyz1fG", "xyz<1f>G"},
        {"[\\H]+", "1fxy2", "1f<xy>2"},
        {"[a\\-z]+", "b-az", "b<-az>"},
        {"[\\x41-\\x43]+", "ABCD", "<ABC>D"},
    };
    expect_matches(CASES, COUNT(CASES));
}

static void escapes_stand_for_one_character(void **state)
{
    (void)state;
    static const match_case CASES[] = {
        {"\\x41", "BAB", "B<A>B"},
        {"\\u00e9", "caf\u00e9", "caf<\u00e9>"},
        {"\\x{1F600}", "a\U0001F600", "a<\U0001F600>"},
        {"\\t|\\n|\\r|\\f|\\v|\\a|\\e", "a\tb", "a<\t>b"},
        {"\\012", "a\nb", "a<\n>b"},
        {"\\.\\*", "a.*b", "a<.*>b"},
    };
    expect_matches(CASES, COUNT(CASES));
}

static void groups_anchors_and_repetitions(void **state)
{
    (void)state;
    static const match_case CASES[] = {
        {"(?<name>ab)+", "xababy", "x<abab>y"},
        {"a(?#of no meaning)b", "xab", "x<ab>"},
        {"(?i:ab)c", "ABc abC", "<ABc> abC"},
        {"x(?i)ab", "xAB XAB", "<xAB> XAB"},
        {"a(?=b)", "abac", "<a>bac"},
        {"(?<!a)b", "abcb", "abc<b>"},
        {"(?>a+)b", "aab", "<aab>"},
        {"\\bab\\b", "ab abc", "<ab> abc"},
        {"\\Bb", "b ab", "b a<b>"},
        {"\\Aa", "aa", "<a>a"},
        {"a\\z", "aa", "a<a>"},
        {"a{2}", "aaaaa", "<aa><aa>a"},
        {"a{,2}b", "aaab", "a<aab>"},
        {"a{1,}?", "aa", "<a><a>"},
        {"\\R", "a\r\nb", "a<\r\n>b"},
        {"a\\N", "a\nab", "a\n<ab>"},
        {"a\\O", "a\nab", "<a\n><ab>"},
    };
    expect_matches(CASES, COUNT(CASES));
}

static void what_has_no_translation_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *reason;
    } CASES[] = {
        {"[z-a]", "a range in falling order"},
        {"[a-[b]]", "a range that ends with a class"},
        {"[a-\\d]", "a range that ends with a set"},
        {"[[:nope:]]", "a bracket name"},
        {"\\u12", "four digits"},
        {"\\x{12", "needs one number"},
        {"\\xff", "below 80"},
        {"\\x{110000}", "does not exist"},
        {"\\x{d800}", "does not exist"},
        {"\\pL", "a property without braces"},
        {"\\1", "escape"},
        {"(?<>a)", "a group's name"},
        {"(?#a", "a comment without an end"},
        {"(a", "a group without an end"},
        {"a{3,2}", "a repetition"},
        {"[a", ""},
    };
    for (size_t i = 0; i < COUNT(CASES); i++) {
        sqf_error err = {0};
        sqf_regex *regex = (sqf_regex *)&err;
        const sqf_status status = sqf_regex_compile(CASES[i].pattern, false, "test", &regex, &err);
        if ((status != SQF_E_SUPPORT && status != SQF_E_FORMAT) || !strstr(err.text, CASES[i].reason) ||
            strncmp(err.text, "test", 4) != 0) {
            fail_msg("%s: found %s \"%s\", expected \"%s\"", CASES[i].pattern, sqf_status_name(status), err.text,
                     CASES[i].reason);
        }
        assert_null(regex);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_are_unions_and_intersections_of_sets),
        cmocka_unit_test(escapes_stand_for_one_character),
        cmocka_unit_test(groups_anchors_and_repetitions),
        cmocka_unit_test(what_has_no_translation_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
