package main

import (
	"bytes"
	"testing"
	"time"
)

// TestProgress: a log gets a line a minute, a terminal a bar; what was done before does
// not count for the rate.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	at := time.Unix(0, 0)
	p := &progress{w: &out, label: "compare k", now: func() time.Time { return at }, percent: -1}
	p.start, p.shown = at, at
	want := func(text string) {
		t.Helper()
		if out.String() != text {
			t.Errorf("wrote %q, want %q", &out, text)
		}
		out.Reset()
	}
	p.layer(20, 40)
	p.skip(0.5)
	p.show(0.5)
	want("")
	at = at.Add(59 * time.Second)
	p.show(0.51)
	want("")
	at = at.Add(time.Second)
	p.show(0.6)
	want("sageacc: compare k: 60%, 20 of 40 layers, 4.00 layers/min, 4 min left\n")
	at = at.Add(time.Second)
	p.show(0.61)
	want("")
	p.erase()
	want("")

	p.bar = true
	p.show(0.7)
	want("\r\x1b[Kcompare k [############################............]  70%, 20 of 40 layers, 7.87 layers/min, 92 s left")
	p.show(0.701)
	want("")
	at = at.Add(time.Second)
	p.show(0.702)
	want("\r\x1b[Kcompare k [############################............]  70%, 20 of 40 layers, 7.82 layers/min, 91 s left")
	p.erase()
	want("\r\x1b[K")
}

func TestRough(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second: "1 s", 98 * time.Second: "98 s", 100 * time.Second: "2 min", 5 * time.Hour: "5.0 h", 1000 * time.Hour: "42 days",
	} {
		if got := rough(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
