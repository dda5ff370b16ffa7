/* sqf diagnose: what is wrong with a quantized model, worst first, each with the setting that would mend it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <sqf/diagnose.h>

#include "command.h"
#include "output.h"

/* ---- JSON ---- */

static json_t *finding_json(const sqf_finding *f)
{
    json_t *object = json_object();
    json_object_set_new(object, "kind", json_string(f->kind));
    json_object_set_new(object, "severity", json_string(sqf_severity_name(f->severity)));
    json_object_set_new(object, "weight", json_number(f->weight));
    json_object_set_new(object, "where", json_string_or_null(f->where[0] ? f->where : NULL));
    json_object_set_new(object, "text", json_string_or_null(f->text));
    json_object_set_new(object, "remedy", json_string_or_null(f->remedy[0] ? f->remedy : NULL));
    return object;
}

static json_t *input_json(const sqf_diagnose_input *input)
{
    json_t *object = json_object();
    json_object_set_new(object, "layer", json_count(input->layer));
    json_object_set_new(object, "input", json_string(input->input));
    json_object_set_new(object, "scheme", json_string_or_null(input->scheme));
    json_object_set_new(object, "quantized", json_boolean(input->quantized));
    json_object_set_new(object, "restored_kl", json_number(input->restored_kl));
    json_object_set_new(object, "restored_perplexity", json_number(input->restored_perplexity));
    json_object_set_new(object, "alone_kl", json_number(input->alone_kl));
    json_object_set_new(object, "alone_perplexity", json_number(input->alone_perplexity));
    json_object_set_new(object, "share", json_number(input->share));
    json_object_set_new(object, "activations", json_number(input->activations));
    json_object_set_new(object, "drift", json_number(input->drift));
    json_object_set_new(object, "outlier", json_number(input->outlier));
    return object;
}

static json_t *token_json(const sqf_diagnose_token *token)
{
    json_t *object = json_object();
    json_object_set_new(object, "position", json_count(token->position));
    json_object_set_new(object, "id", json_count(token->id));
    json_object_set_new(object, "kl", json_number(token->kl));
    json_object_set_new(object, "nll", json_number(token->nll));
    json_object_set_new(object, "reference_nll", json_number(token->reference_nll));
    json_object_set_new(object, "context", json_string_or_null(token->context));
    return object;
}

static void add_scores(json_t *object, const sqf_diagnosis *d)
{
    json_object_set_new(object, "tokens", d->evaluated ? json_count(d->eval.tokens) : json_null());
    json_object_set_new(object, "perplexity", d->evaluated ? json_number(d->eval.model.perplexity) : json_null());
    json_object_set_new(object, "reference_perplexity",
                        d->evaluated ? json_number(d->eval.reference.perplexity) : json_null());
    json_object_set_new(object, "ratio", d->evaluated ? json_number(d->eval.ratio) : json_null());
    json_object_set_new(object, "ratio_error", d->evaluated ? json_number(d->eval.ratio_error) : json_null());
    json_object_set_new(object, "kl", d->evaluated ? json_number(d->eval.kl) : json_null());
    json_object_set_new(object, "calibration_drift", json_number(d->calibration_drift));
    json_object_set_new(object, "calibration_perplexity", json_number(d->calibration_perplexity));
    json_object_set_new(object, "calibration_variety", json_number(d->calibration_variety));
    json_object_set_new(object, "low_rate_share", json_number(d->low_rate_share));
    json_object_set_new(object, "dense_share", json_number(d->dense_share));
    json_object_set_new(object, "float_share", json_number(d->float_share));
    json_object_set_new(object, "cost", json_number(d->cost));
    json_object_set_new(object, "scale_cost", json_number(d->scale_cost));
    json_object_set_new(object, "cpu_level", json_string_or_null(d->cpu_level));
}

static int print_diagnosis_json(const cli_arguments *arguments, const sqf_diagnosis *d)
{
    json_t *object = json_object(), *findings = json_array(), *inputs = json_array(), *tokens = json_array();
    for (size_t i = 0; i < d->finding_count; i++) {
        json_array_append_new(findings, finding_json(&d->findings[i]));
    }
    for (size_t i = 0; i < d->input_count; i++) {
        json_array_append_new(inputs, input_json(&d->inputs[i]));
    }
    for (size_t i = 0; i < d->token_count; i++) {
        json_array_append_new(tokens, token_json(&d->tokens[i]));
    }
    json_object_set_new(object, "original", json_string_or_null(arguments->operands[0]));
    json_object_set_new(object, "quantized", json_string_or_null(arguments->operands[1]));
    json_object_set_new(object, "text", json_string_or_null(arguments_text(arguments, "text")));
    json_object_set_new(object, "healthy", json_boolean(d->healthy));
    add_scores(object, d);
    json_object_set_new(object, "findings", findings);
    json_object_set_new(object, "inputs", inputs);
    json_object_set_new(object, "damaged_tokens", tokens);
    return print_json(object);
}

