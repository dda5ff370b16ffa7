/* The vendor's matrix products, timed on the same shapes in the same run. */
#ifndef SQF_BENCH_CUDA_REFERENCE_H
#define SQF_BENCH_CUDA_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum reference_type { REFERENCE_BF16 = 0, REFERENCE_FP8, REFERENCE_INT8, REFERENCE_TYPES } reference_type;

/* Name and version of the library, or "none"; a static string. */
const char *reference_name(void);

/* Seconds of y [tokens, rows] = x [tokens, columns] W^T by cuBLASLt, the fastest of the algorithms that its heuristic
 * proposes; minimum and median over `rounds`. Operands of random numbers, larger than the second-level cache in all
 * where few tokens make weights the bulk. False where the library or the device has no such product. */
bool reference_seconds(reference_type type, size_t tokens, size_t rows, size_t columns, int rounds, double *least,
                       double *median);

#ifdef __cplusplus
}
#endif
#endif
