package quant

import (
	"fmt"
	"hash"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
)

// pin sums up numbers in a checksum: of NaNs only that they are there, of a zero its sign
// too.
type pin struct{ hash.Hash64 }

func newPin() pin { return pin{fnv.New64a()} }

func (p *pin) add(bits uint32) {
	p.Write([]byte{byte(bits), byte(bits >> 8), byte(bits >> 16), byte(bits >> 24)})
}

func (p *pin) floats(x ...float32) {
	for _, v := range x {
		if v != v {
			v = math.Float32frombits(0x7fff_ffff)
		}
		p.add(math.Float32bits(v))
	}
}

// sample is n values around one of a few magnitudes, with ties, zeros and, if hard,
// numbers from every binade.
func sample(r *rand.Rand, n int, scale float32, hard bool) []float32 {
	x := make([]float32, n)
	for i := range x {
		switch r.IntN(6) {
		case 0:
			x[i] = scale * float32(r.IntN(2000)-1000) / 64
		case 1:
			x[i] = scale * float32(r.IntN(3)-1) / 2
		case 2:
			if hard {
				x[i] = math.Float32frombits(r.Uint32())
				if x[i]-x[i] != 0 {
					x[i] = 1e-38
				}
				continue
			}
			fallthrough
		default:
			// A sum of uniform numbers, the same on every machine.
			x[i] = scale * float32(r.IntN(1<<12)+r.IntN(1<<12)+r.IntN(1<<12)-3<<11) / 1000
		}
	}
	return x
}

// TestPinnedCodes and TestPinnedValues pin what the quantisers give, to the bit, when
// they gave every code, scale and mean that was recorded from the released kernels on an
// H200 (sageacc conform) and from this project's (sageacc validate).
func TestPinnedCodes(t *testing.T) {
	var got []string
	for _, style := range []Style{Paper, Triton, Fused} {
		for _, bits := range []int{4, 8} {
			for round := StyleRounding; round <= TowardZero; round++ {
				r := rand.New(rand.NewPCG(1, 2))
				p := newPin()
				for _, scale := range []float32{1, 0.01, 300, 0x1p-40, 0x1p120, 1e-7, 1e-8, 0} {
					x := sample(r, 400, scale, false)
					amax := AbsMax(0, x)
					// Half the maximum, too, so that codes saturate.
					for _, m := range []float32{amax, amax / 2, 0x1p127} {
						s := NewScale(style, bits, m).Rounded(round)
						codes := make([]int8, len(x))
						s.Quantize(codes, x)
						p.floats(s.Step)
						for _, c := range codes {
							p.add(uint32(c))
						}
					}
				}
				got = append(got, fmt.Sprintf("%s int%d rounding %d: %016x", style, bits, round, p.Sum64()))
			}
		}
	}
	compare(t, got, pinnedCodes)
}

func TestPinnedValues(t *testing.T) {
	var got []string
	for _, style := range []Style{Paper, Fused} {
		for _, dtype := range []PVType{E4M3, E5M2, INT8, FP16} {
			for _, smooth := range []bool{false, true} {
				p := newPin()
				// 2,500 tokens are more than the 2,048 that 256 threads take at first.
				for _, tc := range []struct {
					n     int
					scale float32
					to    float32
				}{
					{2500, 1, dtype.Max()}, {16, 1e-3, 2.25}, {3, 40, dtype.Max()}, {1, 0, dtype.Max()}, {1, 5, dtype.Max()},
					{33, 0x1p-60, dtype.Max()}, {20, 2e6, dtype.Max()}, {32, 2e6, dtype.Max()},
				} {
					const d = 3
					r := rand.New(rand.NewPCG(3, uint64(tc.n)))
					x := sample(r, tc.n*d, tc.scale, tc.n == 33)
					for i := 1; i < len(x); i += d { // one sign only
						x[i] = float32(math.Abs(float64(x[i]))) + tc.scale
					}
					for i := 0; tc.n == 32 && i < len(x); i += d { // or the other
						x[i] = -float32(math.Abs(float64(x[i]))) - tc.scale
					}
					for i := 2; tc.n == 3 && i < len(x); i += d { // and one channel without a value
						x[i] = 0
					}
					v := NewValues(style, dtype, tc.to, smooth, tc.n, d)
					v.TowardZero = tc.n == 16
					v.Scan(0, x)
					v.Finish()
					p.floats(v.Scale...)
					p.floats(v.Mean...)
					codes := make([]uint16, d)
					for i := 0; i < len(x); i += d {
						v.Encode(codes, x[i:])
						for _, c := range codes {
							p.add(uint32(c))
						}
					}
					for c := range d {
						p.add(map[bool]uint32{true: 1}[v.Dead(c)])
					}
				}
				got = append(got, fmt.Sprintf("%s %s smooth %v: %016x", style, dtype, smooth, p.Sum64()))
			}
		}
	}
	compare(t, got, pinnedValues)
}

