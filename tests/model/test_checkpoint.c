/* Model directories: damaged ones are refused by name, quantized ones compute what their dequantized weights say. */
#include "tiny.h"

#include "format/partition.h"

static const char small_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":36,\"intermediate_size\":50,\"num_attention_heads\":6,"
    "\"num_key_value_heads\":2,\"num_hidden_layers\":1,\"vocab_size\":31,\"max_position_embeddings\":32,"
    "\"mlp_bias\":true,\"tie_word_embeddings\":true}";

static json_t *parse_json(const char *text)
{
    sqf_error err = {0};
    json_t *json;
    must(sqf_json_parse(text, strlen(text), "test", &json, &err), &err);
    return json;
}

static void make_small(tiny *t, sqf_dtype dtype)
{
    json_t *json = parse_json(small_config);
    tiny_create(t, json, dtype, 0);
    json_decref(json);
}

static sqf_context *make_context(void)
{
    sqf_error err = {0};
    sqf_context *context;
    must(sqf_context_create(NULL, &context, &err), &err);
    return context;
}

static void expect_refusal(const tiny *t, sqf_status status, const char *message)
{
    sqf_error err = {0};
    sqf_model *model;
    sqf_context *context = make_context();
    const sqf_status found = sqf_model_open(context, t->path, &model, &err);
    if (found != status || !strstr(err.text, message)) {
        fail_msg("expected \"%s\", found status %d \"%s\"", message, (int)found, err.text);
    }
    assert_null(model);
    sqf_context_destroy(context);
}

/* Copies the model's tensors into a new file, through `change`: false leaves the tensor out. */
static void rewrite(tiny *t, bool (*change)(sqf_tensor *tensor), const char *extra)
{
    sqf_error err = {0};
    sqf_tensors *tensors;
    tiny copy = {.path = "/tmp/sqf-copy-XXXXXX"};
    char command[256];
    assert_non_null(mkdtemp(copy.path));
    must(sqf_tensors_open(t->path, &tensors, &err), &err);
    must(sqf_tensor_writer_create(copy.path, 0, &copy.writer, &err), &err);
    for (size_t i = 0; i < sqf_tensors_count(tensors); i++) {
        sqf_tensor tensor = *sqf_tensors_at(tensors, i);
        uint8_t *bytes = malloc(tensor.bytes + 8);
        memcpy(bytes, tensor.data, tensor.bytes);
        tensor.data = bytes;
        if (change(&tensor)) {
            must(sqf_tensor_writer_add(copy.writer, tensor.name, tensor.dtype, tensor.dimensions, tensor.shape, bytes,
                                       &err),
                 &err);
        }
        free(bytes);
    }
    if (extra) {
        const size_t shape[] = {2};
        must(sqf_tensor_writer_add(copy.writer, extra, SQF_DTYPE_U8, 1, shape, "xy", &err), &err);
    }
    must(sqf_tensor_writer_finish(copy.writer, &err), &err);
    sqf_tensor_writer_destroy(copy.writer);
    sqf_tensors_close(tensors);
    snprintf(command, sizeof command, "mv '%s/model.safetensors' '%s/' && rmdir '%s'", copy.path, t->path, copy.path);
    assert_int_equal(system(command), 0);
}

#define UP "model.layers.0.mlp.up_proj.weight"

static bool keep(sqf_tensor *tensor)
{
    (void)tensor;
    return true;
}

static bool drop_up(sqf_tensor *tensor)
{
    return strcmp(tensor->name, UP) != 0;
}

static bool transpose_up(sqf_tensor *tensor)
{
    if (strcmp(tensor->name, UP) == 0) {
        tensor->shape[0] = 36;
        tensor->shape[1] = 50;
    }
    return true;
}

static bool flatten_norm(sqf_tensor *tensor)
{
    if (strcmp(tensor->name, "model.norm.weight") == 0) {
        tensor->dimensions = 2;
        tensor->shape[1] = 1;
    }
    return true;
}

static bool integer_up(sqf_tensor *tensor)
{
    if (strcmp(tensor->name, UP) == 0) {
        tensor->dtype = SQF_DTYPE_I32;
    }
    return true;
}

/* Row 1, column 2 of up_proj. */
static bool nan_up(sqf_tensor *tensor)
{
    const float value = NAN;
    if (strcmp(tensor->name, UP) == 0) {
        memcpy((uint8_t *)(uintptr_t)tensor->data + (36 + 2) * sizeof value, &value, sizeof value);
    }
    return true;
}

