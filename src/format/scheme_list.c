/* The named schemes, in the order of the demo's table, and the help on names. A name in this list is nothing special
 * to the parser: every entry is read by the same grammar as what users write, and a test reads them all. */
#include <sqf/format.h>

static const sqf_scheme_entry entries[] = {
    {"BF16", "bf16", "weights as they are, activations in float: the reference of every comparison"},
    {"W8A8", "w8a8", "INT8 weights in groups of 128, INT8 activations per token"},
    {"W8A16", "w8a16", "INT8 weights, activations in float"},
    {"W4A16", "w4a16", "INT4 weights, activations in float"},
    {"W4A8", "w4a8", "INT4 weights, INT8 activations: accurate, but runs at the INT8 rate"},
    {"W4A4", "w4a4", "INT4 weights, INT4 activations: runs at the INT4 rate, loses accuracy"},
    {"W4A(SQ6)", "w4a-sq6", "INT4 weights; of 16 input channels 8 in INT8 and 8 in INT4, static masks"},
    {"W4A(SQ5)", "w4a-sq5", "INT4 weights; of 16 input channels 4 in INT8 and 12 in INT4, static masks"},
    {"W4A(SQ4.5)", "w4a-sq4.5", "INT4 weights; of 16 input channels 2 in INT8 and 14 in INT4, static masks"},
    {"W(SQ6)A8", "w-sq6-a8", "of 64 weights 32 in INT8 and 32 in INT4; INT8 activations"},
    {"W(SQ5)A8", "w-sq5-a8", "of 64 weights 16 in INT8 and 48 in INT4; INT8 activations"},
    {"W(SQ4.5)A8", "w-sq4.5-a8", "of 64 weights 8 in INT8 and 56 in INT4; INT8 activations"},
    {"W(SQ6)A4", "w-sq6-a4", "of 64 weights 32 in INT8 and 32 in INT4; INT4 activations"},
    {"W(SQ5)A4", "w-sq5-a4", "of 64 weights 16 in INT8 and 48 in INT4; INT4 activations"},
    {"W(SQ6)A(SQ6)", "w-sq6-a-sq6", "both operands half INT8, half INT4"},
    {"W(SQ5)A(SQ5)", "w-sq5-a-sq5", "both operands one quarter INT8, three quarters INT4"},
    {"W(64-(8/2)-0.75)A8", "w-64-8-2-0.75-a8", "of 64 weights 16 in INT8 and 48 in INT2; INT8 activations"},
    {"W(64-(fp8/fp4)-0.75)A8", "w-64-fp8-fp4-0.75-a8", "of 64 weights 16 in FP8 and 48 in FP4; INT8 activations"},
    {"W8A8-2:4", "w8a8-2:4", "2 of 4 weights dropped, the others in INT8; INT8 activations"},
    {"W4A8-2:4", "w4a8-2:4", "2 of 4 weights dropped, the others in INT4; INT8 activations"},
};

