package validate

import (
	"errors"
	"fmt"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/kernels/manifest"
)

// CheckCases reports a fault that a manifest has at the shape of any of the cases,
// before anything is run: an expression that fails, or a stage that is not as large
// as that of the program that it claims to be on arch.
func CheckCases(m *manifest.Manifest, arch string, cases []Case) error {
	k, err := kernel(m, arch)
	if err != nil {
		return err
	}
	return checkCases(m, k, cases)
}

// kernel returns the kernel that a manifest claims to be.
func kernel(m *manifest.Manifest, arch string) (*emulate.Kernel, error) {
	p, err := m.Program(arch)
	if err != nil {
		return nil, fmt.Errorf("%s: emulates: %w", m.Name, err)
	}
	return emulate.New(p)
}

func checkCases(m *manifest.Manifest, k *emulate.Kernel, cases []Case) error {
	for i := range cases {
		p, err := cases[i].problem()
		if err == nil {
			_, err = plannedFor(m, k, p)
		}
		if err != nil && !errors.Is(err, manifest.ErrUnsupported) {
			return fmt.Errorf("case %s: %w", cases[i].Name, err)
		}
	}
	return nil
}

// plannedFor is the manifest's plan, with stages of the program's sizes.
func plannedFor(m *manifest.Manifest, k *emulate.Kernel, p manifest.Problem) (*manifest.Plan, error) {
	plan, err := m.Plan(p)
	if err != nil {
		return nil, err
	}
	k, err = k.ForCase(dtypes[p.DType], program.Case{
		HeadDim: p.HeadDim, Causal: p.Causal, Batch: p.Batch, Heads: p.Heads, KVHeads: p.KVHeads, Queries: p.Queries, Keys: p.Keys,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", manifest.ErrUnsupported, err)
	}
	shapes := stageShapes(k, p)
	for _, name := range manifest.Stages() {
		b, ok := m.Buffers[name]
		if !ok {
			continue
		}
		s, ok := shapes[name]
		if !ok {
			return nil, fmt.Errorf("manifest %s: buffer %s: the emulated program has no such tensor", m.Name, name)
		}
		if name == "v_codes" && b.From != "" {
			s.padding = 0 // the emulator gives the whole tiles that it has
		}
		if err := s.check(plan.Sizes[name], plan.Bits(name)); err != nil {
			return nil, fmt.Errorf("manifest %s: buffer %s %w", m.Name, name, err)
		}
	}
	return plan, nil
}

// dtypes are the manifests' names of dtypes.
var dtypes = map[string]format.DType{"f16": format.FP16, "bf16": format.BF16}

// stageShape is the size of a stage (manifest.Stages), in elements.
type stageShape struct {
	// heads have least elements each. Where padding is not 0, any multiple of it may
	// follow in each head.
	heads, least, padding int
}

// stageShapes returns the sizes of the stages that the program has on a problem.
func stageShapes(k *emulate.Kernel, p manifest.Problem) map[string]stageShape {
	c, t, g := k.Bound(), k.Tiling(), k.Granularity()
	h, kvh, d := p.Batch*p.Heads, p.Batch*p.KVHeads, p.HeadDim
	tiles := (p.Keys + t.BlockK - 1) / t.BlockK
	shapes := map[string]stageShape{}
	if c.Bits() != 0 {
		shapes["k_scale"] = stageShape{kvh, g.KeyGroups(t, p.Keys), 0}
		shapes["k_codes"] = stageShape{kvh, p.Keys * d, d}
		shapes["q_scale"] = stageShape{h, g.QueryGroups(t, p.Queries), 0}
		shapes["q_codes"] = stageShape{h, p.Queries * d, d}
	}
	if !c.VCodes.Plain() || c.VCodes.Format == "fp16" {
		shapes["v_scale"] = stageShape{kvh, d, 0}
		// V's tokens may be permuted within 16.
		shapes["v_codes"] = stageShape{kvh, tiles * t.BlockK * d, 16 * d}
	}
	if c.Smoothing.K != "none" {
		shapes["k_mean"] = stageShape{kvh, d, 0}
	}
	if c.Smoothing.V != "none" {
		shapes["v_mean"] = stageShape{kvh, d, 0}
	}
	return shapes
}

// check reports a buffer of another size; bits are an element's.
func (s stageShape) check(size, bits int) error {
	want := (s.heads*s.least*bits + 7) / 8
	if size == want {
		return nil
	}
	step := s.heads * s.padding * bits / 8
	if step == 0 {
		return fmt.Errorf("has %d bytes; the emulated program's has %d", size, want)
	}
	if size < want || (size-want)%step != 0 {
		return fmt.Errorf("has %d bytes; the emulated program's has %d, to which padding may add a multiple of %d", size, want, step)
	}
	return nil
}
