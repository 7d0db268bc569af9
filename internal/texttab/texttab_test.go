package texttab_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/internal/texttab"
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
