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
//   - every matrix product has the form C = A·B with neither factor transposed,
//     and each element of C is updated by one multiplication and one addition per
//     step, each rounded, in increasing order of the inner index. So does gonum
//     for this form, in its serial and in its parallel path alike, and so do the
//     vector kernels of internal/simd, which the tests hold to it. (The form A·Bᵀ
//     goes through a dot product in gonum whose order of summation changes with
//     the alignment of its argument and with the size of the tile.) K is
//     transposed into the workspace for it;
//   - the exponentials and logarithms are fixed sequences of float64 operations:
//     the float32 exponential in internal/simd, the same in Go and in vector
//     instructions, the others in internal/strictmath;
//   - gonum's Go implementation is called directly, so that registering
//     another BLAS with blas32.Use changes nothing.
//
// Where compilers may fuse x*y+z in gonum's loops, which is everywhere but on amd64,
// the products are computed by loops of our own with explicit roundings.
package reference
