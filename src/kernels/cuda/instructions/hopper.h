/* The machine instructions of Hopper (sm_90a), one function each: asynchronous products of a warpgroup, two-dimensional
 * copies into shared memory by a tensor map, registers moved from one warpgroup to another. On the host the emulation
 * computes what the PTX manual says.
 *
 * A warpgroup is four warps, the first of them a multiple of four. Warp w of it holds rows 16 w .. 16 w + 15 of A in
 * registers, in the fragments of layout.h, and the same rows of the result: with g = lane / 4, t = lane % 4, register
 * 4 j + 0, 1 of D are row g, columns 8 j + 2 t and the next one; 4 j + 2, 3 the same of row g + 8.
 *
 * Products run behind the threads' back: D and A may be neither read nor written, nor B in shared memory written, until
 * wgmma_wait has been called for the group of the product; registers_hold after that keeps the compiler from reading
 * earlier. wgmma_fence stands between the last write of A or D and the product. */
#ifndef SQF_KERNELS_CUDA_INSTRUCTIONS_HOPPER_H
#define SQF_KERNELS_CUDA_INSTRUCTIONS_HOPPER_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/instructions/common.h"

#ifndef __CUDACC__
#include "kernels/cuda/emulation/instructions_hopper.h"
#else

#include <cuda.h>

typedef CUtensorMap cuda_tensor_map;

/* A matrix of bytes in device memory, of which boxes of `box_bytes` (64 or 128) by `box_rows` rows will be copied,
 * bytes swizzled in shared memory: of rows of 128 bytes chunk c (16 bytes) of row r stands at chunk c ^ (r % 8), of
 * rows of 64 at c ^ (r / 2 % 4). What lies beyond the matrix reads as 0. Base and pitch are multiples of 16. */
static inline sqf_status tensor_map_rows(cuda_tensor_map *map, void *base, size_t row_bytes, size_t rows, size_t pitch,
                                         unsigned box_bytes, unsigned box_rows, sqf_error *err)
{
    typedef CUresult encode_function(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                     const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                     CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    SQF_TRY(
        cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
                   "finding cuTensorMapEncodeTiled", err));
    if (found != cudaDriverEntryPointSuccess) {
        return sqf_fail(err, SQF_E_SUPPORT, "the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12.0");
    }
    const cuuint64_t sizes[2] = {row_bytes, rows};
    const cuuint64_t pitches[1] = {pitch};
    const cuuint32_t box[2] = {box_bytes, box_rows}, steps[2] = {1, 1};
    const CUresult result = reinterpret_cast<encode_function *>(entry)(
        map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, base, sizes, pitches, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        box_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
        return sqf_fail(err, SQF_E_SUPPORT, "cuTensorMapEncodeTiled: error %d", (int)result);
    }
    return SQF_OK;
}

/* The box whose first byte is (x, y) = (byte of a row, row) to shared memory, 1024-byte aligned; brings box_bytes *
 * box_rows bytes to the barrier, whatever lies beyond the matrix. One thread. */
CUDA_DEVICE void tensor_copy(void *shared, const cuda_tensor_map *map, int x, int y, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
                 "%4}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
                 : "memory");
}

CUDA_DEVICE void tensor_map_prefetch(const cuda_tensor_map *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* The warpgroup gives back registers, or takes them once they are free. A multiple of 8, 24..256. */
template <int count> CUDA_DEVICE void registers_decrease(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count> CUDA_DEVICE void registers_increase(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

CUDA_DEVICE void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

CUDA_DEVICE void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most `left` of the groups are under way. */
template <int left> CUDA_DEVICE void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

/* From here on the registers have the values that products left in them. */
template <int count> CUDA_DEVICE void registers_hold(uint32_t *r)
{
#pragma unroll
    for (int i = 0; i < count; i++) {
        asm volatile("" : "+r"(r[i])::"memory");
    }
}

/* A sum of products, an integer or a float, becomes a float times `factor` in the register where it is: other products
 * go on from there, and the compiler is not to look for as many other registers. */
CUDA_DEVICE void rescale_integer(uint32_t *sum, float factor)
{
    asm volatile("{\n"
                 ".reg .f32 value;\n"
                 "cvt.rn.f32.s32 value, %0;\n"
                 "mul.rn.f32 value, value, %1;\n"
                 "mov.b32 %0, value;\n"
                 "}"
                 : "+r"(*sum)
                 : "f"(factor));
}

CUDA_DEVICE void rescale_float(uint32_t *sum, float factor)
{
    asm volatile("{\n"
                 ".reg .f32 value;\n"
                 "mov.b32 value, %0;\n"
                 "mul.rn.f32 value, value, %1;\n"
                 "mov.b32 %0, value;\n"
                 "}"
                 : "+r"(*sum)
                 : "f"(factor));
}

/* The lists of 64 and 128 registers, as operands and as names. */
#define WGMMA_NAMES_64                                                                                                 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                           \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                                                 \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                                                 \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_NAMES_128                                                                                                \
    WGMMA_NAMES_64 ","                                                                                                 \
                   "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                                  \
                   "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"                                  \
                   "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"                      \
                   "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define WGMMA_OUT_64                                                                                                   \
    "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]),        \
        "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]), "+r"(d[16]),         \
        "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), "+r"(d[24]),        \
        "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]), "+r"(d[32]),        \
        "+r"(d[33]), "+r"(d[34]), "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]), "+r"(d[40]),        \
        "+r"(d[41]), "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]), "+r"(d[48]),        \
        "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]), "+r"(d[56]),        \
        "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]), "+r"(d[63])
