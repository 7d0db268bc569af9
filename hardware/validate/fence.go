package validate

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/sageacc/sageacc/kernels/launch"
	"github.com/sageacc/sageacc/kernels/manifest"
)

// device is what running a plan needs of a GPU, so that tests can do without one.
type device interface {
	alloc(n int) (memory, error)
	launch(l *manifest.PlannedLaunch, args []launch.Arg) error
}

// memory is a buffer on a device, as launch.Buffer is.
type memory interface {
	ArgAt(offset int) launch.Arg
	Fill(x byte) error
	Upload(offset int, x []byte) error
	Download(offset int, x []byte) error
	Free() error
}

// The poison is what memory holds before a kernel writes it: nothing may depend on
// it. A guard lies before and behind every buffer, so that a write outside is seen,
// and differs from the poison, so that a copy of poison is seen too. It is as long
// as what the driver aligns memory to, so the buffer behind it is aligned alike.
const (
	guard     = 256
	poison    = 0xa5
	guardByte = 0x3c
)

var guardBytes = bytes.Repeat([]byte{guardByte}, guard)

// fenced is a buffer between two guards.
type fenced struct {
	memory
	name string
	size int
	// in is what the buffer holds before the kernel runs, nil for poison.
	in []byte
	// taken says that a launch takes the buffer.
	taken bool
}

// fence reserves a buffer and fills it. What it returns is to be freed, also beside
// an error.
func fence(dev device, name string, size int, in []byte, taken bool) (*fenced, error) {
	if in != nil && len(in) != size {
		return nil, fmt.Errorf("buffer %s has %d bytes in the manifest; the emulator's has %d", name, size, len(in))
	}
	m, err := dev.alloc(guard + size + guard)
	if err != nil {
		return nil, fmt.Errorf("buffer %s: %w", name, err)
	}
	b := &fenced{m, name, size, in, taken}
	return b, b.fill()
}

// fill makes the buffer what it is before a kernel runs.
func (b *fenced) fill() error {
	if err := b.Fill(poison); err != nil {
		return err
	}
	if err := b.Upload(0, guardBytes); err != nil {
		return err
	}
	if err := b.Upload(guard, b.in); err != nil {
		return err
	}
	return b.Upload(guard+b.size, guardBytes)
}

// arg is the address of what is between the guards.
func (b *fenced) arg() launch.Arg { return b.ArgAt(guard) }

// read returns what a kernel wrote, nil where it should write nothing. It reports
// what should not have been written.
func (b *fenced) read() ([]byte, error) {
	x := make([]byte, guard+b.size+guard)
	if err := b.Download(0, x); err != nil {
		return nil, err
	}
	data := x[guard : guard+b.size]
	switch {
	case !bytes.Equal(x[:guard], guardBytes):
		return nil, fmt.Errorf("the kernel wrote before the start of %s (%d bytes)", b.name, b.size)
	case !bytes.Equal(x[guard+b.size:], guardBytes):
		return nil, fmt.Errorf("the kernel wrote beyond the end of %s (%d bytes)", b.name, b.size)
	case b.in != nil && !bytes.Equal(data, b.in):
		return nil, fmt.Errorf("the kernel changed its input %s", b.name)
	case b.in != nil:
		return nil, nil
	case b.taken:
		return data, nil
	case slices.ContainsFunc(data, func(x byte) bool { return x != poison }):
		return nil, fmt.Errorf("the kernel wrote to %s, which no launch takes", b.name)
	}
	return nil, nil
}

// execute runs a plan's launches in order and returns the buffers that they take
// and that are no inputs.
func execute(dev device, plan *manifest.Plan, inputs map[string][]byte) (out map[string][]byte, err error) {
	taken := map[string]bool{}
	for i := range plan.Launches {
		for _, a := range plan.Launches[i].Args {
			taken[a.Buffer] = true
		}
	}
	buffers := map[string]*fenced{}
	defer func() {
		for _, b := range buffers {
			// After a kernel that failed nothing on the device works: the first error
			// is the one to tell.
			if e := b.Free(); err == nil {
				err = e
			}
		}
	}()
	names := slices.Sorted(maps.Keys(plan.Sizes))
	for _, name := range names {
		b, err := fence(dev, name, plan.Sizes[name], inputs[name], taken[name])
		if b != nil {
			buffers[name] = b
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range plan.Launches {
		l := &plan.Launches[i]
		if err := dev.launch(l, arguments(l, buffers)); err != nil {
			return nil, fmt.Errorf("launch of %s: %w", l.Entry, err)
		}
	}
	out = map[string][]byte{}
	for _, name := range names {
		x, err := buffers[name].read()
		if err != nil {
			return nil, err
		}
		if x != nil {
			out[name] = x
		}
	}
	return out, nil
}

func arguments(l *manifest.PlannedLaunch, buffers map[string]*fenced) []launch.Arg {
	args := make([]launch.Arg, len(l.Args))
	for i, a := range l.Args {
		switch {
		case a.Buffer != "":
			args[i] = buffers[a.Buffer].arg()
		case a.Type == "i32":
			args[i] = launch.Int32(int32(a.Int))
		case a.Type == "i64":
			args[i] = launch.Int64(a.Int)
		case a.Type == "f32":
			args[i] = launch.Float32(a.Float)
		}
	}
	return args
}
