package inspect

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// smoothness gathers, head by head, what a Smoothing and the warnings need.
type smoothness struct {
	kind    kind
	heads   int // with finite values only
	skipped int // the others

	biasSum, biasMax  float64
	outlier           Outlier
	before, after     float64 // largest magnitudes over all heads
	gainSum, gainMin  float64
	worst             Head
	sumBefore         float64 // over channels and heads of a channel's largest
	sumAfter          float64 // magnitude
	constant          int     // channels
	firstConstant     Position
	channels, scratch []channel
	// Of the head at hand.
	tokens   int
	residual float64 // the sum of its squares less the means
}

// channel is one channel of one head, over some of its tokens.
type channel struct {
	mean   float64
	absmax float64
	after  float64 // absmax less the mean that smoothing subtracts
	first  float32
	varies bool
}

func newSmoothness(k kind) *smoothness {
	return &smoothness{kind: k, gainMin: math.Inf(1)}
}

// begin starts a head.
func (s *smoothness) begin(tokens, dim int) {
	if s.channels == nil {
		s.channels, s.scratch = make([]channel, dim), make([]channel, dim)
	}
	clear(s.channels)
	s.tokens, s.residual = tokens, 0
}

// sum takes in rows for the head's means.
func (s *smoothness) sum(rows []float32) {
	for row := range slices.Chunk(rows, len(s.channels)) {
		for i, x := range row {
			s.channels[i].mean += float64(x)
		}
	}
}

// means makes means of the sums.
func (s *smoothness) means() {
	for i := range s.channels {
		s.channels[i].mean /= float64(s.tokens)
	}
}

// add takes in rows of finite values, from token first on, whose means are known.
func (s *smoothness) add(first int, rows []float32) {
	dim := len(s.channels)
	if first == 0 {
		for i := range s.channels {
			s.channels[i].first = rows[i]
		}
	}
	for row := range slices.Chunk(rows, dim) {
		for i, x := range row {
			c := &s.channels[i]
			r := float64(x) - c.mean
			s.residual += float64(r * r)
			c.absmax = max(c.absmax, math.Abs(float64(x)))
			c.varies = c.varies || x != c.first
		}
	}
	if s.kind != kindQ {
		s.subtract(rows, s.channels)
		return
	}
	for block := range slices.Chunk(rows, queryBlock*dim) {
		clear(s.scratch)
		for row := range slices.Chunk(block, dim) {
			for i, x := range row {
				s.scratch[i].mean += float64(x)
			}
		}
		for i := range s.scratch {
			s.scratch[i].mean /= float64(len(block) / dim)
		}
		s.subtract(block, s.scratch)
	}
}

// subtract takes the means from rows and notes in the head's channels what remains.
func (s *smoothness) subtract(rows []float32, means []channel) {
	for row := range slices.Chunk(rows, len(s.channels)) {
		for i, x := range row {
			c := &s.channels[i]
			c.after = max(c.after, math.Abs(float64(x)-means[i].mean))
		}
	}
}

// tally adds the channels of one head to the totals.
func (s *smoothness) tally(head Head) {
	residualRMS := math.Sqrt(s.residual / float64(s.tokens*len(s.channels)))
	var meanSq, before, after float64
	largest := 0
	absmax := make([]float64, len(s.channels))
	for i, c := range s.channels {
		meanSq += float64(c.mean * c.mean)
		before, after = max(before, c.absmax), max(after, c.after)
		s.sumBefore += c.absmax
		s.sumAfter += c.after
		absmax[i] = c.absmax
		if math.Abs(c.mean) > math.Abs(s.channels[largest].mean) {
			largest = i
		}
		// A single token varies in nothing, and that is no fault of it.
		if !c.varies && s.tokens > 1 {
			if s.constant++; s.constant == 1 {
				s.firstConstant = Position{Batch: head.Batch, Head: head.Head, Channel: i}
			}
		}
	}
	bias := ratio(math.Sqrt(meanSq/float64(len(s.channels))), residualRMS, 0)
	s.biasSum += bias
	s.biasMax = max(s.biasMax, bias)
	s.before, s.after = max(s.before, before), max(s.after, after)
	gain := ratio(before, after, 1)
	s.gainSum += gain
	if s.heads == 0 || gain < s.gainMin {
		s.gainMin, s.worst = gain, head
	}
	if mean := s.channels[largest].mean; s.heads == 0 || math.Abs(mean) > math.Abs(float64(s.outlier.Mean)) {
		s.outlier = Outlier{
			Head: head, Channel: largest, Mean: jsonfloat.Float(mean),
			Ratio: jsonfloat.Float(ratio(math.Abs(mean), median(absmax), 0)),
		}
	}
	s.heads++
}

// ratio is a/b for numbers that are not negative, with a value for 0/0.
func ratio(a, b, ifBothZero float64) float64 {
	if a == 0 && b == 0 {
		return ifBothZero
	}
	return a / b
}

// median sorts x and returns its median.
func median(x []float64) float64 {
	slices.Sort(x)
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

// finish returns the statistics, or nil if no head was finite, and the verdict.
func (s *smoothness) finish() (*Smoothing, string) {
	name := strings.ToUpper(string(s.kind))
	if s.heads == 0 {
		return nil, fmt.Sprintf("smooth %s: no verdict, every head has NaN or Inf", name)
	}
	n := float64(s.heads)
	r := &Smoothing{
		Mean:          "all tokens",
		BiasRatio:     jsonfloat.Float(s.biasSum / n),
		BiasRatioMax:  jsonfloat.Float(s.biasMax),
		Outlier:       s.outlier,
		AbsMaxBefore:  jsonfloat.Float(s.before),
		AbsMaxAfter:   jsonfloat.Float(s.after),
		StepGain:      jsonfloat.Float(s.gainSum / n),
		StepGainWorst: jsonfloat.Float(s.gainMin),
		WorstHead:     s.worst,
		SkippedHeads:  s.skipped,
	}
	gain, step := s.gainSum/n, "step"
	switch s.kind {
	case kindQ:
		r.Mean = fmt.Sprintf("blocks of %d tokens", queryBlock)
	case kindV:
		gain, step = ratio(s.sumBefore, s.sumAfter, 1), "channel step"
		g := jsonfloat.Float(gain)
		r.ChannelStepGain = &g
	}
	if s.tokens == 1 {
		return r, fmt.Sprintf("smooth %s: no verdict, a single token is its own mean", name)
	}
	return r, verdict(name, step, gain)
}

// Between these gains, smoothing is worth neither its cost nor avoiding: the
// difference is below an eighth of a bit.
const (
	gainHelps = 1.1
	gainHurts = 1 / gainHelps
)

// verdict puts a gain in words.
func verdict(name, step string, gain float64) string {
	effect := "changes little"
	switch {
	case math.IsInf(gain, 1):
		return fmt.Sprintf("smooth %s removes everything: a head is constant over the tokens", name)
	case gain >= gainHelps:
		effect = "helps"
	case gain <= gainHurts:
		effect = "hurts"
	}
	size := fmt.Sprintf("%.2fx finer", gain)
	switch {
	case math.Abs(gain-1) < 0.005:
		size = "as before"
	case gain < 1:
		size = fmt.Sprintf("%.2fx coarser", 1/gain)
	}
	return fmt.Sprintf("smooth %s %s: %s %s", name, effect, step, size)
}
