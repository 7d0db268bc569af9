// Package metrics measures how far one attention output is from another.
//
// [Accuracy] accumulates the three figures of the SageAttention papers
// (arXiv:2411.10958, section 4.1), cosine similarity, relative L1 distance and
// root mean square error, and the largest absolute difference. [Bits] compares
// two outputs bit by bit. Both are streaming accumulators: rows go in one
// [Accuracy.Add] at a time, accumulators filled on several goroutines are put
// together with Merge, and memory does not grow. Neither locks, so one
// accumulator belongs to one goroutine at a time.
//
// [Average] and [WorstOf] summarise layers, and [Expr] is a threshold on a
// result, such as cos<0.99, [Gate] one on a named row, such as actual.cos<0.99.
package metrics
