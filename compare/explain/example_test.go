package explain_test

import (
	"context"
	"fmt"
	"log"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/layerdumps"
)

// The output in the sample comes from two levels of accumulation. Said to have one, it
// is found out.
func ExampleLayer() {
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	cfg, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		log.Fatal(err)
	}
	if err := cfg.SetAccum("fp32"); err != nil {
		log.Fatal(err)
	}
	res, err := explain.Layer(context.Background(), &d.Layers[0], explain.Options{Program: cfg, Jobs: 2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Where.First.Token, res.Where.Findings[1].Kind)
	fmt.Println(res.Exact[0].String())
	// Output:
	// 128 first-tile
	// --pv-accum fp32+fp32
}
