package exactsum

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// terms are numbers of all magnitudes, subnormal ones too, many of which cancel.
func terms(r *rand.Rand, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		switch x := math.Float64frombits(r.Uint64()); {
		case x-x != 0 || r.IntN(8) == 0:
			out[i] = r.NormFloat64()
		case r.IntN(8) == 0:
			out[i] = math.Float64frombits(r.Uint64N(1 << 53)) // subnormal, or nearly
		case i > 0 && r.IntN(4) == 0:
			out[i] = -out[r.IntN(i)]
		default:
			out[i] = x / 16
		}
	}
	return out
}

func exact(xs []float64) float64 {
	s := new(big.Float).SetPrec(2300)
	for _, x := range xs {
		s.Add(s, new(big.Float).SetPrec(2300).SetFloat64(x))
	}
	v, _ := s.Float64()
	return v
}

func sumOf(xs []float64) *Sum {
	s := new(Sum)
	for _, x := range xs {
		s.Add(x)
	}
	return s
}

func text(t *testing.T, s *Sum) string {
	t.Helper()
	b, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestExact: sums are those of math/big, in any order and any parts, and so is their text.
func TestExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		xs := terms(r, n)
		s := sumOf(xs)
		want := exact(xs)
		if got := s.Value(); got != want {
			t.Fatalf("%d terms: %g, want %g", n, got, want)
		}
		r.Shuffle(n, func(i, j int) { xs[i], xs[j] = xs[j], xs[i] })
		cut := 0
		if n > 0 {
			cut = r.IntN(n)
		}
		a, b := sumOf(xs[:cut]), sumOf(xs[cut:])
		b.Merge(a)
		if b.Value() != want || text(t, b) != text(t, s) {
			t.Fatalf("%d terms in two parts: %g, want %g", n, b.Value(), want)
		}
		var read Sum
		if err := read.UnmarshalText([]byte(text(t, s))); err != nil || read.Value() != want || text(t, &read) != text(t, s) {
			t.Fatalf("%d terms, read back: %g, %v, want %g", n, read.Value(), err, want)
		}
		// Doubled, and back to nothing.
		read.Merge(&read)
		for _, x := range xs {
			read.Add(-x)
			read.Add(-x)
		}
		if read.Value() != 0 || text(t, &read) != "0" {
			t.Fatalf("%d terms less themselves: %g", n, read.Value())
		}
	}
}

func TestRounding(t *testing.T) {
	tiny := math.SmallestNonzeroFloat64
	for _, tc := range []struct {
		terms []float64
		want  float64
	}{
		{nil, 0},
		{[]float64{math.Copysign(0, -1)}, 0},
		{[]float64{1, 0x1p-53}, 1},
		{[]float64{1, 0x1p-53, tiny}, 1 + 0x1p-52},
		{[]float64{1, 0x1p-53, -tiny}, 1},
		{[]float64{1 + 0x1p-52, 0x1p-53}, 1 + 0x1p-51},
		{[]float64{-1, -0x1p-53, -tiny}, -1 - 0x1p-52},
		{[]float64{math.MaxFloat64, math.MaxFloat64, -math.MaxFloat64}, math.MaxFloat64},
		{[]float64{math.MaxFloat64, math.MaxFloat64}, math.Inf(1)},
		{[]float64{-math.MaxFloat64, -math.MaxFloat64}, math.Inf(-1)},
		{[]float64{math.Inf(1), 1}, math.Inf(1)},
		{[]float64{tiny, -3 * tiny}, -2 * tiny},
	} {
		if got := sumOf(tc.terms).Value(); got != tc.want {
			t.Errorf("%v: %g, want %g", tc.terms, got, tc.want)
		}
	}
	for _, xs := range [][]float64{{math.NaN()}, {math.Inf(1), 1, math.Inf(-1)}, {1, math.NaN(), math.Inf(1)}} {
		s := sumOf(xs)
		var read Sum
		if err := read.UnmarshalText([]byte(text(t, s))); err != nil || !math.IsNaN(s.Value()) || !math.IsNaN(read.Value()) {
			t.Errorf("%v: %g, read back %g, %v; want NaN", xs, s.Value(), read.Value(), err)
		}
	}
}

// TestCarries: more terms than digits have room for without carries.
func TestCarries(t *testing.T) {
	for _, x := range []float64{1 - 0x1p-53, -1 + 0x1p-53} {
		s := sumOf([]float64{x})
		for range 40 {
			s.Merge(s)
		}
		if got, want := s.Value(), x*(1<<40); got != want {
			t.Errorf("2^40 times %g is %g, want %g", x, got, want)
		}
	}
}

func TestBadText(t *testing.T) {
	for _, bad := range []string{"", "1", "p", "1p", "p1", "1p1000000", "1p-1075", "xp0", "+1p0", "Inf", "1.5p0"} {
		if err := new(Sum).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzUnmarshalText(f *testing.F) {
	f.Add("3fp-1074")
	f.Add("-1p1023")
	f.Fuzz(func(t *testing.T, in string) {
		var s, again Sum
		if s.UnmarshalText([]byte(in)) != nil {
			return
		}
		b, err := json.Marshal(&s)
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || math.Float64bits(s.Value()) != math.Float64bits(again.Value()) {
			t.Errorf("%q is %g, read back %g, %v", in, s.Value(), again.Value(), err)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	xs := terms(rand.New(rand.NewPCG(1, 2)), 1024)
	for b.Loop() {
		sumOf(xs)
	}
}
