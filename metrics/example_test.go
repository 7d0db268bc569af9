package metrics_test

import (
	"encoding/json"
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/metrics"
)

// Each goroutine fills an accumulator of its own; merging them in a fixed order
// gives the same bits whatever order they finished in.
func ExampleAccuracy() {
	var head0, head1, layer metrics.Accuracy
	head0.Add([]float32{1, 2, 3}, []float32{1, 2, 4})
	head1.Add([]float32{0, -1}, []float32{0.5, -1})
	layer.Merge(&head0)
	layer.Merge(&head1)
	v := layer.Values()
	fmt.Printf("%d elements: cos %.4f, L1 %.4f, RMSE %.4f, max %.1f\n",
		layer.N(), float64(v.CosSim), float64(v.RelL1), float64(v.RMSE), float64(v.MaxAbs))
	// Output: 5 elements: cos 0.9853, L1 0.1765, RMSE 0.5000, max 1.0
}

func ExampleBits() {
	var b metrics.Bits
	row := metrics.Position{Batch: 0, Head: 3, Token: 17}
	b.Add(row, format.FP16, []uint32{0x3c00, 0x3c01, 0x0000}, []uint32{0x3c00, 0x3c00, 0x0000})
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(text))
	// Output:
	// {
	//   "elements": 3,
	//   "mismatched": 1,
	//   "max_ulp": 1,
	//   "first_mismatch": {
	//     "batch": 0,
	//     "head": 3,
	//     "token": 17,
	//     "channel": 1,
	//     "actual": "0x3c01",
	//     "emulated": "0x3c00",
	//     "actual_value": 1.0009765625,
	//     "emulated_value": 1
	//   }
	// }
}

func ExampleWorstOf() {
	layers := []metrics.Values{
		{CosSim: 0.999, RelL1: 0.03, RMSE: 0.010, MaxAbs: 0.2},
		{CosSim: 0.967, RelL1: 0.19, RMSE: 0.008, MaxAbs: 0.1},
	}
	worst := metrics.WorstOf(layers)
	fmt.Printf("average cos %.3f, worst %.3f in layer %d\n",
		float64(metrics.Average(layers).CosSim), float64(worst.CosSim), worst.CosSimAt)
	fmt.Printf("worst RMSE %.3f in layer %d\n", float64(worst.RMSE), worst.RMSEAt)
	// Output:
	// average cos 0.983, worst 0.967 in layer 1
	// worst RMSE 0.010 in layer 0
}

func ExampleParseExpr() {
	e, err := metrics.ParseExpr("cos < 0.99")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e, e.Holds(metrics.Values{CosSim: 0.98}), e.Holds(metrics.Values{CosSim: 1}))
	_, err = metrics.ParseExpr("l2<0.99")
	fmt.Println(err)
	// Output:
	// cos_sim<0.99 true false
	// expression "l2<0.99": unknown metric "l2", want cos_sim, rel_l1, rmse or max_abs
}
