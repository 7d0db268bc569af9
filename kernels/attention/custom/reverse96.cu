// reverse96: a kernel that is none of the known ones, for docs/new-kernel.md and
// the tests. Nothing in Go knows it: reverse96.program.yaml beside it says all that
// the emulator needs.
//
// Tiles are 48 queries (3 warps of 16 rows) by 96 keys, and the keys are met from the
// last tile to the first. Q and K are INT8 with a scale for each token, K smoothed; P
// and V are E4M3, V in its natural order. P is at most 2^8, the denominator sums its
// codes, and P V of all keys is one chain in the matrix unit. A causal mask is
// aligned at the bottom right; what it hides is -inf, and a row that sees no key is
// zero.
//
// It is written to be read, not to be fast. Tensors are [heads][tokens][head_dim],
// FP16 or BF16, batch and heads merged into heads.
#include "../common.cuh"
#include <cmath>

constexpr int kBlockQ = 48, kWarps = 3, kBlockK = 96, kOffset = 8;

// 1/x, correctly rounded.
__device__ __forceinline__ float reciprocal(float x)
{
  float r;
  asm("rcp.rn.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// The mean of each channel of n tokens. One thread a channel; grid (heads), block (dim).
template <typename T>
__device__ void channel_mean(const T *x, float *mean, int n, int dim)
{
  int head = blockIdx.x, c = threadIdx.x;
  Sum s;
  for (int i = 0; i < n; i++)
    s.add(load(x + (int64_t(head) * n + i) * dim + c));
  mean[head * dim + c] = s.mean(n);
}

// The INT8 codes of each token, and its scale max|x| / 127; at(row, head, c) is
// what is quantised. One thread a token; grid (ceil(n/128), heads), block (128).
template <typename F>
__device__ void quantize(F at, int8_t *codes, float *scale, int n, int dim)
{
  int head = blockIdx.y, token = blockIdx.x * 128 + threadIdx.x;
  if (token >= n)
    return;
  int64_t row = int64_t(head) * n + token;
  auto value = [&](int c) { return at(row, head, c); };
  float amax = 0;
  for (int c = 0; c < dim; c++)
    amax = fmaxf(amax, fabsf(value(c)));
  float step = __fdiv_rn(amax, 127.f);
  scale[row] = step;
  for (int c = 0; c < dim; c++)
    codes[row * dim + c] = step == 0 ? 0 : int8_t(fminf(fmaxf(rintf(__fdiv_rn(value(c), step)), -127.f), 127.f));
}

// V transposed to [head][dim][padded] and quantised per channel, in its own order.
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
  for (int i = 0; i < padded; i++) {
    float y = i < n && s != 0 ? __fdiv_rn(load(x + int64_t(i) * dim), s) : 0.f;
    codes[(int64_t(head) * dim + c) * padded + i] = uint8_t(e4m3x2(y, 0.f));
  }
}

__device__ __forceinline__ uint32_t word(const void *p) { return *static_cast<const uint32_t *>(p); }

// The attention itself. Grid (tiles, heads), block (96). lse, if not null, receives
// lg2(d) + m of each row.
template <typename T, int dim>
__device__ void attend(const int8_t *q, const float *q_scale, const int8_t *k, const float *k_scale, const uint8_t *v,
                       const float *v_scale, T *o, float *lse, int nq, int nk, int padded, int group, int causal,
                       float scale)
{
  // Codes of P: the matrix unit takes 4 consecutive keys from a thread, which has 2.
  __shared__ __align__(16) uint8_t p_tile[kWarps][16][kBlockK + 16];
  int tile = blockIdx.x, head = blockIdx.y, kv_head = head / group;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int row0 = tile * kBlockQ + warp * 16 + g; // rows row0 and row0 + 8
  float sm = mul(scale, kLog2e);

  uint32_t a[dim / 32][4];
  float qs[2];
  for (int r = 0; r < 2; r++) {
    int row = row0 + 8 * r;
    qs[r] = row < nq ? q_scale[int64_t(head) * nq + row] : 0;
    for (int i = 0; i < dim / 16; i++)
      a[i / 2][i % 2 * 2 + r] = row < nq ? word(q + (int64_t(head) * nq + row) * dim + i * 16 + t * 4) : 0;
  }

  float m[2] = {-INFINITY, -INFINITY}, d[2] = {0, 0};
  float acc[dim / 8][4] = {};

  int align = nk - nq; // the last query sees the last key
  int keys = causal ? max(0, min(nk, (tile + 1) * kBlockQ + align)) : nk;
  for (int it = (keys + kBlockK - 1) / kBlockK - 1; it >= 0; it--) {
    int key0 = it * kBlockK;
    // s[r][2*n + j]: row row0 + 8*r, key key0 + 8*n + 2*t + j.
    float s[2][kBlockK / 4];
    for (int n = 0; n < kBlockK / 8; n++) {
      int key = key0 + 8 * n + g; // the key whose codes this thread loads
      int c[4] = {0, 0, 0, 0};
      for (int kk = 0; kk < dim / 32; kk++) {
        const int8_t *p = k + (int64_t(kv_head) * nk + key) * dim + kk * 32 + t * 4;
        uint32_t b0 = key < nk ? word(p) : 0, b1 = key < nk ? word(p + 16) : 0;
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a[kk][0]), "r"(a[kk][1]), "r"(a[kk][2]), "r"(a[kk][3]), "r"(b0), "r"(b1));
      }
      for (int i = 0; i < 4; i++) {
        int r = i / 2, col = key0 + 8 * n + 2 * t + i % 2;
        bool hidden = col >= nk || (causal && col > row0 + 8 * r + align);
        s[r][2 * n + i % 2] = hidden ? -INFINITY : mul(float(c[i]), mul(qs[r], k_scale[int64_t(kv_head) * nk + col]));
      }
    }
    for (int r = 0; r < 2; r++) {
      float top = -INFINITY;
      for (float x : s[r])
        top = fmaxf(top, x);
      top = add(mul(top, sm), -float(kOffset));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      float next = fmaxf(m[r], top);
      float shift = next == -INFINITY ? 0 : next; // of a row that has seen no key
      float alpha = ex2(add(m[r], -shift));
      m[r] = next;
      float sum = 0;
      for (int n = 0; n < kBlockK / 8; n++) {
        uint32_t codes = e4m3x2(ex2(add(mul(s[r][2 * n], sm), -shift)), ex2(add(mul(s[r][2 * n + 1], sm), -shift)));
        float2 p = from_e4m3x2(codes);
        sum = add(add(sum, p.x), p.y);
        *reinterpret_cast<uint16_t *>(&p_tile[warp][g + 8 * r][8 * n + 2 * t]) = uint16_t(codes);
      }
      sum = add(sum, __shfl_xor_sync(~0u, sum, 2));
      sum = add(sum, __shfl_xor_sync(~0u, sum, 1));
      d[r] = add(mul(d[r], alpha), sum);
      for (int c = 0; c < dim / 8; c++)
        for (int j = 0; j < 2; j++)
          acc[c][2 * r + j] = mul(acc[c][2 * r + j], alpha);
    }
    __syncwarp();
    for (int kk = 0; kk < kBlockK / 32; kk++) {
      uint32_t p[4]; // of rows g and g+8, keys 0-15 and 16-31 of 32
      for (int i = 0; i < 4; i++)
        p[i] = word(&p_tile[warp][g + i % 2 * 8][kk * 32 + i / 2 * 16 + t * 4]);
      for (int c = 0; c < dim / 8; c++) {
        const uint8_t *b = v + (int64_t(kv_head) * dim + c * 8 + g) * padded + key0 + kk * 32 + t * 4;
        asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(acc[c][0]), "+f"(acc[c][1]), "+f"(acc[c][2]), "+f"(acc[c][3])
            : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(word(b)), "r"(word(b + 16)));
      }
    }
    __syncwarp(); // before the codes are overwritten
  }

  for (int r = 0; r < 2; r++) {
    int row = row0 + 8 * r;
    if (row >= nq)
      continue;
    float inverse = d[r] == 0 || d[r] != d[r] ? 0 : reciprocal(d[r]);
    if (lse && t == 0)
      lse[int64_t(head) * nq + row] = add(lg2(d[r]), m[r]);
    for (int i = 0; i < dim / 4; i++) {
      int c = i / 2 * 8 + 2 * t + i % 2;
      float factor = mul(inverse, v_scale[kv_head * dim + c]);
      store(o + (int64_t(head) * nq + row) * dim + c, mul(acc[i / 2][2 * r + i % 2], factor));
    }
  }
}

