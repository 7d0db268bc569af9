package main

import (
	"fmt"
	"io"
	"strings"
)

// eraseLine is what removes a bar from a terminal.
const eraseLine = "\r\x1b[K"

// progress is a bar on a terminal, nothing elsewhere.
type progress struct {
	w     io.Writer
	label string
	last  int
}

// progress returns a bar on standard error if that is a terminal.
func (e *env) progress(label string) *progress {
	if e.terminal != nil {
		return &progress{w: e.terminal, label: label, last: -1}
	}
	return &progress{}
}

// show draws the finished part, 0 to 1.
func (p *progress) show(part float64) {
	if p.w == nil {
		return
	}
	const width = 40
	percent := int(part * 100)
	if percent == p.last {
		return
	}
	p.last = percent
	full := min(width, int(part*width))
	fmt.Fprintf(p.w, "\r%s [%s%s] %3d%%", p.label, strings.Repeat("#", full), strings.Repeat(".", width-full), percent)
}

// erase removes the bar.
func (p *progress) erase() {
	if p.w != nil && p.last >= 0 {
		fmt.Fprint(p.w, eraseLine)
	}
}
