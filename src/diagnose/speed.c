/* Where speed is lost: what runs at which rate by the schemes and shapes of the file, which kernels are in use. */
#include <string.h>

#include "diagnose/work.h"
#include "format/type.h"

/* Thresholds: below them a finding would name what every sound model has. */
static const double dense_most = 0.02;  /* of the products, in modules left out */
static const double scale_most = 0.3;   /* of the predicted cost, for scaling sums */
static const double excess_most = 0.15; /* predicted cost above that of the scheme's name */

/* Sums over the decoder's linear layers. */
typedef struct work_sums {
    sqf_cost all;
    double nominal;     /* products times the cost that their schemes have for long rows */
    double dense, real; /* products of modules left out; of quantized weights in float */
    double weight_only; /* of these: activations are meant to be float */
    size_t left_out, floating;
    char first_left_out[SQF_MODULE_NAME];
    sqf_type float_type; /* of the first quantized operand without an integer path; NONE = none */
} work_sums;

/* The first part of a quantized scheme that the kernels compute in float; NONE if all is integers. */
static sqf_type float_part(const sqf_scheme *scheme)
{
    const sqf_type parts[] = {scheme->activations.low, scheme->activations.high, scheme->weights.low,
                              scheme->weights.high};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i] != SQF_TYPE_NONE && sqf_type_multiplier(parts[i]) == 0) {
            return parts[i];
        }
    }
    return SQF_TYPE_NONE;
}

static void add_module(const sqf_diagnose_work *work, size_t layer, sqf_linear_kind kind, work_sums *sums)
{
    size_t rows, columns;
    sqf_linear_shape(&work->quantized->checkpoint.config, kind, &rows, &columns);
    const sqf_scheme scheme = sqf_diagnose_scheme(work, layer, kind);
    const sqf_cost cost = sqf_cost_linear(&scheme, rows, columns);
    sqf_cost_add(&sums->all, &cost);
    sums->nominal += cost.products * sqf_scheme_cost(&scheme, NULL);
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        if (sums->left_out++ == 0) {
            sqf_linear_name(layer, kind, sums->first_left_out);
        }
        sums->dense += cost.products;
    } else if (float_part(&scheme) != SQF_TYPE_NONE) {
        const bool plain = sqf_act_spec_is_float(&scheme.activations);
        sums->real += cost.products;
        sums->weight_only += plain ? cost.products : 0;
        if (!plain && sums->floating++ == 0) {
            sums->float_type = float_part(&scheme);
        }
    }
}

static sqf_status find_left_out(sqf_diagnose_work *work, const work_sums *sums, sqf_error *err)
{
    const double share = sums->dense / sums->all.products;
    sqf_finding *f;
    if (share <= dense_most) {
        return SQF_OK;
    }
    SQF_TRY(sqf_diagnose_add(work, "left-dense", SQF_SEVERITY_WARNING, share, &f, err));
    snprintf(f->text, sizeof f->text, "%.1f %% of the products are in %zu modules that are not quantized, first %.100s",
             100 * share, sums->left_out, sums->first_left_out);
    snprintf(f->remedy, sizeof f->remedy,
             "take them off `ignore`, or give them a scheme of their own: overrides: [{match: '%.100s', scheme: w8a8}]",
             sums->first_left_out);
    return SQF_OK;
}

static sqf_status find_float(sqf_diagnose_work *work, const work_sums *sums, sqf_error *err)
{
    const double share = (sums->real - sums->weight_only) / sums->all.products;
    sqf_finding *f;
    if (share > 0) {
        SQF_TRY(sqf_diagnose_add(work, "float-products", SQF_SEVERITY_WARNING, share, &f, err));
        snprintf(f->where, sizeof f->where, "%zu modules", sums->floating);
        snprintf(
            f->text, sizeof f->text,
            "%.1f %% of the products run in float: %s has no integer path, both operands are quantized for nothing",
            100 * share, sqf_type_name(sums->float_type));
        snprintf(f->remedy, sizeof f->remedy, "integer types: scheme: w4a8, or high: int8 and act_high: int8");
    }
    if (sums->weight_only > 0) {
        SQF_TRY(sqf_diagnose_add(work, "float-products", SQF_SEVERITY_NOTE, sums->weight_only / sums->all.products, &f,
                                 err));
        snprintf(f->text, sizeof f->text,
                 "activations are float in %.1f %% of the products: smaller files, no faster arithmetic",
                 100 * sums->weight_only / sums->all.products);
    }
    return SQF_OK;
}

