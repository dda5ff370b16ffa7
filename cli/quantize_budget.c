/* sqf quantize with a target: options, and the table of what was chosen. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "quantize_budget.h"

bool budget_is_wanted(const cli_arguments *arguments)
{
    return arguments_given(arguments, "target-loss") || arguments_given(arguments, "target-bits") ||
           arguments_given(arguments, "target-speed");
}

/* "1%" or "0.01". */
static bool parse_loss(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text) {
        return false;
    }
    if (strcmp(end, "%") == 0) {
        *out /= 100.0;
        end++;
    }
    return *end == '\0' && isfinite(*out) && *out > 0.0;
}

/* A number above 0, else the name of a scheme. */
static bool parse_number_or_scheme(const char *text, double *number, const char **scheme)
{
    char *end;
    sqf_scheme parsed;
    *number = strtod(text, &end);
    if (end != text && *end == '\0') {
        return isfinite(*number) && *number > 0.0;
    }
    *number = (double)NAN;
    *scheme = text;
    return sqf_scheme_parse(text, &parsed, NULL) == SQF_OK;
}

int budget_read(const cli_arguments *arguments, sqf_budget_options *out)
{
    const char *loss = arguments_text(arguments, "target-loss"), *bits = arguments_text(arguments, "target-bits");
    const char *speed = arguments_text(arguments, "target-speed");
    *out = sqf_budget_options_default();
    if (loss && !parse_loss(loss, &out->loss)) {
        return fail_usage("--target-loss %.80s: expected a loss above 0, as 1%% or 0.01", loss);
    }
    if (bits && !parse_number_or_scheme(bits, &out->bits, &out->bits_like)) {
        return fail_usage("--target-bits %.80s: expected a number above 0 or the name of a scheme", bits);
    }
    if (speed && !parse_number_or_scheme(speed, &out->speed, &out->cost_like)) {
        return fail_usage("--target-speed %.80s: expected a number above 0 or the name of a scheme", speed);
    }
    if (!arguments_given(arguments, "calib") || strcmp(arguments_text(arguments, "calib"), "none") == 0) {
        return fail_usage("quantize: a target needs calibration text: --calib FILE");
    }
    out->candidates = arguments_text(arguments, "candidates");
    out->sensitivity = arguments_text(arguments, "sensitivity");
    out->text = arguments_text(arguments, "held-out");
    out->windows = arguments_count(arguments, "held-out-windows");
    out->rounds = (unsigned)arguments_count(arguments, "rounds");
    out->measure = (sqf_budget_measure)arguments_choice(arguments, "measure");
    out->objective = (sqf_budget_objective)arguments_choice(arguments, "minimize");
    return EXIT_DONE;
}

/* ---- what was chosen ---- */

static void print_other(const char *label, const sqf_budget_figures *figures)
{
    if (figures->setting) {
        printf("      %-8s %-48s %9.5f %8.4f %7.3f\n", label, figures->setting, figures->loss, figures->cost,
               figures->bits);
    }
}

void budget_print(const sqf_budget *budget)
{
    const sqf_budget_summary summary = sqf_budget_summary_get(budget);
    printf("%-37s %-22s %9s %8s %7s\n", "chosen for", "", "KL alone", "cost", "bits");
    for (size_t i = 0; i < sqf_budget_count(budget); i++) {
        const sqf_budget_choice choice = sqf_budget_at(budget, i);
        printf("%s (%.1f %% of the products)\n", choice.name, 100.0 * choice.share);
        print_other("chosen", &choice.chosen);
        print_other("better", &choice.better);
        print_other("cheaper", &choice.cheaper);
    }
    printf("loss on %zu held-out tokens %.3f +- %.3f %% (predicted %.3f %%, KL %.5f); %u model%s verified\n",
           summary.tokens, 100.0 * summary.loss, 100.0 * summary.loss_error, 100.0 * summary.predicted_loss, summary.kl,
           summary.rounds, summary.rounds == 1 ? "" : "s");
    printf("predicted cost %.4f of an 8-bit product: speed %.3f of W4A8's; %.4f stored bits a weight\n", summary.cost,
           summary.reference_cost / summary.cost, summary.bits);
    printf("measured %zu settings in %.1f s, %zu were known\n", summary.measured, summary.seconds,
           summary.candidates * summary.places - summary.measured);
}

