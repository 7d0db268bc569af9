package validate

import (
	"errors"
	"fmt"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/kernels/manifest"
)

// CheckCases reports a fault that a manifest has at the shape of any of the cases,
// before anything is run: an expression that fails, or a stage that is not as large
// as that of the program that it claims to be on arch.
func CheckCases(m *manifest.Manifest, arch string, cases []Case) error {
	cfg, err := m.Config(arch)
	if err != nil {
		return fmt.Errorf("%s: emulates: %w", m.Name, err)
	}
	k, err := emulate.New(cfg)
	if err != nil {
		return err
	}
	return checkCases(m, k, cases)
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

// stageShape is the size of a stage (manifest.Stages), in elements.
type stageShape struct {
	// heads have least elements each. Where padding is not 0, any multiple of it may
	// follow in each head.
	heads, least, padding int
}

// stageShapes returns the sizes of the stages that the program has on a problem.
func stageShapes(k *emulate.Kernel, p manifest.Problem) map[string]stageShape {
	c, t := k.Config(), k.Tiling()
	g := c.QKGranularity
	h, kvh, d := p.Batch*p.Heads, p.Batch*p.KVHeads, p.HeadDim
	tiles := (p.Keys + t.BlockK - 1) / t.BlockK
	shapes := map[string]stageShape{
		"k_scale": {kvh, g.KeyGroups(t, p.Keys), 0},
		"k_codes": {kvh, p.Keys * d, d},
		"q_scale": {h, g.QueryGroups(t, p.Queries), 0},
		"q_codes": {h, p.Queries * d, d},
		"v_scale": {kvh, d, 0},
		// V's tokens are permuted within 16.
		"v_codes": {kvh, tiles * t.BlockK * d, 16 * d},
	}
	if c.SmoothK {
		shapes["k_mean"] = stageShape{kvh, d, 0}
	}
	if c.SmoothV {
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