// TestPinnedMeans pins means of K and differences from them.
func TestPinnedMeans(t *testing.T) {
	var got []string
	for _, d := range []format.DType{format.FP16, format.BF16, format.FP32} {
		r := rand.New(rand.NewPCG(5, 6))
		p := newPin()
		for _, n := range []int{1, 7, 1000} {
			for _, scale := range []float32{1, 1e4, 0x1p-130} {
				const ch = 3
				x := sample(r, n*ch, scale, false)
				x[0] += 1e8 * scale // so that the compensation counts
				m := NewChannelMean(ch)
				m.Add(x)
				mean := make([]float32, ch)
				m.Mean(mean, d.Round)
				p.floats(mean...)
				for _, style := range []Style{Paper, Triton, Fused} {
					y := append([]float32(nil), x...)
					SubtractMean(style, y, mean, d.Round)
					p.floats(y...)
				}
			}
		}
		got = append(got, fmt.Sprintf("%s: %016x", d, p.Sum64()))
	}
	compare(t, got, pinnedMeans)
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	for i, g := range got {
		if i >= len(want) || g != want[i] {
			t.Errorf("%q is not as pinned", g)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d pins, want %d", len(got), len(want))
	}
}

// TestStyleNames: names and roundings of styles.
func TestStyleNames(t *testing.T) {
	for s, want := range map[Style]struct {
		name  string
		round CodeRounding
	}{Paper: {"paper", NearestEven}, Triton: {"triton", NearestAway}, Fused: {"fused", NearestEven}} {
		if s.String() != want.name || s.Rounding() != want.round {
			t.Errorf("%s rounds by %d", s, s.Rounding())
		}
	}
	for p, want := range map[PVType]float32{E4M3: 448, E5M2: 57344, INT8: 127, FP16: 0} {
		if p.Max() != want {
			t.Errorf("%s ends at %g", p, p.Max())
		}
	}
	for i, want := range []string{"per-tensor", "per-block", "per-warp", "per-thread", "per-token"} {
		if Granularity(i).String() != want || Granularities()[i] != want {
			t.Errorf("granularity %d is %s", i, Granularity(i))
		}
	}
	for i, want := range []string{"e4m3", "e5m2", "int8", "fp16"} {
		if PVType(i).String() != want {
			t.Errorf("type %d is %s", i, PVType(i))
		}
	}
}

// TestExtremes: what takes part in a channel's maximum beside its values.
func TestExtremes(t *testing.T) {
	nan := float32(math.NaN())
	fifteen := func(x float32) []float32 { return slices.Repeat([]float32{x}, 15) }
	for _, tc := range []struct {
		name   string
		style  Style
		smooth bool
		x      []float32
		want   float64 // the maximum
	}{
		{"a constant", Paper, false, []float32{3, 3}, 3},
		{"nothing but NaN", Paper, false, []float32{nan, nan}, 0},
		{"nothing but NaN, released", Fused, false, slices.Repeat([]float32{nan}, 16), 1e6}, // its starting value
		{"the padding, above", Fused, true, fifteen(-1), 15.0 / 16},
		{"the padding, below", Fused, true, fifteen(1), 15.0 / 16},
		{"the starting value, below", Fused, true, slices.Repeat([]float32{3e6}, 16), 2e6},
		{"the starting value, above", Fused, true, slices.Repeat([]float32{-3e6}, 16), 2e6},
	} {
		v := NewValues(tc.style, E4M3, 448, tc.smooth, len(tc.x), 1)
		v.Scan(0, tc.x)
		v.Finish()
		want := float32(tc.want) / 448
		if tc.style == Fused {
			want = mufu.DivApprox(float32(tc.want), 448)
		}
		if v.Scale[0] != want {
			t.Errorf("%s: scale %g, want %g", tc.name, v.Scale[0], want)
		}
	}
}

// TestTies: the Triton style rounds an exact half away from zero; a step that underflows
// to zero gives zeros.
func TestTies(t *testing.T) {
	s := NewScale(Triton, 8, 100)
	ties := 0
	for n := float32(0.5); n < 100; n++ {
		for x, i := n*s.Step*(1-0x1p-21), 0; i < 64; i++ {
			x = math.Nextafter32(x, math.MaxFloat32)
			if mufu.DivFull(x, s.Step) != n {
				continue
			}
			ties++
			up := int8(n + 0.5)
			even := up &^ 1
			for round, want := range map[CodeRounding]int8{StyleRounding: up, NearestAway: up, NearestEven: even, TowardZero: up - 1} {
				r := s.Rounded(round)
				var got [2]int8
				r.Quantize(got[:], []float32{x, -x})
				if got != [2]int8{want, -want} {
					t.Fatalf("rounding %d of %g steps: %v, want %d", round, n, got, want)
				}
				for _, level := range Levels() {
					codes := make([]int8, 16)
					r.QuantizeAt(level, codes, slices.Repeat([]float32{x}, 16))
					if !slices.Equal(codes, slices.Repeat([]int8{want}, 16)) {
						t.Fatalf("%s: rounding %d of %g steps: %v, want %d", level, round, n, codes, want)
					}
				}
			}
		}
	}
	if ties < 20 {
		t.Errorf("%d ties", ties)
	}
	tiny := NewScale(Paper, 8, 0x1p-149)
	for round := StyleRounding; round <= TowardZero; round++ {
		r := tiny.Rounded(round)
		got := []int8{1}
		if r.Quantize(got, []float32{0x1p-149}); tiny.Step != 0 || got[0] != 0 {
			t.Errorf("step %g, code %d", tiny.Step, got[0])
		}
	}
}

// TestLaterTiles: groups count on from tile to tile.
func TestLaterTiles(t *testing.T) {
	for _, tc := range []struct {
		g               Granularity
		row, query, key int
	}{
		{PerThread, 2*64 + 10, 4*8 + 2, 2*4 + 1}, {PerThread, 3*64 + 7, 6*8 + 7, 3*4 + 3}, {PerWarp, 3 * 64, 6, 3}, {PerBlock, 3 * 64, 1, 3},
		{PerToken, 200, 200, 200}, {PerTensor, 200, 0, 0},
	} {
		if q, k := tc.g.QueryGroup(sm89, tc.row), tc.g.KeyGroup(sm89, tc.row); q != tc.query || k != tc.key {
			t.Errorf("%s row %d: groups %d and %d, want %d and %d", tc.g, tc.row, q, k, tc.query, tc.key)
		}
	}
	if g, err := ParseGranularity("no"); g != PerTensor || err == nil {
		t.Error("an unknown granularity is one")
	}
	if p, err := ParsePVType("no"); p != E4M3 || err == nil {
		t.Error("an unknown type is one")
	}
	// A multiple of the tile has no group more.
	if q, k := PerBlock.QueryGroups(sm89, 256), PerBlock.KeyGroups(sm89, 256); q != 2 || k != 4 {
		t.Errorf("%d and %d groups", q, k)
	}
}

// The pins, as the tests print them.
var (
	pinnedCodes = []string{
		"paper int4 rounding 0: 0d09977d6b64d1a5",
		"paper int4 rounding 1: 0d09977d6b64d1a5",
		"paper int4 rounding 2: 0c58aa2dc8246b54",
		"paper int4 rounding 3: 3d3a771487894c07",
		"paper int8 rounding 0: ae2e6ced837f8e02",
		"paper int8 rounding 1: ae2e6ced837f8e02",
		"paper int8 rounding 2: ae2e6ced837f8e02",
		"paper int8 rounding 3: 0b8e3b379f0325ef",
		"triton int4 rounding 0: 4371802a2b44eff5",
		"triton int4 rounding 1: 4371802a2b44eff5",
		"triton int4 rounding 2: 4371802a2b44eff5",
		"triton int4 rounding 3: bec5b089c31b8027",
		"triton int8 rounding 0: 5023568588d4809b",
		"triton int8 rounding 1: 5023568588d4809b",
		"triton int8 rounding 2: 5023568588d4809b",
		"triton int8 rounding 3: 38e41ee9784aa759",
		"fused int4 rounding 0: d76cb6598d91f9d3",
		"fused int4 rounding 1: d76cb6598d91f9d3",
		"fused int4 rounding 2: d76cb6598d91f9d3",
		"fused int4 rounding 3: 3cd91ebedfb6b901",
		"fused int8 rounding 0: 7a9c14ae02de690a",
		"fused int8 rounding 1: 7a9c14ae02de690a",
		"fused int8 rounding 2: 7a9c14ae02de690a",
		"fused int8 rounding 3: be8396be684ebd7e",
	}
	pinnedValues = []string{
		"paper e4m3 smooth false: 316c0dd00728e962",
		"paper e4m3 smooth true: 6b54c4ec84402aae",
		"paper e5m2 smooth false: 2196e6bc3119b6a3",
		"paper e5m2 smooth true: 07381ebfa066e8d6",
		"paper int8 smooth false: b750966764b6eecd",
		"paper int8 smooth true: 41cac53e4341040e",
		"paper fp16 smooth false: 97765ffcf8d6d3d1",
		"paper fp16 smooth true: d84613ba55704ddc",
		"fused e4m3 smooth false: 4e1b95030bd7b987",
		"fused e4m3 smooth true: 25d80d23268423e8",
		"fused e5m2 smooth false: 9bbb68e9157d6197",
		"fused e5m2 smooth true: 6c6006bbb32aa21d",
		"fused int8 smooth false: 0d2b8d59b7d12345",
		"fused int8 smooth true: 3df86edd9fad1615",
		"fused fp16 smooth false: 97765ffcf8d6d3d1",
		"fused fp16 smooth true: 1f5629a582f30b3b",
	}
	pinnedMeans = []string{
		"FP16: dc33a80873b8eb69",
		"BF16: fd0dd20eeb118f57",
		"FP32: 18781ed30ce84383",
	}
)

// TestFrameworkMean: PyTorch's mean is the sum times the FP32 reciprocal of the count, which is
// not always the quotient; an infinite sum stays infinite.
func TestFrameworkMean(t *testing.T) {
	m := NewChannelMean(3)
	for range 10 {
		m.Add([]float32{3, 7, float32(math.Inf(-1))})
	}
	m.Add([]float32{11, 4, 1})
	var product, quotient [3]float32
	m.FrameworkMean(product[:], func(x float32) float32 { return x })
	m.Mean(quotient[:], func(x float32) float32 { return x })
	// Sums 41 and 74 of 11 rows: 1/11 in FP32 is 0x3dba2e8c.
	eleventh := math.Float32frombits(0x3dba2e8c)
	if want := [3]float32{41 * eleventh, 74 * eleventh, float32(math.Inf(-1))}; product != want || 1/float32(11) != eleventh {
		t.Errorf("the framework's means %v, want %v", product, want)
	}
	if want := [3]float32{41.0 / 11, 74.0 / 11, float32(math.Inf(-1))}; quotient != want {
		t.Errorf("means %v, want %v", quotient, want)
	}
	if product == quotient {
		t.Error("the two rules cannot be told apart")
	}
	// What FP64 loses of a sum comes back at the end.
	lost := NewChannelMean(1)
	lost.Add([]float32{0x1p60, 1, -0x1p60, 1})
	var mean [1]float32
	if lost.Mean(mean[:], func(x float32) float32 { return x }); mean[0] != 0.5 {
		t.Errorf("the mean is %g, want 0.5", mean[0])
	}
}

// TestTritonBlockRounds: the released per-block quantiser adds one half with the sign, exactly,
// and truncates.
func TestTritonBlockRounds(t *testing.T) {
	s := NewScale(TritonBlock, 8, 127)
	if s.Step != 1 {
		t.Fatalf("step %g", s.Step)
	}
	below, above := math.Nextafter32(2.5, 0), math.Nextafter32(2.5, 3)
	x := []float32{2.5, -2.5, below, -below, above, -above, 0, 0.5, -0.5}
	want := []int8{3, -3, 2, -2, 3, -3, 0, 1, -1}
	got := make([]int8, len(x))
	if s.Quantize(got, x); !slices.Equal(got, want) {
		t.Errorf("codes %v of %v, want %v", got, x, want)
	}
}

// TestScanRefuses: tokens that do not start at a multiple of 16, or that V does not have.
func TestScanRefuses(t *testing.T) {
	v := NewValues(Fused, E4M3, 448, false, 40, 1)
	for _, tc := range []struct {
		first, rows int
		want        string
	}{
		{0, 40, ""}, {16, 24, ""}, {32, 8, ""}, {32, 0, ""},
		{15, 1, "tokens 15 to 15 of 40: want a multiple of 16 to start from"},
		{17, 3, "tokens 17 to 19 of 40: want a multiple of 16 to start from"},
		{-16, 1, "tokens -16 to -16 of 40: want a multiple of 16 to start from"},
		{32, 9, "tokens 32 to 40 of 40: want a multiple of 16 to start from"},
	} {
		got := ""
		if err := v.Scan(tc.first, make([]float32, tc.rows)); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%d rows from %d on: %q, want %q", tc.rows, tc.first, got, tc.want)
		}
	}
	if err := NewValues(Paper, E4M3, 448, false, -1, 1).Scan(0, nil); err != nil {
		t.Errorf("nothing of nothing: %v", err)
	}
}
