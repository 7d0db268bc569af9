// Runs sage2-4b once: tensors on standard input, results on standard output.
//
//   sage2_4b f16|bf16 BATCH HEADS KV_HEADS QUERIES KEYS HEAD_DIM CAUSAL SCALE < QKV > O_LSE
//
// QKV is q, k and v, each [batch][heads][tokens][head_dim] in the given format;
// O_LSE is o in that format, then the base-2 log-sum-exp of each row in FP32.
//
//   nvcc -O3 -std=c++17 -fmad=false -gencode arch=compute_90a,code=sm_90a -o sage2_4b run.cu
#include "sage2_4b.cu"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static void check(cudaError_t e)
{
  if (e != cudaSuccess) {
    fprintf(stderr, "sage2_4b: %s\n", cudaGetErrorString(e));
    exit(1);
  }
}

template <typename T>
static T *device(size_t n, const void *from = nullptr)
{
  T *p;
  check(cudaMalloc(&p, n * sizeof(T) + 16));
  if (from)
    check(cudaMemcpy(p, from, n * sizeof(T), cudaMemcpyHostToDevice));
  else
    check(cudaMemset(p, 0xa5, n * sizeof(T))); // nothing may depend on what is not written
  return p;
}

struct Shape {
  int batch, heads, kv_heads, nq, nk, dim, causal;
  float scale;
};

#define RUN(T, NAME)                                                                                          \
  static void run_##NAME(const Shape &s)                                                                      \
  {                                                                                                           \
    int h = s.batch * s.heads, kh = s.batch * s.kv_heads, group = s.heads / s.kv_heads;                       \
    size_t nq = size_t(h) * s.nq * s.dim, nk = size_t(kh) * s.nk * s.dim;                                     \
    std::vector<T> in(nq + 2 * nk), out(nq);                                                                  \
    if (fread(in.data(), sizeof(T), in.size(), stdin) != in.size()) {                                         \
      fprintf(stderr, "sage2_4b: too little input\n");                                                        \
      exit(1);                                                                                                \
    }                                                                                                         \
    T *q = device<T>(nq, in.data()), *k = device<T>(nk, in.data() + nq), *v = device<T>(nk, in.data() + nq + nk); \
    int tq = (s.nq + kBlockQ - 1) / kBlockQ, tk = (s.nk + kBlockK - 1) / kBlockK, padded = tk * kBlockK;      \
    float *k_mean = device<float>(size_t(kh) * s.dim), *smooth = device<float>(nk);                           \
    float *k_step = device<float>(size_t(kh) * tk * 4), *q_step = device<float>(size_t(h) * tq * 32);         \
    float *q_mean = device<float>(size_t(h) * tq * s.dim), *delta = device<float>(size_t(h) * tq * s.nk);     \
    float *v_scale = device<float>(size_t(kh) * s.dim), *lse = device<float>(size_t(h) * s.nq);               \
    uint8_t *kc = device<uint8_t>(nk / 2), *qc = device<uint8_t>(nq / 2);                                     \
    uint8_t *vc = device<uint8_t>(size_t(kh) * s.dim * padded);                                               \
    T *o = device<T>(nq);                                                                                     \
    channel_mean_##NAME<<<kh, s.dim>>>(k, k_mean, s.nk, s.dim);                                               \
    quantize_k_##NAME<<<dim3(tk, kh), 4>>>(k, k_mean, smooth, kc, k_step, s.nk, s.dim);                       \
    quantize_q_##NAME<<<dim3(tq, h), 128>>>(q, q_mean, qc, q_step, s.nq, s.dim);                              \
    delta_s_f32<<<dim3(tq, h, (s.nk + 127) / 128), 128>>>(q_mean, smooth, delta, s.nk, s.dim, group);         \
    quantize_v_##NAME<<<kh, s.dim>>>(v, vc, v_scale, s.nk, padded, s.dim);                                    \
    auto attend = s.dim == 64 ? attend_##NAME##_64 : attend_##NAME##_128;                                     \
    attend<<<dim3(tq, h), 128>>>(qc, q_step, kc, k_step, delta, vc, v_scale, o, lse, s.nq, s.nk, padded,      \
                                 group, s.causal, s.scale);                                                   \
    check(cudaGetLastError());                                                                                \
    check(cudaMemcpy(out.data(), o, nq * sizeof(T), cudaMemcpyDeviceToHost));                                 \
    std::vector<float> l(size_t(h) * s.nq);                                                                   \
    check(cudaMemcpy(l.data(), lse, l.size() * sizeof(float), cudaMemcpyDeviceToHost));                       \
    if (fwrite(out.data(), sizeof(T), out.size(), stdout) != out.size() ||                                    \
        fwrite(l.data(), sizeof(float), l.size(), stdout) != l.size()) {                                      \
      perror("sage2_4b");                                                                                     \
      exit(1);                                                                                                \
    }                                                                                                         \
  }
RUN(__half, f16)
RUN(__nv_bfloat16, bf16)

int main(int argc, char **argv)
{
  if (argc != 10 || (strcmp(argv[1], "f16") && strcmp(argv[1], "bf16"))) {
    fprintf(stderr, "usage: sage2_4b f16|bf16 BATCH HEADS KV_HEADS QUERIES KEYS HEAD_DIM CAUSAL SCALE < QKV > O_LSE\n");
    return 2;
  }
  int n[8];
  for (int i = 2; i < 9; i++)
    n[i - 2] = atoi(argv[i]);
  Shape s{n[0], n[1], n[2], n[3], n[4], n[5], n[6], strtof(argv[9], nullptr)};
  if (s.batch < 1 || s.kv_heads < 1 || s.heads % s.kv_heads || s.nq < 1 || s.nk < 1 || (s.dim != 64 && s.dim != 128)) {
    fprintf(stderr, "sage2_4b: heads must be a multiple of kv heads, head_dim 64 or 128, lengths positive\n");
    return 2;
  }
  if (!strcmp(argv[1], "f16"))
    run_f16(s);
  else
    run_bf16(s);
  return 0;
}
