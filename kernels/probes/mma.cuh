// One matrix instruction a tile, on the operands in memory.
//
// A is [tile][m][32 bytes], B is [tile][n][32 bytes], C and D are [tile][m][n],
// each packed as the instruction takes it (s4: two to a byte, the first one low).
// n is 8; m is 16 for mma.sync and 64 for wgmma. D = A B^T + C.
//
// Every kind of operand fills 32 bytes of a row, so that one fragment layout
// serves them all: lane l holds bytes 4(l%4) and 16+4(l%4) of rows l/4 and
// l/4+8. wgmma takes A from registers and B from shared memory.
#pragma once
#include <cstdint>

// The accumulator fragment: 4 words of 32 bits, or 2 words of two FP16.
template <int words>
struct Acc {
  uint32_t w[words];
};

template <class I>
__device__ void tile(const uint32_t *A, const uint32_t *B, const uint32_t *C, uint32_t *D)
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

// The entry point of an instruction: grid (tiles), block (2 m).
#define ENTRY(I, NAME)                                                                                              \
  extern "C" __global__ void NAME(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *d)             \
  {                                                                                                                 \
    tile<I>(a, b, c, d);                                                                                            \
  }
