// sage2-4b: Algorithm 1 of SageAttention2 (arXiv 2411.10958). INT4 per-thread Q
// and K, smooth Q and K, FP8 P and V, two-level accumulation.
//
// The kernels define the preset: package emulate gives the same bits. They are
// written to be read, not to be fast; every rounding is spelled out.
//
// Tensors are HND, [heads][tokens][head_dim], FP16 or BF16, batch and heads
// merged into heads. Tiles are 128 queries (4 warps of 32 rows) by 64 keys.
#include "common.cuh"

constexpr int kBlockQ = 128, kWarpQ = 32, kBlockK = 64;

// The code of x in a group with the given step; a group of zeros has step 0.
__device__ __forceinline__ int code4(float x, float step)
{
  if (step == 0)
    return 0;
  float q = __fdiv_rn(x, step);
  q = CODES_TOWARD_ZERO ? truncf(q) : rintf(q);
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

__device__ __forceinline__ float v_max() { return FP16_ACCUMULATOR ? 2.25f : 448.f; }

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
#if PER_BLOCK
  for (int i = 1; i < 4; i *= 2)
    amax = fmaxf(amax, __shfl_xor_sync(0xf, amax, i));
#endif
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
#if PER_BLOCK
  for (int i = 1; i < 32; i *= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, i));
#endif
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

// V transposed to [head][dim][padded], quantised per channel, and permuted.
// Grid (heads), block (dim).
template <typename T>
__device__ void quantize_v(const T *v, uint8_t *codes, float *scale, int n, int padded, int dim)
{
  int head = blockIdx.x, c = threadIdx.x;
  const T *x = v + int64_t(head) * n * dim + c;
  float amax = 0;
  for (int i = 0; i < n; i++)
    amax = fmaxf(amax, fabsf(load(x + int64_t(i) * dim)));
  float s = __fdiv_rn(amax, v_max());
  scale[head * dim + c] = s;
  uint8_t *out = codes + (int64_t(head) * dim + c) * padded;
  for (int i = 0; i < padded; i++) {
    float y = i < n && s != 0 ? __fdiv_rn(load(x + int64_t(i) * dim), s) : 0.f;
    out[stored(i)] = uint8_t(e4m3x2(y, 0.f));
  }
}

// r += P V for 16 rows, 32 keys and 8 channels.
__device__ __forceinline__ void mma_pv(float (&r)[4], const uint32_t (&p)[4], uint32_t v0, uint32_t v1)
{
#if FP16_ACCUMULATOR
  __half2 lo = __floats2half2_rn(r[0], r[1]), hi = __floats2half2_rn(r[2], r[3]); // exact
  uint32_t &c0 = reinterpret_cast<uint32_t &>(lo), &c1 = reinterpret_cast<uint32_t &>(hi);
  asm("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
      : "+r"(c0), "+r"(c1)
      : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(v0), "r"(v1));
  float2 x = __half22float2(lo), y = __half22float2(hi);
  r[0] = x.x, r[1] = x.y, r[2] = y.x, r[3] = y.y;
#else
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(r[0]), "+f"(r[1]), "+f"(r[2]), "+f"(r[3])
      : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(v0), "r"(v1));
#endif
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
  float sm = mul(scale, kLog2e);
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
          bool end = col >= nk;
          bool hidden = (end && !NO_KEY_MASK) || (causal && col > row + MASK_SHIFT);
          float correction = end || NO_DELTA_S ? 0 : ds[col];
          s[fq * 2 + i / 2][n8 * 2 + i % 2] = hidden ? kMasked : fma_(float(c[i]), dequant, correction);
        }
      }
    }
    float rescale[4];
    for (int i = 0; i < 4; i++) {
      float top = kMasked;
      for (int j = 0; j < 16; j++)
        top = fmaxf(top, s[i][j]);
      top = fma_(top, sm, -P_OFFSET);
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      float next = fmaxf(m[i], top);
      rescale[i] = ex2(add(m[i], -next));
      m[i] = next;
      for (int j = 0; j < 16; j++)
        s[i][j] = ex2(fma_(s[i][j], sm, -next));
      for (int b = 0; b < 4; b++) {
        float sum = sum4(s[i] + 4 * b);
        d[i] = b == 0 ? rescaled(d[i], rescale[i], sum) : add(d[i], sum);
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
            p[i] = p_codes(x[0], x[1]) | p_codes(x[2], x[3]) << 16;
          }
          mma_pv(r, p, word(vp + kk * 32), word(vp + kk * 32 + 16));
        }
        for (int i = 0; i < 4; i++)
          acc[fq][fv][i] = accumulate(acc[fq][fv][i], rescale[fq * 2 + i / 2], r[i]);
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
