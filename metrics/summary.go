package metrics

import (
	"math"

	"github.com/sageacc/sageacc/internal/exactsum"
	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// Average returns the arithmetic mean of each figure over the layers. A figure
// that is NaN or infinite in one layer makes its average so. Without layers all
// are NaN.
func Average(layers []Values) Values {
	var cos, l1, rmse, abs exactsum.Sum
	for _, v := range layers {
		cos.Add(float64(v.CosSim))
		l1.Add(float64(v.RelL1))
		rmse.Add(float64(v.RMSE))
		abs.Add(float64(v.MaxAbs))
	}
	mean := func(s *exactsum.Sum) jsonfloat.Float {
		return jsonfloat.Float(s.Value() / float64(len(layers)))
	}
	return Values{CosSim: mean(&cos), RelL1: mean(&l1), RMSE: mean(&rmse), MaxAbs: mean(&abs)}
}

// Worst holds the worst figure over a list of layers, each for itself: they may
// stem from different layers.
type Worst struct {
	Values
	// The index, in the list given to [WorstOf], of the layer that each figure
	// stems from, or -1 for an empty list.
	CosSimAt, RelL1At, RMSEAt, MaxAbsAt int `json:"-"`
}

// WorstOf returns the lowest CosSim and the highest of the other figures. NaN is
// worse than any number; among equals the first layer is named. Without layers
// all figures are NaN.
func WorstOf(layers []Values) Worst {
	nan := jsonfloat.Float(math.NaN())
	w := Worst{
		Values:   Values{CosSim: nan, RelL1: nan, RMSE: nan, MaxAbs: nan},
		CosSimAt: -1, RelL1At: -1, RMSEAt: -1, MaxAbsAt: -1,
	}
	for i, v := range layers {
		// The cosine is negated, so that for all of them more is worse.
		if worse(-v.CosSim, -w.CosSim, i) {
			w.CosSim, w.CosSimAt = v.CosSim, i
		}
		if worse(v.RelL1, w.RelL1, i) {
			w.RelL1, w.RelL1At = v.RelL1, i
		}
		if worse(v.RMSE, w.RMSE, i) {
			w.RMSE, w.RMSEAt = v.RMSE, i
		}
		if worse(v.MaxAbs, w.MaxAbs, i) {
			w.MaxAbs, w.MaxAbsAt = v.MaxAbs, i
		}
	}
	return w
}

// worse reports whether the figure x of layer i replaces the worst so far.
func worse(x, worst jsonfloat.Float, i int) bool {
	if i == 0 {
		return true
	}
	if math.IsNaN(float64(x)) {
		return !math.IsNaN(float64(worst))
	}
	return x > worst
}
