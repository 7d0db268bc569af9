// Records the special function unit (MUFU) of an NVIDIA GPU.
//
//   mufu ex2|rcp|lg2 START COUNT    f(bits START), f(bits START+1), ...
//   mufu divfull|divapprox START COUNT    a/b of the pairs START, START+1, ...
//
// The results are raw little-endian float32 values on standard output. Pair i
// is the SplitMix64 output of state i: a is its low half, b its high half, so
// that signs, exponents and fractions are all uniform. In every eighth pair a
// is a number within 8 ulp of b times 2^-126 instead, so that the quotient is
// at the threshold of the subnormal numbers.
//
//   nvcc -O3 -gencode arch=compute_90a,code=sm_90a -o mufu mufu.cu
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

enum Op { kEx2, kRcp, kLg2, kDivFull, kDivApprox };

__device__ uint64_t splitmix64(uint64_t i)
{
  uint64_t z = i * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

template <Op op>
__global__ void apply(float *y, uint64_t start, uint64_t n)
{
  uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
  if (i >= n)
    return;
  float x = __uint_as_float(uint32_t(start + i));
  float r;
  if constexpr (op == kEx2)
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  else if constexpr (op == kRcp)
    asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  else if constexpr (op == kLg2)
    asm volatile("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  else {
    uint64_t z = splitmix64(start + i);
    uint32_t p = uint32_t(z), q = uint32_t(z >> 32);
    if ((start + i) % 8 == 0)
      p = q - (126u << 23) + p % 16 - 8;
    float a = __uint_as_float(p), b = __uint_as_float(q);
    if constexpr (op == kDivFull)
      asm volatile("div.full.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    else
      asm volatile("div.approx.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  }
  y[i] = r;
}

static void check(cudaError_t e)
{
  if (e != cudaSuccess) {
    fprintf(stderr, "mufu: %s\n", cudaGetErrorString(e));
    exit(1);
  }
}

static void launch(const char *op, float *y, uint64_t start, uint64_t n)
{
  unsigned blocks = unsigned((n + 255) / 256);
  if (!strcmp(op, "ex2"))
    apply<kEx2><<<blocks, 256>>>(y, start, n);
  else if (!strcmp(op, "rcp"))
    apply<kRcp><<<blocks, 256>>>(y, start, n);
  else if (!strcmp(op, "lg2"))
    apply<kLg2><<<blocks, 256>>>(y, start, n);
  else if (!strcmp(op, "divfull"))
    apply<kDivFull><<<blocks, 256>>>(y, start, n);
  else if (!strcmp(op, "divapprox"))
    apply<kDivApprox><<<blocks, 256>>>(y, start, n);
  else {
    fprintf(stderr, "mufu: unknown operation %s\n", op);
    exit(2);
  }
  check(cudaGetLastError());
}

int main(int argc, char **argv)
{
  if (argc != 4) {
    fprintf(stderr, "usage: mufu ex2|rcp|lg2|divfull|divapprox START COUNT\n");
    return 2;
  }
  uint64_t start = strtoull(argv[2], nullptr, 0), count = strtoull(argv[3], nullptr, 0);
  const uint64_t chunk = 1 << 24;
  float *dev;
  check(cudaMalloc(&dev, chunk * sizeof(float)));
  std::vector<float> host(chunk);
  for (uint64_t done = 0; done < count; done += chunk) {
    uint64_t n = count - done < chunk ? count - done : chunk;
    launch(argv[1], dev, start + done, n);
    check(cudaMemcpy(host.data(), dev, n * sizeof(float), cudaMemcpyDeviceToHost));
    if (fwrite(host.data(), sizeof(float), n, stdout) != n) {
      perror("mufu");
      return 1;
    }
  }
  return 0;
}
