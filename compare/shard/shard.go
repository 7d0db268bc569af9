// Package shard divides a run over a dump into shards that cost about the same, and joins
// what they gave. The result is that of one run, to the byte.
package shard

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/journal"
	"github.com/sageacc/sageacc/internal/ranges"
)

// Shard is one of so many, counted from 1.
type Shard struct{ Index, Count int }

// String returns the form that Parse reads, "3/8".
func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Index, s.Count) }

// maxCount is how many shards there may be.
const maxCount = journal.MaxShards

// Parse reads "I/N", or "array" or "array/N", for which the environment says which shard
// it is: a Slurm job array (SLURM_ARRAY_TASK_ID, and SLURM_ARRAY_TASK_COUNT where N is
// not given) or an Indexed Job of Kubernetes (JOB_COMPLETION_INDEX). Both count from 0.
func Parse(s string, getenv func(string) string) (Shard, error) {
	index, count, both := strings.Cut(s, "/")
	if index == "array" {
		return fromArray(count, both, getenv)
	}
	i, err1 := strconv.Atoi(index)
	n, err2 := strconv.Atoi(count)
	if !both || err1 != nil || err2 != nil || n < 1 || n > maxCount || i < 1 || i > n {
		return Shard{}, fmt.Errorf("%q is no shard: want I/N, as in 1/8 to 8/8, array/N or array", s)
	}
	return Shard{i, n}, nil
}

// fromArray asks the environment.
func fromArray(count string, given bool, getenv func(string) string) (Shard, error) {
	number := func(name string) (int, error) {
		n, err := strconv.Atoi(getenv(name))
		if err != nil {
			return 0, fmt.Errorf("%s is %q, which is no number", name, getenv(name))
		}
		return n, nil
	}
	id, from := "SLURM_ARRAY_TASK_ID", "a job array of Slurm"
	if getenv(id) == "" {
		id, from = "JOB_COMPLETION_INDEX", "an Indexed Job of Kubernetes"
	}
	if getenv(id) == "" {
		return Shard{}, errors.New("neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set: this is no task of a job array")
	}
	i, err := number(id)
	if err != nil {
		return Shard{}, err
	}
	var n int
	switch {
	case given:
		if n, err = strconv.Atoi(count); err != nil || n < 1 || n > maxCount {
			return Shard{}, fmt.Errorf("%q is no number of shards", count)
		}
	case id == "JOB_COMPLETION_INDEX":
		return Shard{}, errors.New("an Indexed Job does not tell a task how many there are: want array/N, N as completions in the manifest")
	default:
		if n, err = number("SLURM_ARRAY_TASK_COUNT"); err != nil {
			return Shard{}, err
		}
		// Of an array of other numbers, such as one task that is run again, these are
		// not the shards.
		if first, last := getenv("SLURM_ARRAY_TASK_MIN"), getenv("SLURM_ARRAY_TASK_MAX"); first != "0" || last != strconv.Itoa(n-1) {
			return Shard{}, fmt.Errorf("the array's tasks are %s to %s, not 0 to %d: say how many shards there are, as in array/8", first, last, n-1)
		}
	}
	if i < 0 || i >= n {
		return Shard{}, fmt.Errorf("%s is %d, but the tasks of %s with %d shards are 0 to %d", id, i, from, n, n-1)
	}
	return Shard{i + 1, n}, nil
}

// Split returns the chunks of every layer of every run that are the shard's. Shards are
// consecutive: they share out the cost of all chunks, in order.
func (s Shard) Split(runs [][]*compare.Outline) [][]ranges.Set {
	total := 0.0
	for _, layers := range runs {
		for _, o := range layers {
			total += o.TotalCost()
		}
	}
	// A chunk is the shard's that has its middle.
	from, to := float64(total*float64(s.Index-1))/float64(s.Count), float64(total*float64(s.Index))/float64(s.Count)
	if s.Index == s.Count {
		to = 2 * total // whatever rounding makes of the last
	}
	var out [][]ranges.Set
	before := 0.0
	for _, layers := range runs {
		var of []ranges.Set
		for _, o := range layers {
			of = append(of, chunks(o, before, from, to))
			before += o.TotalCost()
		}
		out = append(out, of)
	}
	return out
}

// chunks are those of a layer whose middles cost from to to, if what is before it costs
// before.
func chunks(o *compare.Outline, before, from, to float64) ranges.Set {
	if before >= to || before+o.TotalCost() < from {
		return nil
	}
	var out ranges.Set
	for _, r := range o.All() {
		first, end := -1, 0
		for c := r[0]; c < r[1]; c++ {
			cost := o.Cost(c)
			if middle := before + float64(cost/2); middle >= from && middle < to {
				if first < 0 {
					first = c
				}
				end = c + 1
			}
			before += cost
		}
		if first >= 0 {
			out = append(out, [2]int{first, end})
		}
	}
	return out
}
