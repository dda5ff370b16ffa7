/* XXH3 with 128 bits, through the header of xxHash. Not a cryptographic hash: it finds damage, it does not stop
 * forgery. */
#include "base/hash.h"

#include <stdio.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

void sqf_hash_bytes(const void *bytes, size_t n, char text[SQF_HASH_TEXT])
{
    const XXH128_hash_t hash = XXH3_128bits(bytes, n);
    /* The upper half first: the order that docs/format.md section 7 fixes and that xxhsum -H2 prints. */
    snprintf(text, SQF_HASH_TEXT, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
}
