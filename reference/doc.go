// Package reference computes full-precision attention, the yardstick that an
// emulated or a measured quantised kernel is held against.
//
// One call of [Attention] computes
//
//	O = softmax(scale·Q·Kᵀ + mask)·V
//
// for a range of rows of one head, either with every operation rounded to
// float32 ([FP32]) or to float64 ([FP64]). It works through blocks of keys
// with the online softmax of Milakov and Gimelshein (arXiv:1805.02867), as
// FlashAttention-2 does (arXiv:2307.08691, algorithm 1), so that memory grows
// with rows·head_dim and never with rows·keys.
//
// # Reproducibility
//
// The bits of a row of O depend on that row of Q, on K, V, and on
// [Params] without RowBlock, and on nothing else. They do not depend on
// GOMAXPROCS, on RowBlock, on how a caller cuts the rows into calls, or on
// where in memory the slices lie. This holds because
//
//   - key blocks begin at multiples of KeyBlock, whatever rows are asked for;
//   - each element of a matrix product is one chain of fused multiply-adds, x·y + z rounded
//     once, from 0 in increasing order of the inner index: a score over the channels, a
//     weighted value over the keys of a block. In vectors, keys or channels lie in the
//     lanes, so that no sum crosses them;
//   - the sum of a block's weights is the one exception, and fixed too: sixteen sums of the
//     keys whose index is the same modulo 16, in order, of which then the second half is added
//     to the first until one is left;
//   - exponentials are fixed sequences of multiply-adds, hyperbolic tangents and logarithms of
//     float64 operations (internal/strictmath).
//
// The definition is in Go: package internal/simd has every loop in it, with multiply-adds that
// round once on any machine, and again in the vector instructions of AVX-512, AVX2 and NEON,
// which tests hold to the bits of the former.
package reference
