/* Fills a table of kernels for each level that the machine can run: the scalar kernels first, then each instruction
 * set over a copy of the table below it, so that every table is complete. All levels stay available at once: tests
 * compare them in one process, and a user can ask for a lower one.
 *
 * Detection on x86 asks the processor (CPUID) and the operating system (XGETBV); both must agree, or the first wide
 * instruction is a fault. On Arm the operating system answers for both (the auxiliary vector). */
#include "kernels/dispatch.h"

#include <pthread.h>
#include <string.h>

#include <sqf/context.h>

#if SQF_ARCH_X86
#include <cpuid.h>
#elif SQF_ARCH_ARM
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

enum { LEVELS_MAX = 4 };

/* Written once by fill_tables, read only afterwards. */
static sqf_kernels tables[LEVELS_MAX];    /* worst first */
static const char *names[LEVELS_MAX + 1]; /* best first, NULL-terminated */
static size_t level_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#if SQF_ARCH_X86
/* The registers whose contents the operating system saves (XCR0): CPUID alone does not say so. */
static uint64_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* AVX2 stands for all that its files are compiled with (AVX, AVX2, FMA, F16C), AVX-512 for F, BW, DQ, VL and VNNI:
 * the flags are those of src/CMakeLists.txt. */
static void detect(bool *avx2, bool *avxvnni, bool *avx512)
{
    unsigned a, b, c, d;
    *avx2 = *avxvnni = *avx512 = false;
    const unsigned osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, f16c = 1u << 29;
    const unsigned needed = osxsave | avx | fma | f16c;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed) {
        return;
    }
    /* XCR0: bits 1 and 2 are xmm and ymm; 5 to 7 the mask registers, the upper halves of zmm0-15, and zmm16-31. */
    const uint64_t ymm = 0x6, zmm = 0xe6;
    const uint64_t saved = saved_registers();
    if ((saved & ymm) != ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return;
    }
    *avx2 = (b & bit_AVX2) != 0;
    const unsigned foundation = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    *avx512 = *avx2 && (saved & zmm) == zmm && (b & foundation) == foundation && (c & bit_AVX512VNNI) != 0;
    /* a counts the subleaves of leaf 7 */
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        *avxvnni = *avx2 && (a & bit_AVXVNNI) != 0;
    }
}

/* The level, and what needs VBMI and VBMI2 beside it: Cascade Lake has VNNI without them. */
static void add_avx512(sqf_kernels *kernels)
{
    unsigned a, b, c, d;
    const unsigned needed = bit_AVX512VBMI | bit_AVX512VBMI2;
    sqf_kernels_add_avx512(kernels);
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & needed) == needed) {
        sqf_split_add_vbmi2(kernels);
    }
}
#endif

/* Puts a level's functions over those below it: `table` is never cleared, so that every table is complete. */
static void add_level(sqf_kernels *table, const char *name, void (*add)(sqf_kernels *kernels))
{
    table->name = name;
    add(table);
    tables[level_count++] = *table;
}

static void fill_tables(void)
{
    sqf_kernels table = {0};
    add_level(&table, "scalar", sqf_kernels_add_scalar);
#if SQF_ARCH_X86
    bool avx2, avxvnni, avx512;
    detect(&avx2, &avxvnni, &avx512);
    if (avx2) {
        add_level(&table, "avx2", sqf_kernels_add_avx2);
    }
    if (avxvnni) {
        add_level(&table, "avxvnni", sqf_kernels_add_avxvnni);
    }
    if (avx512) {
        add_level(&table, "avx512vnni", add_avx512);
    }
#elif SQF_ARCH_ARM
    add_level(&table, "neon", sqf_kernels_add_neon);
    const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    if (dotprod) {
        add_level(&table, "dotprod", sqf_kernels_add_dotprod);
    }
    if (dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0) {
        add_level(&table, "i8mm", sqf_kernels_add_i8mm);
    }
#endif
    for (size_t i = 0; i < level_count; i++) {
        names[i] = tables[level_count - 1 - i].name;
    }
}

const sqf_kernels *sqf_kernels_find(const char *name)
{
    pthread_once(&once, fill_tables);
    for (size_t i = level_count; i-- > 0;) {
        if (!name || strcmp(tables[i].name, name) == 0) {
            return &tables[i];
        }
    }
    return NULL;
}

const char *const *sqf_cpu_levels(void)
{
    pthread_once(&once, fill_tables);
    return names;
}
