package quant

import (
	"fmt"
	"hash"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
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
				}{{2500, 1, dtype.Max()}, {16, 1e-3, 2.25}, {3, 40, dtype.Max()}, {1, 0, dtype.Max()}, {33, 0x1p-60, dtype.Max()}, {20, 2e6, dtype.Max()}} {
					const d = 3
					r := rand.New(rand.NewPCG(3, uint64(tc.n)))
					x := sample(r, tc.n*d, tc.scale, tc.n == 33)
					for i := 1; i < len(x); i += d { // one sign only
						x[i] = float32(math.Abs(float64(x[i]))) + tc.scale
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
		"paper e4m3 smooth false: 7f54beafa362c4be",
		"paper e4m3 smooth true: cae95927f3e5ca49",
		"paper e5m2 smooth false: f2aeab823e1c5ec2",
		"paper e5m2 smooth true: 9baab12ce4e825e4",
		"paper int8 smooth false: 7a4178c9278baf0a",
		"paper int8 smooth true: dfb66ce81b65aca2",
		"paper fp16 smooth false: 20968bbfe2b9c39e",
		"paper fp16 smooth true: 539384bf6259fbb4",
		"fused e4m3 smooth false: 2717eb732693b3dc",
		"fused e4m3 smooth true: 34568b5af096862a",
		"fused e5m2 smooth false: 99450b38d0a06085",
		"fused e5m2 smooth true: 2a9ba38208ad5935",
		"fused int8 smooth false: b6a6296c5995aa93",
		"fused int8 smooth true: 21140d5873e40d7c",
		"fused fp16 smooth false: 20968bbfe2b9c39e",
		"fused fp16 smooth true: aeb54ced2fc13d47",
	}
	pinnedMeans = []string{
		"FP16: dc33a80873b8eb69",
		"BF16: fd0dd20eeb118f57",
		"FP32: 18781ed30ce84383",
	}
)
