package vec

import (
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// levels returns the vector levels of this machine and skips the test if there
// are none.
func levels(t testing.TB) []Level {
	l := Levels()[1:]
	if len(l) == 0 {
		t.Skip("no vector level on this machine")
	}
	return l
}

func e4m3Format() *ValueFormat {
	return NewValueFormat(func(c uint8) float32 { return format.E4M3(c).Float32() }, -6, 112)
}

func e5m2Format() *ValueFormat {
	return NewValueFormat(func(c uint8) float32 { return format.E5M2(c).Float32() }, -14, 98)
}

// units lists the matrix units that Dot computes.
var units = []struct {
	arch, name string
	tile       int
	unit       Unit
}{
	{tensorcore.SM90, "wgmma.m64nNk32.f32.e4m3", 128, Unit{Step: 32}},
	{tensorcore.SM90, "wgmma.m64nNk32.f32.e5m2", 128, Unit{Step: 32}},
	{tensorcore.SM90, "wgmma.m64nNk32.f16.e4m3", 128, Unit{Step: 32, Half: true}},
	{tensorcore.SM90, "wgmma.m64nNk32.f16.e5m2", 128, Unit{Step: 32, Half: true}},
	{tensorcore.SM89, "mma.m16n8k32.f32.e4m3", 64, Unit{Step: 16}},
	{tensorcore.SM89, "mma.m16n8k32.f32.e5m2", 64, Unit{Step: 16}},
	{tensorcore.SM89, "mma.m16n8k32.f16.e4m3", 64, Unit{Step: 16, Half: true}},
	{tensorcore.SM89, "mma.m16n8k32.f16.e5m2", 64, Unit{Step: 16, Half: true}},
	{tensorcore.SM90, "mma.m16n8k32.f32.e4m3", 64, Unit{Kind: Split, Step: 16}},
	{tensorcore.SM90, "mma.m16n8k32.f32.e5m2", 64, Unit{Kind: Split, Step: 16}},
	{tensorcore.SM90, "mma.m16n8k32.f16.e4m3", 64, Unit{Kind: Split, Step: 16, Half: true}},
	{tensorcore.SM90, "mma.m16n8k32.f16.e5m2", 64, Unit{Kind: Split, Step: 16, Half: true}},
	{tensorcore.SM120, "mma.m16n8k32.f32.e4m3", 64, Unit{Kind: Wide25, Step: 32}},
	{tensorcore.SM120, "mma.m16n8k32.f32.e5m2", 64, Unit{Kind: Wide25, Step: 32}},
	{tensorcore.SM120, "mma.m16n8k32.f16.e4m3", 64, Unit{Kind: Wide25, Step: 32, Half: true}},
	{tensorcore.SM120, "mma.m16n8k32.f16.e5m2", 64, Unit{Kind: Wide25, Step: 32, Half: true}},
	{tensorcore.SM90, "wgmma.m64nNk16.f32.f16", 128, Unit{Kind: Truncated25, Step: 16}},
	{tensorcore.SM90, "wgmma.m64nNk16.f16.f16", 128, Unit{Kind: Truncated25, Step: 16, Half: true}},
	{tensorcore.SM90, "mma.m16n8k16.f32.f16", 64, Unit{Kind: Truncated25, Step: 16}},
	{tensorcore.SM89, "mma.m16n8k16.f32.f16", 64, Unit{Kind: Truncated24, Step: 8}},
	{tensorcore.SM89, "mma.m16n8k16.f16.f16", 64, Unit{Kind: Truncated24, Step: 8, Half: true}},
	{tensorcore.Ideal, "wgmma.m64nNk32.f32.e4m3", 128, Unit{Kind: Exact, Step: 32}},
	{tensorcore.Ideal, "mma.m16n8k32.f16.e4m3", 64, Unit{Kind: Exact, Step: 32, Half: true}},
}

// dotCase is a tile of P~ and V.
type dotCase struct {
	u      *tensorcore.Unit
	v      *Values
	p      []float32
	pe     []uint8
	s      Scratch
	pCodes []uint16 // [Rows][tile]
	vCodes []uint16 // [dim][tile]
	tile   int
	dim    int
}

// stored is the position of key k in the order in which the unit takes keys (as
// quant.Permute has it).
func stored(k int) int {
	return k&^15 + [16]int{0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15}[k%16]
}

// operand describes P~'s and V's format to the tests: the value of a code, the smallest
// normal exponent as in FP32, and how a code is made of 16 random bits.
type operand struct {
	format *ValueFormat
	value  func(code uint16) float32
	floor  int
	code   func(bits uint16) uint16
}

func operandOf(f tensorcore.Operand) operand {
	byteOf := func(bits uint16) uint16 { return bits & 0xff }
	switch f {
	case tensorcore.E4M3:
		return operand{e4m3Format(), func(c uint16) float32 { return format.E4M3(c).Float32() }, 121, byteOf}
	case tensorcore.E5M2:
		return operand{e5m2Format(), func(c uint16) float32 { return format.E5M2(c).Float32() }, 113, byteOf}
	}
	return operand{NewWideFormat(), format.FP16ToFloat32, 113, func(bits uint16) uint16 {
		// The low byte leads, as for the others: its sign and its exponent's shape.
		return bits<<8 | bits>>8
	}}
}

// newDotCase fills a tile with codes of the bits that p and v draw; P~ has no sign.
func newDotCase(t testing.TB, i, dim int, p func(key, row int) uint16, v func(key, channel int) uint16) *dotCase {
	s := units[i]
	u, err := tensorcore.Lookup(s.arch, s.name)
	if err != nil {
		t.Fatal(err)
	}
	f := operandOf(u.A)
	finite := func(code uint16) uint16 {
		for x := f.value(code); x-x != 0; x = f.value(code) {
			code--
		}
		return code
	}
	sign := uint16(0x80)
	if u.A == tensorcore.FP16 {
		sign = 0x8000
	}
	c := &dotCase{u: u, tile: s.tile, dim: dim}
	c.v = NewValues(f.format, dim, s.tile, s.tile, s.unit)
	c.p = make([]float32, (s.tile+1)*Rows)
	c.pe = make([]uint8, s.tile*Rows)
	c.pCodes, c.vCodes = make([]uint16, Rows*s.tile), make([]uint16, dim*s.tile)
	for k := range s.tile {
		for r := range Rows {
			code := finite(f.code(p(k, r)) &^ sign)
			x := f.value(code)
			c.pCodes[r*s.tile+stored(k)] = code
			c.p[k*Rows+r] = x
			if x != 0 {
				c.pe[k*Rows+r] = uint8(max(int(math.Float32bits(x)>>23), f.floor))
			}
		}
		for ch := range dim {
			code := finite(f.code(v(k, ch)))
			c.vCodes[ch*s.tile+stored(k)] = code
			c.v.Put(ch, k, code)
			if got := c.v.Code(ch, k); got != code {
				t.Fatalf("code %x is read as %x", code, got)
			}
		}
	}
	return c
}

// subnormals are operands that the compiler does not know.
var subnormals = []float32{math.SmallestNonzeroFloat32, math.SmallestNonzeroFloat32}

// check compares Dot with the portable Tile, from an accumulator of zero.
func (c *dotCase) check(t testing.TB) {
	t.Helper()
	var pa, pb tensorcore.Panel
	pa.Load(c.u.A, c.pCodes, Rows, c.tile, c.tile)
	pb.Load(c.u.A, c.vCodes, c.dim, c.tile, c.tile)
	want := make([]float32, Rows*c.dim)
	c.u.Tile(want, &pa, &pb)
	for _, l := range levels(t) {
		c.checkAt(t, l, want)
	}
}

func (c *dotCase) checkAt(t testing.TB, l Level, want []float32) {
	t.Helper()
	c.v.Index(l, nil)
	if c.v.Odd(0) != nil {
		t.Fatal("codes are not finite")
	}
	overflow := slices.ContainsFunc(want, func(w float32) bool { return w-w != 0 })
	got := make([]float32, c.dim*Rows)
	// Where sums overflow, the caller runs the portable code.
	if ok := c.v.Dot(l, got, c.p, c.pe, &c.s, 0); ok == overflow {
		t.Fatalf("%s %s: overflow reported %v, want %v", l, c.u.Instruction, !ok, overflow)
	}
	if !overflow {
		c.equal(t, l, "", got, want, false)
	}
	if math.Float32bits(subnormals[0]+subnormals[1]) != 2 {
		t.Fatalf("%s %s flushes subnormal numbers ever after", l, c.u.Instruction)
	}
	if !c.v.unit.Pairs(l) {
		return
	}
	// A strip beside another, whose rows are the same in reverse, and beside one of zeros.
	got = make([]float32, c.dim*Rows)
	other, p, pe := make([]float32, c.dim*Rows), slices.Clone(c.p), slices.Clone(c.pe)
	for k := range c.tile {
		slices.Reverse(p[k*Rows:][:Rows])
		slices.Reverse(pe[k*Rows:][:Rows])
	}
	two := func(acc, p [2][]float32, pe [2][]uint8) [2]bool {
		return c.v.DotTiles(l, []Tile{{P: p[0], PE: pe[0], Acc: acc[0]}, {P: p[1], PE: pe[1], Acc: acc[1]}}, &c.s, 0, c.tile)
	}
	ok := two([2][]float32{got, other}, [2][]float32{c.p, p}, [2][]uint8{c.pe, pe})
	if ok[0] != ok[1] || ok[0] == overflow {
		t.Fatalf("%s %s: of two strips, overflow %v", l, c.u.Instruction, ok)
	}
	if ok[0] {
		c.equal(t, l, "first strip", got, want, false)
		c.equal(t, l, "second strip", other, want, true)
	}
	clear(p)
	clear(pe)
	clear(other)
	for i := range 2 {
		clear(got)
		acc, ps, pes := [2][]float32{other, other}, [2][]float32{p, p}, [2][]uint8{pe, pe}
		acc[i], ps[i], pes[i] = got, c.p, c.pe
		if z := two(acc, ps, pes); z[i] != ok[0] || !z[1-i] {
			t.Fatalf("%s %s: strip %d beside zeros, overflow %v", l, c.u.Instruction, i, z)
		}
		if slices.ContainsFunc(other, func(x float32) bool { return math.Float32bits(x) != 0 }) {
			t.Fatalf("%s %s: zeros are not", l, c.u.Instruction)
		}
	}
}

// equal compares results [channel][Rows] with wanted ones [row][channel], whose rows may come
// in reverse.
func (c *dotCase) equal(t testing.TB, l Level, what string, got, want []float32, reverse bool) {
	t.Helper()
	for r := range Rows {
		for ch := range c.dim {
			w, g := want[r*c.dim+ch], got[ch*Rows+r]
			if reverse {
				g = got[ch*Rows+Rows-1-r]
			}
			if math.Float32bits(w) != math.Float32bits(g) {
				t.Fatalf("%s %s %s row %d channel %d: %x, want %x", l, c.u.Instruction, what, r, ch, g, w)
			}
		}
	}
}

func TestDot(t *testing.T) {
	levels(t)
	r := rand.New(rand.NewPCG(1, 2))
	low := func() uint16 { return uint16(r.Uint32()) << 8 }
	draw := map[string]func() uint16{
		"any":      func() uint16 { return uint16(r.Uint32()) },
		"sparse":   func() uint16 { return uint16(r.Uint32()) * uint16(r.IntN(8)/7) },
		"zero":     func() uint16 { return 0 },
		"largest":  func() uint16 { return 0xff7e },
		"smallest": func() uint16 { return uint16(r.IntN(3)) | uint16(r.IntN(2))<<7 | low() },
		"negative": func() uint16 { return 0x80 | uint16(r.Uint32()) },
		"extremes": func() uint16 { return []uint16{1, 0x7e, 0x80, 0xfe, 0x81, 8, 0}[r.IntN(7)] | low() },
		"moderate": func() uint16 { return uint16(0x38+r.IntN(16)) | uint16(r.IntN(2))<<7 | low() },
	}
	for i := range units {
		for np, p := range draw {
			for nv, v := range draw {
				t.Run(units[i].arch+"/"+units[i].name+"/"+np+"/"+nv, func(t *testing.T) {
					for _, dim := range []int{1, 24} {
						newDotCase(t, i, dim, func(int, int) uint16 { return p() }, func(int, int) uint16 { return v() }).check(t)
					}
				})
			}
		}
	}
}

// TestSubnormalSums: an FP16 sum that is subnormal has the smallest exponent, below which terms
// lose their bits: here the one that would break a tie. A sum of zero has none.
func TestSubnormalSums(t *testing.T) {
	levels(t)
	for i, u := range units {
		if !u.unit.Kind.FP16() || !u.unit.Half {
			continue
		}
		// The second step adds 2^-28 * 2^(-10-n), from four products of which the first has a bit
		// that is too low for 25 or 24 fraction bits, and half of a quantum, to two quanta.
		low := 1.25
		if u.unit.Kind == Truncated24 {
			low = 1.5
		}
		p := []float64{1 + 0x1p-10, 1, 1 + 0x1p-10, 1, 1}
		v := []float64{low, -low, -1, 1, 8}
		pick := func(x []float64, first float64) func(key, lane int) uint16 {
			return func(key, _ int) uint16 {
				value := 0.0
				if key == 0 {
					value = first
				}
				for n, y := range x {
					if u.unit.base(u.unit.Step)+u.unit.key(1, n) == key {
						value = y * 0x1p-14
					}
				}
				return bits.ReverseBytes16(format.FP16FromFloat32(float32(value)))
			}
		}
		newDotCase(t, i, 4, pick(p, 0x1p-12), pick(v, 0x1p-11)).check(t)
		newDotCase(t, i, 4, pick(p, 0), pick(v, 0)).check(t)
	}
}

// TestSubnormalAccumulator: what has been added up in FP16 has at least FP16's smallest exponent when
// it meets small FP8 products.
func TestSubnormalAccumulator(t *testing.T) {
	levels(t)
	tried := false
	for i, u := range units {
		if u.unit.Kind != Truncated13 || !u.unit.Half || !strings.HasSuffix(u.name, "e5m2") {
			continue
		}
		tried = true
		// 2^-23, and in the next step 2^-25 and 2^-28, of which 13 fraction bits below 2^-14 keep the former alone.
		for _, first := range []float64{0x1p-12, -0x1p-12, 0} {
			pick := func(x ...float64) func(key, lane int) uint16 {
				return func(key, _ int) uint16 {
					value := 0.0
					switch key {
					case 0:
						value = x[0]
					case u.unit.Step:
						value = x[1]
					case u.unit.Step + 1:
						value = x[2]
					}
					return uint16(format.E5M2FromFloat32(float32(value)))
				}
			}
			newDotCase(t, i, 4, pick(0x1p-11, 0x1p-12, 0x1p-12), pick(first, 0x1p-13, 0x1p-16)).check(t)
		}
	}
	if !tried {
		t.Error("no unit")
	}
}

// TestExactSums: the sum of an accumulator and a step of exact sums is rounded once, also where
// FP64 does not hold it.
func TestExactSums(t *testing.T) {
	code := func(x float64) uint16 { return uint16(format.E4M3FromFloat32(float32(x))) }
	for i, u := range units {
		if u.unit.Kind != Exact || u.unit.Half {
			continue
		}
		for _, tc := range []struct{ acc, large, small float64 }{
			{0x1p40, 256, 0x1p-9}, {0x1p40, 256, -0x1p-9}, {-0x1p40, -256, 0x1p-9}, {-0x1p40, -256, -0x1p-9},
			{0x1.000002p40, 256, 0x1p-9}, {0x1.000002p40, 256, -0x1p-9}, {0x1p40, -256, 0x1p-9}, {0x1p40, -256, -0x1p-9},
			{0x1p40, 256, 0}, {0x1p-60, 256, 0}, {-0x1p-60, 256, 0x1p-9}, {0x1p-60, 0, 0}, {0x1p16, -256, 0}, {0x1p-40, -256, 0},
		} {
			p := func(key, _ int) uint16 {
				return code([]float64{math.Abs(tc.large), math.Abs(tc.small), 0}[min(key, 2)])
			}
			v := func(key, _ int) uint16 { return code([]float64{tc.large, tc.small, 0}[min(key, 2)]) }
			c := newDotCase(t, i, 4, p, v)
			sum := new(big.Float).SetPrec(200).SetFloat64(tc.acc)
			for _, x := range []float64{tc.large * math.Abs(tc.large), tc.small * math.Abs(tc.small)} {
				sum.Add(sum, big.NewFloat(x))
			}
			want, _ := sum.Float32()
			for _, l := range levels(t) {
				acc := make([]float32, c.dim*Rows)
				for j := range acc {
					acc[j] = float32(tc.acc)
				}
				if !c.v.Dot(l, acc, c.p, c.pe, &c.s, 0) {
					t.Fatalf("%s: %v: overflow", l, tc)
				}
				for j, got := range acc {
					if math.Float32bits(got) != math.Float32bits(want) {
						t.Fatalf("%s: %v: sum %d is %x, want %x", l, tc, j, got, want)
					}
				}
			}
		}
	}
}

// TestDotTilesAdds: a tile that joins O in DotTiles is one that Dot makes and AddTile adds, for both
// strips and steps, and what AddTile reports is reported of the right strip.
func TestDotTilesAdds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i, u := range units {
		for _, l := range levels(t) {
			if !u.unit.Pairs(l) {
				continue
			}
			dim := []int{12, 5, 1}[i%3]
			c := newDotCase(t, i, dim, func(_, row int) uint16 { return uint16(r.IntN(0x40)) * uint16(min(row, 1)) },
				func(int, int) uint16 { return uint16(r.IntN(0x40)) | uint16(r.IntN(2))<<7 })
			c.v.Index(l, nil)
			// What the first row, whose P is zero, makes of O.
			for _, tc := range []struct {
				o, factor float32
				ok        bool
			}{
				{1, 0.5, true}, {0x1p-100, 0x1p-30, true}, {-0x1p-100, 0x1p-30, true}, // flushed
				{0x1p-100, 0x1p-26, false}, {-0x1p-100, 0x1p-26, false}, // may have been flushed
				{0x1p100, 0x1p100, false}, {float32(math.NaN()), 1, false}, {0, 0, true},
			} {
				for strip := range 3 { // a strip alone, and the first or second of two
					var tiles []Tile
					for range min(strip, 1) + 1 {
						o := make([]float32, dim*Rows)
						for j := range o {
							o[j] = float32(r.NormFloat64())
						}
						var factor [Rows]float32
						for j := range factor {
							factor[j] = r.Float32()
						}
						junk := make([]float32, dim*Rows)
						for j := range junk {
							junk[j] = float32(math.NaN())
						}
						tiles = append(tiles, Tile{P: c.p, PE: c.pe, Acc: junk, O: o, Rescale: &factor})
					}
					special := max(strip-1, 0)
					tiles[special].O[(dim-1)*Rows], tiles[special].Rescale[0] = tc.o, tc.factor
					var want [2][]float32
					for j := range tiles {
						want[j] = slices.Clone(tiles[j].O)
						sum := make([]float32, dim*Rows)
						ok := c.v.Dot(l, sum, c.p, c.pe, &c.s, 0) && l.AddTile(want[j], sum, tiles[j].Rescale, dim)
						if j == special && ok != tc.ok {
							t.Fatalf("%s %s: AddTile of %x * %x: %v", l, u.name, tc.o, tc.factor, ok)
						}
					}
					got := c.v.DotTiles(l, tiles, &c.s, 0, c.tile)
					for j := range tiles {
						if ok := j != special || tc.ok; got[j] != ok {
							t.Errorf("%s %s: strip %d of %d with %x * %x: %v, want %v", l, u.name, j, len(tiles), tc.o, tc.factor, got[j], ok)
						} else if ok && !slices.EqualFunc(tiles[j].O, want[j], func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
							t.Errorf("%s %s: strip %d of %d with %x * %x differs", l, u.name, j, len(tiles), tc.o, tc.factor)
						}
					}
				}
			}
		}
	}
}

