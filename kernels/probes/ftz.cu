// Records what flush-to-zero means for FP32 arithmetic on an NVIDIA GPU.
//
//   ftz mul|fma|add COUNT < OPERANDS > RESULTS
//
// OPERANDS is COUNT triples a, b, c of raw float32 values; the result is a*b,
// a*b+c or a+c, each with .rn.ftz.
//
//   nvcc -O3 -gencode arch=compute_90a,code=sm_90a -o ftz ftz.cu
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

__global__ void apply(int op, const float3 *x, float *y, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  float a = x[i].x, b = x[i].y, c = x[i].z, r;
  if (op == 0)
    asm volatile("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  else if (op == 1)
    asm volatile("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
  else
    asm volatile("add.rn.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(c));
  y[i] = r;
}

static void check(cudaError_t e)
{
  if (e != cudaSuccess) {
    fprintf(stderr, "ftz: %s\n", cudaGetErrorString(e));
    exit(1);
  }
}

int main(int argc, char **argv)
{
  const char *names[] = {"mul", "fma", "add"};
  int op = 0;
  while (argc == 3 && op < 3 && strcmp(argv[1], names[op]))
    op++;
  if (argc != 3 || op == 3) {
    fprintf(stderr, "usage: ftz mul|fma|add COUNT < OPERANDS > RESULTS\n");
    return 2;
  }
  size_t n = strtoul(argv[2], nullptr, 0);
  std::vector<float3> x(n);
  std::vector<float> y(n);
  if (fread(x.data(), sizeof(float3), n, stdin) != n) {
    fprintf(stderr, "ftz: too few operands\n");
    return 1;
  }
  float3 *dx;
  float *dy;
  check(cudaMalloc(&dx, n * sizeof(float3)));
  check(cudaMalloc(&dy, n * sizeof(float)));
  check(cudaMemcpy(dx, x.data(), n * sizeof(float3), cudaMemcpyHostToDevice));
  apply<<<unsigned((n + 255) / 256), 256>>>(op, dx, dy, int(n));
  check(cudaGetLastError());
  check(cudaMemcpy(y.data(), dy, n * sizeof(float), cudaMemcpyDeviceToHost));
  return fwrite(y.data(), sizeof(float), n, stdout) == n ? 0 : 1;
}
