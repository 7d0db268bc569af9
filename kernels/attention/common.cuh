// What the attention kernels share: FP32 arithmetic with every rounding spelled
// out, conversions, sums, and the numerics that a variant may change.
//
// Arithmetic of the softmax is .ftz, that of the quantisers is IEEE FP32 unless
// a name says otherwise. Compile with -fmad=false, so that only the fused
// operations written here are fused.
#pragma once
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// The numerics of the kernels. The files in broken/ change one of them and
// include a kernel again; nothing else defines these names.
#ifndef P_OFFSET
#define P_OFFSET 8.807f // P fills [0, 448]: about log2(448)
#endif
#ifndef P_TOWARD_ZERO
#define P_TOWARD_ZERO 0 // P to E4M3 toward zero, not to nearest
#endif
#ifndef CODES_TOWARD_ZERO
#define CODES_TOWARD_ZERO 0 // codes of Q and K toward zero, not to nearest
#endif
#ifndef EXACT_EXP2
#define EXACT_EXP2 0 // exp2 rounded once, not the special function unit's
#endif
#ifndef UNFUSED_RESCALE
#define UNFUSED_RESCALE 0 // O * alpha + R in two roundings
#endif
#ifndef DENOMINATOR_OF_CODES
#define DENOMINATOR_OF_CODES 0 // d sums what P became, not P
#endif
#ifndef NO_RESCALE_D
#define NO_RESCALE_D 0 // d is not rescaled when the maximum rises
#endif
#ifndef MASK_SHIFT
#define MASK_SHIFT 0 // causal: key j is masked for query i where j > i + MASK_SHIFT
#endif
#ifndef NO_KEY_MASK
#define NO_KEY_MASK 0 // keys beyond the end are not masked
#endif
#ifndef PER_BLOCK
#define PER_BLOCK 0 // one scale for a tile of Q or K, not for what a thread holds
#endif
#ifndef NO_DELTA_S
#define NO_DELTA_S 0 // the correction for a smoothed Q is dropped
#endif
#ifndef FP16_ACCUMULATOR
#define FP16_ACCUMULATOR 0 // P V of a tile summed in FP16, V scaled to 2.25
#endif
#ifndef LEVEL_KEYS
#define LEVEL_KEYS 0 // the second level takes over after that many keys; 0: a tile
#endif
#ifndef ONE_LEVEL
#define ONE_LEVEL 0 // P V of all keys summed in the tensor core
#endif

constexpr float kMasked = -5000000.f;
constexpr float kLog2e = 1.44269504088896340736f;

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
__device__ __forceinline__ float div_full(float a, float b)
{
  float r;
  asm("div.full.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float div_approx(float a, float b)
{
  float r;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float ex2(float x)
{
  float r;
#if EXACT_EXP2
  r = float(exp2(double(x)));
  return fabsf(r) < 1.17549435e-38f ? 0.f : r;
#else
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#endif
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
// The values of two E4M3 codes.
__device__ __forceinline__ float2 from_e4m3x2(uint32_t codes)
{
  uint32_t r;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(uint16_t(codes)));
  return __half22float2(*reinterpret_cast<__half2 *>(&r));
}
// P as codes. P is not negative, so the next code toward zero is one less.
__device__ __forceinline__ uint32_t p_codes(float lo, float hi)
{
  uint32_t r = e4m3x2(lo, hi);
#if P_TOWARD_ZERO
  float2 x = from_e4m3x2(r);
  r -= (x.x > lo) + ((x.y > hi) << 8);
#endif
  return r;
}
// A thread's 4 values of P among 16 keys, as what the denominator sums.
__device__ __forceinline__ float sum4(const float *p)
{
#if DENOMINATOR_OF_CODES
  float2 a = from_e4m3x2(p_codes(p[0], p[1])), b = from_e4m3x2(p_codes(p[2], p[3]));
  return add(add(add(a.x, a.y), b.x), b.y);
#else
  return add(add(add(p[0], p[1]), p[2]), p[3]);
#endif
}
// The denominator after a tile's first 16 keys.
__device__ __forceinline__ float rescaled(float d, float alpha, float sum)
{
  return NO_RESCALE_D ? add(d, sum) : fma_(d, alpha, sum);
}
// O after a tile whose sum is r.
__device__ __forceinline__ float accumulate(float o, float alpha, float r)
{
  return UNFUSED_RESCALE ? add(mul(o, alpha), r) : fma_(o, alpha, r);
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

// Where the token i of V is stored: permuted within 16 tokens so that a thread's
// part of P is an operand of the matrix unit as it is.
__device__ __forceinline__ int stored(int i)
{
  int m = i % 16;
  return i - m + m / 8 * 2 + m / 2 % 4 * 4 + m % 2;
}
