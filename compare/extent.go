package compare

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sageacc/sageacc/metrics"
)

// Extent says where in an output some of its elements lie.
type Extent struct {
	// Elements is how many there are.
	Elements int64 `json:"elements"`
	// First is the first of them, by batch, head, token, channel.
	First metrics.Position `json:"first"`
	// FirstToken and LastToken are the smallest and the largest token of any head.
	FirstToken int `json:"first_token"`
	LastToken  int `json:"last_token"`
	// Heads is how many heads, of every batch, hold any, and Most those that hold the
	// most, at most eight of them, most first.
	Heads int          `json:"heads"`
	Most  []HeadExtent `json:"most"`
}

// HeadExtent is the part of an Extent in one head.
type HeadExtent struct {
	Batch      int   `json:"batch"`
	Head       int   `json:"head"`
	Elements   int64 `json:"elements"`
	FirstToken int   `json:"first_token"`
	LastToken  int   `json:"last_token"`
}

// mostHeads is how many heads an Extent lists.
const mostHeads = 8

// span is an Extent in the making: the elements of a chunk, or of a head.
type span struct {
	elements    int64
	channel     int // of the first
	first, last int // tokens
}

// add takes in an element. Elements come in order.
func (s *span) add(token, channel int) {
	if s.elements == 0 {
		s.first, s.channel = token, channel
	}
	s.elements++
	s.last = token
}

// merge takes in the elements of another part of the head.
func (s *span) merge(o *span) {
	if o == nil || o.elements == 0 {
		return
	}
	if s.elements == 0 {
		*s = *o
		return
	}
	if o.first < s.first {
		s.first, s.channel = o.first, o.channel
	}
	s.elements += o.elements
	s.last = max(s.last, o.last)
}

// add takes in the elements of a head. It returns e, or a new Extent if e is nil and
// there are any.
func (e *Extent) add(batch, head int, s *span) *Extent {
	if s.elements == 0 {
		return e
	}
	return e.merge(&Extent{
		Elements: s.elements, Heads: 1,
		First:      metrics.Position{Batch: batch, Head: head, Token: s.first, Channel: s.channel},
		FirstToken: s.first, LastToken: s.last,
		Most: []HeadExtent{{batch, head, s.elements, s.first, s.last}},
	})
}

// merge takes in an Extent of other heads. Either may be nil; o is not changed.
func (e *Extent) merge(o *Extent) *Extent {
	if o == nil {
		return e
	}
	if e == nil {
		e = &Extent{First: o.First, FirstToken: o.FirstToken, LastToken: o.LastToken}
	}
	if o.First.Less(e.First) {
		e.First = o.First
	}
	e.Elements += o.Elements
	e.Heads += o.Heads
	e.FirstToken, e.LastToken = min(e.FirstToken, o.FirstToken), max(e.LastToken, o.LastToken)
	e.Most = slices.Concat(e.Most, o.Most)
	slices.SortFunc(e.Most, func(a, b HeadExtent) int {
		return cmp.Or(cmp.Compare(b.Elements, a.Elements), cmp.Compare(a.Batch, b.Batch), cmp.Compare(a.Head, b.Head))
	})
	e.Most = e.Most[:min(len(e.Most), mostHeads)]
	return e
}

// describe says in words where the elements lie. A query tile is tile tokens; 0 for
// unknown.
func (e *Extent) describe(s Shape, tile int) string {
	where := func(batch, head int) string {
		if s.Batch > 1 {
			return fmt.Sprintf("batch %d, head %d", batch, head)
		}
		return fmt.Sprintf("head %d", head)
	}
	tokens := func(first, last int) string {
		out := fmt.Sprintf("tokens %d to %d", first, last)
		switch {
		case first == 0 && last == s.Queries-1:
			return "from the first token to the last"
		case first == last:
			out = fmt.Sprintf("token %d", first)
		}
		if tile == 0 {
			return out
		}
		if first/tile == last/tile {
			return fmt.Sprintf("%s (query tile %d)", out, first/tile)
		}
		return fmt.Sprintf("%s (query tiles %d to %d)", out, first/tile, last/tile)
	}
	all, m := s.Batch*s.Heads, e.Most[0]
	switch {
	case e.Heads == 1:
		return fmt.Sprintf("in %s of %d, %s", where(m.Batch, m.Head), s.Heads, tokens(e.FirstToken, e.LastToken))
	case e.Heads == all && m.Elements*int64(all) == e.Elements:
		return fmt.Sprintf("in all %d heads alike, %s", all, tokens(e.FirstToken, e.LastToken))
	case e.Heads == all:
		return fmt.Sprintf("in all %d heads, most in %s, %s", all, where(m.Batch, m.Head), tokens(e.FirstToken, e.LastToken))
	default:
		return fmt.Sprintf("in %d of %d heads, most in %s, %s", e.Heads, all, where(m.Batch, m.Head), tokens(e.FirstToken, e.LastToken))
	}
}