static const sqf_scheme_entry rivals[] = {
    {"MXFP4", "mxfp4", "OCP MX: FP4, blocks of 32 with a power of two; both operands"},
    {"MXFP6", "mxfp6", "OCP MX: FP6 (E2M3), blocks of 32 with a power of two; both operands"},
    {"MXFP8", "mxfp8", "OCP MX: FP8 (E4M3), blocks of 32 with a power of two; both operands"},
    {"NVFP4", "nvfp4", "FP4, blocks of 16 with an FP8 scale, one FP32 scale a tensor or token; both operands"},
    {"MXFP4A16", "mxfp4a16", "MXFP4 weights, activations in float"},
    {"NVFP4A16", "nvfp4a16", "NVFP4 weights, activations in float"},
    {"W(MXFP4)A(MXFP8)", "w-mxfp4-a-mxfp8", "MXFP4 weights, MXFP8 activations"},
    {"W(MXFP4)A(32-(mxfp8/mxfp4)-0.75)", "w-mxfp4-a-32-mxfp8-mxfp4-0.75",
     "like MicroMix: MXFP4 weights; a quarter of the input channels in MXFP8, the others in MXFP4"},
    {"W4A16,group=32", "w4a16,group=32", "INT4 weights in groups of 32, activations in float"},
    {"W4A16,group=64", "w4a16,group=64", "INT4 weights in groups of 64, activations in float"},
    {"W5A16,group=32", "w5a16,group=32", "INT5 weights in groups of 32: the stored bits of W(SQ4.5)"},
    {"W5A16,group=64", "w5a16,group=64", "INT5 weights in groups of 64"},
    {"W6A16,group=32", "w6a16,group=32", "INT6 weights in groups of 32: the stored bits of W(SQ5)"},
    {"W6A16,group=64", "w6a16,group=64", "INT6 weights in groups of 64"},
    {"W5A8,group=32", "w5a8,group=32", "INT5 weights in groups of 32, INT8 activations"},
    {"W6A8,group=32", "w6a8,group=32", "INT6 weights in groups of 32, INT8 activations"},
    {"W4A4,group=32;scale=group", "w4a4,group=32+scale=group", "INT4 in groups of 32, both operands"},
    {"W(128-(fp16/3)-0.9921875)A16,group=16,scale_type=fp8", "w-128-fp16-3-0.9921875-a16,group=16,scale_type=fp8",
     "like SpQR: INT3 weights in groups of 16 with FP8 scales, one of 128 in FP16"},
    {"W4A16-2:4", "w4a16-2:4", "SparseGPT: 2 of 4 weights dropped, the others in INT4; activations in float"},
};

const sqf_scheme_entry *sqf_scheme_rivals(size_t *count)
{
    *count = sizeof rivals / sizeof *rivals;
    return rivals;
}

const sqf_scheme_entry *sqf_scheme_list(size_t *count)
{
    *count = sizeof entries / sizeof *entries;
    return entries;
}

const char *sqf_scheme_help(void)
{
    return "A scheme names what weights (W) and activations (A) are held in; case does not matter.\n"
           "  BF16, FP16, FP32           nothing is quantized\n"
           "  W4A8, WFP8AFP8, W4A16      one type for each; A16 = activations stay in float\n"
           "  W4A(SQ6), W(SQ5)A8         SQ-format: INT8 and INT4 parts with 6 or 5 equivalent bits (4 to 8)\n"
           "  W(64-(8/4)-0.75)A8         in full: bank - (high type / low type) - share of the bank held low\n"
           "  W8A8-2:4                   2 of every 4 weights are kept\n"
           "  MXFP4, MXFP6, MXFP8, NVFP4 block formats: both operands; NVFP4A16 the weights, W4A(MXFP8) the "
           "activations\n"
           "  w4a-sq6, w-sq5-a8, w-64-8-4-0.75-a8      the same without parentheses, for shells and file names\n"
           "Fields change or replace a name: NAME,field=value,...;field=value,... with those of the weights first, "
           "then\n"
           "those of the activations (\"+\" works like \";\"). Without a name they are the whole scheme.\n"
           "  weights:     low high bank sparsity|high_per_bank group=N|row scale_type=fp16|bf16|fp32|fp8|e8m0\n"
           "               scales=free|tied layout=vmask|bitmask\n"
           "  activations: low high bank sparsity|high_per_bank mask=static|dynamic|dynamic_weighted\n"
           "               scale_type=fp32|fp16|bf16|fp8|e8m0\n"
           "               scale=token|group|static group=N|weights clip=0.001..1 high_clip=0.001..1 "
           "zero=none|point|low\n"
           "  types:       8 6 5 4 3 2 (int8 ...), fp4, fp6, fp6e3m2, fp8, fp8e5m2; high also fp16, bf16; none drops "
           "the elements\n"
           "Examples: W4A8,group=32;scale=group    low=int4,group=128;low=int4,high=int8,bank=16,high_per_bank=8\n";
}
