package render

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

var hostile = Case{Group: "k", Name: "a<b>\x1b|`c`: gate", Failure: "x > 1 & \"y\"\nnext"}

// TestJUnit: names and texts come back as they were, control characters escaped.
func TestJUnit(t *testing.T) {
	var b strings.Builder
	if err := JUnit(&b, "suite", []Case{hostile, {Group: "k", Name: "fine"}, {Group: "k", Name: "none", Skipped: "no output"}}); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatalf("%v in:\n%s", err, &b)
	}
	s := got.Suite
	if s.Tests != 3 || s.Failures != 1 || s.Skipped != 1 || s.Cases[0].Name != "a<b>\\x1b|`c`: gate" || s.Cases[0].Failure.Message != "x > 1 & \"y\"\\nnext" || s.Cases[1].Failure != nil {
		t.Errorf("%+v in:\n%s", s, &b)
	}
	if err := JUnit(full{}, "s", nil); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}

// full is a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

// TestSummary: what comes from files cannot be markup, and thousands of failures are a
// few lines.
func TestSummary(t *testing.T) {
	o := Outcome{Title: "t", Verdict: []string{"not finite: a<script>\x1b*x*"}, Cases: []Case{hostile, {Name: "fine"}, {Name: "none", Skipped: "no"}}}
	for range 50 {
		o.Failures = append(o.Failures, "layer a|[b](c): worse")
	}
	var b strings.Builder
	if err := Summary(&b, o, func(w io.Writer) error { _, err := io.WriteString(w, "TABLE\n"); return err }); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"### t: failed\n\n- not finite: a&lt;script&gt;\\\\x1b\\*x\\*\n", "\n1 checks passed, 50 failed, 1 skipped\n", "- layer a\\|\\[b\\](c): worse\n", "- … 30 more\n",
		"<details><summary>table</summary>\n\nTABLE\n\n</details>\n\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Count(got, "worse") != 20 {
		t.Errorf("%d failures in:\n%s", strings.Count(got, "worse"), got)
	}
	b.Reset()
	if err := Summary(&b, Outcome{Title: "t", Verdict: []string{"all fine"}}, func(io.Writer) error { return nil }); err != nil || !strings.HasPrefix(b.String(), "### t: passed\n\n- all fine\n") {
		t.Errorf("%v:\n%s", err, &b)
	}
	if Summary(full{}, o, nil) == nil || Summary(&b, o, func(io.Writer) error { return errors.New("no") }) == nil {
		t.Error("an error is lost")
	}
}