static bool infinite_norm(sqf_tensor *tensor)
{
    const float value = -INFINITY;
    if (strcmp(tensor->name, "model.layers.0.input_layernorm.weight") == 0) {
        memcpy((uint8_t *)(uintptr_t)tensor->data + 7 * sizeof value, &value, sizeof value);
    }
    return true;
}

static void test_damaged_models_are_refused_by_name(void **state)
{
    static const struct {
        bool (*change)(sqf_tensor *tensor);
        const char *extra;
        sqf_status status;
        const char *message;
    } cases[] = {
        {drop_up, NULL, SQF_E_FORMAT, "tensor " UP ": expected it, found nothing"},
        {transpose_up, NULL, SQF_E_SHAPE, "tensor " UP ": shape: expected [50, 36], found [36, 50]"},
        {flatten_norm, NULL, SQF_E_SHAPE, "tensor model.norm.weight: shape: expected [36], found [36, 1]"},
        {integer_up, NULL, SQF_E_SUPPORT, "tensor " UP ": dtype: expected BF16, F16 or F32, found I32"},
        {nan_up, NULL, SQF_E_VALUE, "tensor " UP ": row 1 column 2: expected a finite number, found nan"},
        {infinite_norm, NULL, SQF_E_VALUE,
         "input_layernorm.weight: row 7 column 0: expected a finite number, found -inf"},
        {keep, "model.layers.0.self_attn.q_proj.bias", SQF_E_FORMAT, "q_proj.bias: expected none of this name"},
        {keep, "model.layers.1.mlp.up_proj.weight", SQF_E_FORMAT, "model.layers.1.mlp.up_proj.weight: expected none"},
        {keep, "lm_head.bias", SQF_E_FORMAT, "lm_head.bias: expected none of this name"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny t;
        make_small(&t, SQF_DTYPE_F32);
        rewrite(&t, cases[i].change, cases[i].extra);
        expect_refusal(&t, cases[i].status, cases[i].message);
        tiny_remove(&t);
    }
}

static void test_old_rotary_buffers_and_foreign_tensors_are_ignored(void **state)
{
    sqf_error err = {0};
    sqf_model *model;
    tiny t;
    (void)state;
    make_small(&t, SQF_DTYPE_F32);
    rewrite(&t, keep, "model.layers.0.self_attn.rotary_emb.inv_freq");
    rewrite(&t, keep, "vision.tower");
    sqf_context *context = make_context();
    must(sqf_model_open(context, t.path, &model, &err), &err);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    tiny_remove(&t);
}

static void test_bad_generation_configs_are_refused(void **state)
{
    static const struct {
        const char *text;
        const char *message;
    } cases[] = {
        {"[", "generation_config.json: not valid JSON"},
        {"[]", "generation_config.json: expected a JSON object"},
        {"{\"eos_token_id\":31}", "eos_token_id: expected ids from 0 to 30, found 31"},
        {"{\"eos_token_id\":[1,-1]}", "eos_token_id: expected ids from 0 to 30, found -1"},
        {"{\"temperature\":\"hot\"}", "temperature: expected a number"},
        {"{\"top_p\":1.5}", "top_p: expected 0 to 1, found 1.5"},
        {"{\"top_k\":-1}", "top_k: expected a whole number"},
    };
    tiny t;
    (void)state;
    make_small(&t, SQF_DTYPE_BF16);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_write(&t, "generation_config.json", cases[i].text);
        expect_refusal(&t, SQF_E_FORMAT, cases[i].message);
    }
    tiny_remove(&t);
}

/* ---- quantized models ---- */

/* Which stored column of each bank is high: the k largest. */
static void choose_masks(const sqf_matrix *m, const float *w, uint8_t *mask)
{
    float score[64];
    memset(mask, 0, m->columns);
    for (size_t b = 0; m->spec.high_per_bank > 0 && b < sqf_partition_count(&m->banks); b++) {
        size_t begin, end;
        sqf_partition_range(&m->banks, b, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            score[j - begin] = fabsf(w[j]);
        }
        sqf_select_top(score, end - begin, sqf_bank_high(m->spec.bank, m->spec.high_per_bank, end - begin),
                       mask + begin);
    }
}

