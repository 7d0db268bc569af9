// Probes of wgmma, which is sm_90a's alone. See mma.cuh for the operands and
// units.cu for the names.
//
// Built to a cubin by kernels/build.sh.
#include "mma.cuh"

#define WGMMA(NAME, PTX, TAIL)                                                                      \
  struct NAME {                                                                                     \
    static constexpr int m = 64, words = 4;                                                         \
    static __device__ void run(Acc<4> &d, const uint32_t (&a)[4], const uint32_t (&)[2], uint64_t b) \
    {                                                                                               \
      asm volatile("wgmma.fence.sync.aligned;\n"                                                    \
                   "wgmma.mma_async.sync.aligned." PTX " {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1" TAIL  \
                   ";\n"                                                                            \
                   "wgmma.commit_group.sync.aligned;\n"                                             \
                   "wgmma.wait_group.sync.aligned 0;"                                               \
                   : "+r"(d.w[0]), "+r"(d.w[1]), "+r"(d.w[2]), "+r"(d.w[3])                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                             \
                   : "memory");                                                                     \
    }                                                                                               \
  }

#define WGMMA_F32(NAME, PTX, TAIL)                                                                  \
  struct NAME {                                                                                     \
    static constexpr int m = 64, words = 4;                                                         \
    static __device__ void run(Acc<4> &d, const uint32_t (&a)[4], const uint32_t (&)[2], uint64_t b) \
    {                                                                                               \
      float *f = reinterpret_cast<float *>(d.w);                                                    \
      asm volatile("wgmma.fence.sync.aligned;\n"                                                    \
                   "wgmma.mma_async.sync.aligned." PTX " {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1" TAIL \
                   ";\n"                                                                            \
                   "wgmma.commit_group.sync.aligned;\n"                                             \
                   "wgmma.wait_group.sync.aligned 0;"                                               \
                   : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])                                 \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                             \
                   : "memory");                                                                     \
    }                                                                                               \
  }

#define WGMMA_F16(NAME, PTX, TAIL)                                                                  \
  struct NAME {                                                                                     \
    static constexpr int m = 64, words = 2;                                                         \
    static __device__ void run(Acc<2> &d, const uint32_t (&a)[4], const uint32_t (&)[2], uint64_t b) \
    {                                                                                               \
      asm volatile("wgmma.fence.sync.aligned;\n"                                                    \
                   "wgmma.mma_async.sync.aligned." PTX " {%0,%1}, {%2,%3,%4,%5}, %6, 1, 1, 1" TAIL  \
                   ";\n"                                                                            \
                   "wgmma.commit_group.sync.aligned;\n"                                             \
                   "wgmma.wait_group.sync.aligned 0;"                                               \
                   : "+r"(d.w[0]), "+r"(d.w[1])                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                             \
                   : "memory");                                                                     \
    }                                                                                               \
  }

// The last operand says whether B is transposed; only 16-bit kinds have it.
WGMMA_F32(WarpgroupE4M3F32, "m64n8k32.f32.e4m3.e4m3", "");
WGMMA_F32(WarpgroupE5M2F32, "m64n8k32.f32.e5m2.e5m2", "");
WGMMA_F16(WarpgroupE4M3F16, "m64n8k32.f16.e4m3.e4m3", "");
WGMMA_F16(WarpgroupE5M2F16, "m64n8k32.f16.e5m2.e5m2", "");
WGMMA_F32(WarpgroupF16F32, "m64n8k16.f32.f16.f16", ", 0");
WGMMA_F16(WarpgroupF16F16, "m64n8k16.f16.f16.f16", ", 0");
WGMMA(WarpgroupS8, "m64n8k32.s32.s8.s8", "");

ENTRY(WarpgroupE4M3F32, wgmma_m64n8k32_f32_e4m3_e4m3)
ENTRY(WarpgroupE5M2F32, wgmma_m64n8k32_f32_e5m2_e5m2)
ENTRY(WarpgroupE4M3F16, wgmma_m64n8k32_f16_e4m3_e4m3)
ENTRY(WarpgroupE5M2F16, wgmma_m64n8k32_f16_e5m2_e5m2)
ENTRY(WarpgroupF16F32, wgmma_m64n8k16_f32_f16_f16)
ENTRY(WarpgroupF16F16, wgmma_m64n8k16_f16_f16_f16)
ENTRY(WarpgroupS8, wgmma_m64n8k32_s32_s8_s8)
