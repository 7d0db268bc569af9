// Records the tensor cores of an NVIDIA GPU, one instruction a tile.
//
//   mma INSTRUCTION TILES < OPERANDS > RESULTS
//
// OPERANDS is all of A, then all of B, then all of C; RESULTS is all of D. A is
// [tile][m][32 bytes], B is [tile][n][32 bytes], C and D are [tile][m][n], each
// packed as the instruction takes it (s4: two to a byte, the first one low). n
// is 8; m is 16 for mma.sync and 64 for wgmma. D = A B^T + C.
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o mma mma.cu
//
// Every kind of operand fills 32 bytes of a row, so that one fragment layout
// serves them all: lane l holds bytes 4(l%4) and 16+4(l%4) of rows l/4 and
// l/4+8. wgmma takes A from registers and B from shared memory.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// The accumulator fragment: 4 words of 32 bits, or 2 words of two FP16.
template <int words>
struct Acc {
  uint32_t w[words];
};

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

template <class I>
__global__ void tile(const uint32_t *A, const uint32_t *B, const uint32_t *C, uint32_t *D)
{
  A += blockIdx.x * I::m * 8;
  B += blockIdx.x * 8 * 8;
  uint64_t descriptor = 0;
  if constexpr (I::m == 64) {
    // B as the two core matrices of 8 rows of 16 bytes that wgmma reads.
    __shared__ __align__(128) uint32_t sB[2][8][4];
    if (threadIdx.x < 64)
      sB[threadIdx.x % 8 / 4][threadIdx.x / 8][threadIdx.x % 4] = B[threadIdx.x];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    uint64_t address = __cvta_generic_to_shared(sB);
    descriptor = (address >> 4 & 0x3fff) | uint64_t(128 >> 4) << 16 | uint64_t(128 >> 4) << 32;
  }

  uint32_t warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  uint32_t row = warp * 16 + group;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; i++)
    a[i] = A[(row + 8 * (i % 2)) * 8 + t + 4 * (i / 2)];
  for (int i = 0; i < 2; i++)
    b[i] = B[group * 8 + t + 4 * i];

  Acc<I::words> acc;
  constexpr int perRow = I::words / 2; // words of one row that a lane holds
  for (int i = 0; i < I::words; i++)
    acc.w[i] = C[(blockIdx.x * I::m + row + 8 * (i / perRow)) * 4 * perRow + t * perRow + i % perRow];
  I::run(acc, a, b, descriptor);
  for (int i = 0; i < I::words; i++)
    D[(blockIdx.x * I::m + row + 8 * (i / perRow)) * 4 * perRow + t * perRow + i % perRow] = acc.w[i];
}

static void check(cudaError_t e)
{
  if (e != cudaSuccess) {
    fprintf(stderr, "mma: %s\n", cudaGetErrorString(e));
    exit(1);
  }
}

static uint32_t *upload(size_t bytes)
{
  std::vector<char> host(bytes);
  if (fread(host.data(), 1, bytes, stdin) != bytes) {
    fprintf(stderr, "mma: too few operands\n");
    exit(1);
  }
  uint32_t *dev;
  check(cudaMalloc(&dev, bytes));
  check(cudaMemcpy(dev, host.data(), bytes, cudaMemcpyHostToDevice));
  return dev;
}

template <class I>
static int record(int tiles)
{
  size_t accBytes = size_t(tiles) * I::m * 8 * I::words;
  uint32_t *a = upload(size_t(tiles) * I::m * 32), *b = upload(size_t(tiles) * 8 * 32), *c = upload(accBytes), *d;
  check(cudaMalloc(&d, accBytes));
  check(cudaMemset(d, 0xa5, accBytes));
  tile<I><<<tiles, I::m * 2>>>(a, b, c, d);
  check(cudaGetLastError());
  std::vector<char> host(accBytes);
  check(cudaMemcpy(host.data(), d, accBytes, cudaMemcpyDeviceToHost));
  return fwrite(host.data(), 1, accBytes, stdout) == accBytes ? 0 : 1;
}

static const struct {
  const char *name;
  int (*record)(int);
} instructions[] = {
    {"mma.sync.m16n8k32.f32.e4m3.e4m3.f32", record<SyncE4M3F32>},
    {"mma.sync.m16n8k32.f32.e5m2.e5m2.f32", record<SyncE5M2F32>},
    {"mma.sync.m16n8k32.f16.e4m3.e4m3.f16", record<SyncE4M3F16>},
    {"mma.sync.m16n8k32.f16.e5m2.e5m2.f16", record<SyncE5M2F16>},
    {"mma.sync.m16n8k16.f32.f16.f16.f32", record<SyncF16F32>},
    {"mma.sync.m16n8k16.f16.f16.f16.f16", record<SyncF16F16>},
    {"mma.sync.m16n8k16.f32.bf16.bf16.f32", record<SyncBF16F32>},
    {"mma.sync.m16n8k32.s32.s8.s8.s32", record<SyncS8>},
    {"mma.sync.m16n8k64.s32.s4.s4.s32", record<SyncS4>},
    {"wgmma.m64n8k32.f32.e4m3.e4m3", record<WarpgroupE4M3F32>},
    {"wgmma.m64n8k32.f32.e5m2.e5m2", record<WarpgroupE5M2F32>},
    {"wgmma.m64n8k32.f16.e4m3.e4m3", record<WarpgroupE4M3F16>},
    {"wgmma.m64n8k32.f16.e5m2.e5m2", record<WarpgroupE5M2F16>},
    {"wgmma.m64n8k16.f32.f16.f16", record<WarpgroupF16F32>},
    {"wgmma.m64n8k16.f16.f16.f16", record<WarpgroupF16F16>},
    {"wgmma.m64n8k32.s32.s8.s8", record<WarpgroupS8>},
};

int main(int argc, char **argv)
{
  if (argc == 3)
    for (auto &i : instructions)
      if (!strcmp(argv[1], i.name))
        return i.record(atoi(argv[2]));
  fprintf(stderr, "usage: mma INSTRUCTION TILES < OPERANDS > RESULTS\n");
  for (auto &i : instructions)
    fprintf(stderr, "  %s\n", i.name);
  return 2;
}
