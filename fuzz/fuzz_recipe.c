/* Any bytes give either an error with a message, or a recipe that survives printing and reading again. */
#include <sqf/quantize.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "fuzz_recipe: %s\n", what);
        abort();
    }
}

/* The text of a recipe, for free(). */
static char *print(const sqf_recipe *recipe)
{
    sqf_error err = {0};
    char *text;
    require(sqf_recipe_print(recipe, &text, &err) == SQF_OK, "what was read can be printed");
    return text;
}

static void check_recipe(const sqf_recipe *recipe)
{
    sqf_error err = {0};
    sqf_recipe *again;
    char *first = print(recipe);
    require(sqf_recipe_parse(first, strlen(first), "again", &again, &err) == SQF_OK, "what was printed can be read");
    char *second = print(again);
    require(strcmp(first, second) == 0, "printing is stable");
    sqf_module_recipe module;
    bool ignored;
    err = (sqf_error){0};
    const sqf_status status = sqf_recipe_resolve(again, "model.layers.0.mlp.down_proj", &module, &ignored, &err);
    require(status == SQF_OK || err.text[0] != '\0', "no silent failure");
    free(first);
    free(second);
    sqf_recipe_destroy(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *exact = malloc(size ? size : 1); /* an overread by one byte is seen */
    sqf_recipe *recipe;
    sqf_error err = {0};
    if (!exact) {
        return 0;
    }
    memcpy(exact, data, size);
    if (sqf_recipe_parse(exact, size, "fuzz", &recipe, &err) == SQF_OK) {
        check_recipe(recipe);
        sqf_recipe_destroy(recipe);
    } else {
        require(!recipe && err.text[0] != '\0', "no silent failure");
    }
    free(exact);
    return 0;
}
