package quant

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRotation: a rotation is the normalised Hadamard matrix, in the order of its factors of two,
// behind the signs; it keeps products of rows, but for FP32's rounding.
func TestRotation(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, tc := range []struct {
		name  string
		d     int
		width int
	}{{"", 5, 5}, {"h4", 5, 8}, {"h4", 64, 64}, {"h64", 40, 64}, {"h64", 65, 128}, {"h128", 130, 256}, {"h128-signed", 100, 128}} {
		rot, err := ParseRotation(tc.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := rot.Width(tc.d); got != tc.width {
			t.Errorf("%s: %d channels become %d, want %d", tc.name, tc.d, got, tc.width)
			continue
		}
		group, _ := rot.channels()
		x := make([]float32, 2*tc.d)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		got := rot.Rotate(make([]float32, 2*tc.width), x, tc.d)
		var before, after float64
		for c := range tc.width {
			if c < tc.d {
				before += float64(x[c]) * float64(x[tc.d+c])
			}
			after += float64(got[c]) * float64(got[tc.width+c])
			if tc.name == "" {
				continue
			}
			want, lo := 0.0, c/group*group
			for j := range group {
				sign := 1.0
				for b := c % group & j; b > 0; b &= b - 1 {
					sign = -sign
				}
				if tc.name == "h128-signed" && signs128[j/32]>>(j%32)&1 == 0 {
					sign = -sign
				}
				if lo+j < tc.d {
					want += sign * float64(x[lo+j])
				}
			}
			if want /= math.Sqrt(float64(group)); math.Abs(float64(got[c])-want) > 1e-5 {
				t.Errorf("%s: channel %d is %g, want %g", tc.name, c, got[c], want)
			}
		}
		if math.Abs(before-after) > 1e-4 {
			t.Errorf("%s: a product of %g becomes %g", tc.name, before, after)
		}
	}
	if _, err := ParseRotation("h32"); err == nil {
		t.Error("h32 is a rotation")
	}
	if got := H64.Rotate(make([]float32, 100), make([]float32, 90), 40); len(got) != 64 {
		t.Errorf("%d elements of one row that has room", len(got))
	}
	if got := H4.Rotate(make([]float32, 4), make([]float32, 4), 0); len(got) != 0 {
		t.Errorf("%v of rows without channels", got)
	}
}

// TestAnchor: what all keys share is taken away by the sample nearest to their mean, and nothing
// where that does not help.
func TestAnchor(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	const d = 200
	noise := make([]float32, AnchorSamples*d)
	for i := range noise {
		noise[i] = float32(r.NormFloat64())
	}
	shift := func(by float32, quiet int) []float32 {
		x := slices.Clone(noise)
		for i := range x {
			if i/d == quiet {
				x[i] *= 0.1
			}
			x[i] += by
		}
		return x
	}
	for quiet := range AnchorSamples {
		if got := Anchor(shift(5, quiet), d); got != quiet {
			t.Errorf("sample %d is nearest to the mean, and the anchor is %d", quiet, got)
		}
	}
	if got := Anchor(noise, d); got != -1 {
		t.Errorf("of noise the anchor is %d", got)
	}
	// The largest magnitude may grow by an eighth.
	x := make([]float32, AnchorSamples*2)
	for s := range AnchorSamples {
		x[2*s], x[2*s+1] = 8, 0
	}
	for _, tc := range []struct {
		far  float32
		want int
	}{{-1, 0}, {-1.5, -1}} {
		x[17], x[16] = 0, tc.far
		if got := Anchor(x, 2); got != tc.want {
			t.Errorf("a key at %g: the anchor is %d, want %d", tc.far, got, tc.want)
		}
	}
	if Anchor(x[:17], 2) != -1 || Anchor(nil, 0) != -1 {
		t.Error("too few samples have an anchor")
	}
	for s, want := range []int{0, 12, 25, 37, 50, 62, 75, 87, 100} {
		if got := AnchorKey(s, 101); got != want {
			t.Errorf("sample %d of 101 keys is %d, want %d", s, got, want)
		}
	}
}
