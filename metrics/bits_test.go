package metrics_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/metrics"
)

var formats = []format.DType{format.FP16, format.BF16, format.FP32}

func TestULP(t *testing.T) {
	for _, tc := range []struct {
		format format.DType
		a, b   uint32
		want   uint32
	}{
		{format.FP16, 0x3c00, 0x3c01, 1},
		{format.FP16, 0x3c00, 0x3bff, 1}, // across a power of two
		{format.FP16, 0x03ff, 0x0400, 1}, // subnormal to normal
		{format.FP16, 0x0000, 0x8000, 0},
		{format.FP16, 0x0001, 0x8001, 2},
		{format.FP16, 0x7bff, 0x7c00, 1}, // the largest number to +Inf
		{format.FP16, 0xfc00, 0x7c00, 0xf800},
		{format.FP16, 0x7e00, 0x3c00, 0xf800},
		{format.FP16, 0x7e00, 0xfe01, 0},
		{format.BF16, 0x3f80, 0x3f82, 2},
		{format.BF16, 0xff80, 0x7f80, 0xff00},
		{format.BF16, 0x7fc0, 0, 0xff00},
		{format.FP32, 0x3f800000, 0xbf800000, 0x7f000000},
		{format.FP32, 0xff800000, 0x7f800000, 0xff000000},
		{format.FP32, 0x7fc00000, 0, 0xff000000},
	} {
		for _, pair := range [][2]uint32{{tc.a, tc.b}, {tc.b, tc.a}} {
			if got := metrics.ULP(tc.format, pair[0], pair[1]); got != tc.want {
				t.Errorf("%v: ULP(%#x, %#x) = %d, want %d", tc.format, pair[0], pair[1], got, tc.want)
			}
		}
	}
}

// TestULPOrder walks through all patterns of the formats of 16 and 8 bits and wants each
// value 1 ULP from the next larger one.
func TestULPOrder(t *testing.T) {
	for _, f := range []format.DType{format.FP16, format.BF16, format.FP8} {
		for p := uint32(0); p < 1<<(8*f.Size()); p++ {
			if metrics.IsNaN(f, p) != math.IsNaN(float64(f.FromBits(p))) {
				t.Fatalf("%v: IsNaN(%#x) = %t", f, p, metrics.IsNaN(f, p))
			}
			if p>>(8*f.Size()-1) == 0 && !metrics.IsNaN(f, p+1) && f.FromBits(p) < f.FromBits(p+1) {
				if got := metrics.ULP(f, p, p+1); got != 1 {
					t.Fatalf("%v: ULP(%#x, %#x) = %d", f, p, p+1, got)
				}
			}
		}
	}
}

func TestBits(t *testing.T) {
	var b metrics.Bits
	at := metrics.Position{Batch: 1, Head: 2, Token: 3, Channel: 4}
	b.Add(at, format.FP16,
		[]uint32{0x3c00, 0x7e00, 0x0000, 0x3c01, 0xffff3c00},
		[]uint32{0x3c00, 0xfe01, 0x8000, 0x3c04, 0x00003c00})
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"elements":5,"mismatched":2,"max_ulp":3,"first_mismatch":` +
		`{"batch":1,"head":2,"token":3,"channel":6,"actual":"0x0000","emulated":"0x8000","actual_value":0,"emulated_value":-0}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if b.Exact() {
		t.Error("Exact with mismatches")
	}
	var back metrics.Bits
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, b) {
		t.Errorf("came back as %+v, %v", back, err)
	}
}

func TestBitsNaNAgainstNumber(t *testing.T) {
	for _, f := range formats {
		nan := uint32(0x7fc0)
		if f == format.FP32 {
			nan = 0x7fc00000
		}
		var b metrics.Bits
		b.Add(metrics.Position{}, f, []uint32{nan}, []uint32{0})
		if b.Mismatched != 1 || b.MaxULP != metrics.MaxULP(f) || !math.IsNaN(float64(b.First.ActualValue)) {
			t.Errorf("%v: %+v", f, b)
		}
	}
}

func TestBitsClean(t *testing.T) {
	var b metrics.Bits
	b.Add(metrics.Position{}, format.FP32, []uint32{1, 2}, []uint32{1, 2})
	text, err := json.Marshal(b)
	if want := `{"elements":2,"mismatched":0,"max_ulp":0,"first_mismatch":null}`; err != nil || string(text) != want || !b.Exact() {
		t.Errorf("got %s, %v; want %s", text, err, want)
	}
}

// TestBitsOrder adds rows in random order to several accumulators, merges these
// in random order, and wants what one accumulator finds going through in order.
func TestBitsOrder(t *testing.T) {
	const batches, heads, tokens, channels = 2, 3, 5, 4
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		n := batches * heads * tokens * channels
		a, e := make([]uint32, n), make([]uint32, n)
		for range 1 + r.IntN(5) {
			a[r.IntN(n)] = uint32(r.IntN(50))
		}
		position := func(row int) metrics.Position {
			return metrics.Position{Batch: row / tokens / heads, Head: row / tokens % heads, Token: row % tokens}
		}
		var want metrics.Bits
		for i := 0; i < n/channels; i += tokens {
			lo, hi := i*channels, (i+tokens)*channels
			want.AddBlock(position(i), format.BF16, channels, a[lo:hi], e[lo:hi])
		}
		parts := make([]metrics.Bits, 3)
		for _, i := range r.Perm(n / channels) {
			lo, hi := i*channels, (i+1)*channels
			parts[r.IntN(len(parts))].Add(position(i), format.BF16, a[lo:hi], e[lo:hi])
		}
		var got metrics.Bits
		for _, i := range r.Perm(len(parts)) {
			got.Merge(&parts[i])
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v %+v\nwant %+v %+v", got, got.First, want, want.First)
		}
	}
}
