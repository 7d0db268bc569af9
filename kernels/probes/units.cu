// Probes of the units that sm_89 and later have: special functions, conversions,
// FP32 arithmetic and mma.sync. An entry point is named for its instruction,
// with _ for every dot.
//
// Built to PTX by kernels/build.sh; package probe knows the entry points.
#include "mma.cuh"

// y[i] = f(x[i]); without x, f of the FP32 number whose bits are start + i. A
// result of fewer than 32 bits fills the low ones. Grid (n/256), block (256).
#define UNARY(NAME, BODY)                                                                                           \
  extern "C" __global__ void NAME(const float *x, uint32_t *y, uint32_t start, uint32_t n)                          \
  {                                                                                                                 \
    uint32_t i = blockIdx.x * 256 + threadIdx.x;                                                                    \
    if (i >= n)                                                                                                     \
      return;                                                                                                       \
    float a = x ? x[i] : __uint_as_float(start + i);                                                                \
    BODY                                                                                                            \
  }
#define SPECIAL(NAME, PTX)                                \
  UNARY(NAME, float r; asm(PTX " %0, %1;" : "=f"(r) : "f"(a)); y[i] = __float_as_uint(r);)
#define TO_FP8(NAME, PTX) \
  UNARY(NAME, uint16_t r; asm(PTX " %0, %1, %2;" : "=h"(r) : "f"(0.f), "f"(a)); y[i] = r & 0xff;)
#define TO_16(NAME, PTX) UNARY(NAME, uint16_t r; asm(PTX " %0, %1;" : "=h"(r) : "f"(a)); y[i] = r;)

SPECIAL(ex2_approx_ftz_f32, "ex2.approx.ftz.f32")
SPECIAL(rcp_approx_ftz_f32, "rcp.approx.ftz.f32")
SPECIAL(lg2_approx_ftz_f32, "lg2.approx.ftz.f32")
TO_FP8(cvt_rn_satfinite_e4m3x2_f32, "cvt.rn.satfinite.e4m3x2.f32")
TO_FP8(cvt_rn_satfinite_e5m2x2_f32, "cvt.rn.satfinite.e5m2x2.f32")
TO_16(cvt_rn_f16_f32, "cvt.rn.f16.f32")
TO_16(cvt_rn_bf16_f32, "cvt.rn.bf16.f32")
UNARY(cvt_rni_sat_s8_f32, int r; asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(r) : "f"(a)); y[i] = uint32_t(r) & 0xff;)

// y[i] = f of the triple x[i]. Grid (n/256), block (256).
#define ARITH(NAME, PTX)                                                           \
  extern "C" __global__ void NAME(const float *x, float *y, uint32_t n)            \
  {                                                                                \
    uint32_t i = blockIdx.x * 256 + threadIdx.x;                                   \
    if (i >= n)                                                                    \
      return;                                                                      \
    float a = x[3 * i], b = x[3 * i + 1], c = x[3 * i + 2], r;                     \
    asm(PTX : "=f"(r) : "f"(a), "f"(b), "f"(c));                                   \
    y[i] = r;                                                                      \
  }

ARITH(mul_rn_ftz_f32, "mul.rn.ftz.f32 %0, %1, %2;")
ARITH(add_rn_ftz_f32, "add.rn.ftz.f32 %0, %1, %3;")
ARITH(fma_rn_ftz_f32, "fma.rn.ftz.f32 %0, %1, %2, %3;")
ARITH(div_full_ftz_f32, "div.full.ftz.f32 %0, %1, %2;")
ARITH(div_approx_ftz_f32, "div.approx.ftz.f32 %0, %1, %2;")

#define MMA_SYNC(NAME, PTX)                                                                         \
  struct NAME {                                                                                     \
    static constexpr int m = 16, words = 4;                                                         \
    static __device__ void run(Acc<4> &d, const uint32_t (&a)[4], const uint32_t (&b)[2], uint64_t) \
    {                                                                                               \
      asm volatile("mma.sync.aligned." PTX " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                   : "+r"(d.w[0]), "+r"(d.w[1]), "+r"(d.w[2]), "+r"(d.w[3])                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));             \
    }                                                                                               \
  }

#define MMA_SYNC_F32(NAME, PTX)                                                                     \
  struct NAME {                                                                                     \
    static constexpr int m = 16, words = 4;                                                         \
    static __device__ void run(Acc<4> &d, const uint32_t (&a)[4], const uint32_t (&b)[2], uint64_t) \
    {                                                                                               \
      float *f = reinterpret_cast<float *>(d.w);                                                    \
      asm volatile("mma.sync.aligned." PTX " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                   : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])                                 \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));             \
    }                                                                                               \
  }

#define MMA_SYNC_F16(NAME, PTX)                                                                     \
  struct NAME {                                                                                     \
    static constexpr int m = 16, words = 2;                                                         \
    static __device__ void run(Acc<2> &d, const uint32_t (&a)[4], const uint32_t (&b)[2], uint64_t) \
    {                                                                                               \
      asm volatile("mma.sync.aligned." PTX " {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"             \
                   : "+r"(d.w[0]), "+r"(d.w[1])                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));             \
    }                                                                                               \
  }

MMA_SYNC_F32(SyncE4M3F32, "m16n8k32.row.col.f32.e4m3.e4m3.f32");
MMA_SYNC_F32(SyncE5M2F32, "m16n8k32.row.col.f32.e5m2.e5m2.f32");
MMA_SYNC_F16(SyncE4M3F16, "m16n8k32.row.col.f16.e4m3.e4m3.f16");
MMA_SYNC_F16(SyncE5M2F16, "m16n8k32.row.col.f16.e5m2.e5m2.f16");
MMA_SYNC_F32(SyncF16F32, "m16n8k16.row.col.f32.f16.f16.f32");
MMA_SYNC_F16(SyncF16F16, "m16n8k16.row.col.f16.f16.f16.f16");
MMA_SYNC_F32(SyncBF16F32, "m16n8k16.row.col.f32.bf16.bf16.f32");
MMA_SYNC(SyncS8, "m16n8k32.row.col.s32.s8.s8.s32");
MMA_SYNC(SyncS4, "m16n8k64.row.col.s32.s4.s4.s32");

ENTRY(SyncE4M3F32, mma_sync_m16n8k32_f32_e4m3_e4m3_f32)
ENTRY(SyncE5M2F32, mma_sync_m16n8k32_f32_e5m2_e5m2_f32)
ENTRY(SyncE4M3F16, mma_sync_m16n8k32_f16_e4m3_e4m3_f16)
ENTRY(SyncE5M2F16, mma_sync_m16n8k32_f16_e5m2_e5m2_f16)
ENTRY(SyncF16F32, mma_sync_m16n8k16_f32_f16_f16_f32)
ENTRY(SyncF16F16, mma_sync_m16n8k16_f16_f16_f16_f16)
ENTRY(SyncBF16F32, mma_sync_m16n8k16_f32_bf16_bf16_f32)
ENTRY(SyncS8, mma_sync_m16n8k32_s32_s8_s8_s32)
ENTRY(SyncS4, mma_sync_m16n8k64_s32_s4_s4_s32)