// TestRoundingRestored: after Dot, which may set the rounding of the machine, operations
// round to nearest and keep subnormal numbers, as Go's do.
func TestRoundingRestored(t *testing.T) {
	for i, u := range units {
		c := newDotCase(t, i, 4, func(k, r int) uint16 { return uint16(0x30 + k%8) }, func(k, ch int) uint16 { return uint16(0x30 + k%8 + ch%2*0x80) })
		for _, l := range levels(t) {
			c.v.Index(l, nil)
			acc := make([]float32, c.dim*Rows)
			if !c.v.Dot(l, acc, c.p, c.pe, &c.s, 0) {
				t.Fatalf("%s: overflow", u.name)
			}
			if u.unit.Pairs(l) {
				o, factor := make([]float32, len(acc)), [Rows]float32{}
				tiles := []Tile{{P: c.p, PE: c.pe, Acc: acc, O: o, Rescale: &factor}, {P: c.p, PE: c.pe, Acc: slices.Clone(acc), O: slices.Clone(o), Rescale: &factor}}
				c.v.DotTiles(l, tiles[:1+i%2], &c.s, 0, c.tile)
			}
			x := acc[:1] // so that the compiler cannot add
			for _, s := range []struct{ a, b, want float32 }{
				{1, 0x1.8p-24, 1 + 0x1p-23}, // not toward zero, not down
				{1, 0x0.8p-24, 1},           // not up
				{0x1p-149, 0, 0x1p-149},     // not flushed
			} {
				x[0] = s.a
				if x[0] += s.b; x[0] != s.want {
					t.Errorf("%s %s: %x + %x = %x", l, u.name, s.a, s.b, x[0])
				}
			}
		}
	}
}

