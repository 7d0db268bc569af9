// Package inspect describes the tensors of a dump: their values, what is wrong
// with them, and whether SageAttention2's smoothing would help to quantise them.
//
// Smoothing subtracts from a tensor a mean over tokens before it is quantised,
// which pays when channels have a bias: values that are large in every token
// alike. The quantisation step is proportional to the largest magnitude of a
// group of values, so the gain is how much smaller that becomes.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
)

// Schema names the version of the JSON form of Result.
const Schema = "sageacc/inspect/v1"

// Result describes a dump.
type Result struct {
	Schema string  `json:"schema"`
	Layers []Layer `json:"layers"`
	// Ignored are the tensors that belong to no layer.
	Ignored []Ignored `json:"ignored,omitempty"`
	// Metadata is that of each file that has any.
	Metadata map[string]map[string]string `json:"metadata,omitempty"`
}

// Ignored is a tensor that belongs to no layer.
type Ignored struct {
	File string `json:"file"`
	Name string `json:"name"`
}

// Layer describes one layer.
type Layer struct {
	Name      string `json:"name"`
	Source    string `json:"source"`
	Synthetic string `json:"synthetic,omitempty"`
	Causal    bool   `json:"causal"`
	// SMScale is the softmax scale in use, given or not.
	SMScale jsonfloat.Float `json:"sm_scale"`
	// Call is what the call was given besides; nil for nothing.
	Call *layerdumps.Call `json:"call,omitempty"`
	Q    Tensor           `json:"q"`
	K    Tensor           `json:"k"`
	V    Tensor           `json:"v"`
	O    *Tensor          `json:"o,omitempty"`
	// LSE is the log-sum-exp of the rows of O, one channel.
	LSE *Tensor `json:"lse,omitempty"`
	// Warnings say what is wrong with the layer, one line each.
	Warnings []string `json:"warnings,omitempty"`
}

// Tensor describes one tensor. Min, Max, AbsMax, Mean and RMS are of the finite
// elements, and NaN if there is none.
type Tensor struct {
	// Shape is [batch, heads, tokens, head_dim], whatever the layout.
	Shape  [4]int          `json:"shape"`
	DType  string          `json:"dtype"`
	Min    jsonfloat.Float `json:"min"`
	Max    jsonfloat.Float `json:"max"`
	AbsMax jsonfloat.Float `json:"absmax"`
	Mean   jsonfloat.Float `json:"mean"`
	RMS    jsonfloat.Float `json:"rms"`
	// NaN and Inf count the elements that are not finite; the first of each is
	// in the order batch, head, token, channel.
	NaN      int       `json:"nan"`
	FirstNaN *Position `json:"first_nan,omitempty"`
	Inf      int       `json:"inf"`
	FirstInf *Position `json:"first_inf,omitempty"`
	// Zeros counts zeros of either sign.
	Zeros int `json:"zeros"`
	// Subnormals counts the elements that are subnormal in the tensor's own
	// dtype.
	Subnormals int `json:"subnormals"`
	// Smoothing is absent for o and lse, which are not quantised, and where every head
	// has NaN or Inf.
	Smoothing *Smoothing `json:"smoothing,omitempty"`
	// Verdict says in a line whether smoothing helps; empty for o and lse.
	Verdict string `json:"verdict,omitempty"`
}

// Position is that of an element.
type Position struct {
	Batch   int `json:"batch"`
	Head    int `json:"head"`
	Token   int `json:"token"`
	Channel int `json:"channel"`
}

// String names the position in words.
func (p Position) String() string {
	return fmt.Sprintf("batch %d, head %d, token %d, channel %d", p.Batch, p.Head, p.Token, p.Channel)
}

// Head is one head of one batch entry.
type Head struct {
	Batch int `json:"batch"`
	Head  int `json:"head"`
}

