package metrics_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/sageacc/sageacc/metrics"
)

var formats = []metrics.Format{metrics.FP16, metrics.BF16, metrics.FP32}

func TestULP(t *testing.T) {
	for _, tc := range []struct {
		format metrics.Format
		a, b   uint32
		want   uint32
	}{
		{metrics.FP16, 0x3c00, 0x3c01, 1},
		{metrics.FP16, 0x3c00, 0x3bff, 1}, // across a power of two
		{metrics.FP16, 0x03ff, 0x0400, 1}, // subnormal to normal
		{metrics.FP16, 0x0000, 0x8000, 0},
		{metrics.FP16, 0x0001, 0x8001, 2},
		{metrics.FP16, 0x7bff, 0x7c00, 1}, // the largest number to +Inf
		{metrics.FP16, 0xfc00, 0x7c00, 0xf800},
		{metrics.FP16, 0x7e00, 0x3c00, 0xf800},
		{metrics.FP16, 0x7e00, 0xfe01, 0},
		{metrics.BF16, 0x3f80, 0x3f82, 2},
		{metrics.BF16, 0xff80, 0x7f80, 0xff00},
		{metrics.BF16, 0x7fc0, 0, 0xff00},
		{metrics.FP32, 0x3f800000, 0xbf800000, 0x7f000000},
		{metrics.FP32, 0xff800000, 0x7f800000, 0xff000000},
		{metrics.FP32, 0x7fc00000, 0, 0xff000000},
	} {
		for _, pair := range [][2]uint32{{tc.a, tc.b}, {tc.b, tc.a}} {
			if got := tc.format.ULP(pair[0], pair[1]); got != tc.want {
				t.Errorf("%v: ULP(%#x, %#x) = %d, want %d", tc.format, pair[0], pair[1], got, tc.want)
			}
		}
	}
}

// TestULPOrder walks through all patterns of the 16-bit formats and wants each
// value 1 ULP from the next larger one.
func TestULPOrder(t *testing.T) {
	for _, f := range []metrics.Format{metrics.FP16, metrics.BF16} {
		for p := uint32(0); p < 1<<16; p++ {
			if f.IsNaN(p) != math.IsNaN(f.Value(p)) {
				t.Fatalf("%v: IsNaN(%#x) = %t", f, p, f.IsNaN(p))
			}
			if p&0x8000 == 0 && !f.IsNaN(p+1) && f.Value(p) < f.Value(p+1) {
				if got := f.ULP(p, p+1); got != 1 {
					t.Fatalf("%v: ULP(%#x, %#x) = %d", f, p, p+1, got)
				}
			}
		}
	}
}

func TestBits(t *testing.T) {
	var b metrics.Bits
	at := metrics.Position{Batch: 1, Head: 2, Token: 3, Channel: 4}
	b.Add(at, metrics.FP16,
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
		if f == metrics.FP32 {
			nan = 0x7fc00000
		}
		var b metrics.Bits
		b.Add(metrics.Position{}, f, []uint32{nan}, []uint32{0})
		if b.Mismatched != 1 || b.MaxULP != f.MaxULP() || !math.IsNaN(float64(b.First.ActualValue)) {
			t.Errorf("%v: %+v", f, b)
		}
	}
}

func TestBitsClean(t *testing.T) {
	var b metrics.Bits
	b.Add(metrics.Position{}, metrics.FP32, []uint32{1, 2}, []uint32{1, 2})
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
			want.AddBlock(position(i), metrics.BF16, channels, a[lo:hi], e[lo:hi])
		}
		parts := make([]metrics.Bits, 3)
		for _, i := range r.Perm(n / channels) {
			lo, hi := i*channels, (i+1)*channels
			parts[r.IntN(len(parts))].Add(position(i), metrics.BF16, a[lo:hi], e[lo:hi])
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

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		format  metrics.Format
		name    string
		bits    int
		pattern uint32
		value   float64
	}{
		{metrics.FP16, "fp16", 16, 0x3c01, 1 + 1.0/1024},
		{metrics.BF16, "bf16", 16, 0xbf81, -1 - 1.0/128},
		{metrics.FP32, "fp32", 32, 0x3f800001, 1 + 1.0/(1<<23)},
	} {
		if tc.format.String() != tc.name || tc.format.Bits() != tc.bits || tc.format.Value(tc.pattern) != tc.value {
			t.Errorf("%v, %d bits, Value(%#x) = %v", tc.format, tc.format.Bits(), tc.pattern, tc.format.Value(tc.pattern))
		}
	}
}