func BenchmarkDot(b *testing.B) {
	all := levels(b)
	r := rand.New(rand.NewPCG(1, 2))
	for i, u := range units {
		for _, l := range all {
			b.Run(u.arch+"/"+u.name+"/"+l.String(), func(b *testing.B) {
				const dim = 128
				encode := func(x float64) uint16 {
					switch {
					case strings.HasSuffix(u.name, "e4m3"):
						return uint16(format.E4M3FromFloat32(float32(x)))
					case strings.HasSuffix(u.name, "e5m2"):
						return uint16(format.E5M2FromFloat32(float32(x)))
					}
					return bits.ReverseBytes16(format.FP16FromFloat32(float32(x)))
				}
				c := newDotCase(b, i, dim, func(int, int) uint16 {
					return encode(448 * math.Exp(-math.Abs(2*r.NormFloat64())))
				}, func(int, int) uint16 { return encode(100 * r.NormFloat64()) })
				c.v.Index(l, nil)
				acc := make([]float32, dim*Rows)
				for b.Loop() {
					clear(acc)
					c.v.Dot(l, acc, c.p, c.pe, &c.s, 0)
				}
				b.ReportMetric(float64(b.N)*Rows*dim*float64(c.tile)/b.Elapsed().Seconds()/1e9, "GMAC/s")
				if !c.v.unit.Pairs(l) {
					return
				}
				b.Run("two strips", func(b *testing.B) {
					other, p, pe := slices.Clone(acc), slices.Clone(c.p), slices.Clone(c.pe)
					for b.Loop() {
						clear(acc)
						clear(other)
						c.v.DotTiles(l, []Tile{{P: c.p, PE: c.pe, Acc: acc}, {P: p, PE: pe, Acc: other}}, &c.s, 0, c.tile)
					}
					b.ReportMetric(2*float64(b.N)*Rows*dim*float64(c.tile)/b.Elapsed().Seconds()/1e9, "GMAC/s")
				})
			})
		}
	}
}