static sqf_status find_kernels(sqf_diagnose_work *work, sqf_error *err)
{
    const char *best = sqf_cpu_levels()[0];
    sqf_finding *f;
    if (strcmp(best, work->out->cpu_level) != 0) {
        SQF_TRY(sqf_diagnose_add(work, "slow-kernels", SQF_SEVERITY_WARNING, 1, &f, err));
        snprintf(f->text, sizeof f->text, "the kernels in use are %s, this machine has %s", work->out->cpu_level, best);
        snprintf(f->remedy, sizeof f->remedy, "leave SQF_CPU unset");
    } else if (strcmp(best, "scalar") == 0) {
        SQF_TRY(sqf_diagnose_add(work, "slow-kernels", SQF_SEVERITY_NOTE, 1, &f, err));
        snprintf(f->text, sizeof f->text, "this machine has no vector kernels: everything runs scalar");
    }
    return SQF_OK;
}

static sqf_status find_costs(sqf_diagnose_work *work, const work_sums *sums, sqf_error *err)
{
    const sqf_diagnosis *d = work->out;
    const double nominal = sums->nominal / sums->all.products;
    sqf_finding *f;
    if (d->scale_cost > scale_most * d->cost) {
        SQF_TRY(sqf_diagnose_add(work, "fine-scales", SQF_SEVERITY_WARNING, d->scale_cost / d->cost, &f, err));
        snprintf(f->text, sizeof f->text,
                 "scaling the sums of groups is %.0f %% of the predicted cost (%.3f of %.3f a product)",
                 100 * d->scale_cost / d->cost, d->scale_cost, d->cost);
        snprintf(f->remedy, sizeof f->remedy, "larger groups: bank_weights: 128, act_scale: token or act_group: 128");
    }
    /* what is left out or in float has its own finding: here are tails, borders and short rows */
    if (d->cost > (1 + excess_most) * nominal) {
        SQF_TRY(sqf_diagnose_add(work, "no-gain", SQF_SEVERITY_WARNING, d->cost / nominal - 1, &f, err));
        snprintf(f->text, sizeof f->text,
                 "predicted cost %.3f a product, %.0f %% above the %.3f that the schemes have on long rows: banks and "
                 "groups do not fit the shapes",
                 d->cost, 100 * (d->cost / nominal - 1), nominal);
        snprintf(f->remedy, sizeof f->remedy, "banks and groups that divide the columns: bank, act_bank, bank_weights");
    }
    return SQF_OK;
}

sqf_status sqf_diagnose_speed(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_config *config = &work->quantized->checkpoint.config;
    sqf_diagnosis *d = work->out;
    work_sums sums = {0};
    for (size_t layer = 0; layer < config->layers; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            add_module(work, layer, (sqf_linear_kind)kind, &sums);
        }
    }
    const sqf_cost_model model = sqf_cost_model_default();
    d->low_rate_share = sums.all.low / sums.all.products;
    d->dense_share = sums.dense / sums.all.products;
    d->float_share = sums.real / sums.all.products;
    d->cost = sqf_cost_per_product(&sums.all, &model);
    d->scale_cost = model.scale * sums.all.operations / sums.all.products;
    d->cpu_level = sqf_context_cpu(work->context);
    SQF_TRY(find_left_out(work, &sums, err));
    SQF_TRY(find_float(work, &sums, err));
    SQF_TRY(find_kernels(work, err));
    return find_costs(work, &sums, err);
}
