package trace_test

import (
	"context"
	"fmt"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/compare/trace"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/layerdumps"
)

func ExampleLayer() {
	dump, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer dump.Close()
	cfg, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		fmt.Println(err)
		return
	}
	k, err := emulate.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	row, err := trace.Layer(context.Background(), k, &dump.Layers[0], trace.At{Head: 1, Row: 200})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, t := range row.Tiles {
		fmt.Println("keys from", t.Key, "maximum", t.RowMax, "rescaled by", t.Rescale)
	}
	fmt.Println("output", row.OutputBits[0], "actual", row.ActualBits[0])
	// Output:
	// keys from 0 maximum -7.493164 rescaled by 0
	// keys from 128 maximum -6.6026597 rescaled by 0.5394255
	// output 0xae93 actual 0xae93
}
