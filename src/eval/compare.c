/* How the weights of two models of one shape differ, after undoing what smoothing moved between matrices.
 *
 * SmoothQuant scales the columns of a matrix by t and what produces them by 1/t, without changing the model
 * (docs/format.md section 4); compared as they stand, two such models differ everywhere. What was moved can be found
 * again. For q, k, v, gate and up the producer is a norm, whose weights are stored on both sides: t is their
 * quotient. For o and down the producer is v or up, which is quantized itself: the factor of each of its rows is
 * fitted by least squares, and its inverse applied to the columns that read it.
 *
 * Rows are read, compared and forgotten one at a time, so memory does not depend on the models. */
#include <math.h>
#include <string.h>

#include "eval/inspection.h"
#include "kernels/ops.h"

/* One side of a comparison: a model, and the matrix of it that is being read. Exactly one of `stored` and `tensor` is
 * in use. */
typedef struct side {
    const sqf_checkpoint *checkpoint;
    sqf_stored_linear stored; /* of the matrix at hand, if it is quantized */
    const sqf_tensor *tensor; /* else its tensor */
    sqf_row row;              /* scratch */
    float *values;            /* [columns] the row that was read last */
} side;

/* Factors that give B's weights the scale of A's; NULL = 1. Column factors are applied before rows are fitted. */
typedef struct unfold {
    const float *columns; /* known: [columns] */
    bool fit_rows;        /* the best factor of each row is found and used */
    float *rows;          /* [rows] receives it */
} unfold;

/* The state of one comparison. */
typedef struct comparison {
    sqf_context *context;
    side a, b;
    sqf_compare_fn report;
    void *user;
    sqf_compare_summary summary;
    double square_error, square; /* over all tensors */
    size_t done, total;
} comparison;

/* Makes the rows of a module readable, quantized or not. */
static sqf_status side_open(side *s, sqf_context *context, const char *module, size_t rows, size_t columns,
                            sqf_error *err)
{
    const sqf_scheme scheme = sqf_module_schemes_get(s->checkpoint->schemes, module);
    SQF_TRY(SQF_ALLOC(&s->values, columns, "a row", err));
    if (!sqf_weight_spec_is_dense(&scheme.weights)) {
        SQF_TRY(sqf_checkpoint_linear(s->checkpoint, context, module, rows, columns, &s->stored, err));
        return sqf_row_create(&s->stored.matrix, &s->row, err);
    }
    char name[SQF_MODULE_NAME];
    sqf_tensor_name(module, "weight", name);
    return sqf_checkpoint_dense(s->checkpoint, context, name, rows, columns, &s->tensor, err);
}

/* Ready for the next matrix. */
static void side_close(side *s)
{
    sqf_stored_linear_clear(&s->stored);
    sqf_row_clear(&s->row);
    free(s->values);
    *s = (side){.checkpoint = s->checkpoint};
}

/* Row n in original channel order. */
static void side_read(side *s, size_t n, size_t columns)
{
    if (s->tensor) {
        const size_t bytes = columns * sqf_dtype_bytes(s->tensor->dtype);
        sqf_to_float(sqf_dtype_type(s->tensor->dtype), s->tensor->data + n * bytes, columns, s->values);
    } else {
        sqf_matrix_dequantize_row(&s->stored.matrix, n, &s->row, s->values);
    }
}

/* Sums of one tensor. */
typedef struct tensor_sums {
    double square_error, square;
    float largest;
} tensor_sums;

/* Squares are summed in float64: a matrix has up to 2^31 elements of like size. */
static void add_row(tensor_sums *sums, const float *a, const float *b, float factor, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double off = (double)a[i] - (double)(factor * b[i]);
        sums->square_error += off * off;
        sums->square += (double)a[i] * (double)a[i];
        sums->largest = fabs(off) > (double)sums->largest ? (float)fabs(off) : sums->largest;
    }
}

/* |A - B|| / ||A|| from squares. 0 / 0 is 0 (both are zero), x / 0 infinite. */
static double relative(double square_error, double square)
{
    return square_error == 0 ? 0 : sqrt(square_error / square);
}

/* Adds the tensor to the summary and hands it out. */
static void finish_tensor(comparison *c, sqf_compare_entry *entry, const tensor_sums *sums)
{
    entry->relative_error = relative(sums->square_error, sums->square);
    entry->largest_error = (double)sums->largest;
    c->square_error += sums->square_error;
    c->square += sums->square;
    c->summary.tensors++;
    c->summary.identical += sums->square_error == 0;
    c->summary.unfolded |= entry->unfolded;
    c->summary.codes_compared += entry->codes_compared;
    c->summary.codes += entry->codes;
    c->summary.differing_codes += entry->differing_codes;
    c->summary.differing_scales += entry->differing_scales;
    if (c->report) {
        c->report(c->user, entry);
    }
}

