// sage2-8b-sm90: SageAttention2 on Hopper, as the released sm_90 kernel computes
// it (thu-ml/SageAttention, qk_int_sv_f8_cuda_sm90.cu; its order of operations is
// in docs/emulation.md). INT8 per-thread Q and K, smooth K, FP8 P and V, wgmma,
// two-level accumulation.
//
// Package emulate gives the same bits. The kernels are written to be read, not
// to be fast: no tensor maps, no pipelines, every rounding spelled out.
//
// Tensors are HND, [heads][tokens][head_dim], FP16 or BF16, batch and heads
// merged into heads. Tiles are 64 queries (4 warps of 16 rows) by 128 keys.
#include "common.cuh"

constexpr int kBlockQ = 64, kWarpQ = 16, kBlockK = 128;

// The code of x in a group with the given step.
__device__ __forceinline__ int8_t code8(float x, float step)
{
  float y = div_full(x, step);
  y = CODES_TOWARD_ZERO ? y : y >= 0 ? y + 0.5f : y - 0.5f;
  return int8_t(fminf(fmaxf(truncf(y), -128.f), 127.f));
}
__device__ __forceinline__ float step8(float amax) { return fma_(amax, 1.f / 127, 1e-7f); }

// mean[head][c] of n tokens, rounded to the input format. One thread a channel;
// grid (heads), block (dim).
template <typename T>
__device__ void channel_mean(const T *x, T *mean, int n, int dim)
{
  int head = blockIdx.x, c = threadIdx.x;
  Sum s;
  for (int i = 0; i < n; i++)
    s.add(load(x + (int64_t(head) * n + i) * dim + c));
  store(mean + head * dim + c, s.mean(n));
}

// k - mean, rounded to the input format.
template <typename T>
__device__ __forceinline__ float smoothed(const T *k, const T *mean)
{
  T y;
  store(&y, load(k) - load(mean));
  return load(&y);
}

// Codes of k - mean, and a step for each 4 groups of a tile: rows with equal
// (row mod 8)/2. codes is [heads][padded][dim], zero beyond the n tokens. Grid
// (tiles, heads), block (4).
template <typename T>
__device__ void quantize_k(const T *k, const T *mean, int8_t *codes, float *steps, int n, int dim)
{
  int tile = blockIdx.x, head = blockIdx.y, group = threadIdx.x;
  k += int64_t(head) * n * dim, mean += head * dim;
  codes += (int64_t(head) * gridDim.x + tile) * kBlockK * dim;
  float amax = 0;
  for (int i = 2 * group; i < kBlockK; i += i % 2 ? 7 : 1)
    for (int c = 0; c < dim && tile * kBlockK + i < n; c++)
      amax = fmaxf(amax, fabsf(smoothed(k + int64_t(tile * kBlockK + i) * dim + c, mean + c)));
  float step = step8(amax);
  steps[(int64_t(head) * gridDim.x + tile) * 4 + group] = step;
  for (int i = 2 * group; i < kBlockK; i += i % 2 ? 7 : 1) {
    int row = tile * kBlockK + i;
    for (int c = 0; c < dim; c++)
      codes[i * dim + c] = row < n ? code8(smoothed(k + int64_t(row) * dim + c, mean + c), step) : 0;
  }
}

// Codes of q, and a step for each 8 groups of a warp's rows: equal row mod 8.
// Grid (tiles, heads), block (32).
template <typename T>
__device__ void quantize_q(const T *q, int8_t *codes, float *steps, int n, int dim)
{
  int tile = blockIdx.x, head = blockIdx.y, t = threadIdx.x;
  int64_t base = int64_t(head) * n;
  int first = tile * kBlockQ + t / 8 * kWarpQ + t % 8;
  float amax = 0;
  for (int row = first; row < first + kWarpQ && row < n; row += 8)
    for (int c = 0; c < dim; c++)
      amax = fmaxf(amax, fabsf(load(q + (base + row) * dim + c)));
  float step = step8(amax);
  steps[(int64_t(head) * gridDim.x + tile) * 32 + t] = step;
  for (int row = first; row < first + kWarpQ && row < n; row += 8)
    for (int c = 0; c < dim; c++)
      codes[(base + row) * dim + c] = code8(load(q + (base + row) * dim + c), step);
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
  scale[head * dim + c] = div_approx(amax, 448.f);
  float inverse = div_approx(448.f, amax);
  uint8_t *out = codes + (int64_t(head) * dim + c) * padded;
  for (int i = 0; i < padded; i++)
    out[stored(i)] = uint8_t(e4m3x2(mul(i < n ? load(x + int64_t(i) * dim) : 0.f, inverse), 0.f));
}

// A matrix operand in shared memory without swizzle: core matrices of 8 rows of
// 16 bytes; those of the next 8 rows follow, and the next 16 bytes of all rows
// are rows*16 bytes on.
__device__ __forceinline__ uint64_t descriptor(const void *p, int rows)
{
  uint64_t address = __cvta_generic_to_shared(p);
  return (address >> 4 & 0x3fff) | uint64_t(rows * 16 >> 4) << 16 | uint64_t(128 >> 4) << 32;
}

