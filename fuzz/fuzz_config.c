/* fuzz_config: any bytes as config.json give either an error with one line, or a configuration within its bounds whose
 * rope angles are finite; any quantization_config gives an error or valid schemes. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"

#define CHECK(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rope(const sqf_config *config)
{
    enum { WIDEST = 512 };
    float cosine[WIDEST], sine[WIDEST];
    const size_t half = config->head_dim / 2;
    if (half > WIDEST) {
        return;
    }
    sqf_config_rope(config, config->positions - 1, 1, cosine, sine);
    for (size_t i = 0; i < half; i++) {
        CHECK(isfinite(cosine[i]) && isfinite(sine[i]));
    }
}

static void check_config(const sqf_config *config)
{
    CHECK(config->architecture && config->hidden > 0 && config->intermediate > 0 && config->vocabulary > 0);
    CHECK(config->layers > 0 && config->layers <= SQF_LAYERS_MAX && config->heads % config->kv_heads == 0);
    CHECK(config->head_dim % 2 == 0 && config->heads * config->head_dim <= SQF_WIDTH_MAX && config->positions > 0);
    for (size_t i = 0; i < config->layers; i++) {
        const size_t window = sqf_config_window(config, i);
        CHECK(window == 0 || window == config->window);
    }
    check_rope(config);
}

static void check_schemes(const json_t *json)
{
    sqf_error err = {0};
    sqf_module_schemes *schemes;
    if (sqf_module_schemes_load(json, "config.json", &schemes, &err) == SQF_OK) {
        const sqf_scheme scheme = sqf_module_schemes_get(schemes, "model.layers.0.mlp.up_proj");
        CHECK(sqf_scheme_check(&scheme, &err) == SQF_OK);
    } else {
        CHECK(err.text[0] != '\0' && !schemes);
    }
    sqf_module_schemes_destroy(schemes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *bytes = malloc(size + (size == 0)); /* exact: an overread by one byte is seen */
    sqf_config config;
    sqf_error err = {0};
    json_t *json;
    if (size > 0) {
        memcpy(bytes, data, size);
    }
    if (sqf_json_parse(bytes, size, "config.json", &json, &err) == SQF_OK) {
        if (sqf_config_parse(json, "config.json", &config, &err) == SQF_OK) {
            check_config(&config);
        } else {
            CHECK(err.text[0] != '\0' && !strchr(err.text, '\n'));
        }
        check_schemes(json);
    }
    json_decref(json);
    free(bytes);
    return 0;
}
