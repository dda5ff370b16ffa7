/* What a kernel level can do at most: loops of nothing but the instructions that its kernels are made of, in
 * independent chains. Benchmarks measure them in the same run as what they time (src/eval/roofs.c). */
#ifndef SQF_KERNELS_ROOF_H
#define SQF_KERNELS_ROOF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One pattern of instructions. `run` repeats it about `steps` times, a multiple of SQF_ROOF_STEPS, and returns
 * something that depends on all of it. Nothing is read from memory. */
typedef struct sqf_roof_loop {
    const char *name;  /* the instructions; NULL ends a list */
    bool integer;      /* else float32 */
    unsigned products; /* multiply-accumulates of one step */
    uint64_t (*run)(uint64_t steps);
} sqf_roof_loop;

/* Every loop repeats a body of this many steps. */
enum { SQF_ROOF_STEPS = 32 };

/* The loops of a level by its name; never NULL: those of the portable level for a name that is none. */
const sqf_roof_loop *sqf_roof_loops(const char *level);

/* The lists of the levels, for the function above. */
extern const sqf_roof_loop sqf_roofs_scalar[], sqf_roofs_avx2[], sqf_roofs_avxvnni[], sqf_roofs_avx512[],
    sqf_roofs_neon[], sqf_roofs_dotprod[], sqf_roofs_i8mm[];

#endif
