// Package vec holds vector kernels for the attention programs of package
// emulate. Each computes exactly what the portable code does, or says that it
// met a value for which it might not; the caller then runs the portable code.
//
// A kernel works on a strip: [Rows] query rows of one head, which lie side by
// side in the lanes of vector registers. What a thread of the GPU does for its
// row is a vertical operation there, so every order of additions is kept by
// itself. Matrices of a strip are stored with the row as the fast index.
//
// The kernels are generated: see folders asm (amd64) and asmarm64.
package vec

//go:generate go -C asm run . -out ../vec_amd64.s -stubs ../stubs_amd64.go -pkg vec
//go:generate go run ./asmarm64 -out vec_arm64.s -stubs stubs_arm64.go

// Rows is the number of query rows of a strip.
const Rows = 64

// threads is how many threads of the GPU share a row.
const threads = 4

// SoftmaxArgs are the operands of Softmax. The assembly knows the layout.
type SoftmaxArgs struct {
	// P [key][Rows] receives P~ rounded to the format, and PE its biased exponents, those of
	// subnormals the format's smallest, 0 of zeros. PE is not defined for INT8, or if Softmax reports false.
	P  *float32
	PE *uint8
	// S [key][Rows] are the scores of 16*Blocks keys, Top [threads][Rows] their
	// maxima.
	S      *float32
	Blocks int
	Top    *float32
	// M [Rows], D [threads][Rows] and Rescale [Rows] are the row maximum, the
	// denominators and 2^(m_old - m).
	M, D, Rescale *float32
	// Scores count QScale[row] * KScale[thread] * Scale.
	QScale, KScale *float32
	Table          *Ex2Table
	Scale, Offset  float32
	Format
}

// Format describes P~'s format to Softmax.
type Format struct {
	// Limit is the largest exponent of P~ that cannot saturate.
	Limit float32
	// quantum and lowest turn the exponent of a value, and the smallest normal
	// exponent, into those of a power of two whose FP32 ulp is the format's
	// quantum. floor is the smallest normal exponent, biased as in FP32.
	quantum, lowest, floor uint32
}

// Formats of P~.
var (
	E4M3 = Format{Limit: 8.80735, quantum: 20 << 23, lowest: (127 + 14) << 23, floor: 127 - 6}
	E5M2 = Format{Limit: 15.80735, quantum: 21 << 23, lowest: (127 + 7) << 23, floor: 127 - 14}
	FP16 = Format{Limit: 15.99, quantum: 13 << 23, lowest: (127 - 1) << 23, floor: 127 - 14}
	// INT8's quantum is always 1.
	INT8 = Format{Limit: 6.9886, lowest: (127 + 23) << 23}
)

// Ex2Table holds the coefficients of ex2.approx.ftz.f32 (package mufu). The assembly knows the
// layout.
type Ex2Table struct {
	c0     [64]uint32
	c1, c2 [64]uint16
	_      uint32 // gathers read past the end
	// For AVX512: c0 plus four times the bias of the result's exponent, and c1-2^15 as a signed
	// word below c2.
	sum, both [64]uint32
}

// NewEx2Table returns the table of the coefficients of 64 segments: c0 below 2^26, c2 below 2^15.
func NewEx2Table(coefficients func(segment int) (c0 uint32, c1, c2 uint16)) *Ex2Table {
	t := new(Ex2Table)
	for i := range t.c0 {
		c0, c1, c2 := coefficients(i)
		t.c0[i], t.c1[i], t.c2[i] = c0, c1, c2
		t.sum[i], t.both[i] = c0+126<<25, uint32(c1-1<<15)|uint32(c2)<<16
	}
	return t
}