// The entry points: pointers and scalars only.
#define ENTRIES(T, NAME)                                                                                             \
  extern "C" __global__ void channel_mean_##NAME(const T *x, float *mean, int n, int dim)                            \
  {                                                                                                                  \
    channel_mean(x, mean, n, dim);                                                                                   \
  }                                                                                                                  \
  extern "C" __global__ void quantize_k_##NAME(const T *k, const float *mean, int8_t *codes, float *scale, int n,    \
                                               int dim)                                                              \
  {                                                                                                                  \
    auto smoothed = [=](int64_t row, int head, int c) { return load(k + row * dim + c) - mean[head * dim + c]; };    \
    quantize(smoothed, codes, scale, n, dim);                                                                        \
  }                                                                                                                  \
  extern "C" __global__ void quantize_q_##NAME(const T *q, int8_t *codes, float *scale, int n, int dim)              \
  {                                                                                                                  \
    quantize([=](int64_t row, int, int c) { return load(q + row * dim + c); }, codes, scale, n, dim);                \
  }                                                                                                                  \
  extern "C" __global__ void quantize_v_##NAME(const T *v, uint8_t *codes, float *scale, int n, int padded, int dim) \
  {                                                                                                                  \
    quantize_v(v, codes, scale, n, padded, dim);                                                                     \
  }
#define ATTEND(T, NAME, DIM)                                                                                         \
  extern "C" __global__ void attend_##NAME##_##DIM(                                                                  \
      const int8_t *q, const float *q_scale, const int8_t *k, const float *k_scale, const uint8_t *v,                \
      const float *v_scale, T *o, float *lse, int nq, int nk, int padded, int group, int causal, float scale)        \
  {                                                                                                                  \
    attend<T, DIM>(q, q_scale, k, k_scale, v, v_scale, o, lse, nq, nk, padded, group, causal, scale);                \
  }

ENTRIES(__half, f16)
ENTRIES(__nv_bfloat16, bf16)
ATTEND(__half, f16, 64)
ATTEND(__half, f16, 128)
ATTEND(__nv_bfloat16, bf16, 64)
ATTEND(__nv_bfloat16, bf16, 128)
