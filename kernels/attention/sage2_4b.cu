// sage2-4b: Algorithm 1 of SageAttention2 (arXiv 2411.10958). INT4 per-thread Q
// and K, smooth Q and K, FP8 P and V, two-level accumulation.
//
// The kernels define the preset: package emulate gives the same bits. They are
// written to be read, not to be fast; every rounding is spelled out. Arithmetic
// of the softmax is .ftz, that of the quantisers is IEEE FP32. Compile with
// -fmad=false, so that only the fused operations written here are fused:
//
//   nvcc -O3 -std=c++17 -fmad=false -gencode arch=compute_89,code=sm_89 ...
//
// Tensors are HND, [heads][tokens][head_dim], FP16 or BF16, batch and heads
// merged into heads. Tiles are 128 queries (4 warps of 32 rows) by 64 keys.
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int kBlockQ = 128, kWarpQ = 32, kBlockK = 64;
constexpr float kMasked = -5000000.f;

__device__ __forceinline__ float load(const __half *p) { return __half2float(*p); }
__device__ __forceinline__ float load(const __nv_bfloat16 *p) { return __bfloat162float(*p); }
__device__ __forceinline__ void store(__half *p, float x) { *p = __float2half_rn(x); }
__device__ __forceinline__ void store(__nv_bfloat16 *p, float x) { *p = __float2bfloat16_rn(x); }

