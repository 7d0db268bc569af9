package validate

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/sageacc/sageacc/kernels/launch"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
)

// Runner runs a kernel on a layer's inputs.
type Runner interface {
	// Run returns the bytes of the buffers that the kernel wrote, by name: o,
	// lse, and what the manifest declares; lse only if a launch takes it. given are the
	// buffers that the emulator fills.
	Run(l *layerdumps.Layer, given map[string][]byte) (map[string][]byte, error)
	// Check reports a layer that the kernel does not take, with
	// manifest.ErrUnsupported. Any other error is a fault. See [Check].
	Check(l *layerdumps.Layer) error
}

// GPU is a Runner on a device.
type GPU struct {
	m         *manifest.Manifest
	dev       *launch.Device
	module    *launch.Module
	functions map[string]*launch.Function
}

// NewGPU loads a kernel's image on a device. It reports a device that is too old,
// an image that does not load, and, when a problem needs it, a missing entry.
func NewGPU(dev *launch.Device, m *manifest.Manifest, image []byte) (*GPU, error) {
	if err := m.Runs(dev.SM()); err != nil {
		return nil, err
	}
	module, err := dev.Load(image)
	if err != nil {
		return nil, fmt.Errorf("the module of %s does not load on %s (%s): %w", m.Name, dev.Name(), dev.Arch(), err)
	}
	g := &GPU{m, dev, module, map[string]*launch.Function{}}
	// Every entry is looked up now: a missing one is not found late.
	for _, dtype := range m.DTypes {
		for _, dim := range m.HeadDims {
			for _, causal := range []bool{false, true} {
				plan, err := m.Plan(manifest.Problem{Batch: 1, Heads: 1, KVHeads: 1, Queries: 1, Keys: 1, HeadDim: dim, DType: dtype, Causal: causal, Scale: 1})
				if err != nil {
					return nil, err
				}
				for _, l := range plan.Launches {
					if g.functions[l.Entry] != nil {
						continue
					}
					f, err := module.Function(l.Entry)
					if err != nil {
						return nil, fmt.Errorf("the module of %s has no entry %s: %w", m.Name, l.Entry, err)
					}
					g.functions[l.Entry] = f
				}
			}
		}
	}
	return g, nil
}

// problem is the manifest's view of a layer.
func problem(l *layerdumps.Layer) (manifest.Problem, error) {
	p := manifest.Problem{
		Batch: l.Q.Batch, Heads: l.Q.Heads, KVHeads: l.K.Heads, Queries: l.Q.Tokens, Keys: l.K.Tokens, HeadDim: l.Q.Dim,
		Causal: l.Causal, Scale: l.Scale(),
	}
	switch l.Q.DType {
	case layerdumps.F16:
		p.DType = "f16"
	case layerdumps.BF16:
		p.DType = "bf16"
	default:
		return p, fmt.Errorf("%w: a kernel takes FP16 or BF16", manifest.ErrUnsupported)
	}
	return p, nil
}

// Check reports a layer that a manifest's kernel does not take, with
// manifest.ErrUnsupported, and a manifest that has a fault at the layer's shape.
func Check(m *manifest.Manifest, l *layerdumps.Layer) error {
	_, err := planned(m, l)
	return err
}

// planned is what the manifest asks for on a layer.
func planned(m *manifest.Manifest, l *layerdumps.Layer) (*manifest.Plan, error) {
	p, err := problem(l)
	if err != nil {
		return nil, err
	}
	return m.Plan(p)
}

// Check is [Check] of the kernel's manifest.
func (g *GPU) Check(l *layerdumps.Layer) error { return Check(g.m, l) }

// Guards surround every buffer, so that a write beyond its end is seen. The
// poison is what memory holds before a kernel writes it: nothing may depend on it.
const (
	guard  = 256
	poison = 0xa5
)

// Run runs the launches in order.
func (g *GPU) Run(l *layerdumps.Layer, given map[string][]byte) (out map[string][]byte, err error) {
	plan, err := planned(g.m, l)
	if err != nil {
		return nil, err
	}
	buffers := map[string]*launch.Buffer{}
	defer func() {
		for _, b := range buffers {
			// After a kernel that failed nothing on the device works: the first error
			// is the one to tell.
			if e := b.Free(); err == nil {
				err = e
			}
		}
	}()
	inputs := map[string][]byte{"q": l.Q.Bytes(), "k": l.K.Bytes(), "v": l.V.Bytes()}
	maps.Copy(inputs, given)
	taken := map[string]bool{}
	for _, launch := range plan.Launches {
		for _, a := range launch.Args {
			taken[a.Buffer] = true
		}
	}
	names := slices.Sorted(maps.Keys(plan.Sizes))
	for _, name := range names {
		size := plan.Sizes[name]
		b, err := g.dev.Alloc(size + guard)
		if err != nil {
			return nil, fmt.Errorf("buffer %s: %w", name, err)
		}
		buffers[name] = b
		if err := b.Fill(poison); err != nil {
			return nil, err
		}
		if x, ok := inputs[name]; ok {
			if len(x) != size {
				return nil, fmt.Errorf("buffer %s has %d bytes in the manifest; the emulator's has %d", name, size, len(x))
			}
			if err := b.Upload(0, x); err != nil {
				return nil, err
			}
		}
	}
	for _, pl := range plan.Launches {
		args := make([]launch.Arg, len(pl.Args))
		for i, a := range pl.Args {
			switch {
			case a.Buffer != "":
				args[i] = buffers[a.Buffer].Arg()
			case a.Type == "i32":
				args[i] = launch.Int32(int32(a.Int))
			case a.Type == "i64":
				args[i] = launch.Int64(a.Int)
			case a.Type == "f32":
				args[i] = launch.Float32(a.Float)
			}
		}
		if err := g.functions[pl.Entry].Launch(pl.Grid, pl.Block, pl.Shared, args...); err != nil {
			return nil, fmt.Errorf("launch of %s: %w", pl.Entry, err)
		}
	}
	out = map[string][]byte{}
	for _, name := range names {
		if !taken[name] {
			continue
		}
		x := make([]byte, plan.Sizes[name]+guard)
		if err := buffers[name].Download(0, x); err != nil {
			return nil, err
		}
		size := plan.Sizes[name]
		if !bytes.Equal(x[size:], bytes.Repeat([]byte{poison}, guard)) {
			return nil, fmt.Errorf("the kernel wrote beyond the end of %s (%d bytes)", name, size)
		}
		if in, ok := inputs[name]; ok {
			if !bytes.Equal(in, x[:size]) {
				return nil, fmt.Errorf("the kernel changed its input %s", name)
			}
			continue
		}
		out[name] = x[:size]
	}
	return out, nil
}