/* Codes of one stored row, place by place. Both sides have been read: their rows are unpacked. */
static void compare_codes(const side *a, const side *b, sqf_compare_entry *entry)
{
    const sqf_matrix *matrix = &a->stored.matrix;
    for (size_t k = 0; k < matrix->columns; k++) {
        entry->differing_codes += a->row.mask[k] != b->row.mask[k] || a->row.value[k] != b->row.value[k];
    }
    for (size_t g = 0; g < matrix->group_count; g++) {
        entry->differing_scales += a->row.scale_low[g] != b->row.scale_low[g];
        entry->differing_scales += a->row.scale_high[g] != b->row.scale_high[g];
    }
    entry->codes += matrix->columns;
}

/* Codes are comparable where scheme and sections agree. Another order of channels shows as codes that differ. */
static bool same_layout(const side *a, const side *b)
{
    return !a->tensor && !b->tensor && a->stored.matrix.border == b->stored.matrix.border &&
           sqf_scheme_equal(&a->stored.scheme, &b->stored.scheme);
}

/* Codes are compared as they are stored, weights after B was scaled back. */
static void compare_rows(comparison *c, const unfold *u, sqf_compare_entry *entry)
{
    tensor_sums sums = {0};
    entry->codes_compared = same_layout(&c->a, &c->b);
    for (size_t n = 0; n < entry->rows; n++) {
        side_read(&c->a, n, entry->columns);
        side_read(&c->b, n, entry->columns);
        if (entry->codes_compared) {
            compare_codes(&c->a, &c->b, entry);
        }
        for (size_t k = 0; u->columns && k < entry->columns; k++) {
            c->b.values[k] *= u->columns[k];
        }
        const float factor = u->fit_rows ? sqf_fitted_factor(c->a.values, c->b.values, entry->columns) : 1.0f;
        if (u->rows) {
            u->rows[n] = factor;
        }
        add_row(&sums, c->a.values, c->b.values, factor, entry->columns);
    }
    finish_tensor(c, entry, &sums);
}

/* One weight matrix of both models. */
static sqf_status compare_matrix(comparison *c, const char *module, size_t rows, size_t columns, const unfold *u,
                                 sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    sqf_tensor_name(module, "weight", name);
    sqf_compare_entry entry = {
        .name = name, .rows = rows, .columns = columns, .unfolded = u->columns != NULL || u->fit_rows};
    sqf_status status = side_open(&c->a, c->context, module, rows, columns, err);
    if (status == SQF_OK) {
        status = side_open(&c->b, c->context, module, rows, columns, err);
    }
    if (status == SQF_OK) {
        compare_rows(c, u, &entry);
    }
    side_close(&c->a);
    side_close(&c->b);
    SQF_TRY(status);
    return sqf_progress(c->context, "tensors", ++c->done, c->total, err);
}

/* A norm or bias as floats on both sides, reported as it is. The arrays are the caller's to free. */
static sqf_status compare_vector(comparison *c, const char *name, size_t n, float **a, float **b, sqf_error *err)
{
    tensor_sums sums = {0};
    sqf_compare_entry entry = {.name = name, .rows = n, .columns = 1};
    SQF_TRY(sqf_checkpoint_floats(c->a.checkpoint, name, n, 0, a, err));
    SQF_TRY(sqf_checkpoint_floats(c->b.checkpoint, name, n, 0, b, err));
    add_row(&sums, *a, *b, 1.0f, n);
    finish_tensor(c, &entry, &sums);
    return SQF_OK;
}

/* A vector that no factor applies to. */
static sqf_status compare_plain_vector(comparison *c, const char *name, size_t n, sqf_error *err)
{
    float *a = NULL, *b = NULL;
    const sqf_status status = compare_vector(c, name, n, &a, &b, err);
    free(a);
    free(b);
    return status;
}

/* What one norm tells about smoothing: *factors = [n] b / a, or NULL if the norms are the same. */
static sqf_status compare_norm(comparison *c, size_t layer, const char *norm, size_t n, float **factors, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    float *a = NULL, *b = NULL;
    snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, norm);
    const sqf_status status = compare_vector(c, name, n, &a, &b, err);
    if (status == SQF_OK && memcmp(a, b, n * sizeof *a) != 0) {
        for (size_t i = 0; i < n; i++) {
            b[i] = a[i] != 0 ? b[i] / a[i] : 1.0f;
        }
        *factors = b;
        b = NULL;
    }
    free(a);
    free(b);
    return status;
}

