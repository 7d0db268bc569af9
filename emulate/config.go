// Package emulate runs the attention programs of SageAttention2 bit for bit: from
// Q, K and V of a head to the output that the GPU kernel would return, in the
// kernel's own order of operations.
//
// A [Config] names a program (tile shape, order of operations), the quantisers
// and the architecture whose matrix units execute it; [Presets] lists the
// kernels people know. Program and architecture are two independent choices: the
// same sm_89 kernel accumulates in FP22 on Ada and in FP32 on Hopper.
//
// Package emulate knows nothing of files; see layerdumps for those.
package emulate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// Program is an order of operations.
type Program uint8

// Programs.
const (
	// SM90Program is csrc/qattn/qk_int_sv_f8_cuda_sm90.cu: tiles of 64 x 128,
	// wgmma, the last tile dequantised before masking.
	SM90Program Program = iota
	// SM89Program is csrc/qattn/qk_int_sv_f8_cuda_sm89.cuh: tiles of 128 x 64,
	// mma.sync, the last two tiles dequantised before masking.
	SM89Program
	// PaperProgram is Algorithm 1 of arXiv 2411.10958 in tiles of 128 x 64 with
	// mma.sync: every tile dequantised before the softmax, with the delta-S
	// correction of a smoothed Q.
	PaperProgram
)

// String describes the program in a few words.
func (p Program) String() string {
	return [...]string{"wgmma, tiles 64x128", "mma.sync, tiles 128x64", "mma.sync, tiles 128x64, Algorithm 1"}[p]
}

// Accum says how P~V is accumulated.
type Accum uint8

// Accumulators.
const (
	// AccumFP32 chains all keys through one tensor-core accumulator ("fp32",
	// which is FP22 where the unit keeps no more).
	AccumFP32 Accum = iota
	// AccumTwoLevel sums each tile from zero in the tensor core and adds it to
	// FP32 registers ("fp32+fp32", the paper's two-level accumulation).
	AccumTwoLevel
	// AccumFP16 does so with the tensor core's FP16 accumulator ("fp32+fp16",
	// SageAttention2++).
	AccumFP16
	// AccumIdeal chains all keys through exact sums rounded once per
	// instruction to FP32, whatever the architecture.
	AccumIdeal
)

var accumNames = []string{"fp32", "fp32+fp32", "fp32+fp16", "ideal"}

// String returns the name used on the command line.
func (a Accum) String() string { return accumNames[a] }

// Accums returns all names.
func Accums() []string { return slices.Clone(accumNames) }

// ParseAccum is the inverse of String.
func ParseAccum(s string) (Accum, error) {
	if i := slices.Index(accumNames, s); i >= 0 {
		return Accum(i), nil
	}
	return 0, fmt.Errorf("unknown accumulator %q (have %s)", s, strings.Join(accumNames, ", "))
}

// Config is everything that decides an emulated kernel's arithmetic.
type Config struct {
	// Name is the preset's name.
	Name string
	// Summary is one line about the preset.
	Summary string
	Program Program
	// QKBits is the width of the codes of Q and K: 4 or 8.
	QKBits        int
	QKGranularity quant.Granularity
	// SmoothQ subtracts the mean of each tile of query rows and adds the delta-S
	// correction; SmoothK subtracts the mean over all tokens; SmoothV subtracts
	// the channel mean and adds it back to the output.
	SmoothQ, SmoothK, SmoothV bool
	PVType                    quant.PVType
	PVAccum                   Accum
	// Arch is the architecture whose units execute the program: sm_89, sm_90 or
	// ideal.
	Arch string
	// Variant holds deviations from the program; its zero value has none.
	Variant Variant
}

// Presets returns the known kernels.
func Presets() []Config {
	return []Config{
		{
			Name:    "sage2-4b",
			Summary: "SageAttn2-4b, Algorithm 1 of the paper: INT4 per-thread Q and K, smooth Q and K, FP8 P and V, two-level accumulation",
			Program: PaperProgram, QKBits: 4, QKGranularity: quant.PerThread,
			SmoothQ: true, SmoothK: true, PVType: quant.E4M3, PVAccum: AccumTwoLevel, Arch: tensorcore.SM89,
		},
		{
			Name:    "sage2-8b-sm89",
			Summary: "the released sm_89 kernel (qk_int8_sv_f8, mma.sync): INT8 per-thread Q and K, smooth K, FP8 P and V",
			Program: SM89Program, QKBits: 8, QKGranularity: quant.PerThread,
			SmoothK: true, PVType: quant.E4M3, PVAccum: AccumTwoLevel, Arch: tensorcore.SM89,
		},
		{
			Name:    "sage2-8b-sm90",
			Summary: "the released sm_90 kernel (qk_int8_sv_f8, wgmma): INT8 per-thread Q and K, smooth K, FP8 P and V",
			Program: SM90Program, QKBits: 8, QKGranularity: quant.PerThread,
			SmoothK: true, PVType: quant.E4M3, PVAccum: AccumTwoLevel, Arch: tensorcore.SM90,
		},
	}
}

