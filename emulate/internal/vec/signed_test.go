package vec

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// signedUnits are those that Keys.Dot computes.
func signedUnits() (list []int) {
	for i, u := range units {
		if u.unit.Kind == Truncated13 && !u.unit.Half {
			list = append(list, i)
		}
	}
	return list
}

// signedFormat prepares the format of a unit.
func signedFormat(f operand) *SignedFormat { return NewSignedFormat(f.format, f.floor-127) }

// signedCase is a product of operands of both signs.
type signedCase struct {
	u        *tensorcore.Unit
	keys     *Keys
	queries  Queries
	n, depth int
	qCodes   []uint16 // [Rows][depth]
	kCodes   []uint16 // [n][depth]
}

// newSignedCase takes finite codes as q and k draw them.
func newSignedCase(t testing.TB, i, n, depth int, q, k func(c, row int) uint16) *signedCase {
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
	c := &signedCase{u: u, n: n, depth: depth, keys: NewKeys(signedFormat(f), n, depth, s.unit)}
	x := make([]float32, depth*Rows)
	c.qCodes, c.kCodes = make([]uint16, Rows*depth), make([]uint16, n*depth)
	for r := range Rows {
		for d := range depth {
			code := finite(f.code(q(d, r)))
			c.qCodes[r*depth+d], x[d*Rows+r] = code, f.value(code)
		}
	}
	row := make([]uint8, depth)
	for key := range n {
		for d := range row {
			code := finite(f.code(k(d, key)))
			c.kCodes[key*depth+d], row[d] = code, uint8(code)
		}
		c.keys.Put(key, row)
	}
	c.queries.Load(signedFormat(f), x)
	return c
}

// check compares Keys.Dot with the portable Tile, of all keys and of those from first on.
func (c *signedCase) check(t testing.TB, what string) {
	t.Helper()
	var pa, pb tensorcore.Panel
	pa.Load(c.u.A, c.qCodes, Rows, c.depth, c.depth)
	pb.Load(c.u.A, c.kCodes, c.n, c.depth, c.depth)
	want := make([]float32, Rows*c.n)
	c.u.Tile(want, &pa, &pb)
	for _, l := range levels(t) {
		if !(Unit{Step: 32}).Signed(l) {
			continue
		}
		for first := 0; first < c.n; first += KeyGroup {
			got := make([]float32, (c.n-first+1)*Rows)
			for i := range got {
				got[i] = float32(math.NaN())
			}
			var s Scratch
			c.keys.Dot(l, got, &c.queries, &s, first, c.n-first)
			for r := range Rows {
				for key := first; key < c.n; key++ {
					if w, g := want[r*c.n+key], got[(key-first)*Rows+r]; math.Float32bits(w) != math.Float32bits(g) {
						t.Fatalf("%s %s, %s: row %d, key %d of those from %d on: %x, want %x", l, c.u.Instruction, what, r, key, first, g, w)
					}
				}
				if x := got[(c.n-first)*Rows+r]; x == x {
					t.Fatalf("%s %s, %s: keys beyond the last are written", l, c.u.Instruction, what)
				}
			}
		}
	}
}

// TestKeysDot: operands of both signs, of all sizes.
func TestKeysDot(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	sign := func() uint16 { return uint16(r.IntN(2)) << 7 }
	draws := []struct {
		name string
		code func() uint16
	}{
		{"any codes", func() uint16 { return uint16(r.IntN(256)) }},
		{"ordinary", func() uint16 { return uint16(0x20+r.IntN(0x20)) | sign() }},
		{"zeros", sign},
		{"some zeros", func() uint16 { return uint16(r.IntN(2)*(0x20+r.IntN(0x20))) | sign() }},
		{"hardly any", func() uint16 { return uint16(r.IntN(20)/19*r.IntN(0x80)) | sign() }},
		{"far apart", func() uint16 { return uint16([]int{1, 7, 0x7b}[r.IntN(3)]) | sign() }},
		{"subnormal", func() uint16 { return uint16(r.IntN(8)) | sign() }},
		{"smallest", func() uint16 { return 1 | sign() }},
		{"largest", func() uint16 { return 0x7f | sign() }},
		{"all positive", func() uint16 { return uint16(0x10 + r.IntN(0x30)) }},
		{"all negative", func() uint16 { return uint16(0x90 + r.IntN(0x30)) }},
		{"cancellations", func() uint16 { return 0x3b | sign() }},
	}
	for _, i := range signedUnits() {
		for a, q := range draws {
			for b, k := range draws {
				if a != b && testing.Short() && r.IntN(4) > 0 {
					continue
				}
				newSignedCase(t, i, 64, []int{32, 96}[r.IntN(2)], func(int, int) uint16 { return q.code() }, func(int, int) uint16 { return k.code() }).check(t, q.name+" by "+k.name)
			}
		}
	}
}

