/* Which rotations a recipe asks for, and which tensors they touch. */
#include "ptq/rotation/choice.h"

#include "ptq/rotation/orthogonal.h"

const char *sqf_rotate_name(sqf_rotate rotate)
{
    static const char *const names[] = {"off", "hadamard", "random", "pca", "learned"};
    return names[rotate];
}

const char *sqf_rotate_part_name(sqf_rotate_part part)
{
    static const char *const names[] = {"auto", "off", "hadamard", "random", "pca", "blocks"};
    return names[part];
}

/* What the parts are where nobody says: nothing beside an unrotated stream, else Hadamard, which costs next to nothing
 * at run time; random beside random, so that a comparison of bases compares one kind. docs/algorithms.md */
static sqf_rotate_part automatic_values(sqf_rotate rotate)
{
    return rotate == SQF_ROTATE_OFF      ? SQF_ROTATE_PART_OFF
           : rotate == SQF_ROTATE_RANDOM ? SQF_ROTATE_PART_RANDOM
                                         : SQF_ROTATE_PART_HADAMARD;
}

static sqf_rotate_part automatic_down(sqf_rotate rotate)
{
    return rotate == SQF_ROTATE_OFF ? SQF_ROTATE_PART_OFF : SQF_ROTATE_PART_HADAMARD;
}

bool sqf_rotation_needs_text(const sqf_rotation_choice *choice)
{
    return choice->residual == SQF_ROTATE_PCA || choice->residual == SQF_ROTATE_LEARNED ||
           choice->values == SQF_ROTATE_PART_PCA || choice->down == SQF_ROTATE_PART_PCA;
}

sqf_status sqf_rotation_choose(const sqf_module_recipe *base, bool calibrated, sqf_rotation_choice *out, sqf_error *err)
{
    *out = (sqf_rotation_choice){base->rotate, base->rotate_values, base->rotate_down};
    if (out->values == SQF_ROTATE_PART_AUTO) {
        out->values = automatic_values(out->residual);
    }
    if (out->down == SQF_ROTATE_PART_AUTO) {
        out->down = automatic_down(out->residual);
    }
    return calibrated || !sqf_rotation_needs_text(out)
               ? SQF_OK
               : sqf_fail(err, SQF_E_ARG,
                          "rotate %s, rotate_values %s, rotate_down %s: %s needs calibration text, "
                          "found none",
                          sqf_rotate_name(out->residual), sqf_rotate_part_name(out->values),
                          sqf_rotate_part_name(out->down), out->residual == SQF_ROTATE_LEARNED ? "learned" : "pca");
}

sqf_status sqf_rotation_check_module(const sqf_module_recipe *base, const sqf_module_recipe *recipe, const char *module,
                                     sqf_error *err)
{
    const bool same = base->rotate == recipe->rotate && base->rotate_values == recipe->rotate_values &&
                      base->rotate_down == recipe->rotate_down;
    return same
               ? SQF_OK
               : sqf_fail(err, SQF_E_ARG,
                          "%s: an override sets a rotation: expected rotate, rotate_values and rotate_down in the base "
                          "recipe alone, because one residual stream runs through all layers",
                          module);
}

bool sqf_rotation_turns_input(const sqf_rotation_choice *choice, sqf_input_kind input)
{
    switch (input) {
    case SQF_INPUT_O: return choice->values != SQF_ROTATE_PART_OFF;
    case SQF_INPUT_DOWN: return choice->down != SQF_ROTATE_PART_OFF;
    default: return choice->residual != SQF_ROTATE_OFF;
    }
}

/* Besides its input a module may have its output turned: v_proj into the basis of the values, o_proj and down_proj into
 * that of the stream. */
bool sqf_rotation_changes_weights(const sqf_rotation_choice *choice, sqf_linear_kind kind)
{
    return sqf_rotation_turns_input(choice, sqf_linear_input(kind)) || sqf_rotation_changes_bias(choice, kind);
}

bool sqf_rotation_changes_bias(const sqf_rotation_choice *choice, sqf_linear_kind kind)
{
    switch (kind) {
    case SQF_LINEAR_V: return choice->values != SQF_ROTATE_PART_OFF;
    case SQF_LINEAR_O:
    case SQF_LINEAR_DOWN: return choice->residual != SQF_ROTATE_OFF;
    default: return false;
    }
}

static size_t odd_part(size_t n)
{
    while (n > 1 && n % 2 == 0) {
        n /= 2;
    }
    return n;
}

size_t sqf_rotation_down_factor(const sqf_rotation_choice *choice, size_t intermediate)
{
    switch (choice->down) {
    case SQF_ROTATE_PART_HADAMARD: return sqf_hadamard_factor(intermediate);
    case SQF_ROTATE_PART_RANDOM:
    case SQF_ROTATE_PART_PCA: return intermediate;
    case SQF_ROTATE_PART_BLOCKS: return odd_part(intermediate);
    default: return 0;
    }
}