// Preset returns the preset of that name.
func Preset(name string) (Config, error) {
	var names []string
	for _, c := range Presets() {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Config{}, fmt.Errorf("unknown kernel %q (have %s)", name, strings.Join(names, ", "))
}

// SetSmooth sets the three smoothing switches from a list such as "q,k,v", "k"
// or "none".
func (c *Config) SetSmooth(s string) error {
	var q, k, v bool
	if s != "none" {
		for _, part := range strings.Split(s, ",") {
			switch strings.TrimSpace(part) {
			case "q":
				q = true
			case "k":
				k = true
			case "v":
				v = true
			default:
				return fmt.Errorf("bad smoothing list %q: want a comma-separated list of q, k and v, or none", s)
			}
		}
	}
	c.SmoothQ, c.SmoothK, c.SmoothV = q, k, v
	return nil
}

// Smooth is the inverse of SetSmooth.
func (c *Config) Smooth() string {
	var parts []string
	for _, s := range []struct {
		on   bool
		name string
	}{{c.SmoothQ, "q"}, {c.SmoothK, "k"}, {c.SmoothV, "v"}} {
		if s.on {
			parts = append(parts, s.name)
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ",")
}

// Tiling returns the program's tile shape.
func (c *Config) Tiling() quant.Tiling {
	if c.Program == SM90Program {
		return quant.Tiling{BlockQ: 64, WarpQ: 16, BlockK: 128}
	}
	return quant.Tiling{BlockQ: 128, WarpQ: 32, BlockK: 64}
}

// qkStyle returns the rounding rules of the Q and K quantisers.
func (c *Config) qkStyle() quant.Style {
	switch {
	case c.Program == PaperProgram:
		return quant.Paper
	case c.QKGranularity == quant.PerThread:
		return quant.Triton
	}
	return quant.Fused
}

// vStyle returns the rounding rules of the V quantiser.
func (c *Config) vStyle() quant.Style {
	if c.Program == PaperProgram {
		return quant.Paper
	}
	return quant.Fused
}

// valueMax is what V's channel maximum is scaled to: the format's largest value,
// or for the FP16 accumulator what keeps a tile's sum of 64 products with P~ at
// most 64,512. For E4M3 that is SageAttention2++'s 2.25; E5M2, whose P~ is 128
// times larger, follows it.
func (c *Config) valueMax() float32 {
	if c.Variant.VMax != 0 {
		return c.Variant.VMax
	}
	if c.PVAccum == AccumFP16 {
		switch c.PVType {
		case quant.E4M3:
			return 2.25
		case quant.E5M2:
			return 2.25 / 128
		}
	}
	return c.PVType.Max()
}

// pOffset is what P~'s exponent is lowered by so that P~ fills its format. 8.807 is
// the released kernels' constant, about log2(448); the others put the largest P~
// just below their format's largest value in the same way.
func (c *Config) pOffset() float32 {
	if c.Variant.POffset.Set {
		return c.Variant.POffset.Value
	}
	return [...]float32{8.807, 15.807, 6.988, 0}[c.PVType]
}

// pvInstruction names the matrix instruction of the second product.
func (c *Config) pvInstruction() string {
	acc := "f32"
	if c.PVAccum == AccumFP16 {
		acc = "f16"
	}
	switch {
	case c.PVType == quant.INT8:
		acc = "s32"
		if c.Program == SM90Program {
			return "wgmma.m64nNk32.s32.s8"
		}
		return "mma.m16n8k32.s32.s8"
	case c.PVType == quant.FP16 && c.Program == SM90Program:
		return "wgmma.m64nNk16." + acc + ".f16"
	case c.PVType == quant.FP16:
		return "mma.m16n8k16." + acc + ".f16"
	case c.Program == SM90Program:
		return "wgmma.m64nNk32." + acc + "." + c.PVType.String()
	}
	return "mma.m16n8k32." + acc + "." + c.PVType.String()
}

// Unit returns the matrix unit that computes P~V.
func (c *Config) Unit() (*tensorcore.Unit, error) {
	arch := c.Arch
	if c.PVAccum == AccumIdeal {
		arch = tensorcore.Ideal
	}
	u, err := tensorcore.Lookup(arch, c.pvInstruction())
	if err != nil {
		return nil, err
	}
	return c.Variant.unit(u), nil
}

// Validate reports a configuration that cannot run.
func (c *Config) Validate() error {
	if c.QKBits != 4 && c.QKBits != 8 {
		return fmt.Errorf("codes of %d bits for Q and K: want 4 or 8", c.QKBits)
	}
	if !slices.Contains(tensorcore.Archs(), c.Arch) {
		return fmt.Errorf("unknown architecture %q (have %s)", c.Arch, strings.Join(tensorcore.Archs(), ", "))
	}
	if c.PVType == quant.INT8 && c.PVAccum == AccumFP16 {
		return fmt.Errorf("the accumulator fp32+fp16 does not exist for int8 P and V: integers accumulate in int32")
	}
	if err := c.Variant.validate(c); err != nil {
		return err
	}
	if _, err := c.Unit(); err != nil {
		return fmt.Errorf("kernel %s cannot run on %s: %w", c.Name, c.Arch, err)
	}
	return nil
}
