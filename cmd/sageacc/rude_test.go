package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// rude is what a name in a file may be: it moves the cursor, turns the direction of
// text, breaks lines, and is a formula, a link and HTML.
const rude = "=cmd|'/C x'!A0\n\x1b[2J\u202e\u2066\u200b\u0085\u2028[x](http://x)<img src=x>\rsageacc: interrupted\n"

// TestRudeNames: what files say reaches no terminal, spreadsheet or page as anything but
// text.
func TestRudeNames(t *testing.T) {
	ts := append(layer(1, 1, 20, 8), tensor("l.o", 1, 1, 20, 8), tensor("l."+rude, 1))
	for i := range ts {
		ts[i].Name = rude + ts[i].Name[1:]
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "a\x1b[31m\u202eb.safetensors")
	if err := os.Rename(write(t, map[string]string{"synthetic": rude + strings.Repeat(rude, 1000), rude: rude}, ts...), path); err != nil {
		t.Skip(err)
	}
	result := filepath.Join(dir, "result.json")
	if code, _, errs := sage(t, "compare", path, "--format", "json", "-o", result); code != exitOK {
		t.Fatal(errs)
	}
	var r map[string]any
	b, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	r["kernel"].(map[string]any)["name"] = strings.Repeat(rude, 100)
	r["reference"] = rude
	other := filepath.Join(dir, "other.json")
	if b, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, b, 0o644); err != nil {
		t.Fatal(err)
	}
	cases := set(t, `{"file":"none.safetensors","op":"`+strings.Repeat(`\u001b[2J\u202e`, 10_000)+`","expect":"y"}`)
	for _, args := range [][]string{
		{"compare", path}, {"compare", path, "--per-head", "--format", "markdown"}, {"compare", path, "--format", "csv"}, {"compare", path, "--format", "json"},
		{"compare", path, "--explain", "--attribute"}, {"compare", path, "--fail-if", "cos<2"}, {"compare", path, "--expect-bit-exact"}, {"compare", path, "--layers", rude},
		{"compare", path, "--kernel", rude}, {"compare", rude}, {"compare", path, "--" + rude}, {rude},
		{"inspect", path}, {"inspect", path, "--format", "json"}, {"trace", path}, {"trace", path, "--format", "json"}, {"trace", path, "--layer", "x"},
		{"table", "smooth-v", path}, {"table", "smooth-v", path, "--format", "markdown"}, {"table", "smooth-v", path, "--format", "csv"},
		{"recommend", path, "--require", "cos>0"}, {"recommend", path, "--require", "cos>0", "--format", "markdown"},
		{"diff", result, other}, {"diff", result, other, "--format", "markdown"}, {"diff", result, other, "--format", "json"}, {"diff", result, other, "--max-growth", "0"},
		{"report", path, "-o", "-"}, {"conform", cases},
	} {
		code, out, errs := sage(t, args...)
		for _, r := range out + errs {
			if r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
				t.Errorf("%q: %q is written", args, r)
				break
			}
		}
		if strings.Count(withoutNotes(errs), "\n") > 2 || len(errs) > 4*longestLine || code == exitCannotRun && errs == "" {
			t.Errorf("%q: exit %d, stderr of %d bytes: %.300q", args, code, len(errs), errs)
		}
		for line := range strings.SplitSeq(out, "\n") {
			if strings.HasPrefix(line, "sageacc: interrupted") {
				t.Errorf("%q: a name makes a line of its own", args)
			}
		}
		switch args[len(args)-1] {
		case "markdown":
			if strings.Contains(out, "<img") || strings.Contains(out, "[x](") && !strings.Contains(out, `\[x](`) {
				t.Errorf("%q: a name is more than text", args)
			}
			fallthrough
		case "-o":
			for line := range strings.SplitSeq(out, "\n") {
				if len(line) > 4000 {
					t.Errorf("%q: a line of %d bytes", args, len(line))
				}
			}
		case "json":
			if !json.Valid([]byte(out)) {
				t.Errorf("%q: not JSON", args)
			}
		case "csv":
			records, err := csv.NewReader(strings.NewReader(out)).ReadAll()
			if err != nil {
				t.Errorf("%q: %v", args, err)
			}
			for _, cells := range records {
				for _, c := range cells {
					if strings.HasPrefix(c, "=") {
						t.Errorf("%q: %.20q is a formula", args, c)
					}
				}
			}
		}
	}
}
