package render

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
	"github.com/sageacc/sageacc/compare"
)

// Case is a check of a layer, for programs that collect the outcomes of tests.
type Case struct {
	// Group is what is checked, Name the layer and the check.
	Group, Name string
	// Failure says what is wrong, Skipped why nothing was checked; empty for a check
	// that passed.
	Failure, Skipped string
}

// CasesOf makes cases of checks.
func CasesOf(checks []compare.Check) []Case {
	var out []Case
	for _, c := range checks {
		x := Case{Group: c.Kernel, Name: c.Layer + ": " + c.Gate}
		switch c.Status {
		case compare.Failed:
			x.Failure = c.Text
		case compare.Skipped:
			x.Skipped = c.Text
		}
		out = append(out, x)
	}
	return out
}

// JUnit writes cases in the XML that continuous integration reads as the outcome of
// tests: a suite of one test case each.
func JUnit(w io.Writer, suite string, cases []Case) error {
	type message struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Failure *message `xml:"failure,omitempty"`
		Skipped *message `xml:"skipped,omitempty"`
	}
	type testsuite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	type testsuites struct {
		XMLName  xml.Name  `xml:"testsuites"`
		Tests    int       `xml:"tests,attr"`
		Failures int       `xml:"failures,attr"`
		Suite    testsuite `xml:"testsuite"`
	}
	s := testsuite{Name: suite, Tests: len(cases), Cases: make([]testcase, 0, len(cases))}
	for _, c := range cases {
		x := testcase{Class: texttab.Printable(c.Group), Name: name(c.Name)}
		switch {
		case c.Failure != "":
			s.Failures++
			text := texttab.Printable(c.Failure)
			x.Failure = &message{Message: text, Type: "check", Text: text}
		case c.Skipped != "":
			s.Skipped++
			x.Skipped = &message{Message: texttab.Printable(c.Skipped)}
		}
		s.Cases = append(s.Cases, x)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(testsuites{Tests: s.Tests, Failures: s.Failures, Suite: s}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// Outcome is what became of a run, for a summary.
type Outcome struct {
	Title string
	// Verdict is in lines.
	Verdict []string
	// Cases are all checks, Failures those that failed, in words, worst first.
	Cases    []Case
	Failures []string
}

// mostFailures is how many failed checks a summary lists.
const mostFailures = 20

// Summary writes what a GitHub step shows of a run: title and outcome, the lines of
// the verdict, the checks that failed, and the body that table adds, folded.
func Summary(w io.Writer, o Outcome, table func(io.Writer) error) error {
	outcome := "passed"
	if len(o.Failures) > 0 {
		outcome = "failed"
	}
	var b strings.Builder
	line := func(s string) { fmt.Fprintf(&b, "- %s\n", texttab.Markdown(texttab.Shorten(s, lineWidth))) }
	fmt.Fprintf(&b, "### %s: %s\n\n", texttab.Markdown(o.Title), outcome)
	for _, l := range o.Verdict {
		line(l)
	}
	if len(o.Cases) > 0 {
		passed, skipped := 0, 0
		for _, c := range o.Cases {
			switch {
			case c.Skipped != "":
				skipped++
			case c.Failure == "":
				passed++
			}
		}
		fmt.Fprintf(&b, "\n%d checks passed, %d failed, %d skipped\n", passed, len(o.Failures), skipped)
	}
	if len(o.Failures) > 0 {
		b.WriteString("\n")
	}
	for i, f := range o.Failures {
		if i == mostFailures {
			fmt.Fprintf(&b, "- … %d more\n", len(o.Failures)-i)
			break
		}
		line(f)
	}
	b.WriteString("\n<details><summary>table</summary>\n\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	if err := table(w); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n</details>\n\n")
	return err
}
