package texttab_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
)

// rude is text that a terminal, an editor or a reader would be misled by.
const rude = "a\x1b[2Jb\x07\u202etxt\u2066c\u2069\u200b\ufeff\u2028\u0085\u009b31m\U000e0041\xff\x80z\r\n\t|"

func TestPrintable(t *testing.T) {
	want := `a\x1b[2Jb\a\u202etxt\u2066c\u2069\u200b\ufeff\u2028\u0085\u009b31m\U000e0041` + "\ufffd\ufffd" + `z\r\n\t|`
	if got := texttab.Printable(rude); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, s := range []string{"", "layers.0.attn", "größe 注意 👨\u200d👩\u200d👧"} {
		if got := texttab.Printable(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

func TestCut(t *testing.T) {
	for _, s := range []string{"short", strings.Repeat("x", 100)} {
		if got := texttab.Cut(s, 100); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
	for _, s := range []string{
		"begin" + strings.Repeat("x", 91) + "\n.end", "begin" + strings.Repeat("注", 1000) + ".end", "begin" + strings.Repeat("\x1b", 1_000_000) + ".end",
	} {
		got := texttab.Cut(s, 100)
		if n := utf8.RuneCountInString(got); n > 100 || !utf8.ValidString(got) || !strings.HasPrefix(got, "begin") || !strings.HasSuffix(got, ".end") || strings.Contains(got, "\n") {
			t.Errorf("%d characters: %q", n, got)
		}
	}
}

// TestSafe: text comes the same however it is split, and without hidden characters.
func TestSafe(t *testing.T) {
	text := rude + "line 2 größe\n"
	want := strings.ReplaceAll(texttab.Printable(text), `\n`, "\n")
	for size := 1; size <= len(text); size++ {
		var b bytes.Buffer
		w := texttab.Safe(&b)
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if m, err := w.Write([]byte(rest[:n])); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		if got := b.String(); got != want {
			t.Fatalf("by %d bytes: %q, want %q", size, got, want)
		}
	}
}

func TestSafeJSON(t *testing.T) {
	in := map[string]string{rude: "größe \u202e \U000e0041 \\u202e"}
	var b bytes.Buffer
	e := json.NewEncoder(texttab.SafeJSON(&b))
	e.SetEscapeHTML(false)
	if err := e.Encode(in); err != nil {
		t.Fatal(err)
	}
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if texttab.Printable(string(r)) != string(r) {
			t.Errorf("%q in %s", r, b.Bytes())
		}
	}
	var out map[string]string
	plain, _ := json.Marshal(in)
	var want map[string]string
	if err := json.Unmarshal(plain, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || fmt.Sprint(out) != fmt.Sprint(want) {
		t.Errorf("read back as %q, %v", out, err)
	}
}

func TestLines(t *testing.T) {
	var b bytes.Buffer
	fmt.Fprintf(texttab.Lines(&b, 50), "sageacc: %s: bad\nnext \x1b\n", strings.Repeat("n", 1000))
	all := strings.Split(b.String(), "\n")
	if len(all) != 3 || len(all[0]) > 50 || !strings.HasSuffix(all[0], ": bad") || all[1] != `next \x1b` || all[2] != "" {
		t.Errorf("%q", all)
	}
}

// TestNoFormula: no cell of CSV is a formula for a spreadsheet, and no number is
// changed.
func TestNoFormula(t *testing.T) {
	for cell, want := range map[string]string{
		`=cmd|' /C calc'!A0`: `'=cmd|' /C calc'!A0`,
		"+1+2":               "'+1+2",
		"-2+3":               "'-2+3",
		"@SUM(A1)":           "'@SUM(A1)",
		"\t=1":               "'\t=1",
		"\r=1":               "'\r=1",
		"＝1":                 "'＝1",
		"-":                  "'-",
		"-1.5e-7":            "-1.5e-7",
		"+Inf":               "+Inf",
		"-Inf":               "-Inf",
		"a=b":                "a=b",
		"":                   "",
	} {
		table := texttab.Table{Header: []string{"x", "y"}, Rows: [][]string{{cell, "z"}}}
		var b bytes.Buffer
		if err := table.CSV(&b); err != nil {
			t.Fatal(err)
		}
		records, err := csv.NewReader(&b).ReadAll()
		if err != nil || len(records) != 2 || strings.ReplaceAll(records[1][0], "\n", "\r") != strings.ReplaceAll(want, "\n", "\r") {
			t.Errorf("%q: %q, %v", cell, records, err)
		}
	}
}

// TestMarkdownIsText: what stands in a cell or a line is no link, picture or HTML.
func TestMarkdownIsText(t *testing.T) {
	const s = "![x](http://x) <img src=x> [a]: b|c"
	table := texttab.Table{Header: []string{"x"}, Rows: [][]string{{s}}}
	var b bytes.Buffer
	if err := table.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{b.String(), texttab.Markdown(s)} {
		if strings.Contains(text, "<img") || strings.Contains(strings.ReplaceAll(text, `\[`, ""), "[") {
			t.Errorf("%s", text)
		}
	}
}
