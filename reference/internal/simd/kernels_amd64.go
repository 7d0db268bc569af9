//go:build !purego

package simd

import (
	"math"

	"golang.org/x/sys/cpu"
)

// set are the kernels of one instruction set for one type.
type set[T Real] struct {
	name string
	// product computes rows rows of C at a time, of width columns from the start of a
	// panel; narrow, where it is not nil, half as many columns, and row one row at a time.
	product, narrow, row func(c, a, b *T, depth, lda, ldc, groups int)
	rows, width          int
	max                  func(x *T, scale T, groups int) (T, uint64)
	weigh                func(x *T, top T, groups int, table *T) T
	join                 func(acc, x *T, decay T, panels int)
	turn                 func(dst *T, x *float32, stride, groups int)
	lanes                int // float32 elements in a vector
	take                 func(dst *T, x *float32, stride, rows int) uint64
}

func singles() (list []Kernels[float32]) {
	if cpu.X86.HasAVX512F && cpu.X86.HasFMA {
		list = append(list, vector(set[float32]{
			name: "avx512", product: sproduct512, narrow: sproduct512Narrow, row: sproduct512Row, rows: 8, width: 32,
			max: smax512, weigh: sweigh512, join: sjoin512, turn: sturn512, take: stake512, lanes: 16,
		}, single, vectorExp32, fma32))
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		list = append(list, vector(set[float32]{
			name: "avx2", product: sproduct256, row: sproduct256Row, rows: 6, width: 16,
			max: smax256, weigh: sweigh256, join: sjoin256, turn: sturn256, take: stake256, lanes: 8,
		}, single, vectorExp32, fma32))
	}
	return list
}

func doubles() (list []Kernels[float64]) {
	if cpu.X86.HasAVX512F {
		list = append(list, vector(set[float64]{
			name: "avx512", product: dproduct512, narrow: dproduct512Narrow, row: dproduct512Row, rows: 8, width: 16,
			max: dmax512, weigh: dweigh512, join: djoin512, turn: dturn512, take: dtake512, lanes: 16,
		}, double, exp64, fma64))
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		list = append(list, vector(set[float64]{
			name: "avx2", product: dproduct256, row: dproduct256Row, rows: 6, width: 8,
			max: dmax256, weigh: dweigh256, join: djoin256, turn: dturn256, take: dtake256, lanes: 8,
		}, double, exp64, fma64))
	}
	return list
}

// vectorExp32 is exp32 with fused instructions, half of its time. (exp64 has them already.)
func vectorExp32(x float32) float32 {
	if x != x {
		return x // of which the instructions would make a number
	}
	return sexp(x, &single[0])
}

// vector wraps kernels, which take pointers, in functions that take slices.
func vector[T Real](s set[T], table []T, exp func(T) T, fma func(x, y, z T) T) Kernels[T] {
	panel := Panel[T]()
	return Kernels[T]{
		Name: s.name, Exp: exp, FMA: fma,
		Product: s.wholeProduct,
		Max: func(x []T, scale T) T {
			top, nan := s.max(&x[0], scale, len(x)/Lanes)
			if nan != 0 {
				return T(math.NaN())
			}
			return top
		},
		Turn: s.wholeTurn, Take: s.wholeTake,
		Weigh: func(x []T, top T) T { return s.weigh(&x[0], top, len(x)/Lanes, &table[0]) },
		Join: func(acc, x []T, decay T) {
			_ = acc[len(x)-1]
			s.join(&acc[0], &x[0], decay, len(x)/panel)
		},
	}
}

// wholeProduct is Kernels.Product.
func (s *set[T]) wholeProduct(m, n, k int, a []T, lda int, b, c []T, ldc int) {
	panel := Panel[T]()
	size := 128 / panel // of an element, in bytes
	_, _, _ = a[(m-1)*lda+k-1], b[Ceil(n, panel)*k-1], c[(m-1)*ldc+Ceil(n, panel)-1]
	for j := 0; j < n; j += s.width {
		bp := &b[j/panel*panel*k+j%panel]
		kernel := s.product
		if s.narrow != nil && n-j <= s.width/2 {
			kernel = s.narrow
		}
		if m < s.rows {
			s.row(&c[j], &a[0], bp, k, lda*size, ldc*size, m)
			continue
		}
		kernel(&c[j], &a[0], bp, k, lda*size, ldc*size, m/s.rows)
		if m%s.rows != 0 {
			// The last rows, some of them once more: the same values.
			i := m - s.rows
			kernel(&c[i*ldc+j], &a[i*lda], bp, k, lda*size, ldc*size, 1)
		}
	}
}

// wholeTurn is Kernels.Turn.
func (s *set[T]) wholeTurn(dst []T, x []float32, d int) {
	rows, c := len(x)/d, d/s.lanes*s.lanes
	_ = dst[(d-1)*Panel[T]()+rows-1]
	l := 0
	for ; l+s.lanes <= rows && c > 0; l += s.lanes {
		s.turn(&dst[l], &x[l*d], 4*d, c/s.lanes)
	}
	if c < d {
		turnFrom(dst, x[:l*d], d, 0, c)
	}
	turnFrom(dst, x, d, l, 0)
}

// wholeTake is Kernels.Take.
func (s *set[T]) wholeTake(dst []T, x []float32, d, c int) bool {
	panel, rows := Panel[T](), len(x)/d
	if d-c < panel || rows == 0 {
		return take(dst, x, d, c)
	}
	_ = dst[rows*panel-1]
	return s.take(&dst[0], &x[c], 4*d, rows) == 0
}
