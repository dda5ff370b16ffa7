/* How banks, groups, sections and gather lists fit the shapes. */
#include <string.h>

#include "diagnose/work.h"
#include "kernels/kernels.h"

static const double tail_most = 0.02;    /* of the columns, in banks cut short */
static const double short_most = 0.25;   /* of the columns, in groups below half their size */
static const double padding_most = 0.05; /* of the padded columns */

/* One kind of misfit over all modules: columns weigh by the rows that they cost. */
typedef struct misfit {
    double lost, all; /* products */
    size_t modules;
    char worst[SQF_MODULE_NAME]; /* the module that loses the largest part */
    double worst_share;
    size_t columns, size; /* of it */
} misfit;

static void add_misfit(misfit *m, const char *name, size_t rows, size_t columns, size_t lost, size_t size)
{
    const double share = (double)lost / (double)columns;
    m->lost += (double)rows * (double)lost;
    m->all += (double)rows * (double)columns;
    m->modules += lost > 0;
    if (share > m->worst_share) {
        m->worst_share = share;
        snprintf(m->worst, sizeof m->worst, "%s", name);
        m->columns = columns;
        m->size = size;
    }
}

static double part_lost(const misfit *m)
{
    return m->all > 0 ? m->lost / m->all : 0;
}

/* Columns in ranges shorter than `below`. */
static size_t short_columns(const sqf_partition *partition, size_t below)
{
    size_t sum = 0;
    const size_t count = sqf_partition_count(partition);
    for (size_t i = 0; i < count; i++) {
        size_t begin, end;
        sqf_partition_range(partition, i, &begin, &end);
        sum += end - begin < below ? end - begin : 0;
    }
    return sum;
}

/* Columns that padding adds: stretches of constant scales begin at multiples of SQF_SEGMENT_PAD. */
static size_t padding(const sqf_partition *a, const sqf_partition *b)
{
    size_t added = 0;
    for (size_t begin = 0, end; begin < a->columns; begin = end) {
        size_t first, next[2];
        sqf_partition_range(a, sqf_partition_find(a, begin), &first, &next[0]);
        sqf_partition_range(b, sqf_partition_find(b, begin), &first, &next[1]);
        end = next[0] < next[1] ? next[0] : next[1];
        added += sqf_ceil_div(end - begin, SQF_SEGMENT_PAD) * SQF_SEGMENT_PAD - (end - begin);
    }
    return added;
}

/* All that can be seen in one module's scheme and shape. */
typedef struct misfits {
    misfit banks, groups, pads;
} misfits;

static void add_module(const sqf_diagnose_work *work, size_t layer, sqf_linear_kind kind, misfits *m)
{
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    sqf_linear_name(layer, kind, name);
    sqf_linear_shape(&work->quantized->checkpoint.config, kind, &rows, &columns);
    const sqf_scheme scheme = sqf_diagnose_scheme(work, layer, kind);
    const sqf_weight_spec *w = &scheme.weights;
    const sqf_act_spec *a = &scheme.activations;
    if (sqf_weight_spec_is_dense(w)) {
        return;
    }
    const size_t border = sqf_scheme_border(&scheme, columns);
    const sqf_partition groups = sqf_partition_make(columns, border, w->group);
    const bool grouped = !sqf_act_spec_is_float(a) && a->scale == SQF_ACT_GROUP && a->group > 0;
    const sqf_partition inputs = grouped ? sqf_partition_make(columns, border, a->group) : groups;
    if (w->high_per_bank > 0) {
        const sqf_partition banks = sqf_partition_make(columns, border, w->bank);
        add_misfit(&m->banks, name, rows, columns, short_columns(&banks, w->bank), w->bank);
    }
    if (sqf_act_spec_is_split(a)) { /* banks of consecutive channels, before they are reordered */
        add_misfit(&m->banks, name, rows, columns, columns % a->bank, a->bank);
    }
    if (w->group > 0) {
        add_misfit(&m->groups, name, rows, columns, short_columns(&groups, (w->group + 1) / 2), w->group);
    }
    if (grouped) {
        add_misfit(&m->groups, name, rows, columns, short_columns(&inputs, (a->group + 1) / 2), a->group);
    }
    add_misfit(&m->pads, name, rows, columns, padding(&groups, &inputs), SQF_SEGMENT_PAD);
}

