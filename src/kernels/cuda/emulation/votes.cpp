/* Emulation of CUDA on the host: votes and counts of the lanes of a warp and of the threads of a block. */
#include "kernels/cuda/emulation/block.h"

void emulated_ballot_all(void *const operands[EMULATED_WARP])
{
    uint64_t result = 0;
    for (int i = 0; i < EMULATED_WARP; i++) {
        result |= operands[i] ? ((emulated_vote *)operands[i])->value << i : 0;
    }
    for (int i = 0; i < EMULATED_WARP; i++) {
        if (operands[i]) {
            ((emulated_vote *)operands[i])->result = result;
        }
    }
}

void emulated_every_all(void *const operands[EMULATED_WARP])
{
    uint64_t result = 1;
    for (int i = 0; i < EMULATED_WARP; i++) {
        result &= operands[i] ? ((emulated_vote *)operands[i])->value : 1;
    }
    for (int i = 0; i < EMULATED_WARP; i++) {
        if (operands[i]) {
            ((emulated_vote *)operands[i])->result = result;
        }
    }
}

void emulated_match_all(void *const operands[EMULATED_WARP])
{
    for (int i = 0; i < EMULATED_WARP; i++) {
        emulated_vote *mine = (emulated_vote *)operands[i];
        for (int j = 0; mine && j < EMULATED_WARP; j++) {
            const emulated_vote *theirs = (const emulated_vote *)operands[j];
            mine->result |= (uint64_t)(theirs && theirs->value == mine->value) << j;
        }
    }
}

namespace
{
void count_all(void *const *operands, int block_threads)
{
    int count = 0, all = 0;
    for (int i = 0; i < block_threads; i++) {
        count += operands[i] ? *(int *)operands[i] != 0 : 0;
        all += operands[i] != NULL;
    }
    for (int i = 0; i < block_threads; i++) {
        if (operands[i]) {
            int *out = (int *)operands[i];
            out[0] = count;
            out[1] = all;
        }
    }
}
} // namespace

int __syncthreads_count(int predicate)
{
    int value[2] = {predicate != 0, 0};
    emulated_barrier("__syncthreads_count", 0, 0, true, value, count_all);
    return value[0];
}

int __syncthreads_or(int predicate)
{
    int value[2] = {predicate != 0, 0};
    emulated_barrier("__syncthreads_or", 0, 0, true, value, count_all);
    return value[0] > 0;
}

int __syncthreads_and(int predicate)
{
    int value[2] = {predicate != 0, 0};
    emulated_barrier("__syncthreads_and", 0, 0, true, value, count_all);
    return value[0] == value[1];
}
