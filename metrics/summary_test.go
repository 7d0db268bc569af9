package metrics_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

func values(cos, l1, rmse, abs float64) metrics.Values {
	return metrics.Values{
		CosSim: jsonfloat.Float(cos), RelL1: jsonfloat.Float(l1),
		RMSE: jsonfloat.Float(rmse), MaxAbs: jsonfloat.Float(abs),
	}
}

func TestAverage(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	got := metrics.Average([]metrics.Values{values(1, 0, nan, 1), values(0.5, inf, 2, 3)})
	checkFigures(t, "average", got, [4]float64{0.75, inf, nan, 2}, 0)
	checkFigures(t, "average of none", metrics.Average(nil), [4]float64{nan, nan, nan, nan}, 0)
}

func TestWorstOf(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	got := metrics.WorstOf([]metrics.Values{
		values(0.9, 0.1, 1, nan),
		values(0.5, 0.3, inf, 7),
		values(0.5, 0.2, nan, nan),
		values(0.7, 0.3, 2, inf),
	})
	checkFigures(t, "worst", got.Values, [4]float64{0.5, 0.3, nan, nan}, 0)
	if at := [4]int{got.CosSimAt, got.RelL1At, got.RMSEAt, got.MaxAbsAt}; at != [4]int{1, 1, 2, 0} {
		t.Errorf("worst layers %v", at)
	}
	text, err := json.Marshal(got)
	if want := `{"cos_sim":0.5,"rel_l1":0.3,"rmse":"NaN","max_abs":"NaN"}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v; want %s", text, err, want)
	}

	got = metrics.WorstOf([]metrics.Values{values(-1, 0, 0, 0), values(nan, 0, 0, 0)})
	if got.CosSimAt != 1 || got.RelL1At != 0 {
		t.Errorf("NaN is not the worst cosine: %+v", got)
	}
	if got := metrics.WorstOf(nil); got.CosSimAt != -1 || !math.IsNaN(float64(got.RMSE)) {
		t.Errorf("worst of none: %+v", got)
	}
}
