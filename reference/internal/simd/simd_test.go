package simd

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// draw returns a number of any magnitude, among them zeros, subnormal and close ones.
func draw(r *rand.Rand) float32 {
	switch r.IntN(8) {
	case 0:
		return 0
	case 1:
		return math.Float32frombits(r.Uint32() & 0x807fffff) // subnormal
	case 2:
		for {
			if x := math.Float32frombits(r.Uint32()); x-x == 0 {
				return x
			}
		}
	case 3:
		return float32(math.Ldexp(float64(2*r.IntN(2)-1), r.IntN(270)-148)) // a power of two
	}
	return float32(r.NormFloat64() * math.Exp2(float64(r.IntN(40)-20)))
}

// exactFMA32 is x·y + z in math/big, rounded once.
func exactFMA32(x, y, z float32) float32 {
	f := func(x float32) *big.Float { return new(big.Float).SetPrec(1000).SetFloat64(float64(x)) }
	p := f(x)
	p.Mul(p, f(y))
	if p.Sign() == 0 || z == 0 && x == 0 {
		return float32(float64(x)*float64(y)) + z // signs of zeros
	}
	p.Add(p, f(z))
	got, _ := p.Float32()
	return got
}

func same[T Real](a, b T) bool {
	return math.Float64bits(float64(a)) == math.Float64bits(float64(b)) || a != a && b != b
}

// TestFMA32 holds fma32 to math/big, on random operands and on sums next to the middle
// between two float32 values, where rounding twice differs from rounding once.
func TestFMA32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	twice, subnormal := 0, 0
	check := func(x, y, z float32) {
		t.Helper()
		want := exactFMA32(x, y, z)
		if got := fma32(x, y, z); !same(got, want) {
			t.Fatalf("fma32(%x, %x, %x) = %x, want %x", x, y, z, got, want)
		}
		if float32(float64(x)*float64(y)+float64(z)) != want {
			twice++
			if math.Abs(float64(want)) < 0x1p-126 {
				subnormal++
			}
		}
	}
	for range 300_000 {
		check(draw(r), draw(r), draw(r))
		// A product 2^e·(1 + a·2^-23)·(1 - a·2^-23), next to the middle between z and its neighbour.
		z := math.Float32frombits(r.Uint32()&0x807fffff | uint32(1+r.IntN(250))<<23)
		half := math.Ldexp(1, max(math.Ilogb(float64(z)), -126)-24)
		a := float32(r.IntN(1<<10)) * 0x1p-23
		e := r.IntN(60) - 30
		check(float32(math.Ldexp(half, e))*(1+a), float32(math.Ldexp(1, -e))*(1-a), z)
		check(float32(math.Ldexp(half, e))*(1+a), -float32(math.Ldexp(1, -e))*(1-a), z)
		// The same below the smallest normal number.
		z = math.Float32frombits(r.Uint32() & 0x807fffff)
		check(0x1p-75*(1+a), 0x1p-75*(1-a), z)
		check(0x1p-75*(1+a), -0x1p-75*(1-a), z)
	}
	if twice < 1000 || subnormal < 1000 {
		t.Errorf("only %d cases tell one rounding from two, %d of them subnormal", twice, subnormal)
	}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range [][4]float32{
		{inf, 1, 1, inf}, {inf, 0, 1, nan}, {1, 1, -inf, -inf}, {inf, 1, -inf, nan}, {nan, 0, 0, nan}, {0, 0, nan, nan},
		{0x1p127, 2, 0, inf}, {0x1p127, 2, -0x1p127, 0x1p127}, {-0x1p127, 2, 0, -inf}, {0x1p-149, 0x1p-149, -0x1p-149, -0x1p-149}, {1, -1, 1, 0},
	} {
		if got := fma32(c[0], c[1], c[2]); !same(got, c[3]) {
			t.Errorf("fma32(%g, %g, %g) = %g, want %g", c[0], c[1], c[2], got, c[3])
		}
	}
}

// ulps returns how far got is from want, in units of the last place of bits bits.
func ulps(got float64, want *big.Float, bits int) float64 {
	d := new(big.Float).SetPrec(300).SetFloat64(got)
	d.Sub(d, want)
	d.SetMantExp(d, bits-want.MantExp(nil))
	f, _ := d.Float64()
	return math.Abs(f)
}

