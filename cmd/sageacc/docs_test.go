package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// faulty copies the sample, with n FP16 elements of a tensor set from one on, every
// step-th.
func faulty(t *testing.T, path, tensor string, from, n, step int, bits uint16) {
	t.Helper()
	f, err := safetensors.Open(sample)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ts []safetensors.Tensor
	found := false
	for _, read := range f.Tensors {
		x := safetensors.Tensor{Name: read.Name, DType: read.DType, Shape: read.Shape}
		if x.Data, err = read.Bytes(); err != nil {
			t.Fatal(err)
		}
		if x.Name == tensor {
			found = true
			for i := range n {
				binary.LittleEndian.PutUint16(x.Data[2*(from+i*step):], bits)
			}
		}
		ts = append(ts, x)
	}
	if !found {
		t.Fatalf("the sample has no %s", tensor)
	}
	if err := safetensors.Write(path, f.Metadata, ts); err != nil {
		t.Fatal(err)
	}
}

// TestRoles runs the pages of docs/roles as a reader would, command after command in one
// folder, and holds what stands there to what is printed. A line of dots stands for any
// lines, and [status 1] for an exit status that is not 0.
func TestRoles(t *testing.T) {
	pages, err := filepath.Glob("../../docs/roles/*.md")
	if err != nil || len(pages) != 5 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	readme := read(t, "../../README.md")
	for _, path := range pages {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			data, err := os.ReadFile(sample)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "dump.safetensors"), data, 0o644); err != nil {
				t.Fatal(err)
			}
			const heads, tokens, dim = 2, 1024, 64
			// A query tile of NaN in head 1, a channel of zeros in head 1, an infinite query.
			faulty(t, filepath.Join(dir, "black.safetensors"), "layers.0.attn.o", (tokens+640)*dim, 64*dim, 1, 0x7e00)
			faulty(t, filepath.Join(dir, "zero.safetensors"), "layers.3.attn.v", tokens*dim+7, tokens, dim, 0)
			faulty(t, filepath.Join(dir, "upstream.safetensors"), "layers.3.attn.q", 5*dim, dim, 1, 0x7c00)
			recordings, err := filepath.Abs("../../hardware/conformance/testdata/h200")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(recordings, filepath.Join(dir, "h200")); err != nil {
				t.Fatal(err)
			}
			t.Chdir(dir)
			commands := 0
			for _, block := range fences(string(text)) {
				lines := strings.Split(strings.TrimSuffix(block, "\n"), "\n")
				for i := 0; i < len(lines); {
					command, ok := strings.CutPrefix(lines[i], "$ ")
					if !ok {
						if commands > 0 {
							t.Errorf("%q belongs to no command", lines[i])
						}
						i++
						continue
					}
					commands++
					var want []string
					for i++; i < len(lines) && !strings.HasPrefix(lines[i], "$ "); i++ {
						want = append(want, lines[i])
					}
					args := words(command)
					if args[0] != "sageacc" {
						t.Fatalf("%q is not a sageacc command", command)
					}
					code, out, errs := sage(t, args[1:]...)
					got := strings.Split(strings.TrimSuffix(out+errs, "\n"), "\n")
					if out+errs == "" {
						got = nil
					}
					if code != exitOK {
						got = append(got, fmt.Sprintf("[status %d]", code))
					}
					if !like(got, want) {
						t.Errorf("$ %s prints\n%s\nbut the page says\n%s", command, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				}
			}
			row := fmt.Sprintf("(docs/roles/%s) | ", filepath.Base(path))
			if _, rest, ok := strings.Cut(readme, row); !ok || !strings.HasPrefix(rest[strings.Index(rest, "| "):], fmt.Sprintf("| %d |\n", commands)) {
				t.Errorf("%d commands, which is not what the README says", commands)
			}
		})
	}
}

// fences are the blocks of a page between lines of three backquotes.
func fences(text string) []string {
	var out []string
	parts := strings.Split("\n"+text, "\n```")
	for i := 1; i < len(parts); i += 2 {
		kind, body, _ := strings.Cut(parts[i], "\n")
		if kind == "" {
			out = append(out, body)
		}
	}
	return out
}

// like matches lines with a pattern in which "..." stands for any lines.
func like(got, want []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "...":
		for i := range len(got) + 1 {
			if like(got[i:], want[1:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && got[0] == want[0] && like(got[1:], want[1:])
}

func TestLike(t *testing.T) {
	lines := strings.Fields
	for _, tc := range []struct {
		got, want string
		ok        bool
	}{
		{"a b c", "a b c", true}, {"a b c", "a ... c", true}, {"a b c", "...", true}, {"a b c", "... b ...", true}, {"a c", "a ... c", true},
		{"a b c", "a b", false}, {"a b c", "a ... d", false}, {"a b", "a b c", false}, {"", "", true}, {"", "...", true}, {"a", "", false}, {"b a", "a ... b", false},
	} {
		if got := like(lines(tc.got), lines(tc.want)); got != tc.ok {
			t.Errorf("%q like %q: %v", tc.got, tc.want, got)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	anchor  = regexp.MustCompile(`<a id="([^"]+)">`)
)

// anchors are the targets of a page's links, as GitHub names them.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		var b strings.Builder
		for _, r := range strings.ToLower(m[1]) {
			switch {
			case r == ' ' || r == '-':
				b.WriteByte('-')
			case r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127:
				b.WriteRune(r)
			}
		}
		out = append(out, b.String())
	}
	for _, m := range anchor.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// TestLinks: links in the documentation, and from reports to it, lead somewhere.
func TestLinks(t *testing.T) {
	leads := func(t *testing.T, from, target string) {
		t.Helper()
		file, part, _ := strings.Cut(target, "#")
		if file == "" {
			file = filepath.Base(from)
		}
		path := filepath.Join(filepath.Dir(from), file)
		b, err := os.ReadFile(path)
		if st, e := os.Stat(path); e == nil && st.IsDir() {
			return
		}
		if err != nil {
			t.Errorf("%s: %s: %v", from, target, err)
			return
		}
		if part != "" && !slices.Contains(anchors(string(b)), part) {
			t.Errorf("%s: %s has no %q", from, path, part)
		}
	}
	var pages []string
	for _, p := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md", "../../python/README.md", "../../notebooks/README.md"} {
		m, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, m...)
	}
	n := 0
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if !strings.Contains(m[1], "://") {
				n++
				leads(t, p, m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d links", n)
	}
	// Of a report: in its HTML, and what its script makes.
	dir := t.TempDir()
	result, page := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.html")
	if code, _, errs := sage(t, "compare", sample, "--format", "json", "-o", result); code != exitOK {
		t.Fatal(errs)
	}
	if code, _, errs := sage(t, "report", result, "-o", page); code != exitOK {
		t.Fatal(errs)
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const url = "https://github.com/sageacc/sageacc/blob/main/docs/"
	found := 0
	for _, re := range []*regexp.Regexp{regexp.MustCompile(`href="` + regexp.QuoteMeta(url) + `([^"]+)"`), regexp.MustCompile(`docs\('([^']+)'`)} {
		for _, m := range re.FindAllStringSubmatch(string(b), -1) {
			found++
			leads(t, "../../docs/x", m[1])
		}
	}
	if found < 6 {
		t.Errorf("the report has %d links to the documentation", found)
	}
}