/* ---- text ---- */

static void print_findings(const sqf_diagnosis *d)
{
    for (size_t i = 0; i < d->finding_count; i++) {
        const sqf_finding *f = &d->findings[i];
        printf("%-8s %-18s %s%s%s\n", sqf_severity_name(f->severity), f->kind, f->where, f->where[0] ? ": " : "",
               f->text);
        if (f->remedy[0]) {
            printf("%-8s   mend: %s\n", "", f->remedy);
        }
    }
}

/* What was not measured is left blank. */
static void print_number(const char *format, int width, double value)
{
    if (isfinite(value)) {
        printf(format, width, value);
    } else {
        printf(" %*s", width, "");
    }
}

static void print_inputs(const sqf_diagnosis *d)
{
    const double reference = d->eval.reference.perplexity;
    printf("\n%-5s %-8s %-22s %9s %9s %9s %9s %8s %8s\n", "layer", "input", "scheme", "share %", "restored", "alone %",
           "KL alone", "drift %", "outlier");
    for (size_t i = 0; i < d->input_count; i++) {
        const sqf_diagnose_input *input = &d->inputs[i];
        printf("%-5zu %-8s %-22s", input->layer, input->input, input->scheme);
        print_number(" %*.1f", 9, 100 * input->share);
        print_number(" %*.4g", 9, input->restored_perplexity);
        print_number(" %*.3g", 9, 100 * (input->alone_perplexity / reference - 1));
        print_number(" %*.4g", 9, input->alone_kl);
        print_number(" %*.1f", 8, 100 * input->drift);
        print_number(" %*.1f", 8, input->outlier);
        putchar('\n');
    }
}

static void print_tokens(const sqf_diagnosis *d)
{
    if (d->token_count > 0) {
        printf("\n%-9s %8s %8s %8s  %s\n", "position", "KL", "nll", "original", "the token in brackets, after");
    }
    for (size_t i = 0; i < d->token_count; i++) {
        const sqf_diagnose_token *token = &d->tokens[i];
        printf("%-9zu %8.3f %8.3f %8.3f  %s\n", token->position, token->kl, token->nll, token->reference_nll,
               token->context);
    }
}

static void print_diagnosis(const cli_arguments *arguments, const sqf_diagnosis *d)
{
    printf("%s: %s\n", arguments->operands[1], d->healthy ? "healthy" : "not healthy");
    if (d->evaluated) {
        printf("perplexity %.4g, original %.4g: %+.2f %% (+- %.2f) on %zu tokens; KL %.4g\n", d->eval.model.perplexity,
               d->eval.reference.perplexity, 100 * (d->eval.ratio - 1), 100 * d->eval.ratio_error, d->eval.tokens,
               d->eval.kl);
    }
    printf("predicted cost %.3f a product (8-bit products are 1, unquantized ones 2), %.1f %% at the low rate; kernels "
           "%s\n\n",
           d->cost, 100 * d->low_rate_share, d->cpu_level);
    print_findings(d);
    if (d->evaluated) {
        print_inputs(d);
        print_tokens(d);
    }
}

/* ---- the command ---- */

