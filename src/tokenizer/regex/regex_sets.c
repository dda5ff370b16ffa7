/* The names of properties in regular expressions. */
#include <string.h>

#include "tokenizer/regex/regex_sets.h"
#include "tokenizer/unicode_recent.h"

typedef struct named_set {
    const char *name;   /* lower case, without blanks, '-' and '_' */
    const char *set;    /* the inside of a class */
    const char *recent; /* the general categories or groups whose recent characters belong to it, with spaces between */
} named_set;

/* Names that Oniguruma knows and PCRE2 does not, or knows with another meaning. */
static const named_set PROPERTIES[] = {
    {"any", "\\x{0}-\\x{10ffff}", ""},
    {"letter", "\\p{L}", "l"},
    {"casedletter", "\\p{L&}", "lu ll"},
    {"lc", "\\p{L&}", "lu ll"},
    {"uppercaseletter", "\\p{Lu}", "lu"},
    {"lowercaseletter", "\\p{Ll}", "ll"},
    {"titlecaseletter", "\\p{Lt}", "lt"},
    {"modifierletter", "\\p{Lm}", "lm"},
    {"otherletter", "\\p{Lo}", "lo"},
    {"mark", "\\p{M}", "m"},
    {"combiningmark", "\\p{M}", "m"},
    {"nonspacingmark", "\\p{Mn}", "mn"},
    {"spacingmark", "\\p{Mc}", "mc"},
    {"enclosingmark", "\\p{Me}", "me"},
    {"number", "\\p{N}", "n"},
    {"decimalnumber", "\\p{Nd}", "nd"},
    {"digit", "\\p{Nd}", "nd"},
    {"letternumber", "\\p{Nl}", "nl"},
    {"othernumber", "\\p{No}", "no"},
    {"punctuation", "\\p{P}", "p"},
    {"connectorpunctuation", "\\p{Pc}", "pc"},
    {"dashpunctuation", "\\p{Pd}", "pd"},
    {"openpunctuation", "\\p{Ps}", "ps"},
    {"closepunctuation", "\\p{Pe}", "pe"},
    {"initialpunctuation", "\\p{Pi}", "pi"},
    {"finalpunctuation", "\\p{Pf}", "pf"},
    {"otherpunctuation", "\\p{Po}", "po"},
    {"symbol", "\\p{S}", "s"},
    {"mathsymbol", "\\p{Sm}", "sm"},
    {"currencysymbol", "\\p{Sc}", "sc"},
    {"modifiersymbol", "\\p{Sk}", "sk"},
    {"othersymbol", "\\p{So}", "so"},
    {"separator", "\\p{Z}", "z"},
    {"spaceseparator", "\\p{Zs}", "zs"},
    {"lineseparator", "\\p{Zl}", "zl"},
    {"paragraphseparator", "\\p{Zp}", "zp"},
    {"other", "\\p{C}", "cf"},
    {"control", "\\p{Cc}", ""},
    {"cntrl", "\\p{Cc}", ""},
    {"format", "\\p{Cf}", "cf"},
    {"surrogate", "\\p{Cs}", ""},
    {"privateuse", "\\p{Co}", ""},
    {"unassigned", "\\p{Cn}", ""},
    {"alpha", "\\p{Alphabetic}\\x{363}-\\x{36f}\\x{c04}\\x{f82}\\x{f83}\\x{1dd3}-\\x{1de6}\\x{11080}\\x{11081}", "l"},
    {"alphabetic", "\\p{Alphabetic}\\x{363}-\\x{36f}\\x{c04}\\x{f82}\\x{f83}\\x{1dd3}-\\x{1de6}\\x{11080}\\x{11081}",
     "l"},
    {"alnum", "\\p{Alphabetic}\\p{Nd}", "l mn mc nd"},
    {"upper", "\\p{Uppercase}", "lu"},
    {"uppercase", "\\p{Uppercase}", "lu"},
    {"lower", "\\p{Lowercase}", "ll"},
    {"lowercase", "\\p{Lowercase}", "ll"},
    {"punct", "\\p{P}\\p{S}", "p s"},
    {"space", SQF_SET_SPACE, ""},
    {"whitespace", SQF_SET_SPACE, ""},
    {"blank", "\\p{Zs}\\t", ""},
    {"xdigit", SQF_SET_HEX, ""},
    {"asciihexdigit", SQF_SET_HEX, ""},
    {"ascii", "\\x{0}-\\x{7f}", ""},
    {"word", "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "l m nd pc"},
    {"emoji", "\\p{Emoji}", ""},
    {"extendedpictographic", "\\p{Extended_Pictographic}", ""},
    {"ideographic", "\\p{Ideographic}", ""},
};

/* General categories by their short names. */
static bool is_category(const char *name)
{
    static const char *const GROUPS[] = {"c",  "l",  "m",  "n",  "p",  "s",  "z",  "cc", "cf", "cn", "co", "cs", "ll",
                                         "lm", "lo", "lt", "lu", "mc", "me", "mn", "nd", "nl", "no", "pc", "pd", "pe",
                                         "pf", "pi", "po", "ps", "sc", "sk", "sm", "so", "zl", "zp", "zs"};
    for (size_t i = 0; i < sizeof GROUPS / sizeof *GROUPS; i++) {
        if (strcmp(GROUPS[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Appends the recent characters of a list of categories; "l" stands for all that begin with it. */
static sqf_status put_recent(sqf_buffer *out, const char *categories, sqf_error *err)
{
    while (*categories != '\0') {
        const size_t n = strcspn(categories, " ");
        for (size_t i = 0; i < sizeof RECENT / sizeof *RECENT; i++) {
            if (strncmp(RECENT[i].category, categories, n) == 0) {
                SQF_TRY(sqf_buffer_append(out, RECENT[i].set, strlen(RECENT[i].set), err));
            }
        }
        categories += n + (categories[n] == ' ');
    }
    return SQF_OK;
}

sqf_status sqf_regex_put_property(sqf_buffer *out, const char *name, sqf_error *err)
{
    for (size_t i = 0; i < sizeof PROPERTIES / sizeof *PROPERTIES; i++) {
        if (strcmp(PROPERTIES[i].name, name) == 0) {
            SQF_TRY(sqf_buffer_append(out, PROPERTIES[i].set, strlen(PROPERTIES[i].set), err));
            return put_recent(out, PROPERTIES[i].recent, err);
        }
    }
    if (!is_category(name)) { /* a script's name: its own characters, not its extensions */
        return sqf_buffer_print(out, err, "\\p{sc:%s}", name);
    }
    SQF_TRY(sqf_buffer_print(out, err, "\\p{%c%s}", name[0] - 'a' + 'A', name + 1));
    return put_recent(out, name, err);
}
