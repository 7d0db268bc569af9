// Package validate runs kernels on a GPU over a matrix of shapes, masks, formats
// and input distributions, and compares every output element with the emulated
// kernel, bit by bit. Where they differ it says where the difference starts: in
// which stage, at which element, from which tile of keys on, and which numerics
// explain it.
//
// The kernels are described by manifests (package manifest) and run by a [Runner].
package validate