// The 32 registers of a 64 x 64 accumulator. Element 4*n + j is that of row
// lane/4 + j/2*8 of the warp's 16 and column 8*n + lane%4*2 + j%2.
#define REGS8(C, d, i) \
  C(d[i]), C(d[i + 1]), C(d[i + 2]), C(d[i + 3]), C(d[i + 4]), C(d[i + 5]), C(d[i + 6]), C(d[i + 7])
#define REGS32(C, d) REGS8(C, d, 0), REGS8(C, d, 8), REGS8(C, d, 16), REGS8(C, d, 24)
#define WGMMA(KIND, TAIL)                                                                                    \
  "wgmma.fence.sync.aligned;\n"                                                                              \
  "wgmma.mma_async.sync.aligned.m64n64k32." KIND " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1" TAIL ";\n"    \
  "wgmma.commit_group.sync.aligned;\n"                                                                       \
  "wgmma.wait_group.sync.aligned 0;"
#define IN_OUT_R(x) "+r"(x)
#define IN_OUT_F(x) "+f"(x)

// d += A B^T, 64 x 64 by a depth of 32.
__device__ __forceinline__ void wgmma_s8(int *d, const uint32_t *a, uint64_t b)
{
  asm volatile(WGMMA("s32.s8.s8", "")
               : REGS32(IN_OUT_R, d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
               : "memory");
}
__device__ __forceinline__ void wgmma_e4m3(float *d, const uint32_t *a, uint64_t b)
{
  asm volatile(WGMMA("f32.e4m3.e4m3", ", 1, 1")
               : REGS32(IN_OUT_F, d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
               : "memory");
}

// The attention itself. Grid (tiles, heads), block (128). k is [kv heads][padded]
// [dim], v [kv heads][dim][padded]. lse, if not null, receives lg2(d) + m of each
// row.
template <typename T, int dim>
__device__ void attend(const int8_t *q, const float *q_step, const int8_t *k, const float *k_step, const uint8_t *v,
                       const float *v_scale, T *o, float *lse, int nq, int nk, int padded, int group, int causal,
                       float scale)
{
  __shared__ __align__(128) uint4 k_tile[dim / 16][kBlockK], v_tile[kBlockK / 16][dim];
  int tile = blockIdx.x, head = blockIdx.y, kv_head = head / group;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int row0 = tile * kBlockQ + warp * kWarpQ + g; // rows row0 and row0 + 8
  float sm = mul(scale, kLog2e);
  // Both rows of a thread have the same row mod 8, hence one step.
  float qs = q_step[(int64_t(head) * gridDim.x + tile) * 32 + warp * 8 + g];

  uint32_t a[dim / 32][4];
  for (int kk = 0; kk < dim / 32; kk++)
    for (int i = 0; i < 4; i++) {
      int row = row0 + i % 2 * 8;
      const int8_t *p = q + (int64_t(head) * nq + row) * dim + kk * 32 + i / 2 * 16 + t * 4;
      a[kk][i] = row < nq ? *reinterpret_cast<const uint32_t *>(p) : 0;
    }

  float m[2] = {kMasked, kMasked}, d[2] = {1, 1};
  float acc[dim / 64][32] = {};

  int keys = causal ? min(nk, (tile + 1) * kBlockQ) : nk;
  int tiles = (keys + kBlockK - 1) / kBlockK, all_tiles = padded / kBlockK;
  for (int it = 0; it < tiles; it++) {
    int key0 = it * kBlockK;
    for (int i = threadIdx.x; i < dim / 16 * kBlockK; i += 128) {
      int key = i / (dim / 16), c = i % (dim / 16);
      k_tile[c][key] = reinterpret_cast<const uint4 *>(k + (int64_t(kv_head) * padded + key0 + key) * dim)[c];
    }
    for (int i = threadIdx.x; i < kBlockK / 16 * dim; i += 128) {
      int c = i / (kBlockK / 16), part = i % (kBlockK / 16);
      v_tile[part][c] = reinterpret_cast<const uint4 *>(v + (int64_t(kv_head) * dim + c) * padded + key0)[part];
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();

    int si[2][32] = {}; // 64 keys each
    for (int half = 0; half < 2; half++)
      for (int kk = 0; kk < dim / 32; kk++)
        wgmma_s8(si[half], a[kk], descriptor(&k_tile[2 * kk][64 * half], kBlockK));

    // The last tile is dequantised, then masked; before it the factor is part of
    // the softmax scale.
    float dequant = mul(qs, k_step[(int64_t(kv_head) * all_tiles + it) * 4 + t]);
    bool last = it == tiles - 1;
    float factor = last ? sm : mul(sm, dequant);
    // s[r][2*n + j]: row row0 + 8*r, key key0 + 8*n + 2*t + j.
    float s[2][32], alpha[2];
    for (int r = 0; r < 2; r++) {
      float top = kMasked;
      for (int i = 0; i < 32; i++) {
        int n = i / 2, key = key0 + 8 * n + 2 * t + i % 2;
        float x = float(si[n / 8][n % 8 * 4 + 2 * r + i % 2]);
        if (last) {
          bool hidden = (key >= nk && !NO_KEY_MASK) || (causal && key > row0 + 8 * r + MASK_SHIFT);
          x = hidden ? kMasked : mul(x, dequant);
        }
        s[r][i] = x;
        top = fmaxf(top, x);
      }
      top = fma_(top, factor, -P_OFFSET);
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      float next = fmaxf(m[r], top);
      alpha[r] = ex2(add(m[r], -next));
      m[r] = next;
      for (int i = 0; i < 32; i++)
        s[r][i] = ex2(fma_(s[r][i], factor, -next));
      for (int b = 0; b < 8; b++) {
        float sum = sum4(s[r] + 4 * b);
        d[r] = b == 0 ? rescaled(d[r], alpha[r], sum) : add(d[r], sum);
      }
    }

    uint32_t p[kBlockK / 32][4]; // of rows g and g+8, keys 0-15 and 16-31 of 32
    for (int kk = 0; kk < kBlockK / 32; kk++)
      for (int i = 0; i < 4; i++) {
        const float *x = s[i % 2] + kk * 8 + i / 2 * 4;
        p[kk][i] = p_codes(x[0], x[1]) | p_codes(x[2], x[3]) << 16;
      }
    for (int part = 0; part < dim / 64; part++) {
      float(&out)[32] = acc[part];
#if ONE_LEVEL
      for (int i = 0; i < 32; i++)
        out[i] = mul(out[i], alpha[i / 2 % 2]);
      for (int kk = 0; kk < kBlockK / 32; kk++)
        wgmma_e4m3(out, p[kk], descriptor(&v_tile[2 * kk][64 * part], dim));
#else
      constexpr int level = LEVEL_KEYS ? LEVEL_KEYS / 32 : kBlockK / 32;
      for (int first = 0; first < kBlockK / 32; first += level) {
        float sum[32] = {};
        for (int kk = first; kk < first + level; kk++)
          wgmma_e4m3(sum, p[kk], descriptor(&v_tile[2 * kk][64 * part], dim));
        for (int i = 0; i < 32; i++)
          out[i] = first ? add(out[i], sum[i]) : accumulate(out[i], alpha[i / 2 % 2], sum[i]);
      }
#endif
    }
    __syncthreads(); // before the tiles are overwritten
  }

  for (int r = 0; r < 2; r++) {
    d[r] = add(d[r], __shfl_xor_sync(~0u, d[r], 1));
    d[r] = add(d[r], __shfl_xor_sync(~0u, d[r], 2));
    int row = row0 + r * 8;
    if (row >= nq)
      continue;
    float inv = rcp(d[r]);
    if (lse && t == 0)
      lse[int64_t(head) * nq + row] = add(lg2(d[r]), m[r]);
    for (int i = 0; i < dim / 4; i++) {
      int c = i / 2 * 8 + 2 * t + i % 2;
      float x = acc[i / 16][i % 16 / 2 * 4 + 2 * r + i % 2];
      store(o + (int64_t(head) * nq + row) * dim + c, mul(mul(x, inv), v_scale[kv_head * dim + c]));
    }
  }
}

// The entry points: pointers and scalars only.
#define ENTRIES(T, NAME)                                                                                            \
  extern "C" __global__ void channel_mean_##NAME(const T *x, T *mean, int n, int dim)                               \
  {                                                                                                                 \
    channel_mean(x, mean, n, dim);                                                                                  \
  }                                                                                                                 \
  extern "C" __global__ void quantize_k_##NAME(const T *k, const T *mean, int8_t *codes, float *steps, int n,       \
                                               int dim)                                                             \
  {                                                                                                                 \
    quantize_k(k, mean, codes, steps, n, dim);                                                                      \
  }                                                                                                                 \
  extern "C" __global__ void quantize_q_##NAME(const T *q, int8_t *codes, float *steps, int n, int dim)             \
  {                                                                                                                 \
    quantize_q(q, codes, steps, n, dim);                                                                            \
  }                                                                                                                 \
  extern "C" __global__ void quantize_v_##NAME(const T *v, uint8_t *codes, float *scale, int n, int padded, int dim) \
  {                                                                                                                 \
    quantize_v(v, codes, scale, n, padded, dim);                                                                    \
  }
#define ATTEND(T, NAME, DIM)                                                                                        \
  extern "C" __global__ void attend_##NAME##_##DIM(                                                                 \
      const int8_t *q, const float *q_step, const int8_t *k, const float *k_step, const uint8_t *v,                 \
      const float *v_scale, T *o, float *lse, int nq, int nk, int padded, int group, int causal, float scale)       \
  {                                                                                                                 \
    attend<T, DIM>(q, q_step, k, k_step, v, v_scale, o, lse, nq, nk, padded, group, causal, scale);                 \
  }

ENTRIES(__half, f16)
ENTRIES(__nv_bfloat16, bf16)
ATTEND(__half, f16, 64)
ATTEND(__half, f16, 128)
ATTEND(__nv_bfloat16, bf16, 64)
ATTEND(__nv_bfloat16, bf16, 128)
