package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestChoose: as many as asked for, so many of each stratum, and more of them contain
// fewer.
func TestChoose(t *testing.T) {
	counts := make(map[int]int)
	for seed := range uint64(3000) {
		var last []int
		for _, n := range []int{2, 4, 8, 16, 32, 61} {
			got := Choose(seed, "layer", 3, 61, n)
			if len(got) != n || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != n || got[0] < 0 || got[n-1] > 60 {
				t.Fatalf("%d of 61: %v", n, got)
			}
			for _, b := range last {
				if !slices.Contains(got, b) {
					t.Fatalf("%d of 61 %v do not contain %v", n, got, last)
				}
			}
			bounds, take := Strata(61, n)
			for i, b := range bounds {
				in := 0
				for _, x := range got {
					if b[0] <= x && x < b[1] {
						in++
					}
				}
				if in != take[i] {
					t.Fatalf("%d of 61: %d of stratum %v, want %d", n, in, b, take[i])
				}
			}
			last = got
		}
		for _, b := range Choose(seed, "layer", 3, 10, 2) {
			counts[b]++
		}
	}
	for b, n := range counts { // 600 expected, with a standard deviation of 22
		if n < 500 || n > 700 {
			t.Errorf("block %d of 10 was chosen %d times of 3000", b, n)
		}
	}
	for _, tc := range [][3]int{{1, 2, 1}, {2, 2, 2}, {5, 1, 2}, {5, 3, 3}, {7, 5, 5}, {3, 99, 3}} {
		if got := Choose(1, "l", 0, tc[0], tc[1]); len(got) != tc[2] {
			t.Errorf("%d of %d: %v", tc[1], tc[0], got)
		}
	}
	if slices.Equal(Choose(1, "a", 0, 1000, 4), Choose(1, "b", 0, 1000, 4)) || slices.Equal(Choose(1, "a", 0, 1000, 4), Choose(1, "a", 1, 1000, 4)) || slices.Equal(Choose(1, "a", 0, 1000, 4), Choose(2, "a", 0, 1000, 4)) {
		t.Error("the choice depends on neither seed, layer nor head")
	}
	// It is the same everywhere and always.
	if got, want := Choose(1, "layers.0.attn", 5, 461, 4), []int{44, 218, 307, 370}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// blocks makes blocks whose output is a reference and noise.
func blocks(r *rand.Rand, n int) []Sums {
	out := make([]Sums, n)
	for i := range out {
		for range 50 {
			ref := r.NormFloat64()
			got := ref + r.NormFloat64()*0.1*(1+0.5*r.Float64())
			out[i].add(&Sums{1, got * ref, got * got, ref * ref, math.Abs(got - ref), math.Abs(ref), (got - ref) * (got - ref), math.Floor(2 * r.Float64())}, 1)
		}
	}
	return out
}

// TestAll: of all blocks the figures are those of the sums, and certain.
func TestAll(t *testing.T) {
	b := blocks(rand.New(rand.NewPCG(1, 2)), 20)
	var s Sums
	for i := range b {
		s.add(&b[i], 1)
	}
	got := Of([]Stratum{{12, b[:12]}, {8, b[12:]}})
	for _, x := range []struct {
		name string
		got  Interval
		want float64
	}{
		{"cos_sim", got.CosSim, s.Dot / math.Sqrt(s.OutSq*s.RefSq)}, {"rel_l1", got.RelL1, s.AbsDiff / s.AbsRef},
		{"rmse", got.RMSE, math.Sqrt(s.SqDiff / s.N)}, {"share", got.Share, s.Differing / s.N},
	} {
		if math.Abs(x.got.Value-x.want) > 1e-14 || x.got.Low != x.got.Value || x.got.High != x.got.Value {
			t.Errorf("%s: %+v, want %g", x.name, x.got, x.want)
		}
	}
}

// TestError: the standard error is about what estimates of many samples vary by (it is
// that of a linear function), and an
// interval of blocks that are alike holds in 95%.
func TestError(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const heads, each, n, trials = 6, 40, 4, 4000
	all := blocks(r, heads*each)
	var strata []Stratum
	for h := range heads {
		strata = append(strata, Stratum{each, all[h*each:][:each]})
	}
	truth := Of(strata)
	var sum, squares, errors [4]float64
	var holds [4]int
	for range trials {
		var s []Stratum
		for h := range heads {
			x := Stratum{Blocks: each}
			for _, i := range r.Perm(each)[:n] {
				x.Sample = append(x.Sample, all[h*each+i])
			}
			s = append(s, x)
		}
		e := Of(s)
		for i, p := range [4][2]Interval{{e.CosSim, truth.CosSim}, {e.RelL1, truth.RelL1}, {e.RMSE, truth.RMSE}, {e.Share, truth.Share}} {
			sum[i] += p[0].Value
			squares[i] += (p[0].Value - p[1].Value) * (p[0].Value - p[1].Value)
			errors[i] += p[0].error * p[0].error
			if p[0].Low <= p[1].Value && p[1].Value <= p[0].High {
				holds[i]++
			}
		}
	}
	for i := range 4 {
		if ratio := errors[i] / squares[i]; ratio < 0.9 || ratio > 1.15 {
			t.Errorf("figure %d: the estimated variance is %.3f of the true one", i, ratio)
		}
		if c := float64(holds[i]) / trials; c < 0.94 || c > 0.965 {
			t.Errorf("figure %d: %.1f%% of the intervals hold", i, 100*c)
		}
	}
}

// TestUnknown: without a variance, or a figure, there are no bounds.
func TestUnknown(t *testing.T) {
	b := blocks(rand.New(rand.NewPCG(1, 2)), 3)
	if x := Of([]Stratum{{5, b[:1]}, {2, b[1:]}}).RelL1; !math.IsNaN(x.Low) || !math.IsNaN(x.High) || math.IsNaN(x.Value) {
		t.Errorf("one block of five: %+v", x)
	}
	b[1].SqDiff = math.NaN()
	if x := Of([]Stratum{{5, b}}).RMSE; !math.IsNaN(x.Low) || !math.IsNaN(x.High) || !math.IsNaN(x.Value) {
		t.Errorf("of NaN: %+v", x)
	}
	if x := Of([]Stratum{{5, make([]Sums, 2)}}).Share; !math.IsNaN(x.High) {
		t.Errorf("of nothing: %+v", x)
	}
}

// TestMean: the mean of independent estimates is as uncertain as they are, over the root
// of their number.
func TestMean(t *testing.T) {
	x := around(0.1, 0.01, 10)
	m := Mean([]Interval{x, x, x, x})
	if math.Abs(m.Value-0.1) > 1e-15 || math.Abs(m.error-0.005) > 1e-15 || math.Abs(m.df-40) > 1e-9 || !(x.Low < m.Low && m.Low < 0.1 && 0.1 < m.High && m.High < x.High) {
		t.Errorf("%+v of four %+v", m, x)
	}
	// What rounding takes below zero has bounds all the same, so that no gate sees NaN.
	for _, v := range []float64{0, -1e-16} {
		if x := around(v, 1e-12, 10); !(x.Low <= v && 0 < x.High && x.High < 1e-11) || !(x.cosine().Low > 0.999 && x.cosine().High >= 1) {
			t.Errorf("%+v around %g", x, v)
		}
	}
	c := MeanCosine([]Interval{x.cosine(), x.cosine()})
	if math.Abs(c.Value-0.9) > 1e-15 || !(c.Low < 0.9 && 0.9 < c.High && c.High < 1) {
		t.Errorf("%+v", c)
	}
	if z := Mean([]Interval{around(1, 0, math.Inf(1)), around(3, 0, math.Inf(1))}); z.Low != 2 || z.High != 2 {
		t.Errorf("%+v of certain figures", z)
	}
}

// TestStudent compares with a table of quantiles that the interpolation does not have.
func TestStudent(t *testing.T) {
	for df, want := range map[float64]float64{0.3: 12.706, 1: 12.706, 2: 4.303, 11: 2.201, 13: 2.160, 17: 2.110, 25: 2.060, 40: 2.021, 100: 1.984, 1000: 1.962, math.Inf(1): 1.960} {
		if got := student(df); math.Abs(got-want) > 0.002 {
			t.Errorf("%g degrees of freedom: %g, want %g", df, got, want)
		}
	}
}