// FuzzDot draws P~ and V from the bytes of the input.
func FuzzDot(f *testing.F) {
	levels(f)
	f.Add(uint8(0), []byte{0x7e, 1, 0xfe, 0x81, 0, 0x38})
	f.Add(uint8(7), []byte{8, 0x88, 0x7e, 0x77, 3, 0xff, 0x80})
	f.Fuzz(func(t *testing.T, unit uint8, data []byte) {
		if len(data) == 0 {
			return
		}
		i := 0
		next := func(int, int) uint16 {
			i++
			return uint16(data[i%len(data)]^uint8(i/len(data)*37)) | uint16(data[(i+1)%len(data)])<<8
		}
		newDotCase(t, int(unit)%len(units), 4, next, next).check(t)
	})
}

// TestPartition holds the index of V by sign to the portable one, with codes of all kinds in
// steps of every unit of FP8.
func TestPartition(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 1))
	const dim, keys = 5, 128
	for _, l := range levels(t) {
		for round := range 60 {
			f := []*ValueFormat{e4m3Format(), e5m2Format()}[round%2]
			for _, u := range []Unit{{Step: 32}, {Step: 16}, {Kind: Split, Step: 16}} {
				v := NewValues(f, dim, keys, 64, u)
				for key := range keys {
					for c := range dim {
						code := uint16(r.IntN(256))
						switch {
						case round%3 == 0 && !f.finite[code], round%3 == 1 && r.IntN(2) == 0:
							code &= 0x80 // a zero
						case round == 5:
							code = 0x81
						}
						v.Put(c, key, code)
					}
				}
				for first := 0; first < keys; first += u.Step {
					got, want := make([]channelKeys, dim), make([]channelKeys, dim)
					v.partition(Portable, want, first, u.base(first))
					v.partition(l, got, first, u.base(first))
					for c, w := range want {
						g := &got[c]
						if (g.bad != 0) != (w.bad != 0) {
							t.Fatalf("%s: step at %d, channel %d: bad %d, want %d", l, first, c, g.bad, w.bad)
						}
						if w.bad != 0 {
							continue // setApart makes the lists
						}
						if !slices.Equal(g.posKeys[:g.pos], w.posKeys[:w.pos]) || !slices.Equal(g.negKeys[:g.neg], w.negKeys[:w.neg]) {
							t.Fatalf("%s: step at %d, channel %d: %v, %v, want %v, %v", l, first, c,
								g.posKeys[:g.pos], g.negKeys[:g.neg], w.posKeys[:w.pos], w.negKeys[:w.neg])
						}
					}
				}
			}
		}
	}
}