/* Rounds one row of weights, given in stored order, and packs it. */
static void pack(sqf_matrix *m, size_t n, const float *w, sqf_row *row)
{
    choose_masks(m, w, row->mask);
    for (size_t g = 0; g < m->group_count; g++) {
        size_t begin, end;
        sqf_partition_range(&m->groups, g, &begin, &end);
        const sqf_group_scales s =
            sqf_group_scales_choose(&m->spec, w + begin, row->mask + begin, NULL, end - begin, false);
        row->scale_low[g] = s.low;
        row->scale_high[g] = s.high;
        row->shift[g] = s.shift;
        for (size_t j = begin; j < end; j++) {
            row->value[j] =
                row->mask[j] ? sqf_type_round(m->spec.high, w[j], s.high) : sqf_type_round(m->spec.low, w[j], s.low);
        }
    }
    sqf_matrix_pack_row(m, n, row);
}

/* The low section, then the high one: every third channel of a bank first, until it has its count. */
static void choose_channels(const sqf_act_spec *act, size_t columns, int32_t *channels)
{
    const sqf_partition banks = sqf_partition_make(columns, columns, act->bank);
    uint8_t *mask = calloc(columns, 1);
    float score[64];
    for (size_t b = 0; b < sqf_partition_count(&banks); b++) {
        size_t begin, end;
        sqf_partition_range(&banks, b, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            score[j - begin] = (float)(j * 7 % 5);
        }
        sqf_select_top(score, end - begin, sqf_bank_high(act->bank, act->high_per_bank, end - begin), mask + begin);
    }
    size_t n = 0;
    for (uint8_t high = 0; high < 2; high++) {
        for (size_t j = 0; j < columns; j++) {
            if (mask[j] == high) {
                channels[n++] = (int32_t)j;
            }
        }
    }
    free(mask);
}

/* Both writers receive one linear layer: the quantized tensors, and what they dequantize to. */
static void add_quantized(tiny *quantized, tiny *dense, const sqf_scheme *scheme, const char *module, size_t rows,
                          size_t columns)
{
    sqf_error err = {0};
    char name[SQF_MODULE_NAME];
    sqf_matrix m;
    sqf_row row;
    int32_t *channels = NULL;
    const size_t border = sqf_scheme_border(scheme, columns), shape[] = {rows, columns};
    if (border < columns) {
        channels = calloc(columns, sizeof *channels);
        choose_channels(&scheme->activations, columns, channels);
    }
    must(sqf_matrix_create(&scheme->weights, rows, columns, border, channels, &m, &err), &err);
    must(sqf_row_create(&m, &row, &err), &err);
    sqf_tensor_name(module, "weight", name);
    float *w = tiny_values(name, rows, columns), *stored = calloc(columns, sizeof *stored);
    for (size_t n = 0; n < rows; n++) {
        for (size_t j = 0; j < columns; j++) {
            stored[j] = w[n * columns + (channels ? (size_t)channels[j] : j)];
        }
        pack(&m, n, stored, &row);
        sqf_matrix_dequantize_row(&m, n, &row, w + n * columns);
    }
    must(sqf_tensor_writer_add(dense->writer, name, SQF_DTYPE_F32, 2, shape, w, &err), &err);
    sqf_stored_part parts[SQF_STORED_PARTS];
    sqf_matrix_part arrays[SQF_MATRIX_PARTS];
    size_t count;
    must(sqf_stored_parts(scheme, rows, columns, parts, &count, &err), &err);
    const size_t array_count = sqf_matrix_parts(&m, arrays);
    for (size_t i = 0; i < count; i++) {
        const sqf_dtype types[] = {SQF_DTYPE_U8,   SQF_DTYPE_I8,  SQF_DTYPE_F8_E4M3, SQF_DTYPE_F16,
                                   SQF_DTYPE_BF16, SQF_DTYPE_F32, SQF_DTYPE_I32};
        sqf_dtype dtype = SQF_DTYPE_OTHER;
        for (size_t d = 0; d < sizeof types / sizeof *types; d++) {
            dtype = strcmp(sqf_dtype_name(types[d]), parts[i].dtype) == 0 ? types[d] : dtype;
        }
        const float norms[64] = {1};
        const void *data = i < array_count                                   ? (const void *)*arrays[i].data
                           : strcmp(parts[i].suffix, SQF_PART_CHANNELS) == 0 ? (const void *)channels
                                                                             : (const void *)norms;
        sqf_tensor_name(module, parts[i].suffix, name);
        must(sqf_tensor_writer_add(quantized->writer, name, dtype, parts[i].dimensions, parts[i].shape, data, &err),
             &err);
    }
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
    free(channels);
    free(stored);
    free(w);
}

