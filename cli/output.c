/* Errors, JSON and standard input and output of the commands. Standard output carries results and nothing else, and
 * is checked at the end: a full disk behind a redirection must not look like success. Everything for people in
 * between goes to standard error. */
#include "output.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One line on standard error, on a line of its own even if progress stood there. */
static void print_message(const char *format, va_list arguments)
{
    progress_clear();
    fputs("sqf: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

int fail_usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
    return EXIT_USAGE;
}

int fail_input(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
    return EXIT_BAD;
}

/* An interrupted call is not an error of the input: the exit code is the shell's for that signal. */
int fail_error(const sqf_error *err)
{
    if (err->status == SQF_E_CANCELLED && signals_received()) {
        fail_input("interrupted");
        return 128 + signals_received();
    }
    return fail_input("%s", err->text);
}

/* Commands without the option compute on the CPU alone. */
static const char *device_of(const cli_arguments *arguments)
{
    const cli_command *command = arguments->command;
    for (size_t i = 0; i < command->option_count; i++) {
        if (strcmp(command->options[i].name, "device") == 0) {
            return arguments_text(arguments, "device");
        }
    }
    return "cpu";
}

/* A name that means nothing is a mistake of the command line, a GPU that is not there one of the machine. */
int context_open(const cli_arguments *arguments, sqf_context **out)
{
    sqf_context_options options = sqf_context_options_default();
    options.threads = (unsigned)arguments_count(arguments, "threads");
    options.device = device_of(arguments);
    progress_begin(arguments_given(arguments, "quiet"), arguments_given(arguments, "verbose"), &options);
    sqf_error err = {0};
    const sqf_status status = sqf_context_create(&options, out, &err);
    if (status == SQF_E_ARG && options.device) {
        return fail_usage("--%s", err.text);
    }
    return status == SQF_OK ? EXIT_DONE : fail_error(&err);
}

bool context_is_cpu(const sqf_context *context)
{
    return strcmp(sqf_context_device_name(context), "cpu") == 0;
}

/* JSON has no NaN and no infinity. */
json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

void json_set_numbers(json_t *object, const json_figure *figures, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_object_set_new(object, figures[i].key, json_number(figures[i].value));
    }
}

/* JSON integers of jansson end at 2^63 - 1; beyond that a real is closer than a negative number. */
json_t *json_count(uint64_t value)
{
    return value <= INT64_MAX ? json_integer((json_int_t)value) : json_real((double)value);
}

/* Length of the valid UTF-8 character at the start of n > 0 bytes; 0 if there is none. Overlong forms, surrogates and
 * values beyond U+10FFFF are not valid: table 3-7 of the Unicode standard, row by row. */
static size_t character_length(const unsigned char *b, size_t n)
{
    static const struct {
        unsigned char first_low, first_high, second_low, second_high, length;
    } rows[] = {
        {0x00, 0x7f, 0x00, 0xff, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        if (b[0] < rows[r].first_low || b[0] > rows[r].first_high) {
            continue;
        }
        const size_t length = rows[r].length;
        if (length > n || (length > 1 && (b[1] < rows[r].second_low || b[1] > rows[r].second_high))) {
            return 0;
        }
        for (size_t i = 2; i < length; i++) {
            if ((b[i] & 0xc0) != 0x80) {
                return 0;
            }
        }
        return length;
    }
    return 0;
}

/* Text of models and names of files may hold any bytes; JSON may not. Valid text is passed as it is. */
json_t *json_text(const char *bytes, size_t n)
{
    json_t *text = json_stringn(bytes, n);
    if (text) {
        return text;
    }
    char *repaired = malloc(3 * n + 1); /* a bad byte becomes the three bytes of U+FFFD */
    if (!repaired) {
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        const size_t length = character_length((const unsigned char *)bytes + i, n - i);
        if (length) {
            memcpy(repaired + used, bytes + i, length);
        } else {
            memcpy(repaired + used, "\xef\xbf\xbd", 3);
        }
        used += length ? length : 3;
        i += length ? length : 1;
    }
    text = json_stringn(repaired, used);
    free(repaired);
    return text;
}

json_t *json_string_or_null(const char *text)
{
    return text ? json_text(text, strlen(text)) : json_null();
}

json_t *json_products(const sqf_product_counts *counts)
{
    json_t *object = json_object();
    json_object_set_new(object, "dense", json_count(counts->dense));
    json_object_set_new(object, "floating", json_count(counts->floating));
    json_object_set_new(object, "integer_high", json_count(counts->integer_high));
    json_object_set_new(object, "integer_low", json_count(counts->integer_low));
    json_object_set_new(object, "dropped", json_count(counts->dropped));
    return object;
}

/* Indented, so that figures can be picked out by eye and by grep. */
int print_json(json_t *object)
{
    progress_clear();
    /* 15 digits: as many as a double keeps without inventing any */
    if (json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) == 0) {
        putchar('\n');
    } else if (!ferror(stdout)) {
        json_decref(object);
        return fail_input("out of memory");
    }
    json_decref(object);
    return finish_output();
}

int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return EXIT_DONE;
    }
    /* a reader that has seen enough is no error worth a sentence */
    return errno == EPIPE ? EXIT_BAD : fail_input("standard output: cannot write: %s", strerror(errno));
}

void print_portable(void)
{
    if (!sqf_cpu_levels()[1]) { /* the portable level is the last one */
        puts("This processor has neither AVX2 (with FMA and F16C) nor NEON: the portable kernels run, many times "
             "slower.");
    }
}

void format_bytes(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1000 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1000;
        unit++;
    }
    snprintf(text, 32, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
}

/* Doubles the buffer; room always keeps a byte for the NUL. A signal during a blocked read ends it with the signal's
 * code. */
int read_standard_input(char **bytes, size_t *n)
{
    size_t room = 1 << 16, used = 0;
    char *data = malloc(room);
    for (ssize_t got = 1; data && got > 0;) {
        if (used + 1 == room) {
            char *larger = realloc(data, room * 2);
            if (!larger) {
                break;
            }
            data = larger;
            room *= 2;
        }
        got = read(STDIN_FILENO, data + used, room - used - 1);
        if (got == 0) {
            data[used] = '\0';
            *bytes = data;
            *n = used;
            return EXIT_DONE;
        }
        if (got < 0 && errno == EINTR && !signals_received()) {
            got = 1;
            continue;
        }
        if (got < 0) {
            const int number = errno;
            free(data);
            return signals_received() ? 128 + signals_received()
                                      : fail_input("standard input: cannot read: %s", strerror(number));
        }
        used += (size_t)got;
    }
    free(data);
    return fail_input("standard input: out of memory after %zu bytes", used);
}
