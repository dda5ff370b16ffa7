/* sqf run: a prompt and its continuation, streamed as it comes. Text goes out token by token and is flushed each
 * time, so that a reader behind a pipe sees it too; with --json it is kept and printed whole at the end.
 *
 * The largest logits after the prompt (--logits) are read in the callback of the first drawn token, because only then
 * does the session still have the prompt's logits; without any token they are read afterwards. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/generate.h>

#include "command.h"
#include "output.h"

enum { TOP_LOGITS = 20 };

/* Everything that is open while the command runs. */
typedef struct runner {
    const cli_arguments *arguments;
    bool json;
    sqf_context *context;
    sqf_tokenizer *tokenizer;
    sqf_model *model;
    sqf_session *session;
    sqf_ids prompt;
    sqf_generation generation;
    char *text; /* the continuation so far, for JSON */
    size_t text_length, text_room;
    uint32_t top[TOP_LOGITS]; /* ids of the largest logits after the prompt, largest first */
    float top_logits[TOP_LOGITS];
    size_t top_count;
    bool top_wanted, top_read;
    sqf_status top_status;
    sqf_error top_error;
    bool out_of_memory;
} runner;

/* Inserts into the list of the largest. Ids come in ascending order and only a larger logit passes another, so ties
 * keep the lower id in front. */
static void rank_logit(runner *r, uint32_t id, float logit)
{
    size_t place = r->top_count;
    while (place > 0 && logit > r->top_logits[place - 1]) {
        place--;
    }
    if (place == TOP_LOGITS) {
        return;
    }
    r->top_count += r->top_count < TOP_LOGITS;
    for (size_t i = r->top_count - 1; i > place; i--) {
        r->top[i] = r->top[i - 1];
        r->top_logits[i] = r->top_logits[i - 1];
    }
    r->top[place] = id;
    r->top_logits[place] = logit;
}

/* The largest logits after the prompt. */
static sqf_status read_top(runner *r, sqf_error *err)
{
    const size_t vocabulary = sqf_model_info_get(r->model).vocabulary;
    float *logits = malloc(vocabulary * sizeof *logits);
    if (!logits) {
        snprintf(err->text, sizeof err->text, "logits: out of memory");
        return err->status = SQF_E_MEMORY;
    }
    const sqf_status status = sqf_session_logits(r->session, r->prompt.count - 1, 1, logits, err);
    for (uint32_t id = 0; status == SQF_OK && id < vocabulary; id++) {
        rank_logit(r, id, logits[id]);
    }
    free(logits);
    r->top_read = true;
    return status;
}

/* Keeps the text for JSON, or prints it at once. A closed or full standard output ends the generation. */
static bool take_token(void *user, uint32_t id, const char *text)
{
    runner *r = user;
    (void)id;
    if (r->top_wanted && !r->top_read) {
        r->top_status = read_top(r, &r->top_error); /* the prompt was run last: nothing has been fed back yet */
    }
    if (!r->json) {
        progress_clear();
        fputs(text, stdout);
        return fflush(stdout) == 0 && !signals_received();
    }
    const size_t length = strlen(text);
    if (r->text_length + length + 1 > r->text_room) {
        const size_t room = 2 * (r->text_length + length + 1);
        char *larger = realloc(r->text, room);
        if (!larger) {
            r->out_of_memory = true;
            return false;
        }
        r->text = larger;
        r->text_room = room;
    }
    memcpy(r->text + r->text_length, text, length + 1);
    r->text_length += length;
    return !signals_received();
}

/* A flag that was given, else what generation_config.json says. */
static void override_real(const cli_arguments *arguments, const char *name, float *value)
{
    if (arguments_given(arguments, name)) {
        *value = (float)arguments_real(arguments, name);
    }
}

