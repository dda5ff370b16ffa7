/* generation_config.json: the ids that end a text, and how to draw tokens. The file is optional. Members for other
 * ways of generating (beams, assistants) are ignored: they are wishes about a program, not facts about the model.
 *
 * End ids stand in config.json too; generation_config.json, where it has them, replaces them. It is the newer place,
 * and chat models list further ends there. */
#include <math.h>

#include "base/file.h"
#include "model/model.h"

/* An id beyond the vocabulary could never be drawn: the file belongs to another model. */
static sqf_status add_end_id(sqf_model *model, const json_t *value, const char *where, sqf_error *err)
{
    const size_t vocabulary = model->checkpoint.config.vocabulary;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) >= vocabulary) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: eos_token_id: expected ids from 0 to %zu, found %lld", where,
                        vocabulary - 1, (long long)json_integer_value(value));
    }
    model->end_ids[model->end_count++] = (uint32_t)json_integer_value(value);
    return SQF_OK;
}

/* One id or a list of them. Absent: what was there before stays. */
static sqf_status read_end_ids(sqf_model *model, const json_t *json, const char *where, sqf_error *err)
{
    const json_t *value = json_object_get(json, "eos_token_id");
    if (!value || json_is_null(value)) {
        return SQF_OK;
    }
    const bool is_list = json_is_array(value);
    const size_t count = is_list ? json_array_size(value) : 1;
    free(model->end_ids);
    model->end_count = 0;
    SQF_TRY(SQF_ALLOC(&model->end_ids, count, "end ids", err));
    for (size_t i = 0; i < count; i++) {
        SQF_TRY(add_end_id(model, is_list ? json_array_get(value, i) : value, where, err));
    }
    return SQF_OK;
}

/* The defaults are those of transformers' GenerationConfig: top_k is 50 unless the file says otherwise. Without
 * do_sample a model is greedy, whatever temperature stands beside it; the penalty applies to both. */
static sqf_status read_sampling(const json_t *json, const char *where, sqf_sampling *out, sqf_error *err)
{
    bool sample = false;
    double temperature = 1, top_p = 1, min_p = 0, penalty = 1;
    size_t top_k = 50;
    SQF_TRY(sqf_json_bool_find(json, "do_sample", where, &sample, err));
    SQF_TRY(sqf_json_real_find(json, "temperature", 0, 1e6, where, &temperature, err));
    SQF_TRY(sqf_json_real_find(json, "top_p", 0, 1, where, &top_p, err));
    SQF_TRY(sqf_json_real_find(json, "min_p", 0, 1, where, &min_p, err));
    SQF_TRY(sqf_json_real_find(json, "repetition_penalty", 1e-3, 1e3, where, &penalty, err));
    SQF_TRY(sqf_json_size_find(json, "top_k", 0, UINT32_MAX, where, &top_k, err));
    *out = (sqf_sampling){.repetition_penalty = (float)penalty};
    if (sample) {
        out->temperature = (float)temperature;
        out->top_k = (uint32_t)top_k;
        out->top_p = (float)top_p;
        out->min_p = (float)min_p;
    }
    return SQF_OK;
}

static sqf_status read_file(sqf_model *model, const char *path, sqf_error *err)
{
    json_t *json;
    SQF_TRY(sqf_json_load(path, SQF_CONFIG_LIMIT, &json, err));
    sqf_status status = SQF_OK;
    if (!json_is_object(json)) {
        status = sqf_fail(err, SQF_E_FORMAT, "%s: expected a JSON object", path);
    }
    if (status == SQF_OK) {
        status = read_end_ids(model, json, path, err);
    }
    if (status == SQF_OK) {
        status = read_sampling(json, path, &model->sampling, err);
    }
    json_decref(json);
    return status;
}

/* config.json first, so that generation_config.json overrules it. */
sqf_status sqf_model_load_generation(sqf_model *model, sqf_error *err)
{
    const sqf_checkpoint *checkpoint = &model->checkpoint;
    char *path;
    SQF_TRY(sqf_path_join(&path, checkpoint->directory, "config.json", err));
    sqf_status status = read_end_ids(model, checkpoint->config_json, path, err);
    free(path);
    SQF_TRY(status);
    SQF_TRY(sqf_path_join(&path, checkpoint->directory, "generation_config.json", err));
    if (sqf_path_exists(path)) {
        status = read_file(model, path, err);
    }
    free(path);
    return status;
}
