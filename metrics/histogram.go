package metrics

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// The exponents of a Histogram's bins: errors below the first count into it, errors
// above the last into that.
const (
	histogramLow  = -40
	histogramHigh = 23
)

// Histogram counts absolute errors by magnitude: bin i holds those from
// 2^(MinExponent+i) up to twice that. Counts are exact, so merging in any order
// gives the same. Its zero value is ready.
type Histogram struct {
	// Zero counts errors of exactly zero.
	Zero int64
	// NonFinite counts errors that are NaN or infinite.
	NonFinite int64

	bins [histogramHigh - histogramLow + 1]int64
}

// Add64 counts |out-ref| of each element, which FP64 holds as exactly as it holds
// the reference.
func (h *Histogram) Add64(out []float32, ref []float64) {
	for i, x := range out {
		e := float64(x) - ref[i]
		b := math.Float64bits(e) &^ (1 << 63)
		switch exp := int(b>>52) - 1023; {
		case b == 0:
			h.Zero++
		case exp == 1024:
			h.NonFinite++
		default:
			h.bins[min(max(exp, histogramLow), histogramHigh)-histogramLow]++
		}
	}
}

// Merge adds the counts of o.
func (h *Histogram) Merge(o *Histogram) {
	h.Zero += o.Zero
	h.NonFinite += o.NonFinite
	for i, n := range o.bins {
		h.bins[i] += n
	}
}

// HistogramValues is a histogram as results hold it, without the empty bins at
// either end.
type HistogramValues struct {
	// MinExponent is the first bin's: errors from 2^MinExponent to twice that. Errors
	// below 2^-40 are in the bin of -40.
	MinExponent int     `json:"min_exponent"`
	Counts      []int64 `json:"counts"`
	Zero        int64   `json:"zero"`
	NonFinite   int64   `json:"non_finite,omitempty"`
}

// Values returns the counts.
func (h *Histogram) Values() HistogramValues {
	lo, hi := 0, len(h.bins)
	for lo < hi && h.bins[lo] == 0 {
		lo++
	}
	for hi > lo && h.bins[hi-1] == 0 {
		hi--
	}
	v := HistogramValues{MinExponent: histogramLow + lo, Counts: append([]int64{}, h.bins[lo:hi]...), Zero: h.Zero, NonFinite: h.NonFinite}
	if lo == hi {
		v.MinExponent = 0
	}
	return v
}

// MarshalJSON implements [json.Marshaler]; it loses nothing.
func (h *Histogram) MarshalJSON() ([]byte, error) { return json.Marshal(h.Values()) }

// UnmarshalJSON implements [json.Unmarshaler].
func (h *Histogram) UnmarshalJSON(data []byte) error {
	var v HistogramValues
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	read := Histogram{Zero: v.Zero, NonFinite: v.NonFinite}
	at := v.MinExponent - histogramLow
	if len(v.Counts) > 0 && (at < 0 || at > len(read.bins)-len(v.Counts) || slices.Min(v.Counts) < 0) {
		return fmt.Errorf("histogram: %d bins from %d on are not its own", len(v.Counts), v.MinExponent)
	}
	if len(v.Counts) > 0 {
		copy(read.bins[at:], v.Counts)
	}
	*h = read
	return nil
}
