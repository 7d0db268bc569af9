package reference_test

import (
	"context"
	"fmt"

	"github.com/sageacc/sageacc/reference"
)

// Two rows against two keys: a causal first row sees the first key only, and
// returns its value. In the second row, which is zero, both weigh the same.
func ExampleAttention() {
	q := []float32{
		1, 0,
		0, 0,
	}
	k := []float32{
		2, 0,
		0, 3,
	}
	v := []float32{
		10, 20,
		30, 40,
	}
	out := make([]float64, 4)
	lse := make([]float64, 2)
	err := reference.Attention(context.Background(),
		reference.Params{Precision: reference.FP64, Causal: true, Scale: 1},
		q, k, v, 0, 2, 2, 2, nil, out, lse)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out)
	fmt.Printf("%.4f\n", lse)
	// Output:
	// [10 20 20 30]
	// [2.0000 0.6931]
}
