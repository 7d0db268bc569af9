//go:build !amd64 || purego

package vec

// unavailable is what kernels panic with that a level or a machine lacks.
const unavailable = "vec: no such kernel here"
