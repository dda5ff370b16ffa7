/* The benchmark without a vendor's library: kernels run in the emulation, where times mean nothing. */
#include "reference.h"

const char *reference_name(void)
{
    return "none";
}

bool reference_seconds(reference_type type, size_t tokens, size_t rows, size_t columns, int rounds, double *least,
                       double *median)
{
    (void)type, (void)tokens, (void)rows, (void)columns, (void)rounds, (void)least, (void)median;
    return false;
}