static json_t *figures_json(const sqf_budget_figures *figures)
{
    if (!figures->setting) {
        return json_null();
    }
    json_t *object = json_object();
    json_object_set_new(object, "setting", json_string_or_null(figures->setting));
    json_object_set_new(object, "kl", json_number(figures->loss));
    json_object_set_new(object, "cost", json_number(figures->cost));
    json_object_set_new(object, "bits", json_number(figures->bits));
    return object;
}

static json_t *choices_json(const sqf_budget *budget)
{
    json_t *choices = json_array();
    for (size_t i = 0; i < sqf_budget_count(budget); i++) {
        const sqf_budget_choice choice = sqf_budget_at(budget, i);
        json_t *object = json_object();
        json_object_set_new(object, "name", json_string_or_null(choice.name));
        json_object_set_new(object, "share", json_number(choice.share));
        json_object_set_new(object, "chosen", figures_json(&choice.chosen));
        json_object_set_new(object, "better", figures_json(&choice.better));
        json_object_set_new(object, "cheaper", figures_json(&choice.cheaper));
        json_array_append_new(choices, object);
    }
    return choices;
}

json_t *budget_json(const sqf_budget *budget)
{
    const sqf_budget_summary summary = sqf_budget_summary_get(budget);
    const json_figure figures[] = {
        {"loss", summary.loss},
        {"loss_error", summary.loss_error},
        {"predicted_loss", summary.predicted_loss},
        {"kl", summary.kl},
        {"cost", summary.cost},
        {"reference_cost", summary.reference_cost},
        {"bits", summary.bits},
        {"interaction", summary.interaction},
    };
    json_t *object = json_object();
    json_set_numbers(object, figures, sizeof figures / sizeof *figures);
    json_object_set_new(object, "rounds", json_count(summary.rounds));
    json_object_set_new(object, "measured", json_count(summary.measured));
    json_object_set_new(object, "seconds", json_number(summary.seconds));
    json_object_set_new(object, "held_out_tokens", json_count(summary.tokens));
    json_object_set_new(object, "places", choices_json(budget));
    return object;
}

/* ---- options ---- */

/* in the orders of sqf_budget_measure and sqf_budget_objective */
static const char *const measures[] = {"full", "slope", NULL};
static const char *const objectives[] = {"cost", "bits", NULL};

const cli_option budget_options[] = {
    {.name = "target-loss",
     .kind = OPTION_TEXT,
     .value = "LOSS",
     .text = "choose settings for every input so that perplexity grows by at most this on held-out text: 1% or 0.01. "
             "Among such choices the one with the least predicted cost is taken, see --minimize"},
    {.name = "target-bits",
     .kind = OPTION_TEXT,
     .value = "BITS",
     .text =
         "choose settings with at most so many stored bits a weight, or as many as this scheme; alone, for the least "
         "loss"},
    {.name = "target-speed",
     .kind = OPTION_TEXT,
     .value = "SPEED",
     .text =
         "choose settings at least so many times as fast as W4A8 by predicted cost, or as fast as this scheme; alone, "
         "for the least loss"},
    {.name = "minimize",
     .kind = OPTION_CHOICE,
     .standard = "cost",
     .choices = objectives,
     .text = "with --target-loss: what is made small"},
    {.name = "candidates",
     .kind = OPTION_TEXT,
     .value = "LIST",
     .text = "with a target: the settings to choose from, separated by commas; each is a scheme and recipe keys, as in "
             "'w4a4, w4a-sq5|w4a-sq6 mask=l2 act_scale=token|group'; | stands for one candidate each"},
    {.name = "held-out",
     .kind = OPTION_TEXT,
     .value = "FILE",
     .text = "with a target: text to measure and verify with. Without it the last quarter of the calibration text is "
             "left out of calibration and taken"},
    {.name = "held-out-windows",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "16",
     .least = 1,
     .most = 1 << 16,
     .text = "with a target: windows of held-out text, as long as those of calibration"},
    {.name = "measure",
     .kind = OPTION_CHOICE,
     .standard = "full",
     .choices = measures,
     .text = "with a target: run the rest of the model for every setting, or for one a place and scale the others by "
             "their output error"},
    {.name = "sensitivity",
     .kind = OPTION_TEXT,
     .value = "FILE",
     .text =
         "with a target: budget.json of an earlier run; what it holds is not measured again. It must have been made "
         "with the same model, texts, seed and recipe"},
    {.name = "rounds",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "6",
     .least = 1,
     .most = 1000,
     .text = "with --target-loss: models to quantize and verify at most"},
};
const size_t budget_option_count = sizeof budget_options / sizeof budget_options[0];
