package compare

import (
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

// merge takes in the elements of a chunk after those that are here.
func (s *span) merge(o *span) {
	if o == nil || o.elements == 0 {
		return
	}
	if s.elements == 0 {
		*s = *o
		return
	}
	s.elements += o.elements
	s.last = o.last
}

// add takes in the elements of a head. Heads come in order. It returns e, or a new
// Extent if e is nil and there are any.
func (e *Extent) add(batch, head int, s *span) *Extent {
	if s.elements == 0 {
		return e
	}
	if e == nil {
		e = &Extent{
			First:      metrics.Position{Batch: batch, Head: head, Token: s.first, Channel: s.channel},
			FirstToken: s.first, LastToken: s.last,
		}
	}
	e.Elements += s.elements
	e.Heads++
	e.FirstToken, e.LastToken = min(e.FirstToken, s.first), max(e.LastToken, s.last)
	at := len(e.Most)
	for at > 0 && e.Most[at-1].Elements < s.elements {
		at--
	}
	if at < mostHeads {
		e.Most = slices.Insert(e.Most, at, HeadExtent{batch, head, s.elements, s.first, s.last})
		e.Most = e.Most[:min(len(e.Most), mostHeads)]
	}
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
