package mufu

import (
	"math"
	"math/bits"
	"testing"
)

func squareByBits(t int64) int64 {
	var sum int64
	for b := uint64(t); b != 0; b &= b - 1 {
		sum += t >> (18 - bits.TrailingZeros64(b))
	}
	return sum >> 1
}

func TestSquare(t *testing.T) {
	for x := range int64(1 << 17) {
		if got, want := square(x), squareByBits(x); got != want {
			t.Fatalf("square(%#x) = %d, want %d", x, got, want)
		}
	}
}

func BenchmarkEx2(b *testing.B) {
	src := make([]float32, 4096)
	dst := make([]float32, len(src))
	for i := range src {
		src[i] = float32(i%977)*-0.0137 + 8.8
	}
	b.SetBytes(4 * int64(len(src)))
	for b.Loop() {
		Ex2Slice(dst, src)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(src)), "ns/value")
}

func BenchmarkRcp(b *testing.B) {
	var sum float32
	x := float32(1)
	for b.Loop() {
		sum += Rcp(x)
		x = math.Float32frombits(math.Float32bits(x)&0x3fffffff + 12345)
	}
	_ = sum
}
