package vec

import (
	"math"
	"math/rand/v2"
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
	{tensorcore.SM89, "mma.m16n8k32.f32.e4m3", 64, Unit{Step: 16}},
	{tensorcore.SM89, "mma.m16n8k32.f32.e5m2", 64, Unit{Step: 16}},
	{tensorcore.SM89, "mma.m16n8k32.f16.e4m3", 64, Unit{Step: 16, Half: true}},
	{tensorcore.SM90, "mma.m16n8k32.f32.e4m3", 64, Unit{Step: 16, Split: true}},
	{tensorcore.SM90, "mma.m16n8k32.f32.e5m2", 64, Unit{Step: 16, Split: true}},
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
	f      *ValueFormat
}

// stored is the position of key k in the order in which the unit takes keys (as
// quant.Permute has it).
func stored(k int) int {
	return k&^15 + [16]int{0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15}[k%16]
}

// newDotCase fills a tile with draw(isP, key, lane): a magnitude code; V's sign
// comes from sign.
func newDotCase(t testing.TB, i, dim int, p func(key, row int) uint8, v func(key, channel int) uint8) *dotCase {
	s := units[i]
	u, err := tensorcore.Lookup(s.arch, s.name)
	if err != nil {
		t.Fatal(err)
	}
	f, floor := e4m3Format(), 121
	if u.A == tensorcore.E5M2 {
		f, floor = e5m2Format(), 113
	}
	c := &dotCase{u: u, tile: s.tile, dim: dim, f: f}
	c.v = NewValues(f, dim, s.tile, s.tile, s.unit)
	c.p = make([]float32, (s.tile+1)*Rows)
	c.pe = make([]uint8, s.tile*Rows)
	c.pCodes, c.vCodes = make([]uint16, Rows*s.tile), make([]uint16, dim*s.tile)
	for k := range s.tile {
		for r := range Rows {
			code := p(k, r) & 0x7f
			for !f.finite[code] {
				code--
			}
			x := f.value[code]
			c.pCodes[r*s.tile+stored(k)] = uint16(code)
			c.p[k*Rows+r] = x
			if x != 0 {
				c.pe[k*Rows+r] = uint8(max(int(math.Float32bits(x)>>23), floor))
			}
		}
		for ch := range dim {
			code := v(k, ch)
			for !f.finite[code] {
				code--
			}
			c.vCodes[ch*s.tile+stored(k)] = uint16(code)
			c.v.Codes(k/32, ch)[k%32] = code
		}
	}
	if !c.v.Index(nil) {
		t.Fatal("codes are not finite")
	}
	return c
}

// check compares Dot with the portable Tile, from an accumulator of zero.
func (c *dotCase) check(t testing.TB) {
	t.Helper()
	var pa, pb tensorcore.Panel
	pa.Load(c.u.A, c.pCodes, Rows, c.tile, c.tile)
	pb.Load(c.u.A, c.vCodes, c.dim, c.tile, c.tile)
	want := make([]float32, Rows*c.dim)
	c.u.Tile(want, &pa, &pb)
	for _, l := range levels(t) {
		if !c.v.unit.Split || !l.Narrow() {
			c.checkAt(t, l, want)
		}
	}
}

func (c *dotCase) checkAt(t testing.TB, l Level, want []float32) {
	t.Helper()
	got := make([]float32, c.dim*Rows)
	if !c.v.Dot(l, got, c.p, c.pe, &c.s, 0) {
		for _, w := range want {
			if w-w != 0 {
				return // overflow: the caller runs the portable code
			}
		}
		t.Fatalf("%s %s: overflow reported, but there is none", l, c.u.Instruction)
	}
	for r := range Rows {
		for ch := range c.dim {
			w, g := want[r*c.dim+ch], got[ch*Rows+r]
			if math.Float32bits(w) != math.Float32bits(g) {
				t.Fatalf("%s %s row %d channel %d: %x, want %x", l, c.u.Instruction, r, ch, g, w)
			}
		}
	}
}

func TestDot(t *testing.T) {
	levels(t)
	r := rand.New(rand.NewPCG(1, 2))
	draw := map[string]func() uint8{
		"any":      func() uint8 { return uint8(r.Uint32()) },
		"sparse":   func() uint8 { return uint8(r.Uint32()) * uint8(r.IntN(8)/7) },
		"zero":     func() uint8 { return 0 },
		"largest":  func() uint8 { return 0x7e },
		"smallest": func() uint8 { return uint8(r.IntN(3)) | uint8(r.IntN(2))<<7 },
		"negative": func() uint8 { return 0x80 | uint8(r.Uint32()) },
		"extremes": func() uint8 { return []uint8{1, 0x7e, 0x80, 0xfe, 0x81, 8, 0}[r.IntN(7)] },
		"moderate": func() uint8 { return uint8(0x38+r.IntN(16)) | uint8(r.IntN(2))<<7 },
	}
	for i := range units {
		for np, p := range draw {
			for nv, v := range draw {
				t.Run(units[i].arch+"/"+units[i].name+"/"+np+"/"+nv, func(t *testing.T) {
					for _, dim := range []int{1, 24} {
						newDotCase(t, i, dim, func(int, int) uint8 { return p() }, func(int, int) uint8 { return v() }).check(t)
					}
				})
			}
		}
	}
}

func BenchmarkDot(b *testing.B) {
	all := levels(b)
	r := rand.New(rand.NewPCG(1, 2))
	for i, u := range units {
		for _, l := range all {
			if u.unit.Split && l.Narrow() {
				continue
			}
			b.Run(u.arch+"/"+u.name+"/"+l.String(), func(b *testing.B) {
				const dim = 128
				c := newDotCase(b, i, dim, func(int, int) uint8 {
					return uint8(format.E4M3FromFloat32(float32(448 * math.Exp(-math.Abs(2*r.NormFloat64())))))
				}, func(int, int) uint8 { return uint8(format.E4M3FromFloat32(float32(100 * r.NormFloat64()))) })
				acc := make([]float32, dim*Rows)
				for b.Loop() {
					clear(acc)
					c.v.Dot(l, acc, c.p, c.pe, &c.s, 0)
				}
				b.ReportMetric(float64(b.N)*Rows*dim*float64(c.tile)/b.Elapsed().Seconds()/1e9, "GMAC/s")
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
		next := func(int, int) uint8 {
			i++
			return data[i%len(data)] ^ uint8(i/len(data)*37)
		}
		newDotCase(t, int(unit)%len(units), 4, next, next).check(t)
	})
}
