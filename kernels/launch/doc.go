// Package launch runs CUDA kernels on a GPU through gorgonia.org/cu: it opens a
// device, loads modules, moves bytes and launches functions that take pointers
// and scalars.
//
// It is built with the tag cuda (Linux on amd64, CGO); without it [Open] returns
// [ErrNotBuilt]. A binary built with the tag still starts where there is no
// driver: the driver library is looked up when [Open] is called.
package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrNotBuilt says that this binary cannot reach a GPU.
var ErrNotBuilt = errors.New("this sageacc was built without CUDA; build it with kernels/launch/build.sh (go build -tags cuda), which README.md describes")

// Arg is one argument of a kernel: 8 bytes, of which the kernel reads as many as
// its parameter has.
type Arg [8]byte

// Int32 is an argument of 32 bits.
func Int32(x int32) Arg { return Int64(int64(x)) }

// Int64 is an argument of 64 bits.
func Int64(x int64) (a Arg) {
	binary.LittleEndian.PutUint64(a[:], uint64(x))
	return a
}

// Float32 is an FP32 argument.
func Float32(x float32) Arg { return Int64(int64(math.Float32bits(x))) }

// Grid is a number of blocks or threads in each of three directions.
type Grid [3]int

func (g Grid) check(what string, limit Grid) error {
	for i, n := range g {
		if n < 1 || n > limit[i] {
			return fmt.Errorf("%s is %d x %d x %d: each must be 1 to %d, %d, %d", what, g[0], g[1], g[2], limit[0], limit[1], limit[2])
		}
	}
	return nil
}

// check reports a launch that no GPU can do.
func check(grid, block Grid, shared int) error {
	if err := grid.check("grid", Grid{1<<31 - 1, 65535, 65535}); err != nil {
		return err
	}
	if err := block.check("block", Grid{1024, 1024, 64}); err != nil {
		return err
	}
	if n := block[0] * block[1] * block[2]; n > 1024 {
		return fmt.Errorf("block has %d threads: at most 1024", n)
	}
	if shared < 0 {
		return fmt.Errorf("shared memory is %d bytes", shared)
	}
	return nil
}