static int run_diagnose(const cli_arguments *arguments)
{
    sqf_context *context;
    int code = context_open(arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    sqf_diagnose_options options = sqf_diagnose_options_default();
    options.text = arguments_text(arguments, "text");
    options.calibration = arguments_text(arguments, "calib");
    options.window = arguments_given(arguments, "window") ? arguments_count(arguments, "window") : 0;
    options.max_tokens = arguments_count(arguments, "max-tokens");
    options.loss = 0.01 * arguments_real(arguments, "loss");
    options.tokens = arguments_count(arguments, "tokens");
    options.attribute = (sqf_attribute)arguments_choice(arguments, "layers");
    sqf_diagnosis diagnosis;
    sqf_error err = {0};
    const sqf_status status =
        sqf_diagnose(context, arguments->operands[0], arguments->operands[1], &options, &diagnosis, &err);
    progress_clear();
    if (status != SQF_OK) {
        code = fail_error(&err);
    } else {
        if (arguments_given(arguments, "json")) {
            code = print_diagnosis_json(arguments, &diagnosis);
        } else {
            print_diagnosis(arguments, &diagnosis);
        }
        code = code == EXIT_DONE && !diagnosis.healthy ? EXIT_BAD : code;
        sqf_diagnosis_clear(&diagnosis);
    }
    sqf_context_destroy(context);
    return code;
}

const cli_command *diagnose_command(void)
{
    static const char *const layers[] = {"auto", "always", "never", NULL};
    static const cli_option options[] = {
        {.name = "text",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .text =
             "held-out text to evaluate on; without it only what the files tell of speed and alignment is looked at"},
        {.name = "calib",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .text = "the calibration text, to compare it with the held-out one; without it the file that report.json "
                 "names, where it is there"},
        {.name = "window",
         .kind = OPTION_COUNT,
         .least = 2,
         .most = 1 << 24,
         .value = "N",
         .text = "tokens a window; without it 512, or the model's positions if fewer"},
        {.name = "max-tokens",
         .kind = OPTION_COUNT,
         .standard = "8192",
         .most = UINT64_MAX,
         .value = "N",
         .text = "evaluate on the first N tokens of the text; 0 = all"},
        {.name = "loss",
         .kind = OPTION_REAL,
         .standard = "5",
         .low = 0.001,
         .high = 1000000,
         .value = "PERCENT",
         .text = "loss of perplexity from which accuracy counts as collapsed"},
        {.name = "layers",
         .kind = OPTION_CHOICE,
         .choices = layers,
         .standard = "auto",
         .text = "swap layers one at a time: where accuracy collapsed, always, or never"},
        {.name = "tokens",
         .kind = OPTION_COUNT,
         .standard = "8",
         .most = 100000,
         .value = "N",
         .text = "list the N tokens of largest damage"},
    };
    static const char *const examples[] = {"sqf diagnose models/demo demo-sq6 --text models/demo/text/eval.txt",
                                           "sqf diagnose model/ quantized/ --text heldout.txt --layers always --json",
                                           NULL};
    static const cli_command command = {
        .name = "diagnose",
        .operands = "ORIGINAL QUANTIZED",
        .least_operands = 2,
        .most_operands = 2,
        .summary = "say what is wrong with a quantized model and what would mend it",
        .description =
            "Prints findings, worst first: bad, warning or note; each with the setting that would mend it, as a key "
            "of a recipe or an option of sqf quantize. Exit code 0 if the model is healthy, that is if there are "
            "notes at most; 1 if there is a finding, as after an error (--json tells them apart: an error prints no "
            "object).\n\n"
            "Accuracy: is more lost than --loss; which inputs of which layers are responsible (each input's modules "
            "are put back in float into QUANTIZED, and quantized alone into ORIGINAL; for the worst, float "
            "activations alone); whether the channels have the sizes that they had in calibration, and the "
            "calibration text is as hard as this one; the tokens of largest damage. Speed: products at the low rate, "
            "modules left out, products that run in float, kernels in use, scales too fine, predicted cost. "
            "Alignment: banks cut short, groups that the border of low and high cuts, padding, gather lists.\n\n"
            "Kinds of findings: collapse, responsible-input, outliers, calibration-drift, calibration-text, "
            "calibration-small, not-attributed; left-dense, float-products, slow-kernels, fine-scales, no-gain; "
            "tail-banks, short-groups, padding, gather-not-folded, scattered-gather. What each means and where its "
            "threshold comes from: docs/diagnose.md.\n\n"
            "JSON members: original, quantized, text, healthy, tokens, perplexity, reference_perplexity, ratio, "
            "ratio_error, kl, calibration_drift, calibration_perplexity, calibration_variety, low_rate_share, "
            "dense_share, float_share, "
            "cost, scale_cost, cpu_level, findings (kind, severity, weight, where, text, remedy), inputs (layer, "
            "input, scheme, quantized, restored_kl, restored_perplexity, alone_kl, alone_perplexity, share, "
            "activations, drift, outlier), damaged_tokens (position, id, kl, nll, reference_nll, context).",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_diagnose,
    };
    return &command;
}