static void add_to_both(tiny *a, tiny *b, const char *name, size_t rows, size_t columns)
{
    tiny_add(a, name, rows, columns);
    tiny_add(b, name, rows, columns);
}

static void begin_directory(tiny *t, const json_t *config)
{
    sqf_error err = {0};
    char *text;
    *t = (tiny){.path = "/tmp/sqf-tiny-XXXXXX", .dtype = SQF_DTYPE_F32};
    assert_non_null(mkdtemp(t->path));
    must(sqf_json_print(config, &text, &err), &err);
    tiny_write(t, "config.json", text);
    free(text);
    must(sqf_tensor_writer_create(t->path, 0, &t->writer, &err), &err);
}

static void end_directory(tiny *t)
{
    sqf_error err = {0};
    must(sqf_tensor_writer_finish(t->writer, &err), &err);
    sqf_tensor_writer_destroy(t->writer);
}

/* The small model quantized, and the same with dequantized weights. `ignored` (may be NULL) stays dense. */
static void make_pair(tiny *quantized, tiny *dense, const char *scheme_name, const char *ignored)
{
    sqf_error err = {0};
    sqf_config config;
    sqf_scheme scheme;
    char text[SQF_SCHEME_TEXT];
    json_t *json = parse_json(small_config);
    must(sqf_config_parse(json, "small", &config, &err), &err);
    must(sqf_scheme_parse(scheme_name, &scheme, &err), &err);
    sqf_scheme_print(&scheme, SQF_SPELLING_LONG, text);
    begin_directory(dense, json);
    json_t *ignore = json_array();
    if (ignored) {
        json_array_append_new(ignore, json_string(ignored));
    }
    json_object_set_new(json, "quantization_config",
                        json_pack("{s:s, s:i, s:s, s:o}", "quant_method", "sq-format", "format_version", 1, "scheme",
                                  text, "ignore", ignore));
    begin_directory(quantized, json);
    json_decref(json);
    add_to_both(quantized, dense, "model.embed_tokens.weight", config.vocabulary, config.hidden);
    add_to_both(quantized, dense, "model.norm.weight", config.hidden, 0);
    add_to_both(quantized, dense, "model.layers.0.input_layernorm.weight", config.hidden, 0);
    add_to_both(quantized, dense, "model.layers.0.post_attention_layernorm.weight", config.hidden, 0);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
        size_t rows, columns;
        sqf_linear_name(0, (sqf_linear_kind)kind, module);
        sqf_linear_shape(&config, (sqf_linear_kind)kind, &rows, &columns);
        sqf_tensor_name(module, "weight", name);
        if (ignored && strcmp(module, ignored) == 0) {
            add_to_both(quantized, dense, name, rows, columns);
        } else {
            add_quantized(quantized, dense, &scheme, module, rows, columns);
        }
        if (sqf_linear_has_bias(&config, (sqf_linear_kind)kind)) {
            sqf_tensor_name(module, "bias", name);
            add_to_both(quantized, dense, name, rows, 0);
        }
    }
    end_directory(quantized);
    end_directory(dense);
}

enum { TOKENS = 24, SMALL_VOCABULARY = 31 };

static float *logits_of(const tiny *t, sqf_product_counts *counts)
{
    sqf_error err = {0};
    uint32_t ids[TOKENS];
    fixture f = {.context = make_context(), .vocabulary = SMALL_VOCABULARY};
    sqf_session *session;
    for (uint32_t i = 0; i < TOKENS; i++) {
        ids[i] = i * 7 % SMALL_VOCABULARY;
    }
    must(sqf_model_open(f.context, t->path, &f.model, &err), &err);
    float *logits = run(&f, ids, TOKENS, &session);
    *counts = sqf_context_products(f.context);
    sqf_session_destroy(session);
    sqf_model_destroy(f.model);
    sqf_context_destroy(f.context);
    return logits;
}

/* sqrt of the mean squared difference over that of b. */
static double relative_error(const float *a, const float *b)
{
    double error = 0, energy = 0;
    for (size_t i = 0; i < (size_t)TOKENS * SMALL_VOCABULARY; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        energy += (double)b[i] * (double)b[i];
    }
    return sqrt(error / energy);
}