// exactExp is the exponential of x, -800 <= x <= 0, within 2^-190.
func exactExp(x float64) *big.Float {
	const halvings = 12
	f := func(x float64) *big.Float { return new(big.Float).SetPrec(300).SetFloat64(x) }
	z := f(x)
	z.SetMantExp(z, -halvings)
	sum, term := f(1), f(1)
	for i := 1; i < 60; i++ {
		term.Mul(term, z)
		term.Quo(term, f(float64(i)))
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum
}

// TestExp holds the errors of the exponentials to what their comments say. (That of
// exp32 was also taken over all of the 1.1 billion arguments.)
func TestExp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var worst32, worst64 float64
	for i := range 20_000 {
		x := -87 * r.Float64()
		if i%2 == 0 {
			x = -math.Exp2(-30 * r.Float64())
		}
		s := float32(x)
		worst32 = max(worst32, ulps(float64(exp32(s)), exactExp(float64(s)), 24))
		x *= 708. / 87
		worst64 = max(worst64, ulps(exp64(x), exactExp(x), 53))
	}
	t.Logf("exp32 %.3f ulp, exp64 %.3f ulp", worst32, worst64)
	if worst32 > 0.9 || worst64 > 0.9 || worst32 < 0.5 || worst64 < 0.5 {
		t.Errorf("errors of %v and %v ulp", worst32, worst64)
	}
	inf := math.Inf(1)
	for _, c := range [][2]float64{{0, 1}, {-inf, 0}, {math.Nextafter(-708, -inf), 0}, {-1e300, 0}, {math.NaN(), math.NaN()}} {
		if got := exp64(c[0]); !same(got, c[1]) {
			t.Errorf("exp64(%g) = %g, want %g", c[0], got, c[1])
		}
	}
	for _, c := range [][2]float32{{0, 1}, {float32(-inf), 0}, {math.Nextafter32(-87, float32(-inf)), 0}, {-1e30, 0}, {float32(math.NaN()), float32(math.NaN())}} {
		if got := exp32(c[0]); !same(got, c[1]) {
			t.Errorf("exp32(%g) = %g, want %g", c[0], got, c[1])
		}
	}
	if exp32(-87) < 0x1p-126 || exp64(-708) < 0x1p-1022 {
		t.Errorf("the smallest exponentials are %g and %g", exp32(-87), exp64(-708))
	}
}

// each runs f with every set of vector kernels of this machine and the portable ones.
func each[T Real](t *testing.T, all []Kernels[T], f func(t *testing.T, got, want Kernels[T])) {
	want := all[len(all)-1]
	if want.Name != "portable" {
		t.Fatalf("the last kernels are %s", want.Name)
	}
	for _, got := range all[:len(all)-1] {
		t.Run(fmt.Sprintf("%s/%T", got.Name, *new(T)), func(t *testing.T) { f(t, got, want) })
	}
}

func equal[T Real](t *testing.T, what string, got, want []T) {
	t.Helper()
	for i := range want {
		if !same(got[i], want[i]) {
			t.Fatalf("%s: element %d is %x, want %x", what, i, got[i], want[i])
		}
	}
}

func testProduct[T Real](t *testing.T, got, want Kernels[T]) {
	r := rand.New(rand.NewPCG(3, 4))
	panel := Panel[T]()
	for _, s := range [][3]int{{1, 1, 1}, {4, 16, 1}, {64, 192, 128}, {8, 32, 3}, {7, 83, 5}, {12, 80, 33}, {3, 15, 2}, {17, 40, 9}, {9, 8, 4}, {6, 9, 2}} {
		m, n, k := s[0], s[1], s[2]
		lda, ldc := k+r.IntN(3), Ceil(n, panel)+panel*r.IntN(2)
		a, b := make([]T, m*lda), make([]T, k*Ceil(n, panel))
		for i := range a {
			a[i] = T(draw(r))
		}
		for i := range b {
			b[i] = T(draw(r))
		}
		b[0], a[len(a)-1] = T(math.Inf(1)), T(math.NaN())
		x, y := make([]T, m*ldc), make([]T, m*ldc)
		got.Product(m, n, k, a, lda, b, x, ldc)
		want.Product(m, n, k, a, lda, b, y, ldc)
		for i := range m {
			equal(t, fmt.Sprint(s, " row ", i), x[i*ldc:][:n], y[i*ldc:][:n])
		}
	}
}

func testRow[T Real](t *testing.T, got, want Kernels[T]) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 400 {
		x := make([]T, Lanes*(1+r.IntN(20)))
		for i := range x {
			x[i] = T(float32(20 * r.NormFloat64()))
			if r.IntN(4) == 0 {
				x[i] = T(draw(r))
			}
		}
		scale := T(float32(r.NormFloat64()))
		if round%3 == 1 {
			x[r.IntN(len(x))] = T(math.NaN())
		} else if round%3 == 2 {
			x[r.IntN(len(x))] = T(math.Inf(1 - r.IntN(2)*2))
		}
		y := append([]T(nil), x...)
		if a, b := got.Max(x, scale), want.Max(y, scale); a != b && !(a != a && b != b) {
			t.Fatalf("maximum %x, want %x", a, b)
		} else if round%3 == 1 && a == a {
			t.Fatalf("maximum %x with a NaN", a)
		}
		equal(t, "scaled", x, y)
		top := want.Max(append([]T(nil), y...), 1)
		if top != top {
			continue
		}
		for i := range x {
			if r.IntN(3) == 0 { // most are far below the largest
				x[i] = top - T(float32(800*r.Float64()))
				y[i] = x[i]
			}
		}
		a, b := got.Weigh(x, top), want.Weigh(y, top)
		equal(t, "weights", x, y)
		equal(t, "sum", []T{a}, []T{b})

		acc := make([]T, Panel[T]()*(1+r.IntN(3)))
		for i := range acc {
			acc[i] = T(draw(r))
		}
		add, other := append([]T(nil), acc...), append([]T(nil), acc...)
		got.Join(acc, add, scale)
		want.Join(other, add, scale)
		equal(t, "joined", acc, other)
	}
}