static sqf_status report_misfits(sqf_diagnose_work *work, const misfits *m, sqf_error *err)
{
    sqf_finding *f;
    if (part_lost(&m->banks) > tail_most) {
        SQF_TRY(sqf_diagnose_add(work, "tail-banks", SQF_SEVERITY_WARNING, part_lost(&m->banks), &f, err));
        snprintf(f->where, sizeof f->where, "%zu modules", m->banks.modules);
        snprintf(f->text, sizeof f->text,
                 "%.1f %% of the columns are in banks cut short, most in %.60s: %zu columns (a section may hold fewer) "
                 "in banks of %zu",
                 100 * part_lost(&m->banks), m->banks.worst, m->banks.columns, m->banks.size);
        snprintf(f->remedy, sizeof f->remedy, "a bank that divides the columns: bank, act_bank: 16, 32 or 64");
    }
    if (part_lost(&m->groups) > short_most) {
        SQF_TRY(sqf_diagnose_add(work, "short-groups", SQF_SEVERITY_WARNING, part_lost(&m->groups), &f, err));
        snprintf(f->where, sizeof f->where, "%zu modules", m->groups.modules);
        snprintf(f->text, sizeof f->text,
                 "%.1f %% of the columns are in scale groups below half their size, most in %.60s: %zu columns in "
                 "groups of %zu that restart at the border of low and high",
                 100 * part_lost(&m->groups), m->groups.worst, m->groups.columns, m->groups.size);
        snprintf(f->remedy, sizeof f->remedy,
                 "groups that fit both sections: bank_weights or act_group of a size that "
                 "divides them");
    }
    if (part_lost(&m->pads) > padding_most) {
        SQF_TRY(sqf_diagnose_add(work, "padding", SQF_SEVERITY_WARNING, part_lost(&m->pads), &f, err));
        snprintf(f->where, sizeof f->where, "%zu modules", m->pads.modules);
        snprintf(f->text, sizeof f->text,
                 "padding adds %.1f %% to the products, most in %.60s: stretches of constant scales are filled up to "
                 "multiples of %d columns",
                 100 * part_lost(&m->pads), m->pads.worst, SQF_SEGMENT_PAD);
        snprintf(f->remedy, sizeof f->remedy, "bank, bank_weights and act_group that are multiples of %d",
                 SQF_SEGMENT_PAD);
    }
    return SQF_OK;
}

/* ---- gather lists ---- */

typedef struct gathers {
    size_t inputs, channels, runs; /* of the inputs that are gathered while they are quantized */
    size_t down, folded;           /* down_proj's: all, and those that gate and up deliver in order */
} gathers;

static void add_list(const sqf_tensor *tensor, gathers *g)
{
    const size_t count = tensor->bytes / sizeof(int32_t);
    int32_t last = -2;
    for (size_t i = 0; i < count; i++) {
        int32_t channel;
        memcpy(&channel, tensor->data + i * sizeof channel, sizeof channel);
        g->runs += channel != last + 1;
        last = channel;
    }
    g->channels += count;
    g->inputs++;
}

static void add_gathers(const sqf_diagnose_work *work, size_t layer, gathers *g)
{
    static const sqf_linear_kind readers[SQF_INPUT_COUNT] = {SQF_LINEAR_Q, SQF_LINEAR_O, SQF_LINEAR_GATE,
                                                             SQF_LINEAR_DOWN};
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
        sqf_linear_name(layer, readers[input], module);
        sqf_tensor_name(module, SQF_PART_CHANNELS, name);
        const sqf_tensor *tensor = sqf_tensors_find(work->quantized->checkpoint.tensors, name);
        const bool folded = input == SQF_INPUT_DOWN && work->quantized->layers[layer].down_order;
        if (tensor && input == SQF_INPUT_DOWN) {
            g->down++;
            g->folded += folded;
        }
        if (tensor && !folded) {
            add_list(tensor, g);
        }
    }
}

static sqf_status report_gathers(sqf_diagnose_work *work, const gathers *g, sqf_error *err)
{
    const bool rotated = sqf_module_schemes_rotation(work->quantized->checkpoint.schemes).down_factor > 0;
    sqf_finding *f;
    if (g->folded < g->down) {
        const sqf_severity severity = rotated ? SQF_SEVERITY_NOTE : SQF_SEVERITY_WARNING;
        SQF_TRY(sqf_diagnose_add(work, "gather-not-folded", severity, (double)(g->down - g->folded), &f, err));
        snprintf(f->where, sizeof f->where, "%zu of %zu layers", g->down - g->folded, g->down);
        snprintf(f->text, sizeof f->text, "down_proj's input is gathered at run time: %s",
                 rotated ? "it is rotated first"
                         : "gate_proj or up_proj is not quantized and cannot deliver it in order");
        if (!rotated) {
            snprintf(f->remedy, sizeof f->remedy, "quantize gate_proj and up_proj of the layer too");
        }
    }
    if (g->inputs > 0) {
        SQF_TRY(sqf_diagnose_add(work, "scattered-gather", SQF_SEVERITY_NOTE, (double)g->runs / (double)g->channels, &f,
                                 err));
        snprintf(f->text, sizeof f->text,
                 "%zu inputs are gathered while they are quantized, in runs of %.1f consecutive channels; down_proj's "
                 "order is folded into gate_proj and up_proj in %zu of %zu layers",
                 g->inputs, (double)g->channels / (double)g->runs, g->folded, g->down);
    }
    return SQF_OK;
}

sqf_status sqf_diagnose_alignment(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_config *config = &work->quantized->checkpoint.config;
    misfits m = {0};
    gathers g = {0};
    for (size_t layer = 0; layer < config->layers; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            add_module(work, layer, (sqf_linear_kind)kind, &m);
        }
        add_gathers(work, layer, &g);
    }
    SQF_TRY(report_misfits(work, &m, err));
    return report_gathers(work, &g, err);
}