/* Options without a default in the table: the model's own settings are the default. */
static sqf_sampling read_sampling(const runner *r)
{
    sqf_sampling sampling = sqf_model_sampling(r->model);
    override_real(r->arguments, "temp", &sampling.temperature);
    override_real(r->arguments, "top-p", &sampling.top_p);
    override_real(r->arguments, "min-p", &sampling.min_p);
    override_real(r->arguments, "repetition-penalty", &sampling.repetition_penalty);
    if (arguments_given(r->arguments, "top-k")) {
        sampling.top_k = (uint32_t)arguments_count(r->arguments, "top-k");
    }
    sampling.seed = arguments_count(r->arguments, "seed");
    return sampling;
}

/* The session has room for the prompt and for every token that is fed back, but never beyond the model's positions. */
static sqf_status create_session(runner *r, size_t max_tokens, sqf_error *err)
{
    const size_t positions = sqf_model_info_get(r->model).positions;
    const size_t prompt = r->prompt.count;
    if (prompt > positions) {
        snprintf(err->text, sizeof err->text, "prompt: found %zu tokens, expected at most the model's %zu positions",
                 prompt, positions);
        return err->status = SQF_E_ARG;
    }
    size_t room = max_tokens < positions - prompt ? prompt + max_tokens : positions;
    room = room > 0 ? room : 1; /* an empty prompt is refused further on */
    return sqf_session_create_kv(r->model, room, (sqf_kv_type)arguments_choice(r->arguments, "kv"), &r->session, err);
}

static sqf_status generate(runner *r, sqf_error *err)
{
    const size_t max_tokens = arguments_count(r->arguments, "number");
    sqf_status status = create_session(r, max_tokens, err);
    if (status != SQF_OK) {
        return status;
    }
    sqf_generate_options options = {.sampling = read_sampling(r), .token = take_token, .token_user = r};
    if (!arguments_given(r->arguments, "ignore-end")) {
        options.stop_ids = sqf_model_end_ids(r->model, &options.stop_count);
    }
    options.max_tokens = max_tokens;
    status = sqf_generate(r->model, r->session, r->tokenizer, r->prompt.data, r->prompt.count, &options, &r->generation,
                          err);
    if (status == SQF_OK && r->top_wanted && !r->top_read) {
        return read_top(r, err); /* nothing was drawn */
    }
    if (status == SQF_OK && r->top_status != SQF_OK) {
        *err = r->top_error;
        return r->top_status;
    }
    return status;
}