// Smoothing says what subtracting a mean over tokens would do. Everything is
// computed for each head of each batch entry on its own, from the stored values
// and without rounding the smoothed ones to the tensor's dtype.
type Smoothing struct {
	// Mean is the tokens that the subtracted mean is over, as in the kernels:
	// "all tokens" of the head for K and V, "blocks of 128 tokens" for Q.
	Mean string `json:"mean"`
	// BiasRatio tells how much of the values is bias: the root mean square over
	// the channels of a channel's mean over all tokens, divided by the root mean
	// square of the values less those means. BiasRatio is its mean over heads,
	// BiasRatioMax the largest. An all-zero head has 0.
	BiasRatio    jsonfloat.Float `json:"bias_ratio"`
	BiasRatioMax jsonfloat.Float `json:"bias_ratio_max"`
	// Outlier is the channel of the largest bias.
	Outlier Outlier `json:"outlier"`
	// AbsMaxBefore and AbsMaxAfter are the largest magnitudes before and after
	// the subtraction, over all heads.
	AbsMaxBefore jsonfloat.Float `json:"absmax_before"`
	AbsMaxAfter  jsonfloat.Float `json:"absmax_after"`
	// StepGain is how many times finer the quantisation step becomes: a head's
	// largest magnitude before, divided by that after the subtraction. It is the
	// mean over heads; StepGainWorst is the smallest, that of WorstHead. A head
	// that is all zero has 1, one that the subtraction makes zero +Inf.
	StepGain      jsonfloat.Float `json:"step_gain"`
	StepGainWorst jsonfloat.Float `json:"step_gain_worst"`
	WorstHead     Head            `json:"worst_head"`
	// ChannelStepGain is present for V, which the kernels quantise with a scale
	// per channel: the sum over channels and heads of a channel's largest
	// magnitude before, divided by that sum after the subtraction. V's verdict
	// goes by it.
	ChannelStepGain *jsonfloat.Float `json:"channel_step_gain,omitempty"`
	// SkippedHeads is the number of heads left out of all this because they
	// have NaN or Inf.
	SkippedHeads int `json:"skipped_heads,omitempty"`
}

// Outlier is the channel whose mean over all tokens has the largest magnitude.
type Outlier struct {
	Head
	Channel int             `json:"channel"`
	Mean    jsonfloat.Float `json:"mean"`
	// Ratio is the magnitude of Mean divided by the median over the head's
	// channels of a channel's largest magnitude: above 1, the bias alone is
	// larger than anything in the usual channel.
	Ratio jsonfloat.Float `json:"ratio"`
}

// Dump describes every layer of d, with their log-sum-exp if d was opened for it. It
// holds a block of rows in memory at a time, whatever the size of a head, and stops
// between blocks when ctx is done.
func Dump(ctx context.Context, d *layerdumps.Dump) (*Result, error) {
	r := &Result{Schema: Schema, Layers: make([]Layer, 0, len(d.Layers)), Metadata: d.Metadata}
	for _, t := range d.Ignored {
		r.Ignored = append(r.Ignored, Ignored{File: t.File, Name: t.Name})
	}
	for i := range d.Layers {
		l, err := inspectLayer(ctx, &d.Layers[i])
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", d.Layers[i].Name, err)
		}
		r.Layers = append(r.Layers, *l)
	}
	return r, nil
}

func inspectLayer(ctx context.Context, l *layerdumps.Layer) (*Layer, error) {
	out := &Layer{
		Name: l.Name, Source: l.Source, Synthetic: l.Synthetic,
		Causal: l.Causal, SMScale: jsonfloat.Float(l.Scale()), Call: l.Call(),
	}
	if l.O != nil {
		out.O = new(Tensor)
	}
	if l.LSE != nil {
		out.LSE = new(Tensor)
	}
	for _, part := range []struct {
		kind kind
		src  *layerdumps.Tensor
		dst  *Tensor
	}{{kindQ, &l.Q, &out.Q}, {kindK, &l.K, &out.K}, {kindV, &l.V, &out.V}, {kindO, l.O, out.O}, {kindLSE, l.LSE, out.LSE}} {
		if part.src == nil {
			continue
		}
		t, warnings, err := inspectTensor(ctx, l, part.kind, part.src)
		if err != nil {
			return nil, err
		}
		*part.dst = *t
		out.Warnings = append(out.Warnings, warnings...)
	}
	if l.Mask != nil {
		st, err := l.Mask.Stats(func() error { return errors.Join(ctx.Err(), l.Err()) })
		if err != nil {
			return nil, err
		}
		out.Warnings = append(out.Warnings, st.Notes()...)
	}
	return out, l.Check()
}

// kind is a tensor's part in the layer.
type kind string

const (
	kindQ kind = "q"
	kindK kind = "k"
	kindV kind = "v"
	kindO kind = "o"
	// kindLSE is the log-sum-exp.
	kindLSE kind = "lse"
)

// queryBlock is the rows of Q that share a mean in the kernels.
const queryBlock = 128

// blockRows is how many rows are in memory at a time: whole blocks of queries.
const blockRows = 8 * queryBlock