/* Float activations must agree closely, 8 bits nearly; a permutation applied twice or not at all gives more than 0.5.
 */
static void test_quantized_models_compute_their_dequantized_weights(void **state)
{
    static const struct {
        const char *scheme, *ignored;
        double limit;
        bool integer;
    } cases[] = {
        {"low=int4,group=16;low=fp32", NULL, 1e-5, false},
        {"low=int4,high=int8,bank=16,high_per_bank=5,group=16;low=fp32", NULL, 1e-5, false},
        {"low=int4,high=int8,bank=16,high_per_bank=5,group=16,layout=bitmask;low=fp32", "model.layers.0.mlp.up_proj",
         1e-5, false},
        {"low=none,high=int8,bank=4,high_per_bank=2,group=16,layout=bitmask;low=fp32", NULL, 1e-5, false},
        {"low=fp4,group=16,scale_type=fp8;low=fp32", NULL, 1e-5, false},
        {"low=fp6,group=32,scale_type=e8m0;low=fp32", NULL, 1e-5, false},
        {"low=fp6e3m2,high=fp8e5m2,bank=32,high_per_bank=3,group=16,scale_type=e8m0;low=fp32", NULL, 1e-5, false},
        {"low=fp6,group=16,scale_type=e8m0;low=int8,scale_type=e8m0", NULL, 6e-2, true},
        {"low=int4,high=int8,bank=16,high_per_bank=5,group=16,scales=tied;low=int8", NULL, 3e-2, true},
        {"low=int8,group=16;low=int8,high=int8,bank=16,high_per_bank=4", NULL, 3e-2, true},
        {"low=int8,group=16;low=int8,high=int8,bank=16,high_per_bank=4", "model.layers.0.mlp.gate_proj", 3e-2, true},
        {"low=int8,group=16;low=int8,high=int8,bank=16,high_per_bank=4,mask=dynamic", NULL, 3e-2, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny quantized, dense;
        sqf_product_counts counts, dense_counts;
        make_pair(&quantized, &dense, cases[i].scheme, cases[i].ignored);
        float *a = logits_of(&quantized, &counts), *b = logits_of(&dense, &dense_counts);
        const double error = relative_error(a, b);
        print_message("%s: relative deviation %.2g\n", cases[i].scheme, error);
        assert_true(error < cases[i].limit);
        assert_int_equal(dense_counts.floating + dense_counts.integer_high + dense_counts.integer_low, 0);
        assert_true(cases[i].integer ? counts.integer_high > 0 && counts.floating == 0
                                     : counts.floating > 0 && counts.integer_high == 0);
        free(a);
        free(b);
        tiny_remove(&quantized);
        tiny_remove(&dense);
    }
}

static bool break_low(sqf_tensor *tensor)
{
    if (strcmp(tensor->name, "model.layers.0.self_attn.k_proj.sq_low") == 0) {
        ((uint8_t *)(uintptr_t)tensor->data)[0] = 0xff; /* two codes 15: the sentinel */
    }
    return true;
}

static bool swap_channels(sqf_tensor *tensor)
{
    if (strcmp(tensor->name, "model.layers.0.self_attn.k_proj.sq_channels") == 0) {
        int32_t *channels = (int32_t *)(uintptr_t)tensor->data;
        channels[0] = channels[1];
    }
    return true;
}

static bool drop_scale(sqf_tensor *tensor)
{
    return strcmp(tensor->name, "model.layers.0.self_attn.k_proj.sq_scale_low") != 0;
}

static bool rename_scale(sqf_tensor *tensor)
{
    if (strcmp(tensor->name, "model.layers.0.self_attn.k_proj.sq_scale_low") == 0) {
        tensor->dtype = SQF_DTYPE_BF16;
    }
    return true;
}

static bool damage_named(sqf_tensor *tensor, const char *suffix, size_t at, const void *bytes, size_t count)
{
    char name[SQF_MODULE_NAME];
    sqf_tensor_name("model.layers.0.self_attn.k_proj", suffix, name);
    if (strcmp(tensor->name, name) == 0) {
        memcpy((uint8_t *)(uintptr_t)tensor->data + at, bytes, count);
    }
    return true;
}

static bool spoil_scale(sqf_tensor *tensor)
{
    return damage_named(tensor, "sq_scale_low", 0, "\xff", 1); /* a NaN of fp8 and of e8m0 */
}

static bool spoil_fp8_scale(sqf_tensor *tensor)
{
    return damage_named(tensor, "sq_scale_low", 0, "\x80", 1); /* negative zero */
}

static bool spoil_unit(sqf_tensor *tensor)
{
    return damage_named(tensor, "sq_scale_unit", 4, "\0\0\xc0\x7f", 4); /* NaN */
}

static bool enlarge_unit(sqf_tensor *tensor)
{
    damage_named(tensor, "sq_scale_low", 0, "\x7e", 1);                     /* 448 */
    return damage_named(tensor, "sq_scale_unit", 0, "\xff\xff\x7f\x7f", 4); /* the largest float */
}

static bool drop_unit(sqf_tensor *tensor)
{
    return strcmp(tensor->name, "model.layers.0.self_attn.k_proj.sq_scale_unit") != 0;
}

/* Scales of one byte: NaN, signs, and a unit that is no number or too large for its scales. */
static void test_damaged_scales_of_block_formats_are_refused(void **state)
{
    static const char nv[] = "low=fp4,group=16,scale_type=fp8;low=fp32";
    static const char mx[] = "low=fp4,group=32,scale_type=e8m0;low=fp32";
    static const struct {
        const char *scheme;
        bool (*change)(sqf_tensor *tensor);
        sqf_status status;
        const char *message;
    } cases[] = {
        {nv, spoil_scale, SQF_E_VALUE, "k_proj.sq_scale_low: row 0 group 0: scale nan"},
        {nv, spoil_fp8_scale, SQF_E_VALUE, "k_proj.sq_scale_low: row 0 group 0: scale -0"},
        {nv, spoil_unit, SQF_E_VALUE, "k_proj.sq_scale_unit: element 1: expected a finite number from 0, found nan"},
        {nv, enlarge_unit, SQF_E_VALUE, "k_proj.sq_scale_low: row 0 group 0: scale inf"},
        {nv, drop_unit, SQF_E_FORMAT, "k_proj.sq_scale_unit: expected it, found nothing"},
        {mx, spoil_scale, SQF_E_VALUE, "k_proj.sq_scale_low: row 0 group 0: scale nan"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny quantized, dense;
        make_pair(&quantized, &dense, cases[i].scheme, NULL);
        rewrite(&quantized, cases[i].change, NULL);
        expect_refusal(&quantized, cases[i].status, cases[i].message);
        tiny_remove(&quantized);
        tiny_remove(&dense);
    }
}

static void test_damaged_quantized_models_are_refused(void **state)
{
    static const struct {
        bool (*change)(sqf_tensor *tensor);
        const char *extra;
        sqf_status status;
        const char *message;
    } cases[] = {
        {break_low, NULL, SQF_E_VALUE, "model.layers.0.self_attn.k_proj.sq_low: row 0"},
        {swap_channels, NULL, SQF_E_VALUE, "sq_channels"},
        {drop_scale, NULL, SQF_E_FORMAT, "k_proj.sq_scale_low: expected it, found nothing"},
        {rename_scale, NULL, SQF_E_FORMAT, "k_proj.sq_scale_low: dtype: expected F16, found BF16"},
        {keep, "model.layers.0.self_attn.k_proj.sq_mask", SQF_E_FORMAT, "sq_mask: expected none of this name"},
        {keep, "model.layers.0.self_attn.k_proj.weight", SQF_E_FORMAT, "k_proj.weight: expected none of this name"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny quantized, dense;
        make_pair(&quantized, &dense, "low=int4,group=16;low=int4,high=int8,bank=16,high_per_bank=4", NULL);
        rewrite(&quantized, cases[i].change, cases[i].extra);
        expect_refusal(&quantized, cases[i].status, cases[i].message);
        tiny_remove(&quantized);
        tiny_remove(&dense);
    }
}

static void test_facts_of_a_quantized_model(void **state)
{
    sqf_error err = {0};
    sqf_model *model;
    tiny quantized, dense;
    (void)state;
    make_pair(&quantized, &dense, "low=int8,group=16;low=int8", "model.layers.0.mlp.up_proj");
    sqf_context *context = make_context();
    must(sqf_model_open(context, quantized.path, &model, &err), &err);
    const sqf_model_info info = sqf_model_info_get(model);
    const size_t linear = 2 * 36 * 36 + 2 * 12 * 36 + 3 * 50 * 36, dense_up = 50 * 36;
    assert_int_equal(info.quantized_weights, linear - dense_up);
    assert_int_equal(info.parameters, linear + 50 + 50 + 36 + 31 * 36 + 3 * 36);
    assert_true(info.bits_per_weight > 8 && info.bits_per_weight < 20);
    assert_true(fabs(info.weights_equivalent_bits -
                     (8.0 * (double)(linear - dense_up) + 32.0 * (double)dense_up) / (double)linear) < 1e-9);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    tiny_remove(&quantized);
    tiny_remove(&dense);
}

static void test_overrides_must_name_modules(void **state)
{
    static const char *const names[] = {"model.layers.1.mlp.up_proj", "model.layers.0.mlp",
                                        "model.layers.00.mlp.up_proj", "up_proj", ""};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny t;
        make_small(&t, SQF_DTYPE_BF16);
        json_t *json = parse_json(small_config);
        json_object_set_new(json, "quantization_config",
                            json_pack("{s:s, s:i, s:s, s:[s]}", "quant_method", "sq-format", "format_version", 1,
                                      "scheme", "BF16", "ignore", names[i]));
        char *text = json_dumps(json, 0);
        tiny_write(&t, "config.json", text);
        expect_refusal(&t, SQF_E_FORMAT, "expected a linear layer of the model, found no such module");
        free(text);
        json_decref(json);
        tiny_remove(&t);
    }
}

/* Puts one space behind the header, so that no tensor is aligned, or flips a bit of the last byte. */
static void edit_file(const tiny *t, bool shift)
{
    sqf_error err = {0};
    sqf_buffer file, edited = {0};
    char path[96];
    uint64_t length;
    snprintf(path, sizeof path, "%s/model.safetensors", t->path);
    must(sqf_file_read(path, 1 << 24, &file, &err), &err);
    memcpy(&length, file.data, sizeof length);
    const size_t header_end = 8 + (size_t)length;
    length += shift;
    must(sqf_buffer_append(&edited, &length, sizeof length, &err), &err);
    must(sqf_buffer_append(&edited, file.data + 8, header_end - 8, &err), &err);
    must(sqf_buffer_append(&edited, " ", shift ? 1 : 0, &err), &err);
    must(sqf_buffer_append(&edited, file.data + header_end, file.size - header_end, &err), &err);
    edited.data[edited.size - 1] = (char)(edited.data[edited.size - 1] ^ (shift ? 0 : 1));
    must(sqf_file_write(path, edited.data, edited.size, &err), &err);
    free(file.data);
    free(edited.data);
}

static void test_unaligned_files_compute_the_same(void **state)
{
    tiny pair[2];
    sqf_product_counts counts;
    (void)state;
    make_pair(&pair[0], &pair[1], "low=int8,group=16;low=int8,high=int8,bank=16,high_per_bank=4", NULL);
    for (size_t i = 0; i < 2; i++) {
        float *aligned = logits_of(&pair[i], &counts);
        edit_file(&pair[i], true);
        float *unaligned = logits_of(&pair[i], &counts);
        assert_memory_equal(aligned, unaligned, sizeof *aligned * TOKENS * SMALL_VOCABULARY);
        free(aligned);
        free(unaligned);
        tiny_remove(&pair[i]);
    }
}

static void test_flipped_bit_fails_its_hash(void **state)
{
    tiny quantized, dense;
    (void)state;
    make_pair(&quantized, &dense, "low=int8,group=16;low=int8", NULL);
    edit_file(&quantized, false);
    edit_file(&dense, false);
    expect_refusal(&quantized, SQF_E_HASH, "content hash: expected");
    expect_refusal(&dense, SQF_E_HASH, "content hash: expected");
    tiny_remove(&quantized);
    tiny_remove(&dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damaged_models_are_refused_by_name),
        cmocka_unit_test(test_old_rotary_buffers_and_foreign_tensors_are_ignored),
        cmocka_unit_test(test_bad_generation_configs_are_refused),
        cmocka_unit_test(test_quantized_models_compute_their_dequantized_weights),
        cmocka_unit_test(test_damaged_quantized_models_are_refused),
        cmocka_unit_test(test_damaged_scales_of_block_formats_are_refused),
        cmocka_unit_test(test_facts_of_a_quantized_model),
        cmocka_unit_test(test_overrides_must_name_modules),
        cmocka_unit_test(test_unaligned_files_compute_the_same),
        cmocka_unit_test(test_flipped_bit_fails_its_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