/* Tokens as the vocabulary spells them: a piece of a character is no valid text. */
static json_t *top_json(const runner *r)
{
    json_t *array = json_array();
    for (size_t i = 0; i < r->top_count; i++) {
        json_t *object = json_object();
        json_object_set_new(object, "id", json_integer(r->top[i]));
        json_object_set_new(object, "token", json_string_or_null(sqf_tokenizer_token(r->tokenizer, r->top[i])));
        json_object_set_new(object, "logit", json_number((double)r->top_logits[i]));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *ids_json(const sqf_ids *ids)
{
    json_t *array = json_array();
    for (size_t i = 0; i < ids->count; i++) {
        json_array_append_new(array, json_integer(ids->data[i]));
    }
    return array;
}

static double rate(size_t tokens, double seconds)
{
    return (double)tokens / seconds; /* NaN or infinite where nothing was timed: null in JSON */
}

static json_t *result_json(const runner *r)
{
    const sqf_generation *g = &r->generation;
    json_t *object = json_object();
    const sqf_product_counts products = sqf_context_products(r->context);
    json_object_set_new(object, "model", json_string_or_null(r->arguments->operands[0]));
    json_object_set_new(object, "scheme", json_string_or_null(sqf_model_info_get(r->model).scheme));
    json_object_set_new(object, "text", json_text(r->text ? r->text : "", r->text_length));
    json_object_set_new(object, "ids", ids_json(&g->ids));
    json_object_set_new(object, "prompt_ids", ids_json(&r->prompt));
    json_object_set_new(object, "kv", json_string(arguments_text(r->arguments, "kv")));
    json_object_set_new(object, "device", json_string_or_null(sqf_context_device(r->context)));
    json_object_set_new(object, "stop", json_string(sqf_stop_name(g->stop)));
    json_object_set_new(object, "prefill_tokens", json_count(g->prefill_tokens));
    json_object_set_new(object, "prefill_seconds", json_number(g->prefill_seconds));
    json_object_set_new(object, "prefill_tokens_per_s", json_number(rate(g->prefill_tokens, g->prefill_seconds)));
    json_object_set_new(object, "decode_tokens", json_count(g->decode_tokens));
    json_object_set_new(object, "decode_seconds", json_number(g->decode_seconds));
    json_object_set_new(object, "decode_tokens_per_s", json_number(rate(g->decode_tokens, g->decode_seconds)));
    json_object_set_new(object, "products", json_products(&products));
    if (r->top_wanted) {
        json_object_set_new(object, "top", top_json(r));
    }
    return object;
}

static void print_top(const runner *r)
{
    for (size_t i = 0; i < r->top_count; i++) {
        const char *token = sqf_tokenizer_token(r->tokenizer, r->top[i]);
        printf("%8" PRIu32 "  %12.6f  %s\n", r->top[i], (double)r->top_logits[i], token ? token : "");
    }
}

/* The text has been streamed already, except for JSON. */
static int finish(const runner *r)
{
    const sqf_generation *g = &r->generation;
    if (r->json) {
        return print_json(result_json(r));
    }
    if (g->ids.count > 0) {
        putchar('\n');
    }
    print_top(r);
    if (!arguments_given(r->arguments, "quiet")) {
        fflush(stdout);
        fprintf(stderr, "prefill %zu tokens, %.4g tokens/s", g->prefill_tokens,
                rate(g->prefill_tokens, g->prefill_seconds));
        if (g->decode_tokens > 0) {
            fprintf(stderr, "; decode %zu tokens, %.4g tokens/s", g->decode_tokens,
                    rate(g->decode_tokens, g->decode_seconds));
        }
        fprintf(stderr, "; stopped: %s\n", sqf_stop_name(g->stop));
    }
    return EXIT_DONE;
}

/* The prompt is encoded first: a device plans its memory by it. */
static sqf_status open_model(runner *r, const char *bytes, size_t n, sqf_error *err)
{
    const char *directory = r->arguments->operands[0];
    sqf_status status = sqf_tokenizer_load(directory, &r->tokenizer, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_encode(r->tokenizer, bytes, n, true, &r->prompt, err);
    }
    if (status == SQF_OK) {
        const sqf_model_use use = {.positions = r->prompt.count + arguments_count(r->arguments, "number"),
                                   .kv = (sqf_kv_type)arguments_choice(r->arguments, "kv")};
        status = sqf_model_open_for(r->context, directory, &use, &r->model, err);
    }
    return status;
}

/* Messages of the library name the file; an interrupted generation keeps what was printed. */
static int run_model(runner *r, const char *bytes, size_t n)
{
    sqf_error err = {0};
    sqf_status status = open_model(r, bytes, n, &err);
    if (status == SQF_OK) {
        status = generate(r, &err);
    }
    if (status != SQF_OK) {
        return fail_error(&err);
    }
    if (r->out_of_memory) {
        return fail_input("text: out of memory");
    }
    if (signals_received()) {
        if (!r->json) {
            putchar('\n');
        }
        return 128 + signals_received();
    }
    return finish(r);
}

/* Standard input is read before the model is opened: an interrupted or empty pipe costs nothing then. */
static int run_run(const cli_arguments *arguments)
{
    runner r = {.arguments = arguments,
                .json = arguments_given(arguments, "json"),
                .top_wanted = arguments_given(arguments, "logits")};
    const char *prompt = arguments_text(arguments, "prompt");
    char *input = NULL;
    size_t n = prompt ? strlen(prompt) : 0;
    int code = prompt ? EXIT_DONE : read_standard_input(&input, &n);
    if (code == EXIT_DONE) {
        code = context_open(arguments, &r.context);
    }
    if (code == EXIT_DONE) {
        code = run_model(&r, prompt ? prompt : input, n);
    }
    free(input);
    free(r.text);
    sqf_ids_clear(&r.prompt);
    sqf_ids_clear(&r.generation.ids);
    sqf_session_destroy(r.session);
    sqf_model_destroy(r.model);
    sqf_tokenizer_destroy(r.tokenizer);
    sqf_context_destroy(r.context);
    return code;
}

const cli_command *run_command(void)
{
    static const char *const kv_types[] = {"f32", "f16", "int8", NULL}; /* in the order of sqf_kv_type */
    static const cli_option options[] = {
        {.name = "prompt",
         .letter = 'p',
         .kind = OPTION_TEXT,
         .value = "TEXT",
         .text = "the text to continue; without it standard input is read to its end"},
        {.name = "number",
         .letter = 'n',
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "128",
         .most = 1 << 24,
         .text = "tokens to draw at most; 0 runs the prompt alone"},
        {.name = "temp",
         .kind = OPTION_REAL,
         .value = "T",
         .high = 100,
         .text = "temperature; 0 always takes the most probable token"},
        {.name = "top-k",
         .kind = OPTION_COUNT,
         .value = "K",
         .most = UINT32_MAX,
         .text = "draw from the K most probable tokens; 0 means all"},
        {.name = "top-p",
         .kind = OPTION_REAL,
         .value = "P",
         .high = 1,
         .text = "draw from the fewest tokens that together have this probability; 0 and 1 mean all"},
        {.name = "min-p",
         .kind = OPTION_REAL,
         .value = "P",
         .high = 1,
         .text = "leave out tokens below this part of the largest probability"},
        {.name = "repetition-penalty",
         .kind = OPTION_REAL,
         .value = "R",
         .high = 100,
         .text =
             "divide positive logits of tokens that have occurred by R and multiply negative ones; 0 and 1 mean none"},
        {.name = "seed",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "0",
         .most = UINT64_MAX,
         .text = "of the drawing: the same seed draws the same text"},
        {.name = "kv",
         .kind = OPTION_CHOICE,
         .standard = "f16",
         .choices = kv_types,
         .text = "type of the KV cache: f16 takes half of the memory of f32, int8 a quarter"},
        DEVICE_OPTION,
        {.name = "logits", .text = "also give the 20 largest logits after the prompt"},
        {.name = "ignore-end", .text = "go on after a token that ends the text"},
    };
    static const char *const examples[] = {
        "sqf run models/demo -p 'It was a dark and stormy night, and' -n 64 --temp 0",
        "echo 'Once upon a time' | sqf run models/demo --seed 7",
        "sqf run models/demo -p 'The captain' --kv int8",
        "sqf run models/demo -p 'The captain' -n 0 --logits --json",
        "sqf run MODEL -p 'The captain' --device cuda",
        NULL};
    static const cli_command command = {
        .name = "run",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "continue a text",
        .description =
            "Encodes the prompt with the special tokens that the tokenizer prescribes and prints its continuation, "
            "token by token as it comes, valid UTF-8 only; the prompt is not repeated. Stops after N tokens, at a "
            "token that ends the text, or at the model's last position. Sampling parameters that are not given come "
            "from the model's generation_config.json (without one: the most probable token). Speeds go to standard "
            "error.\n\n"
            "JSON members: model, scheme, text (the continuation alone), ids, prompt_ids, kv, device, stop (length, "
            "end, "
            "positions), prefill_tokens, prefill_seconds, prefill_tokens_per_s, decode_tokens, decode_seconds, "
            "decode_tokens_per_s, products; with --logits also top, 20 objects of id, token (as the vocabulary spells "
            "it) and logit, largest first.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_run,
    };
    return &command;
}