// TestKeysDotLargest: the largest sums, of the longest rows.
func TestKeysDotLargest(t *testing.T) {
	for _, i := range signedUnits() {
		q := func(c, row int) uint16 { return 0x7f | uint16(row%2)<<7 }
		k := func(c, key int) uint16 { return 0x7f | uint16(key%2)<<7 }
		newSignedCase(t, i, 32, maxDepth, q, k).check(t, "largest")
		// Small products beside a large sum, which alone says what is kept of them.
		small := func(c, row int) uint16 {
			if c < 64 {
				return 0x7f
			}
			return 0x15 | uint16(c+row)%2<<7
		}
		newSignedCase(t, i, 32, maxDepth, small, small).check(t, "small beside large")
		// The smallest and zeros beside the largest sum there is: nothing that is exact may count.
		smallest := func(c, row int) uint16 {
			if c < maxDepth-32 {
				return 0x7f
			}
			return []uint16{0, 0x80, 1, 0x81, 0x7f, 0xff}[(c+row)%6]
		}
		newSignedCase(t, i, 32, maxDepth, smallest, smallest).check(t, "the smallest beside the largest")
	}
}

// TestSigned: Keys are of units with 13 fraction bits and FP32 results, on AVX-512.
func TestSigned(t *testing.T) {
	for _, u := range units {
		for _, l := range Levels() {
			if got, want := u.unit.Signed(l), l == AVX512 && u.unit.Kind == Truncated13 && !u.unit.Half; got != want {
				t.Errorf("%s %s, %s: %v, want %v", u.arch, u.name, l, got, want)
			}
		}
	}
}

// TestKeysPanic: keys that are longer than counts hold for, and queries that are shorter than the keys.
func TestKeysPanic(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return
	}
	f, u := signedFormat(operandOf(tensorcore.E4M3)), Unit{Step: 32}
	for depth, want := range map[int]bool{maxDepth: false, maxDepth + 32: true} {
		if got := panics(func() { NewKeys(f, KeyGroup, depth, u) }); got != want {
			t.Errorf("keys of %d codes: panic %v", depth, got)
		}
	}
	for _, l := range levels(t) {
		if !u.Signed(l) {
			continue
		}
		k := NewKeys(f, KeyGroup, 64, u)
		for rows, want := range map[int]bool{64: false, 63: true, 33: true} {
			got := panics(func() {
				var q Queries
				q.Load(f, make([]float32, 64*Rows))
				q.Load(f, make([]float32, 64*Rows)[:rows*Rows])
				k.Dot(l, make([]float32, KeyGroup*Rows), &q, &Scratch{}, 0, KeyGroup)
			})
			if got != want {
				t.Errorf("%s: queries of %d codes for keys of 64: panic %v", l, rows, got)
			}
		}
	}
}

// FuzzKeysDot draws operands from the bytes of the input.
func FuzzKeysDot(f *testing.F) {
	levels(f)
	f.Add(uint8(0), []byte{0x7e, 1, 0xfe, 0x81, 0, 0x38})
	f.Add(uint8(2), []byte{8, 0x88, 0x7e, 0x77, 3, 0xff, 0x80})
	f.Fuzz(func(t *testing.T, unit uint8, data []byte) {
		if len(data) == 0 {
			return
		}
		i := 0
		next := func(int, int) uint16 {
			i++
			return uint16(data[i%len(data)] ^ uint8(i/len(data)*37))
		}
		list := signedUnits()
		newSignedCase(t, list[int(unit)%len(list)], 32, 64, next, next).check(t, "fuzzed")
	})
}

func BenchmarkKeysDot(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, i := range signedUnits() {
		const n, depth = 128, 128
		code := func(int, int) uint16 { return uint16(format.E4M3FromFloat32(float32(r.NormFloat64() * 30))) }
		c := newSignedCase(b, i, n, depth, code, code)
		for _, l := range levels(b) {
			if !units[i].unit.Signed(l) {
				continue
			}
			acc := make([]float32, n*Rows)
			var s Scratch
			b.Run(units[i].arch+"/"+units[i].name, func(b *testing.B) {
				for b.Loop() {
					c.keys.Dot(l, acc, &c.queries, &s, 0, n)
				}
				b.ReportMetric(float64(b.N)*Rows*n*depth/b.Elapsed().Seconds()/1e9, "GMAC/s")
			})
		}
	}
}
