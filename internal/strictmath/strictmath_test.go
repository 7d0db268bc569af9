package strictmath

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

const precision = 160 // bits of the exact results

func number(x float64) *big.Float { return new(big.Float).SetPrec(precision).SetFloat64(x) }

// exactExp is e^x: the Taylor series of x/2^12, squared twelve times.
func exactExp(x *big.Float) *big.Float {
	const halvings = 12
	small := new(big.Float).SetPrec(precision+2*halvings).SetMantExp(x, -halvings)
	sum, term := new(big.Float).SetPrec(precision+2*halvings).SetInt64(1), number(1).SetPrec(precision+2*halvings)
	for i := int64(1); i < 24; i++ {
		term.Mul(term, small)
		term.Quo(term, new(big.Float).SetInt64(i))
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum
}

// exactLog improves a float64 logarithm with Halley's iteration, which triples the
// digits. (math.Log itself is wrong for subnormal numbers on amd64.)
func exactLog(x float64) *big.Float {
	m, exp := math.Frexp(x)
	y := number(math.Log(m) + float64(exp)*math.Ln2)
	for range 2 {
		e := exactExp(y)
		diff, sum := number(0).Sub(number(x), e), number(0).Add(number(x), e)
		y.Add(y, diff.Quo(diff.Add(diff, diff), sum))
	}
	return y
}

var ln2 = exactLog(2)

// ulps is the distance of got from want in units of want's last place.
func ulps(got float64, want *big.Float) float64 {
	exp := max(want.MantExp(nil)-53, -1074)
	diff := number(0).Sub(number(got), want)
	u, _ := diff.SetMantExp(diff, -exp).Float64()
	return math.Abs(u)
}

// function is one that is tested, with the arguments it is tested on.
type function struct {
	name  string
	f     func(float64) float64
	exact func(float64) *big.Float
	draw  func(r *rand.Rand) float64
	edges []float64
	most  float64 // ulp; 0 for 0.9
}

var functions = []function{
	{
		name: "Exp", f: Exp,
		exact: func(x float64) *big.Float { return exactExp(number(x)) },
		draw: func(r *rand.Rand) float64 {
			switch r.IntN(4) {
			case 0:
				return 709*r.Float64() - 745*r.Float64()
			case 1:
				return -40 * r.Float64()
			case 2:
				return -745 + 40*r.Float64() // subnormal results
			}
			return (r.Float64() - 0.5) * math.Exp2(-float64(r.IntN(60)))
		},
		edges: []float64{0, 1, -1, math.Ln2 / 2, -math.Ln2 / 2, math.Nextafter(math.Ln2/2, 1), 709.78, -708.4, -745.1, 0x1p-1074},
	},
	{
		name: "Exp2", f: Exp2,
		exact: func(x float64) *big.Float { return exactExp(number(0).Mul(number(x), ln2)) },
		draw: func(r *rand.Rand) float64 {
			switch r.IntN(4) {
			case 0:
				return 1023*r.Float64() - 1074*r.Float64()
			case 1:
				return -60 * r.Float64()
			case 2:
				return -1074 + 60*r.Float64()
			}
			return (r.Float64() - 0.5) * math.Exp2(-float64(r.IntN(60)))
		},
		edges: []float64{0, 1, -1, 0.5, -0.5, 1.5, 1023, math.Nextafter(1024, 0), -1022, -1074, -1074.4, 0x1p-1074},
	},
	{
		name: "Log", f: Log,
		exact: exactLog,
		draw: func(r *rand.Rand) float64 {
			switch r.IntN(3) {
			case 0:
				return math.Float64frombits(r.Uint64N(0x7ff << 52))
			case 1:
				return 1 + (r.Float64()-0.5)*math.Exp2(-float64(r.IntN(50)))
			}
			return 1e5 * r.Float64()
		},
		edges: []float64{2, 0.5, math.Sqrt2, math.Sqrt2 / 2, math.Nextafter(1, 2), math.Nextafter(1, 0), math.MaxFloat64, 0x1p-1022, 0x1p-1074, 3e-310},
	},
	{
		name: "Tanh", f: Tanh,
		exact: func(x float64) *big.Float {
			// 1 - 2/(e^2x + 1)
			e := exactExp(number(2 * x))
			one := number(1)
			q := number(2)
			return one.Sub(one, q.Quo(q, e.Add(e, number(1))))
		},
		draw: func(r *rand.Rand) float64 {
			switch r.IntN(3) {
			case 0:
				return 0.625 * (2*r.Float64() - 1)
			case 1:
				return 25 * (2*r.Float64() - 1)
			}
			return math.Exp2(-float64(r.IntN(40))) * (2*r.Float64() - 1)
		},
		edges: []float64{0.625, math.Nextafter(0.625, 0), -0.625, 1, -1, 22, math.Nextafter(22, 23), 40, -40},
		most:  2,
	},
}

// TestError measures the errors against math/big.
func TestError(t *testing.T) {
	draws := 30_000
	if testing.Short() {
		draws = 3_000
	}
	for _, fn := range functions {
		t.Run(fn.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			worst, at := 0.0, 0.0
			check := func(x float64) {
				if u := ulps(fn.f(x), fn.exact(x)); !(u <= worst) {
					worst, at = u, x
				}
			}
			for _, x := range fn.edges {
				check(x)
			}
			for range draws {
				check(fn.draw(r))
			}
			t.Logf("largest error %.3f ulp, at %v", worst, at)
			if worst > cmp.Or(fn.most, 0.9) {
				t.Errorf("error %v ulp at %v", worst, at)
			}
		})
	}
}

