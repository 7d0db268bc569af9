package conformance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Status is the outcome of a case.
type Status string

// Outcomes.
const (
	Pass Status = "pass"
	Fail Status = "fail"
	// Skip is a case that the emulator has no model for, or that has no element.
	Skip Status = "skip"
)

// Difference is the first element that differs.
type Difference struct {
	// Index is the element's position in the expected tensor, one number per
	// dimension.
	Index []int `json:"index"`
	// Recorded and Emulated are the bit patterns in hexadecimal.
	Recorded string `json:"recorded"`
	Emulated string `json:"emulated"`
}

// Result is what became of a case.
type Result struct {
	File       string      `json:"file"`
	Expect     string      `json:"expect"`
	Op         string      `json:"op"`
	Unit       string      `json:"unit,omitempty"`
	Arch       string      `json:"arch,omitempty"`
	Device     string      `json:"device,omitempty"`
	Elements   int64       `json:"elements"`
	Mismatched int64       `json:"mismatched"`
	Status     Status      `json:"status"`
	First      *Difference `json:"first_difference,omitempty"`
	Reason     string      `json:"reason,omitempty"`
}

// Report is the result of a run.
type Report struct {
	Schema string `json:"schema"`
	// Tool is the build of the emulator that was checked.
	Tool    version.Info `json:"tool"`
	Passed  int          `json:"passed"`
	Failed  int          `json:"failed"`
	Skipped int          `json:"skipped"`
	Cases   []Result     `json:"cases"`
}

// Schema is the version of Report's JSON form.
const Schema = "sageacc/conform/v1"

// errSkip marks a case that there is no model for, or nothing to check of.
type errSkip struct{ error }

// errNoElement is why a case is skipped that has none.
var errNoElement = errors.New("no element to compare")

// Run checks the cases, up to jobs of them at a time, and reports them in order.
// progress, if not nil, is called with the number of finished cases. A malformed
// set is an error; a difference is a failed case.
func Run(ctx context.Context, cases []Case, jobs int, progress func(done int)) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]Result, len(cases))
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range max(1, min(jobs, len(cases))) {
		wg.Go(func() {
			for i := range next {
				r, err := cases[i].run(ctx)
				if err != nil {
					cancel(fmt.Errorf("case %q: %w", cases[i].Name(), err))
					return
				}
				results[i] = r
				mu.Lock()
				done++
				if progress != nil {
					progress(done)
				}
				mu.Unlock()
			}
		})
	}
feed:
	for i := range cases {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	rep := &Report{Schema: Schema, Tool: version.Get(), Cases: results}
	for _, r := range results {
		switch r.Status {
		case Pass:
			rep.Passed++
		case Fail:
			rep.Failed++
		default:
			rep.Skipped++
		}
	}
	return rep, nil
}

// run checks one case.
func (c *Case) run(ctx context.Context) (Result, error) {
	r := Result{File: c.File, Expect: c.Expect, Op: c.Op, Arch: c.Arch, Unit: c.Instruction}
	if r.Unit == "" {
		r.Unit = c.Kernel
	}
	f, err := safetensors.Open(filepath.Join(c.dir, c.File))
	if err != nil {
		return r, err
	}
	defer f.Close()
	r.Device = f.Metadata["device"]
	var check func(context.Context, file, *comparison) error
	switch c.Op {
	case "unary":
		check = c.unary
	case "arith":
		check = c.arith
	case "mma":
		check = c.mma
	case "quantize":
		check = c.quantize
	case "attention":
		check = c.attention
	default:
		r.Status, r.Reason = Skip, fmt.Sprintf("no model of op %q", c.Op)
		return r, nil
	}
	cmp := &comparison{}
	read := file{f, new(atomic.Pointer[error])}
	err = check(ctx, read, cmp)
	if fault := read.fault.Load(); fault != nil {
		return r, *fault // what was checked since was made of zeros
	}
	if err != nil {
		var skip errSkip
		if errors.As(err, &skip) {
			r.Status, r.Reason = Skip, skip.Error()
			return r, nil
		}
		return r, err
	}
	r.Elements, r.Mismatched, r.First = cmp.elements, cmp.mismatched, cmp.first
	switch {
	case r.Mismatched > 0:
		r.Status = Fail
	case r.Elements == 0:
		r.Status, r.Reason = Skip, errNoElement.Error()
	default:
		r.Status = Pass
	}
	return r, nil
}

// comparison counts the elements that differ.
type comparison struct {
	elements, mismatched int64
	first                *Difference
	firstAt              int
}

// add compares element i of the expected tensor with an emulated bit pattern.
func (m *comparison) add(t *tensor, i int, emulated uint32) {
	m.elements++
	want := bitsAt(t, i)
	if isNaN(t.DType, emulated) {
		emulated = nan(t.DType)
	}
	if want == emulated || isNaN(t.DType, want) && isNaN(t.DType, emulated) {
		return
	}
	m.mismatched++
	if m.first != nil && m.firstAt < i {
		return
	}
	index := make([]int, len(t.Shape))
	rest := i
	for d := len(index) - 1; d >= 0; d-- {
		index[d] = rest % t.Shape[d]
		rest /= t.Shape[d]
	}
	digits := 2 * width(t.DType)
	mask := uint32(1)<<(4*digits-1)<<1 - 1
	m.firstAt = i
	m.first = &Difference{
		Index:    index,
		Recorded: fmt.Sprintf("0x%0*x", digits, want&mask),
		Emulated: fmt.Sprintf("0x%0*x", digits, emulated&mask),
	}
}
