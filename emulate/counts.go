package emulate

import (
	"math"

	"github.com/sageacc/sageacc/emulate/quant"
)

// Stage is a place in the kernel where a value can go wrong.
type Stage uint8

// Stages, in the kernel's order.
const (
	StageQ Stage = iota
	StageK
	StageV
	StageQCodes
	StageKCodes
	StageVCodes
	StageScores
	StageRowMax
	StageP
	StagePCodes
	StageTileSums
	StageDenominator
	StageOutput
	numStages
)

var stageNames = [numStages]string{
	"q", "k", "v", "q_codes", "k_codes", "v_codes", "scores", "row_max", "p", "p_codes", "tile_sums", "denominator", "output",
}

// String names the stage.
func (s Stage) String() string { return stageNames[s] }

// Count says how many values of a stage were not ordinary numbers.
type Count struct {
	NaN int64 `json:"nan,omitempty"`
	Inf int64 `json:"inf,omitempty"`
	// Saturated counts finite values beyond the format's range: of P~'s codes those
	// clamped to its largest, of the output those rounded to infinity. Q, K and V
	// are scaled by their own maximum, so their codes cannot exceed the range.
	Saturated int64 `json:"saturated,omitempty"`
	// Zero counts softmax denominators that are zero.
	Zero int64 `json:"zero,omitempty"`
}

// Counts holds a Count for each stage. Its zero value is ready; Merge adds.
type Counts [numStages]Count

// Merge adds o to c.
func (c *Counts) Merge(o *Counts) {
	for i := range c {
		c[i].NaN += o[i].NaN
		c[i].Inf += o[i].Inf
		c[i].Saturated += o[i].Saturated
		c[i].Zero += o[i].Zero
	}
}

// Map returns the stages with a count that is not zero, by name.
func (c *Counts) Map() map[string]Count {
	m := map[string]Count{}
	for i, n := range c {
		if n != (Count{}) {
			m[Stage(i).String()] = n
		}
	}
	return m
}

// StageNames lists all stage names in the kernel's order.
func StageNames() []string { return append([]string(nil), stageNames[:]...) }

// scanAt is scan.
func (c *Count) scanAt(level quant.Level, x []float32) {
	if !quant.FiniteAt(level, x) {
		c.scan(x)
	}
}

// scan counts NaN and infinities of x.
func (c *Count) scan(x []float32) {
	for _, v := range x {
		if v-v != 0 {
			c.add(v)
		}
	}
}

func (c *Count) add(v float32) {
	switch {
	case v != v:
		c.NaN++
	case math.IsInf(float64(v), 0):
		c.Inf++
	}
}