func testExp[T Real](t *testing.T, got, want Kernels[T]) {
	r := rand.New(rand.NewPCG(9, 10))
	least := T(-87)
	if Panel[T]() < 32 {
		least = -708
	}
	args := []T{0, T(math.Copysign(0, -1)), T(math.NaN()), T(math.Inf(-1)), least, least - 1, T(math.Nextafter32(float32(least), 0)), T(math.Nextafter32(float32(least), -1000)), -math.SmallestNonzeroFloat32}
	for _, payload := range []uint32{0x7fc00001, 0xffc12345} {
		args = append(args, T(math.Float32frombits(payload)))
	}
	for range 20_000 {
		args = append(args, T(r.Float64())*least, -T(math.Exp2(-40*r.Float64())), -T(math.Abs(float64(draw(r)))))
	}
	for _, x := range args {
		if a, b := got.Exp(x), want.Exp(x); !same(a, b) {
			t.Fatalf("exponential of %x is %x, want %x", x, a, b)
		}
	}
}

func testPanels[T Real](t *testing.T, got, want Kernels[T]) {
	r := rand.New(rand.NewPCG(7, 8))
	panel := Panel[T]()
	for round := range 300 {
		rows, d := 1+r.IntN(panel), 1+r.IntN(3*panel)
		if round%2 == 0 {
			d = panel * (1 + r.IntN(3))
		}
		if round%5 == 0 {
			rows = panel
		}
		x := make([]float32, rows*d)
		for i := range x {
			x[i] = draw(r)
		}
		bad := -1
		if round%3 == 0 {
			bad = r.IntN(len(x))
			x[bad] = [...]float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}[r.IntN(3)]
		}
		// What a panel holds beyond its rows or its columns stays.
		fill := func(n int) (a, b []T) {
			a = make([]T, n)
			for i := range a {
				a[i] = T(draw(r))
			}
			return a, append([]T(nil), a...)
		}
		a, b := fill(d * panel)
		got.Turn(a, x, d)
		want.Turn(b, x, d)
		equal(t, fmt.Sprint("turned ", rows, "x", d), a, b)
		for c := 0; c < d; c += panel {
			a, b := fill(rows * panel)
			finite := bad < 0 || bad%d < c || bad%d >= c+panel
			if ok := want.Take(b, x, d, c); ok != finite {
				t.Fatalf("portable: %d x %d from channel %d: finite %v, want %v", rows, d, c, ok, finite)
			}
			if ok := got.Take(a, x, d, c); ok != finite {
				t.Fatalf("%d x %d from channel %d: finite %v, want %v", rows, d, c, ok, finite)
			}
			equal(t, fmt.Sprint("taken ", rows, "x", d, " from ", c), a, b)
		}
	}
}

// TestPanels holds the portable panels to what Panel says.
func TestPanels(t *testing.T) {
	testLayout(t, Single())
	testLayout(t, Double())
}

func testLayout[T Real](t *testing.T, all []Kernels[T]) {
	panel := Panel[T]()
	for _, k := range all {
		const rows = 5
		d := panel + 3
		x := make([]float32, rows*d)
		for i := range x {
			x[i] = float32(i + 1)
		}
		dst := make([]T, d*panel)
		k.Turn(dst, x, d)
		for c := range d {
			for l := range panel {
				want := T(0)
				if l < rows {
					want = T(l*d + c + 1)
				}
				if dst[c*panel+l] != want {
					t.Fatalf("%s: channel %d of row %d is %v, want %v", k.Name, c, l, dst[c*panel+l], want)
				}
			}
		}
		for c := 0; c < d; c += panel {
			dst := make([]T, rows*panel)
			k.Take(dst, x, d, c)
			for i, y := range dst {
				want := T(0)
				if l := c + i%panel; l < d {
					want = T(i/panel*d + l + 1)
				}
				if y != want {
					t.Fatalf("%s: element %d of the panel from channel %d is %v, want %v", k.Name, i, c, y, want)
				}
			}
		}
	}
}

func TestKernels(t *testing.T) {
	each(t, Single(), testPanels)
	each(t, Double(), testPanels)
	each(t, Single(), testProduct)
	each(t, Double(), testProduct)
	each(t, Single(), testRow)
	each(t, Double(), testRow)
	each(t, Single(), testExp)
	each(t, Double(), testExp)
}
