package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// eraseLine is what removes a bar from a terminal.
const eraseLine = "\r\x1b[K"

// How often a bar is drawn anew at least while it moves, and how often a log gets a
// line.
const (
	barEvery = 500 * time.Millisecond
	logEvery = time.Minute
)

// progress is a bar on a terminal; elsewhere, in a log, a line a minute.
type progress struct {
	w     io.Writer
	bar   bool
	label string
	now   func() time.Time

	mu           sync.Mutex
	start, shown time.Time
	percent      int
	part         float64
	skipped      float64 // of it, which took no time: an earlier run did it
	done, layers int
}

// progress returns what shows how far a command is, on standard error.
func (e *env) progress(label string) *progress {
	p := &progress{w: e.stderr, label: label, now: time.Now, percent: -1}
	if e.terminal != nil {
		p.w, p.bar = e.terminal, true
	}
	p.start = p.now()
	p.shown = p.start
	return p
}

// layer takes in how many layers are finished.
func (p *progress) layer(done, layers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.layers = done, layers
}

// skip takes in that a part, 0 to 1, was done by an earlier run.
func (p *progress) skip(part float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.skipped += part
}

// show shows the finished part, 0 to 1.
func (p *progress) show(part float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = part
	now, percent := p.now(), int(part*100)
	if p.bar {
		if percent == p.percent && now.Sub(p.shown) < barEvery {
			return
		}
		const width = 40
		full := min(width, int(part*width))
		fmt.Fprintf(p.w, "%s%s [%s%s] %3d%%%s", eraseLine, p.label, strings.Repeat("#", full), strings.Repeat(".", width-full), percent, p.more(now))
	} else {
		if now.Sub(p.shown) < logEvery {
			return
		}
		fmt.Fprintf(p.w, "sageacc: %s: %d%%%s\n", p.label, percent, p.more(now))
	}
	p.percent, p.shown = percent, now
}

// more says how many layers are finished, how fast, and how much time is left.
func (p *progress) more(now time.Time) string {
	out := ""
	took := now.Sub(p.start)
	computed := p.part - p.skipped
	known := computed > 0 && took >= time.Second
	if p.layers > 0 {
		out += fmt.Sprintf(", %d of %d layers", p.done, p.layers)
		if known {
			perMinute := float64(computed*float64(p.layers)) / took.Minutes()
			digits := 0
			if perMinute < 10 {
				digits = 2
			}
			out += fmt.Sprintf(", %.*f layers/min", digits, perMinute)
		}
	}
	if known && p.part < 1 {
		left := time.Duration(float64(took) * ((1 - p.part) / computed))
		out += ", " + rough(left) + " left"
	}
	return out
}

// rough writes a duration as people say it.
func rough(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 99:
		return fmt.Sprintf("%.0f s", s)
	case s < 99*60:
		return fmt.Sprintf("%.0f min", s/60)
	case s < 99*3600:
		return fmt.Sprintf("%.1f h", s/3600)
	default:
		return fmt.Sprintf("%.0f days", s/86400)
	}
}

// erase removes the bar.
func (p *progress) erase() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar && p.percent >= 0 {
		fmt.Fprint(p.w, eraseLine)
	}
}
