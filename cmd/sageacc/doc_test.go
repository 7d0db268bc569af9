package main

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the examples of the documentation with what the commands print")

// words splits a command line as a shell does, with single quotes only.
func words(line string) []string {
	var out []string
	quoted := false
	cur, in := "", false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, in = !quoted, true
		case r == ' ' && !quoted:
			if in {
				out = append(out, cur)
			}
			cur, in = "", false
		default:
			cur, in = cur+string(r), true
		}
	}
	if in {
		out = append(out, cur)
	}
	return out
}

// example runs a documented command from the repository's root and returns the
// lines it prints, standard error first, as a terminal would show a failed check.
func example(t *testing.T, line string) []string {
	t.Helper()
	t.Chdir("../..")
	args := words(line)
	if args[0] != "sageacc" {
		t.Fatalf("%q is not a sageacc command", line)
	}
	code, out, errs := sage(t, args[1:]...)
	if code == exitCannotRun {
		t.Fatalf("%q: %s", line, errs)
	}
	return strings.Split(strings.TrimSuffix(out+errs, "\n"), "\n")
}

// TestExamples re-runs every "$ sageacc" example of the documentation and holds
// the output that stands there to what is printed. With -update it writes it.
func TestExamples(t *testing.T) {
	for _, doc := range []struct{ path, prefix, end string }{
		{"../../README.md", "", "```"},
		{"../../docs/explain.md", "", "```"},
		{"../../docs/new-kernel.md", "", "```"},
		{"doc.go", "\t", ""},
	} {
		data, err := os.ReadFile(doc.path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(data), "\n")
		var out []string
		examples := 0
		for i := 0; i < len(lines); i++ {
			out = append(out, lines[i])
			command, ok := strings.CutPrefix(lines[i], doc.prefix+"$ ")
			if !ok {
				continue
			}
			examples++
			var got []string
			t.Run(command, func(t *testing.T) { got = example(t, command) })
			var want []string
			for i++; i < len(lines) && !ends(lines[i], doc.prefix, doc.end, lines[i:]); i++ {
				want = append(want, strings.TrimPrefix(lines[i], doc.prefix))
			}
			i--
			for _, l := range got {
				if l != "" {
					l = doc.prefix + l
				}
				out = append(out, l)
			}
			if !*update && strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("%s: $ %s prints\n%s\nbut the document says\n%s\n(go test ./cmd/sageacc -run TestExamples -update)", doc.path, command, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		if examples == 0 {
			t.Errorf("%s has no example", doc.path)
		}
		if *update {
			if err := os.WriteFile(doc.path, []byte(strings.Join(out, "\n")), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// ends reports whether an example's output ends before line: at the closing
// fence, or in a comment at the first line that is not indented and not a blank
// line within the output.
func ends(line, prefix, end string, rest []string) bool {
	if end != "" {
		return line == end
	}
	if strings.HasPrefix(line, prefix) {
		return strings.HasPrefix(line, prefix+"$ ")
	}
	return line != "" || len(rest) < 2 || !strings.HasPrefix(rest[1], prefix) || strings.HasPrefix(rest[1], prefix+"$ ")
}