__device__ __forceinline__ float mul(float a, float b)
{
  float r;
  asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float add(float a, float b)
{
  float r;
  asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float fma_(float a, float b, float c)
{
  float r;
  asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
  return r;
}
__device__ __forceinline__ float ex2(float x)
{
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
__device__ __forceinline__ float rcp(float x)
{
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
__device__ __forceinline__ float lg2(float x)
{
  float r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
// Two FP32 values to two E4M3 codes, lo in the low byte.
__device__ __forceinline__ uint32_t e4m3x2(float lo, float hi)
{
  uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(r) : "f"(lo), "f"(hi));
  return r;
}

// Sum of FP64 values with a compensation term (Neumaier).
struct Sum {
  double s = 0, c = 0;
  __device__ void add(double x)
  {
    double t = s + x;
    c += fabs(s) >= fabs(x) ? (s - t) + x : (x - t) + s;
    s = t;
  }
  __device__ float mean(int n) const { return float((s + c) / n); }
};

// The code of x in a group with the given step; a group of zeros has step 0.
__device__ __forceinline__ int code4(float x, float step)
{
  if (step == 0)
    return 0;
  float q = rintf(__fdiv_rn(x, step));
  return int(fminf(fmaxf(q, -7.f), 7.f));
}

__device__ __forceinline__ void put4(uint8_t *codes, int64_t row, int dim, int c, int lo, int hi)
{
  codes[row * (dim / 2) + c / 2] = uint8_t((lo & 15) | (hi & 15) << 4);
}

// mean[head][c] of n tokens. One thread a channel; grid (heads), block (dim).
template <typename T>
__device__ void channel_mean(const T *x, float *mean, int n, int dim)
{
  int head = blockIdx.x, c = threadIdx.x;
  Sum s;
  for (int i = 0; i < n; i++)
    s.add(load(x + (int64_t(head) * n + i) * dim + c));
  mean[head * dim + c] = s.mean(n);
}

// smooth[row][c] = k - mean, its codes, and a step for each 4 groups of a tile:
// rows with equal (row mod 8)/2. Grid (tiles, heads), block (4).
template <typename T>
__device__ void quantize_k(const T *k, const float *mean, float *smooth, uint8_t *codes, float *steps, int n, int dim)
{
  int tile = blockIdx.x, head = blockIdx.y, group = threadIdx.x;
  int64_t base = int64_t(head) * n;
  float amax = 0;
  for (int i = 0; i < kBlockK; i++) {
    int row = tile * kBlockK + i;
    if (i % 8 / 2 != group || row >= n)
      continue;
    for (int c = 0; c < dim; c++) {
      float x = load(k + (base + row) * dim + c) - mean[head * dim + c];
      smooth[(base + row) * dim + c] = x;
      amax = fmaxf(amax, fabsf(x));
    }
  }
  float step = __fdiv_rn(amax, 7.f);
  steps[(int64_t(head) * gridDim.x + tile) * 4 + group] = step;
  for (int i = 0; i < kBlockK; i++) {
    int row = tile * kBlockK + i;
    if (i % 8 / 2 != group || row >= n)
      continue;
    const float *x = smooth + (base + row) * dim;
    for (int c = 0; c < dim; c += 2)
      put4(codes, base + row, dim, c, code4(x[c], step), code4(x[c + 1], step));
  }
}

// The mean of each tile of 128 query rows, and codes and a step for each 8
// groups of a warp's rows: equal row mod 8. Grid (tiles, heads), block (128).
template <typename T>
__device__ void quantize_q(const T *q, float *mean, uint8_t *codes, float *steps, int n, int dim)
{
  int tile = blockIdx.x, head = blockIdx.y, t = threadIdx.x;
  int64_t base = int64_t(head) * n;
  int first = tile * kBlockQ, rows = min(kBlockQ, n - first);
  float *m = mean + (int64_t(head) * gridDim.x + tile) * dim;
  if (t < dim) {
    Sum s;
    for (int i = 0; i < rows; i++)
      s.add(load(q + (base + first + i) * dim + t));
    m[t] = s.mean(rows);
  }
  __syncthreads();
  if (t >= kBlockQ / kWarpQ * 8)
    return;
  int warp = t / 8, group = t % 8;
  float amax = 0;
  for (int i = warp * kWarpQ + group; i < (warp + 1) * kWarpQ && i < rows; i += 8)
    for (int c = 0; c < dim; c++)
      amax = fmaxf(amax, fabsf(load(q + (base + first + i) * dim + c) - m[c]));
  float step = __fdiv_rn(amax, 7.f);
  steps[(int64_t(head) * gridDim.x + tile) * 32 + t] = step;
  for (int i = warp * kWarpQ + group; i < (warp + 1) * kWarpQ && i < rows; i += 8) {
    const T *x = q + (base + first + i) * dim;
    for (int c = 0; c < dim; c += 2)
      put4(codes, base + first + i, dim, c, code4(load(x + c) - m[c], step), code4(load(x + c + 1) - m[c + 1], step));
  }
}

// delta[tile][key] = mean query of the tile times the smoothed key: one fused
// multiply-add a channel, in order. Grid (tiles, heads, ceil(keys/128)), block 128.
__device__ void delta_s(const float *mean, const float *smooth, float *delta, int keys, int dim, int group)
{
  int tile = blockIdx.x, head = blockIdx.y, key = blockIdx.z * 128 + threadIdx.x;
  if (key >= keys)
    return;
  const float *m = mean + (int64_t(head) * gridDim.x + tile) * dim;
  const float *k = smooth + (int64_t(head / group) * keys + key) * dim;
  float s = 0;
  for (int c = 0; c < dim; c++)
    s = fma_(m[c], k[c], s);
  delta[(int64_t(head) * gridDim.x + tile) * keys + key] = s;
}

// V transposed to [head][dim][padded], quantised per channel, and permuted within
// 16 tokens so that a thread's P fragment is an operand of the mma as it is.
// Grid (heads), block (dim).
template <typename T>
__device__ void quantize_v(const T *v, uint8_t *codes, float *scale, int n, int padded, int dim)
{
  int head = blockIdx.x, c = threadIdx.x;
  const T *x = v + int64_t(head) * n * dim + c;
  float amax = 0;
  for (int i = 0; i < n; i++)
    amax = fmaxf(amax, fabsf(load(x + int64_t(i) * dim)));
  float s = __fdiv_rn(amax, 448.f);
  scale[head * dim + c] = s;
  uint8_t *out = codes + (int64_t(head) * dim + c) * padded;
  for (int i = 0; i < padded; i++) {
    int m = i % 16;
    int position = i - m + m / 8 * 2 + m / 2 % 4 * 4 + m % 2;
    float y = i < n && s != 0 ? __fdiv_rn(load(x + int64_t(i) * dim), s) : 0.f;
    out[position] = uint8_t(e4m3x2(y, 0.f));
  }
}

// The attention itself. Grid (tiles, heads), block (128). lse, if not null,
// receives lg2(d) + m of each row.
template <typename T, int dim>
__device__ void attend(const uint8_t *q, const float *q_step, const uint8_t *k, const float *k_step, const float *delta,
                       const uint8_t *v, const float *v_scale, T *o, float *lse, int nq, int nk, int padded, int group,
                       int causal, float scale)
{
  int tile = blockIdx.x, head = blockIdx.y, kv_head = head / group;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int row0 = tile * kBlockQ + warp * kWarpQ + g; // rows row0 + 8*i, i = 0..3
  int k_tiles_all = (nk + kBlockK - 1) / kBlockK;
  float sm = mul(scale, 1.44269504088896340736f);
  // All four rows of a thread have the same row mod 8, hence one step.
  float qs = q_step[(int64_t(head) * gridDim.x + tile) * 32 + warp * 8 + g];

  auto word = [](const uint8_t *p) { return *reinterpret_cast<const uint32_t *>(p); };
  uint32_t a[2][dim / 64][4];
  for (int fq = 0; fq < 2; fq++)
    for (int kk = 0; kk < dim / 64; kk++)
      for (int i = 0; i < 4; i++) {
        int row = row0 + fq * 16 + i % 2 * 8;
        a[fq][kk][i] = row < nq ? word(q + (int64_t(head) * nq + row) * (dim / 2) + kk * 32 + i / 2 * 16 + t * 4) : 0;
      }

  float m[4], d[4], acc[2][dim / 8][4];
  for (int i = 0; i < 4; i++)
    m[i] = kMasked, d[i] = 1;
  for (auto &x : acc)
    for (auto &y : x)
      for (float &z : y)
        z = 0;

  int keys = causal ? min(nk, (tile + 1) * kBlockQ) : nk;
  int k_tiles = (keys + kBlockK - 1) / kBlockK;
  for (int it = 0; it < k_tiles; it++) {
    int key0 = it * kBlockK;
    float dequant = mul(qs, k_step[(int64_t(kv_head) * k_tiles_all + it) * 4 + t]);
    const float *ds = delta + (int64_t(head) * gridDim.x + tile) * nk;
    // s[i][j]: row row0 + 8*i, key key0 + j/2*8 + 2*t + j%2.
    float s[4][16];
    for (int n8 = 0; n8 < 8; n8++) {
      int key = key0 + n8 * 8 + g; // the key whose codes this thread loads
      uint32_t b[dim / 64][2];
      for (int kk = 0; kk < dim / 64; kk++)
        for (int i = 0; i < 2; i++)
          b[kk][i] = key < nk ? word(k + (int64_t(kv_head) * nk + key) * (dim / 2) + kk * 32 + i * 16 + t * 4) : 0;
      for (int fq = 0; fq < 2; fq++) {
        int c[4] = {0, 0, 0, 0};
        for (int kk = 0; kk < dim / 64; kk++)
          asm("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
              : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
              : "r"(a[fq][kk][0]), "r"(a[fq][kk][1]), "r"(a[fq][kk][2]), "r"(a[fq][kk][3]), "r"(b[kk][0]), "r"(b[kk][1]));
        for (int i = 0; i < 4; i++) {
          int row = row0 + fq * 16 + i / 2 * 8, col = key0 + n8 * 8 + 2 * t + i % 2;
          bool hidden = col >= nk || (causal && col > row);
          s[fq * 2 + i / 2][n8 * 2 + i % 2] = hidden ? kMasked : fma_(float(c[i]), dequant, ds[col]);
        }
      }
    }
    float rescale[4];
    for (int i = 0; i < 4; i++) {
      float top = kMasked;
      for (int j = 0; j < 16; j++)
        top = fmaxf(top, s[i][j]);
      top = fma_(top, sm, -8.807f); // P fills [0, 448]: 8.807 is about log2(448)
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      float next = fmaxf(m[i], top);
      rescale[i] = ex2(add(m[i], -next));
      m[i] = next;
      for (int j = 0; j < 16; j++)
        s[i][j] = ex2(fma_(s[i][j], sm, -next));
      for (int b = 0; b < 4; b++) {
        const float *p = s[i] + 4 * b;
        float sum = add(add(add(p[0], p[1]), p[2]), p[3]);
        d[i] = b == 0 ? fma_(d[i], rescale[i], sum) : add(d[i], sum);
      }
    }
    for (int fv = 0; fv < dim / 8; fv++) {
      const uint8_t *vp = v + (int64_t(kv_head) * dim + fv * 8 + g) * padded + key0 + 4 * t;
      for (int fq = 0; fq < 2; fq++) {
        float r[4] = {0, 0, 0, 0};
        for (int kk = 0; kk < 2; kk++) {
          uint32_t p[4];
          for (int i = 0; i < 4; i++) { // rows g and g+8, keys 0-15 and 16-31 of 32
            const float *x = s[fq * 2 + i % 2] + kk * 8 + i / 2 * 4;
            p[i] = e4m3x2(x[0], x[1]) | e4m3x2(x[2], x[3]) << 16;
          }
          asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
              : "+f"(r[0]), "+f"(r[1]), "+f"(r[2]), "+f"(r[3])
              : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(word(vp + kk * 32)), "r"(word(vp + kk * 32 + 16)));
        }
        for (int i = 0; i < 4; i++)
          acc[fq][fv][i] = fma_(acc[fq][fv][i], rescale[fq * 2 + i / 2], r[i]);
      }
    }
  }
  for (int i = 0; i < 4; i++) {
    d[i] = add(d[i], __shfl_xor_sync(~0u, d[i], 1));
    d[i] = add(d[i], __shfl_xor_sync(~0u, d[i], 2));
    int row = row0 + i * 8;
    if (row >= nq)
      continue;
    float inv = rcp(d[i]);
    if (lse && t == 0)
      lse[int64_t(head) * nq + row] = add(lg2(d[i]), m[i]);
    for (int fv = 0; fv < dim / 8; fv++)
      for (int j = 0; j < 2; j++) {
        int c = fv * 8 + 2 * t + j;
        store(o + (int64_t(head) * nq + row) * dim + c, mul(mul(acc[i / 2][fv][i % 2 * 2 + j], inv), v_scale[kv_head * dim + c]));
      }
  }
}

// The entry points: pointers and scalars only.
#define ENTRIES(T, NAME)                                                                                              \
  extern "C" __global__ void channel_mean_##NAME(const T *x, float *mean, int n, int dim)                             \
  {                                                                                                                   \
    channel_mean(x, mean, n, dim);                                                                                    \
  }                                                                                                                   \
  extern "C" __global__ void quantize_k_##NAME(const T *k, const float *mean, float *smooth, uint8_t *codes,          \
                                               float *steps, int n, int dim)                                          \
  {                                                                                                                   \
    quantize_k(k, mean, smooth, codes, steps, n, dim);                                                                \
  }                                                                                                                   \
  extern "C" __global__ void quantize_q_##NAME(const T *q, float *mean, uint8_t *codes, float *steps, int n, int dim) \
  {                                                                                                                   \
    quantize_q(q, mean, codes, steps, n, dim);                                                                        \
  }                                                                                                                   \
  extern "C" __global__ void quantize_v_##NAME(const T *v, uint8_t *codes, float *scale, int n, int padded, int dim)  \
  {                                                                                                                   \
    quantize_v(v, codes, scale, n, padded, dim);                                                                      \
  }
#define ATTEND(T, NAME, DIM)                                                                                          \
  extern "C" __global__ void attend_##NAME##_##DIM(                                                                   \
      const uint8_t *q, const float *q_step, const uint8_t *k, const float *k_step, const float *delta,               \
      const uint8_t *v, const float *v_scale, T *o, float *lse, int nq, int nk, int padded, int group, int causal,    \
      float scale)                                                                                                    \
  {                                                                                                                   \
    attend<T, DIM>(q, q_step, k, k_step, delta, v, v_scale, o, lse, nq, nk, padded, group, causal, scale);            \
  }

ENTRIES(__half, f16)
ENTRIES(__nv_bfloat16, bf16)
ATTEND(__half, f16, 64)
ATTEND(__half, f16, 128)
ATTEND(__nv_bfloat16, bf16, 64)
ATTEND(__nv_bfloat16, bf16, 128)
extern "C" __global__ void delta_s_f32(const float *mean, const float *smooth, float *delta, int keys, int dim, int group)
{
  delta_s(mean, smooth, delta, keys, dim, group);
}
