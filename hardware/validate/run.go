package validate

import (
	"fmt"
	"maps"

	"github.com/sageacc/sageacc/emulate/format"
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
	case format.FP16:
		p.DType = "f16"
	case format.BF16:
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

// Run runs the launches in order.
func (g *GPU) Run(l *layerdumps.Layer, given map[string][]byte) (map[string][]byte, error) {
	plan, err := planned(g.m, l)
	if err != nil {
		return nil, err
	}
	inputs := map[string][]byte{"q": l.Q.Bytes(), "k": l.K.Bytes(), "v": l.V.Bytes()}
	maps.Copy(inputs, given)
	return execute(g, plan, inputs)
}

func (g *GPU) alloc(n int) (memory, error) { return g.dev.Alloc(n) }

func (g *GPU) launch(l *manifest.PlannedLaunch, args []launch.Arg) error {
	return g.functions[l.Entry].Launch(l.Grid, l.Block, l.Shared, args...)
}