// TestBits pins the results of many arguments to the bit: they are the same on
// every architecture.
func TestBits(t *testing.T) {
	want := map[string]uint64{"Exp": 0x4bf57d1fa7587a2e, "Exp2": 0x8a59ee2bd516d0a0, "Log": 0x9c92f931c23fb79a, "Tanh": 0x50a02366512517fa}
	for _, fn := range functions {
		r := rand.New(rand.NewPCG(3, 4))
		h := fnv.New64a()
		for range 200_000 {
			// Arguments from arithmetic that is exact, or rounded once.
			x := float64(r.Int64N(1<<60)) * 0x1p-60 // [0, 1)
			switch r.IntN(3) {
			case 0:
				x *= 0x1p-20
			case 1:
				x *= 64
			}
			if fn.name != "Log" {
				x = -x
			}
			_ = binary.Write(h, binary.LittleEndian, math.Float64bits(fn.f(x)))
		}
		if got := h.Sum64(); got != want[fn.name] {
			t.Errorf("%s: bits hash to %#x, want %#x", fn.name, got, want[fn.name])
		}
	}
}

func TestSpecial(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, tc := range []struct {
		name    string
		f       func(float64) float64
		x, want float64
	}{
		{"Exp", Exp, 0, 1}, {"Exp", Exp, math.Copysign(0, -1), 1},
		{"Exp", Exp, inf, inf}, {"Exp", Exp, -inf, 0}, {"Exp", Exp, nan, nan},
		{"Exp", Exp, 709.79, inf}, {"Exp", Exp, 1e308, inf}, {"Exp", Exp, -746, 0}, {"Exp", Exp, -1e308, 0},
		{"Exp2", Exp2, 0, 1}, {"Exp2", Exp2, 10, 1024}, {"Exp2", Exp2, -1074, 0x1p-1074}, {"Exp2", Exp2, -1022, 0x1p-1022},
		{"Exp2", Exp2, 1023, 0x1p1023}, {"Exp2", Exp2, inf, inf}, {"Exp2", Exp2, -inf, 0}, {"Exp2", Exp2, nan, nan},
		{"Exp2", Exp2, 1024, inf}, {"Exp2", Exp2, -1075, 0}, {"Exp2", Exp2, -1e308, 0},
		{"Log", Log, 1, 0}, {"Log", Log, 0, -inf}, {"Log", Log, math.Copysign(0, -1), -inf},
		{"Tanh", Tanh, 0, 0}, {"Tanh", Tanh, math.Copysign(0, -1), math.Copysign(0, -1)}, {"Tanh", Tanh, inf, 1}, {"Tanh", Tanh, -inf, -1}, {"Tanh", Tanh, nan, nan}, {"Tanh", Tanh, -1e300, -1},
		{"Log", Log, inf, inf}, {"Log", Log, -1, nan}, {"Log", Log, -inf, nan}, {"Log", Log, nan, nan},
	} {
		got := tc.f(tc.x)
		if math.Float64bits(got) != math.Float64bits(tc.want) && !(got != got && tc.want != tc.want) {
			t.Errorf("%s(%v) = %v, want %v", tc.name, tc.x, got, tc.want)
		}
	}
}

func BenchmarkExp(b *testing.B) {
	x := make([]float64, 1024)
	for i := range x {
		x[i] = -float64(i) / 37
	}
	for _, f := range []struct {
		name string
		f    func(float64) float64
	}{{"strict", Exp}, {"math", math.Exp}} {
		b.Run(f.name, func(b *testing.B) {
			var s float64
			for i := range b.N {
				s += f.f(x[i&1023])
			}
			_ = s
		})
	}
}