/* Factors of one layer that smoothing moved. All NULL where it did not. */
typedef struct layer_factors {
    float *attention, *mlp; /* [hidden] from the norms */
    float *value, *up;      /* [rows of v, up] fitted */
    float *output;          /* [columns of o]: 1 / value, spread over the query heads of each group */
} layer_factors;

/* A linear layer with its bias; what smoothing did to a bias shows as an error. */
static sqf_status compare_linear(comparison *c, size_t layer, sqf_linear_kind kind, const unfold *u, sqf_error *err)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    size_t rows, columns;
    sqf_linear_name(layer, kind, module);
    sqf_linear_shape(&c->a.checkpoint->config, kind, &rows, &columns);
    SQF_TRY(compare_matrix(c, module, rows, columns, u, err));
    if (!sqf_linear_has_bias(&c->a.checkpoint->config, kind)) {
        return SQF_OK;
    }
    sqf_tensor_name(module, "bias", name);
    return compare_plain_vector(c, name, rows, err);
}

/* o reads what v wrote: the factors fitted to rows of v undo those in columns of o. Query heads of a group share one
 * head of v. */
static sqf_status compare_attention(comparison *c, size_t layer, layer_factors *f, sqf_error *err)
{
    const sqf_config *config = &c->a.checkpoint->config;
    const size_t value_rows = config->kv_heads * config->head_dim, output_columns = config->heads * config->head_dim;
    const bool smoothed = f->attention != NULL || f->mlp != NULL;
    const unfold input = {.columns = f->attention};
    if (smoothed) {
        SQF_TRY(SQF_ALLOC(&f->value, value_rows, "factors", err));
        SQF_TRY(SQF_ALLOC(&f->output, output_columns, "factors", err));
    }
    const unfold value = {.columns = f->attention, .fit_rows = smoothed, .rows = f->value};
    SQF_TRY(compare_linear(c, layer, SQF_LINEAR_Q, &input, err));
    SQF_TRY(compare_linear(c, layer, SQF_LINEAR_K, &input, err));
    SQF_TRY(compare_linear(c, layer, SQF_LINEAR_V, &value, err));
    const size_t group = config->heads / config->kv_heads;
    for (size_t k = 0; smoothed && k < output_columns; k++) {
        const size_t head = k / config->head_dim / group;
        f->output[k] = 1.0f / f->value[head * config->head_dim + k % config->head_dim];
    }
    const unfold output = {.columns = f->output};
    return compare_linear(c, layer, SQF_LINEAR_O, &output, err);
}

/* down reads gate times up: the factors sit in the rows of up. */
static sqf_status compare_mlp(comparison *c, size_t layer, layer_factors *f, sqf_error *err)
{
    const sqf_config *config = &c->a.checkpoint->config;
    const bool smoothed = f->attention != NULL || f->mlp != NULL;
    const unfold gate = {.columns = f->mlp};
    if (smoothed) {
        SQF_TRY(SQF_ALLOC(&f->up, config->intermediate, "factors", err));
    }
    const unfold up = {.columns = f->mlp, .fit_rows = smoothed, .rows = f->up};
    SQF_TRY(compare_linear(c, layer, SQF_LINEAR_GATE, &gate, err));
    SQF_TRY(compare_linear(c, layer, SQF_LINEAR_UP, &up, err));
    for (size_t k = 0; smoothed && k < config->intermediate; k++) {
        f->up[k] = 1.0f / f->up[k];
    }
    const unfold down = {.columns = f->up};
    return compare_linear(c, layer, SQF_LINEAR_DOWN, &down, err);
}

/* Norms first: their quotients are the factors of the matrices behind them. */
static sqf_status compare_layer(comparison *c, size_t layer, sqf_error *err)
{
    const sqf_config *config = &c->a.checkpoint->config;
    layer_factors f = {0};
    sqf_status status = compare_norm(c, layer, "input_layernorm", config->hidden, &f.attention, err);
    if (status == SQF_OK) {
        status = compare_norm(c, layer, "post_attention_layernorm", config->hidden, &f.mlp, err);
    }
    if (status == SQF_OK) {
        status = compare_attention(c, layer, &f, err);
    }
    if (status == SQF_OK) {
        status = compare_mlp(c, layer, &f, err);
    }
    free(f.attention);
    free(f.mlp);
    free(f.value);
    free(f.up);
    free(f.output);
    SQF_TRY(status);
    char name[SQF_MODULE_NAME];
    for (size_t i = 0; config->architecture->query_key_norm && i < 2; i++) {
        snprintf(name, sizeof name, "model.layers.%zu.self_attn.%s.weight", layer, i == 0 ? "q_norm" : "k_norm");
        SQF_TRY(compare_plain_vector(c, name, config->head_dim, err));
    }
    return SQF_OK;
}