func inspectTensor(ctx context.Context, l *layerdumps.Layer, k kind, src *layerdumps.Tensor) (*Tensor, []string, error) {
	t := &Tensor{Shape: src.Shape(), DType: src.DType.String()}
	v := newValues(src.DType)
	s := newSmoothness(k)
	buf := make([]float32, min(src.Tokens, blockRows)*src.Dim)
	for b := range src.Batch {
		for h := range src.Heads {
			// A head is read twice: what is left of its values without their means can
			// only be found once these are known.
			each := func(f func(first int, rows []float32)) error {
				for lo := 0; lo < src.Tokens; lo += blockRows {
					if err := errors.Join(ctx.Err(), l.Err()); err != nil {
						return err
					}
					hi := min(lo+blockRows, src.Tokens)
					rows := buf[:(hi-lo)*src.Dim]
					src.Rows(b, h, lo, hi, rows)
					f(lo, rows)
				}
				return nil
			}
			s.begin(src.Tokens, src.Dim)
			finite := true
			err := each(func(first int, rows []float32) {
				finite = v.add(t, Head{b, h}, first, rows, src.Dim) && finite
				s.sum(rows)
			})
			if err != nil {
				return nil, nil, err
			}
			if !finite {
				s.skipped++
				continue
			}
			s.means()
			if err := each(s.add); err != nil {
				return nil, nil, err
			}
			s.tally(Head{b, h})
		}
	}
	v.finish(t)
	if k != kindO && k != kindLSE {
		t.Smoothing, t.Verdict = s.finish()
	}
	return t, warnings(k, t, s), nil
}

// warnings says what is wrong with a tensor.
func warnings(k kind, t *Tensor, s *smoothness) []string {
	var w []string
	if t.NaN > 0 {
		w = append(w, fmt.Sprintf("%s: %d NaN, the first at %v", k, t.NaN, t.FirstNaN))
	}
	if t.Inf > 0 {
		w = append(w, fmt.Sprintf("%s: %d Inf, the first at %v", k, t.Inf, t.FirstInf))
	}
	switch elements := t.Shape[0] * t.Shape[1] * t.Shape[2] * t.Shape[3]; {
	case t.Zeros == elements:
		w = append(w, fmt.Sprintf("%s: all %d elements are zero", k, elements))
	case s.constant > 0:
		w = append(w, fmt.Sprintf("%s: %d of %d channels are constant over the tokens, the first at batch %d, head %d, channel %d",
			k, s.constant, t.Shape[0]*t.Shape[1]*t.Shape[3], s.firstConstant.Batch, s.firstConstant.Head, s.firstConstant.Channel))
	}
	return w
}

// values gathers the statistics of a tensor's single elements.
type values struct {
	minNormal  float32
	min, max   float32
	sum, sumSq float64
	finite     int
}

func newValues(d format.DType) *values {
	v := &values{minNormal: 0x1p-126, min: math.MaxFloat32, max: -math.MaxFloat32}
	switch d {
	case format.FP16, format.FP8Wide:
		v.minNormal = 0x1p-14
	case format.FP8:
		v.minNormal = 0x1p-6
	}
	return v
}

// add takes in rows of one head, from token first on, and reports whether all of them
// are finite.
func (v *values) add(t *Tensor, head Head, first int, rows []float32, dim int) bool {
	before := t.NaN + t.Inf
	for i, x := range rows {
		switch {
		case x != x:
			if t.NaN++; t.FirstNaN == nil {
				t.FirstNaN = &Position{head.Batch, head.Head, first + i/dim, i % dim}
			}
			continue
		case math.IsInf(float64(x), 0):
			if t.Inf++; t.FirstInf == nil {
				t.FirstInf = &Position{head.Batch, head.Head, first + i/dim, i % dim}
			}
			continue
		case x == 0:
			t.Zeros++
		case -v.minNormal < x && x < v.minNormal:
			t.Subnormals++
		}
		v.finite++
		v.min, v.max = min(v.min, x), max(v.max, x)
		v.sum += float64(x)
		v.sumSq += float64(float64(x) * float64(x))
	}
	return t.NaN+t.Inf == before
}

func (v *values) finish(t *Tensor) {
	if v.finite == 0 {
		nan := jsonfloat.Float(math.NaN())
		t.Min, t.Max, t.AbsMax, t.Mean, t.RMS = nan, nan, nan, nan, nan
		return
	}
	n := float64(v.finite)
	t.Min, t.Max = jsonfloat.Float(v.min), jsonfloat.Float(v.max)
	t.AbsMax = max(-t.Min, t.Max)
	t.Mean = jsonfloat.Float(v.sum / n)
	t.RMS = jsonfloat.Float(math.Sqrt(v.sumSq / n))
}