#define WGMMA_OUT_128                                                                                                  \
    WGMMA_OUT_64, "+r"(d[64]), "+r"(d[65]), "+r"(d[66]), "+r"(d[67]), "+r"(d[68]), "+r"(d[69]), "+r"(d[70]),           \
        "+r"(d[71]), "+r"(d[72]), "+r"(d[73]), "+r"(d[74]), "+r"(d[75]), "+r"(d[76]), "+r"(d[77]), "+r"(d[78]),        \
        "+r"(d[79]), "+r"(d[80]), "+r"(d[81]), "+r"(d[82]), "+r"(d[83]), "+r"(d[84]), "+r"(d[85]), "+r"(d[86]),        \
        "+r"(d[87]), "+r"(d[88]), "+r"(d[89]), "+r"(d[90]), "+r"(d[91]), "+r"(d[92]), "+r"(d[93]), "+r"(d[94]),        \
        "+r"(d[95]), "+r"(d[96]), "+r"(d[97]), "+r"(d[98]), "+r"(d[99]), "+r"(d[100]), "+r"(d[101]), "+r"(d[102]),     \
        "+r"(d[103]), "+r"(d[104]), "+r"(d[105]), "+r"(d[106]), "+r"(d[107]), "+r"(d[108]), "+r"(d[109]),              \
        "+r"(d[110]), "+r"(d[111]), "+r"(d[112]), "+r"(d[113]), "+r"(d[114]), "+r"(d[115]), "+r"(d[116]),              \
        "+r"(d[117]), "+r"(d[118]), "+r"(d[119]), "+r"(d[120]), "+r"(d[121]), "+r"(d[122]), "+r"(d[123]),              \
        "+r"(d[124]), "+r"(d[125]), "+r"(d[126]), "+r"(d[127])

/* D (+)= A B of one depth. `accumulate` 0: D = A B, what D held does not matter. */
#define WGMMA_FUNCTION(name, instruction, registers, a0, a1, a2, a3, descriptor, predicate, tail)                      \
    CUDA_DEVICE void name(uint32_t *d, const uint32_t *a, uint64_t b, int accumulate)                                  \
    {                                                                                                                  \
        asm volatile("{\n"                                                                                             \
                     ".reg .pred accumulate;\n"                                                                        \
                     "setp.ne.b32 accumulate, " predicate ", 0;\n"                                                     \
                     "wgmma.mma_async.sync.aligned." instruction " {" WGMMA_NAMES_##registers                          \
                     "}, {" a0 "," a1 "," a2 "," a3 "}, " descriptor ", accumulate" tail ";\n"                         \
                     "}"                                                                                               \
                     : WGMMA_OUT_##registers                                                                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                           \
    }
#define WGMMA_PAIR(name, types, depth, tail)                                                                           \
    WGMMA_FUNCTION(name##_128, "m64n128" depth types, 64, "%64", "%65", "%66", "%67", "%68", "%69", tail)              \
    WGMMA_FUNCTION(name##_256, "m64n256" depth types, 128, "%128", "%129", "%130", "%131", "%132", "%133", tail)

/* Signed bytes to int32, depth 32; bf16 to float, depth 16; e4m3 to float, depth 32. */
WGMMA_PAIR(wgmma_s8, ".s32.s8.s8", "k32", "")
WGMMA_PAIR(wgmma_bf16, ".f32.bf16.bf16", "k16", ", 1, 1, 0")
WGMMA_PAIR(wgmma_fp8, ".f32.e4m3.e4m3", "k32", ", 1, 1")

#endif /* __CUDACC__ */

/* Where B lies: rows of 128 bytes (columns of B), eight of them an atom of 1024 bytes with its 16-byte chunks swizzled
 * as tensor_copy leaves them. `shared` is an atom's first byte plus 32 bytes for each depth of an instruction. Bits:
 * 0-13 address / 16; 16-29 leading offset, not used with this swizzle (1); 32-45 bytes from atom to atom / 16; 62-63
 * the swizzle: 1 = 128 bytes. */
CUDA_DEVICE uint64_t wgmma_descriptor(uint32_t shared)
{
    return (uint64_t)((shared & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#endif