/* Weights in different bases have nothing in common but the function that they compute. */
static sqf_status check_bases(const sqf_checkpoint *a, const sqf_checkpoint *b, sqf_error *err)
{
    const sqf_rotation_spec left = sqf_module_schemes_rotation(a->schemes);
    const sqf_rotation_spec right = sqf_module_schemes_rotation(b->schemes);
    if (strcmp(left.residual, right.residual) == 0 && strcmp(left.values, right.values) == 0 &&
        strcmp(left.down, right.down) == 0) {
        return SQF_OK;
    }
    return sqf_fail(
        err, SQF_E_ARG,
        "%s: rotation: expected residual %s, values %s, down %s as in %s, found %s, %s, %s; weights in another "
        "basis cannot be compared, outputs can (sqf eval --reference)",
        b->directory, left.residual, left.values, left.down, a->directory, right.residual, right.values, right.down);
}

/* The sizes that fix every tensor's shape. */
static sqf_status check_shapes(const sqf_checkpoint *a, const sqf_checkpoint *b, sqf_error *err)
{
    const struct {
        const char *name;
        size_t a, b;
    } sizes[] = {
        {"hidden_size", a->config.hidden, b->config.hidden},
        {"intermediate_size", a->config.intermediate, b->config.intermediate},
        {"num_hidden_layers", a->config.layers, b->config.layers},
        {"num_attention_heads", a->config.heads, b->config.heads},
        {"num_key_value_heads", a->config.kv_heads, b->config.kv_heads},
        {"head_dim", a->config.head_dim, b->config.head_dim},
        {"vocab_size", a->config.vocabulary, b->config.vocabulary},
        {"tie_word_embeddings", a->config.tied, b->config.tied},
    };
    if (a->config.architecture != b->config.architecture) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: architecture: expected %s as in %s, found %s", b->directory,
                        a->config.architecture->name, a->directory, b->config.architecture->name);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].a != sizes[i].b) {
            return sqf_fail(err, SQF_E_SHAPE, "%s: %s: expected %zu as in %s, found %zu", b->directory, sizes[i].name,
                            sizes[i].a, a->directory, sizes[i].b);
        }
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_has_bias(&a->config, (sqf_linear_kind)kind) !=
            sqf_linear_has_bias(&b->config, (sqf_linear_kind)kind)) {
            return sqf_fail(err, SQF_E_SHAPE, "%s: %s: bias: expected the same as in %s, found %s", b->directory,
                            sqf_linear_kind_name((sqf_linear_kind)kind), a->directory,
                            sqf_linear_has_bias(&b->config, (sqf_linear_kind)kind) ? "one" : "none");
        }
    }
    return SQF_OK;
}

/* The tensors in the order of the computation: embedding, layers, norm, output matrix. */
static sqf_status compare_all(comparison *c, sqf_error *err)
{
    const sqf_config *config = &c->a.checkpoint->config;
    const unfold none = {0};
    SQF_TRY(check_bases(c->a.checkpoint, c->b.checkpoint, err));
    SQF_TRY(check_shapes(c->a.checkpoint, c->b.checkpoint, err));
    c->total = config->layers * SQF_LINEAR_COUNT + (config->tied ? 1 : 2);
    SQF_TRY(compare_matrix(c, "model.embed_tokens", config->vocabulary, config->hidden, &none, err));
    for (size_t layer = 0; layer < config->layers; layer++) {
        SQF_TRY(compare_layer(c, layer, err));
    }
    SQF_TRY(compare_plain_vector(c, "model.norm.weight", config->hidden, err));
    return config->tied ? SQF_OK : compare_matrix(c, "lm_head", config->vocabulary, config->hidden, &none, err);
}

sqf_status sqf_compare_models(sqf_context *context, const char *directory_a, const char *directory_b,
                              sqf_compare_fn report, void *user, sqf_compare_summary *summary, sqf_error *err)
{
    sqf_checkpoint a = {0}, b = {0};
    comparison c = {.context = context, .report = report, .user = user};
    c.a.checkpoint = &a;
    c.b.checkpoint = &b;
    sqf_status status = sqf_checkpoint_open(directory_a, &a, err);
    if (status == SQF_OK) {
        status = sqf_checkpoint_open(directory_b, &b, err);
    }
    if (status == SQF_OK) {
        status = compare_all(&c, err);
    }
    if (status == SQF_OK && summary) {
        c.summary.relative_error = relative(c.square_error, c.square);
        *summary = c.summary;
    }
    sqf_checkpoint_close(&a);
    sqf_checkpoint_close(&b);
    return status;
}
