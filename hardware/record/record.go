// Package record writes what a GPU returns as a conformance set (package
// conformance), so that evidence from any GPU can be kept, sent around and checked
// without it: single units on chosen operands, and whole kernels on a matrix of
// inputs.
package record

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/hardware/conformance"
	"github.com/sageacc/sageacc/hardware/probe"
	"github.com/sageacc/sageacc/hardware/validate"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/kernels/manifest"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Set is a set being written.
type Set struct {
	*conformance.Writer
	// Device and Arch are the GPU's.
	Device, Arch string
	// Results counts what was recorded.
	Results int64
}

var unsafeChars = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// fileName makes a file name of parts.
func fileName(parts ...string) string {
	return unsafeChars.ReplaceAllString(strings.Join(parts, "_"), "-") + ".safetensors"
}

// newName makes a file name of parts, with a number behind them where another case
// has the name: parts that differ may become the same ("a/b" and "a b").
func (s *Set) newName(parts ...string) string {
	name := fileName(parts...)
	for i := 2; s.Has(name); i++ {
		name = fileName(append(slices.Clip(parts), strconv.Itoa(i))...)
	}
	return name
}

// Unit records about results results of a unit.
func (s *Set) Unit(p *probe.Probes, u *probe.Unit, results int, seed uint64) error {
	n := (results + u.Results(&probe.Batch{N: 1}) - 1) / u.Results(&probe.Batch{N: 1})
	b := u.Operands(n, rand.NewPCG(seed, 0), runtime.GOMAXPROCS(0))
	if err := p.Run(u, b); err != nil {
		return err
	}
	meta := map[string]string{
		"device": s.Device, "arch": s.Arch, "instruction": u.Instruction, "source": "kernels/probes", "seed": fmt.Sprint(seed),
		"tool": version.Get().String(),
	}
	c := conformance.Case{Arch: s.Arch, Instruction: u.Instruction}
	var ts []safetensors.Tensor
	switch u.Kind {
	case probe.MMA:
		c.Op, c.Expect = "mma", "d"
		a, bb, cc := u.Tensors(b)
		ts = append(ts, a, bb, cc, u.ResultTensor("d", b))
	case probe.Unary, probe.Arith:
		c.Op, c.Expect = "unary", "y"
		shape := []int{n}
		if u.Kind == probe.Arith {
			c.Op, shape = "arith", []int{n, 3}
		}
		raw := make([]byte, 4*len(b.X))
		for i, x := range b.X {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
		}
		ts = append(ts, safetensors.Tensor{Name: "x", DType: "F32", Shape: shape, Data: raw}, u.ResultTensor("y", b))
	}
	s.Results += int64(u.Results(b))
	return s.Add(s.newName(s.Arch, u.Instruction), meta, ts, c)
}

// claim is a case of a kernel: its names, where it has them, and its whole description.
func claim(p program.Program) conformance.Case {
	c := conformance.Case{Op: "attention", Kernel: p.Name, Arch: p.Arch, Description: &p}
	if p.Bits() != 0 {
		c.Granularity, c.PVAccum = p.QKCodes.Granularity, p.Accum()
	}
	smoothK := p.Smoothing.K != "none"
	c.SmoothK, c.SmoothV = &smoothK, p.Smoothing.V != "none"
	return c
}

// Kernel records the outputs of a kernel on the cases; cases that the kernel does
// not take are left out.
func (s *Set) Kernel(ctx context.Context, r validate.Runner, m *manifest.Manifest, cases []validate.Case, progress func(part float64)) error {
	p, err := m.Program(s.Arch)
	if err != nil {
		return fmt.Errorf("%s: emulates: %w", m.Name, err)
	}
	line := claim(p)
	if err := validate.CheckCases(m, s.Arch, cases); err != nil {
		return err
	}
	for i := range cases {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.one(ctx, r, m, &cases[i], line); err != nil {
			return fmt.Errorf("case %s: %w", cases[i].Name, err)
		}
		if progress != nil {
			progress(float64(i+1) / float64(len(cases)))
		}
	}
	return nil
}

func (s *Set) one(ctx context.Context, r validate.Runner, m *manifest.Manifest, c *validate.Case, line conformance.Case) error {
	l, err := c.Open()
	if err != nil {
		return err
	}
	switch err := r.Check(l); {
	case errors.Is(err, manifest.ErrUnsupported):
		return nil
	case err != nil:
		return err
	}
	got, err := validate.Outputs(ctx, r, m, l, s.Arch, runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	scale := l.Scale()
	line.Causal, line.SMScale = l.Causal, &scale
	line.Expect = "o/" + m.Name
	ts := []safetensors.Tensor{tensor("q", &l.Q), tensor("k", &l.K), tensor("v", &l.V)}
	o, err := layerdumps.NewTensor(line.Expect, l.Q.DType, l.Q.Shape(), got["o"])
	if err != nil {
		return err
	}
	ts = append(ts, tensor(line.Expect, &o))
	lines := []conformance.Case{line}
	s.Results += int64(len(got["o"]) / 2)
	if lse, ok := got["lse"]; ok {
		line.Expect = "lse_raw/" + m.Name
		shape := []int{l.Q.Batch, l.Q.Heads, l.Q.Tokens}
		ts = append(ts, safetensors.Tensor{Name: line.Expect, DType: "F32", Shape: shape, Data: lse})
		lines = append(lines, line)
		s.Results += int64(len(lse) / 4)
	}
	meta := map[string]string{"device": s.Device, "arch": s.Arch, "kernel": m.Name, "inputs": c.Name, "tool": version.Get().String()}
	if l.Synthetic != "" {
		meta["synthetic"] = l.Synthetic
	}
	if err := l.Check(); err != nil {
		return err
	}
	return s.Add(s.newName(m.Name, c.Name), meta, ts, lines...)
}

func tensor(name string, t *layerdumps.Tensor) safetensors.Tensor {
	dtype := map[format.DType]string{format.FP16: "F16", format.BF16: "BF16", format.FP32: "F32"}[t.DType]
	shape := t.Shape()
	return safetensors.Tensor{Name: name, DType: dtype, Shape: shape[:], Data: t.Bytes()}
}
