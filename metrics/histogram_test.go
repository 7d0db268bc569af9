package metrics

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"
)

func TestHistogram(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	out := []float32{1, 1, 1.5, -3, 1, 0, 0, 1e-30, 1e20}
	ref := []float64{1, 0, 0, -1, nan, inf, 0.25, 0, 0}
	var h, a, b Histogram
	h.Add64(out, ref)
	want := HistogramValues{MinExponent: -40, Zero: 1, NonFinite: 2, Counts: make([]int64, 64)}
	want.Counts[0] = 1  // 1e-30, below the first bin
	want.Counts[38] = 1 // 0.25
	want.Counts[40] = 2 // 1 and 1.5
	want.Counts[41] = 1 // 2
	want.Counts[63] = 1 // 1e20, above the last bin
	if got := h.Values(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	a.Add64(out[:4], ref[:4])
	b.Add64(out[4:], ref[4:])
	text, err := json.Marshal(&a)
	var read Histogram
	if err == nil {
		err = json.Unmarshal(text, &read)
	}
	if err != nil || read != a {
		t.Errorf("%s, %v: read back %+v", text, err, read)
	}
	b.Merge(&read)
	if b != h {
		t.Error("merged parts differ from the whole")
	}
	for _, bad := range []string{`{"min_exponent":-41,"counts":[1]}`, `{"min_exponent":23,"counts":[1,2]}`, `{"min_exponent":0,"counts":[-1]}`, `{"counts":1}`, `{"min_exponent":9223372036854775767,"counts":[1]}`, `{"min_exponent":-9223372036854775808,"counts":[1]}`} {
		if json.Unmarshal([]byte(bad), &read) == nil {
			t.Errorf("%s was read", bad)
		}
	}
	if got := a.Values(); got.MinExponent != 0 || !reflect.DeepEqual(got.Counts, []int64{2, 1}) {
		t.Errorf("without empty ends: %+v", got)
	}
	var none Histogram
	if got := none.Values(); len(got.Counts) != 0 || got.MinExponent != 0 {
		t.Errorf("empty: %+v", got)
	}
}
