package texttab_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
)

var (
	sample = texttab.Table{
		Header: []string{"layer", "cos", "note"},
		Align:  []texttab.Align{texttab.Left, texttab.Right},
		Rows: [][]string{
			{"layers.3.attn", "0.99", `a|b, "quoted"`},
			{"größe µ", "-12.5"},
			{"x", "1", "two\nlines", "unnamed"},
		},
	}
	headless = texttab.Table{Rows: [][]string{{"a", "bb"}, {"ccc"}}}
	escapes  = texttab.Table{Header: []string{`a\|b`}, Rows: [][]string{{"x\r\ny\tz"}}}
	wide     = texttab.Table{Header: []string{"層", "n"}, Rows: [][]string{{"注意層.3", "1"}, {"e\u0301.o", "\xff"}}}
	empty    texttab.Table
)

func TestText(t *testing.T) {
	golden(t, (*texttab.Table).Text, map[*texttab.Table]string{
		&sample: `
layer            cos  note
-------------  -----  -------------  -------
layers.3.attn   0.99  a|b, "quoted"
größe µ        -12.5
x                  1  two lines      unnamed
`,
		&headless: `
a    bb
ccc
`,
		&escapes: `
a\|b
-----
x y z
`,
		&wide: `
層        n
--------  -
注意層.3  1
é.o       �
`,
		&empty: "\n",
	})
}

func TestMarkdown(t *testing.T) {
	golden(t, (*texttab.Table).Markdown, map[*texttab.Table]string{
		&sample: `
| layer         |   cos | note           |         |
| ------------- | ----: | -------------- | ------- |
| layers.3.attn |  0.99 | a\|b, "quoted" |         |
| größe µ       | -12.5 |                |         |
| x             |     1 | two<br>lines   | unnamed |
`,
		&headless: `
|     |     |
| --- | --- |
| a   | bb  |
| ccc |     |
`,
		&escapes: `
| a\\\|b   |
| -------- |
| x<br>y z |
`,
		&empty: "\n",
	})
}

func TestCSV(t *testing.T) {
	golden(t, (*texttab.Table).CSV, map[*texttab.Table]string{
		&sample: `
layer,cos,note,
layers.3.attn,0.99,"a|b, ""quoted""",
größe µ,-12.5,,
x,1,"two
lines",unnamed
`,
		&headless: `
a,bb
ccc,
`,
		&empty: "\n",
	})
}

func TestShorten(t *testing.T) {
	long := strings.Repeat("blocks.", 1000) + "attn"
	for _, tc := range []struct {
		name  string
		s     string
		width int
		want  string
	}{
		{"short", "layers.0.attn", 13, "layers.0.attn"},
		{"one too many", "layers.0.attn", 12, "layers….attn"},
		{"even", "layers.0.attn", 11, "layer….attn"},
		{"very long", long, 20, "blocks.blo…ocks.attn"},
		{"two columns a character", "注意層注意層", 12, "注意層注意層"},
		{"two columns, cut", "注意層注意層", 8, "注意…層"},
		{"a base and its accent stay together", strings.Repeat("e\u0301", 9), 5, "e\u0301e\u0301…e\u0301e\u0301"},
		{"a family is one character", strings.Repeat("👨‍👩‍👧", 5), 5, "👨‍👩‍👧…👨‍👩‍👧"},
		{"control characters", "a\x1b[31m\nb", 20, `a\x1b[31m b`},
		{"not UTF-8", "a\x9bb", 20, "a\ufffdb"},
		{"nothing fits", "注意", 1, "…"},
		{"empty", "", 5, ""},
	} {
		if got := texttab.Shorten(tc.s, tc.width); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// golden renders each table and compares it with its text, which begins on the
// line after the opening quote.
func golden(t *testing.T, render func(*texttab.Table, io.Writer) error, cases map[*texttab.Table]string) {
	t.Helper()
	for table, want := range cases {
		var b strings.Builder
		if err := render(table, &b); err != nil {
			t.Error(err)
		}
		if want = want[1:]; b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	}
}

type brokenPipe struct{}

var errPipe = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errPipe }

func TestWriteErrors(t *testing.T) {
	for _, render := range []func(io.Writer) error{sample.Text, sample.Markdown, sample.CSV} {
		if err := render(brokenPipe{}); !errors.Is(err, errPipe) {
			t.Errorf("got %v", err)
		}
	}
}
