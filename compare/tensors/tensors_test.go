package tensors_test

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/tensors"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/reference"
)

// dump is one layer of two heads, three tokens and two channels.
func dump(t *testing.T, dtype format.DType, width int) *layerdumps.Dump {
	t.Helper()
	l := layerdumps.Layer{Name: "l"}
	for _, x := range []*layerdumps.Tensor{&l.Q, &l.K, &l.V} {
		var err error
		if *x, err = layerdumps.NewTensor("l.q", dtype, [4]int{1, 2, 3, 2}, make([]byte, 12*width)); err != nil {
			t.Fatal(err)
		}
	}
	return &layerdumps.Dump{Layers: []layerdumps.Layer{l}}
}

func collector(t *testing.T, d *layerdumps.Dump, opt tensors.Options) *tensors.Collector {
	t.Helper()
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(p)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tensors.New(d, k, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPlaces: rows that arrive in any order stand where they belong.
func TestPlaces(t *testing.T) {
	d := dump(t, format.BF16, 2)
	c := collector(t, d, tensors.Options{LSE: true, Reference: true, Precision: reference.FP64})
	for _, at := range [][2]int{{1, 1}, {0, 0}, {1, 0}, {0, 1}} {
		head, row, n := at[0], at[1], 1+at[1]
		o := compare.Outputs{Layer: &d.Layers[0], Head: head, Row: row}
		for i := row; i < row+n; i++ {
			for j := range 2 {
				x := float32(100*head + 10*i + j)
				o.Emulated = append(o.Emulated, x)
				o.Reference = append(o.Reference, float64(x)+0.1)
			}
			o.LSE = append(o.LSE, float32(head*10+i))
			o.ReferenceLSE = append(o.ReferenceLSE, float64(head*10+i)+0.1)
		}
		c.Add(o)
	}
	ts, err := c.Tensors()
	if err != nil || len(ts) != 4 {
		t.Fatal(len(ts), err)
	}
	for head := range 2 {
		for row := range 3 {
			i := head*3 + row
			if x := math.Float32frombits(binary.LittleEndian.Uint32(ts[1].Data[4*i:])); x != float32(head*10+row) {
				t.Errorf("lse[%d,%d] is %v", head, row, x)
			}
			if x := math.Float64frombits(binary.LittleEndian.Uint64(ts[3].Data[8*i:])); x != float64(head*10+row)+0.1 {
				t.Errorf("reference_lse[%d,%d] is %v", head, row, x)
			}
			for j := range 2 {
				want := float32(100*head + 10*row + j)
				if x := math.Float32frombits(uint32(binary.LittleEndian.Uint16(ts[0].Data[2*(2*i+j):])) << 16); x != want {
					t.Errorf("o[%d,%d,%d] is %v, want %v", head, row, j, x, want)
				}
				if x := math.Float64frombits(binary.LittleEndian.Uint64(ts[2].Data[8*(2*i+j):])); x != float64(want)+0.1 {
					t.Errorf("reference[%d,%d,%d] is %v", head, row, j, x)
				}
			}
		}
	}
}

// TestInexact: an output that the file's format does not hold is an error, NaN and
// infinities are not.
func TestInexact(t *testing.T) {
	for _, tc := range []struct {
		x    float32
		want string
	}{{1.5, ""}, {float32(math.NaN()), ""}, {float32(math.Inf(-1)), ""}, {1 + 1.0/4096, "head 1, token 2 is not a value of FP16"}, {1e6, "not a value"}} {
		d := dump(t, format.FP16, 2)
		c := collector(t, d, tensors.Options{})
		c.Add(compare.Outputs{Layer: &d.Layers[0], Head: 1, Row: 1, Emulated: []float32{0, 0, tc.x, 0}})
		_, err := c.Tensors()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v", tc.x, err)
		}
	}
}
