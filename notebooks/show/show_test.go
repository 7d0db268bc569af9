package show

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/plot"
)

// outputs makes displays go to a file and returns a function that reads it.
func outputs(t *testing.T) func() []map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outputs")
	t.Setenv(OutputEnv, path)
	return func() []map[string]string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var list []map[string]string
		for line := range strings.Lines(string(b)) {
			var m map[string]string
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			list = append(list, m)
		}
		return list
	}
}

func picture(t *testing.T) *plot.Plot {
	t.Helper()
	p := New("A title", "x label", "y label")
	for _, err := range []error{
		Line(p, "a line", Colour(0), []float64{1, 2, 3}, []float64{1, 10, 100}),
		Dots(p, "some dots", Colour(1), true, []float64{1, 2}, []float64{5, 6}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 4, 1, 1000
	if err := Logarithmic(&p.Y, 10, 1); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPicture(t *testing.T) {
	read := outputs(t)
	for range 2 {
		if err := Picture(300, 200, "**Figure.**", picture(t), picture(t)); err != nil {
			t.Fatal(err)
		}
	}
	got := read()
	if len(got) != 4 {
		t.Fatalf("%d outputs, want a picture and a caption, twice", len(got))
	}
	svg := got[0]["image/svg+xml"]
	for _, want := range []string{"A title", "x label", "y label", "a line", "some dots", "10²", "font-family:Liberation Sans,Arial,"} {
		if !strings.Contains(svg, want) {
			t.Errorf("%s is not in the picture", want)
		}
	}
	if n := strings.Count(svg, ">A title<"); n != 2 {
		t.Errorf("%d plots, want 2", n)
	}
	if got[1]["text/markdown"] != "**Figure.**" {
		t.Errorf("caption %q", got[1]["text/markdown"])
	}
	if got[2]["image/svg+xml"] != svg {
		t.Error("the same picture is not drawn the same twice")
	}
}

func TestHeat(t *testing.T) {
	read := outputs(t)
	p := New("", "", "")
	if err := Heat(p, 2, 10, [][]float64{{0, 0.5}, {1, 0}, {0, 0}}); err != nil {
		t.Fatal(err)
	}
	if err := Picture(300, 200, "", p); err != nil {
		t.Fatal(err)
	}
	svg := read()[0]["image/svg+xml"]
	// Half way from white to the darkest, and the darkest; white is not drawn.
	for colour, want := range map[string]int{"#80A4C0": 1, "#004880": 1} {
		if n := strings.Count(svg, "fill:"+colour); n != want {
			t.Errorf("%d rectangles are %s, want %d:\n%s", n, colour, want, svg)
		}
	}
	if p.X.Min != 0 || p.X.Max != 4 || p.Y.Min != 0 || p.Y.Max != 20 {
		t.Errorf("the map covers %g..%g x %g..%g, want 0..4 x 0..20", p.X.Min, p.X.Max, p.Y.Min, p.Y.Max)
	}
}

func TestLogarithmOfZero(t *testing.T) {
	p := New("", "", "")
	if err := Line(p, "", Colour(0), []float64{1, 2}, []float64{0, 1}); err != nil {
		t.Fatal(err)
	}
	p.Y.Min = 0.1
	if err := Logarithmic(&p.Y, 10, 1); err != nil {
		t.Fatal(err)
	}
	if err := Picture(300, 200, "a picture", p); err == nil || !strings.Contains(err.Error(), `picture "a picture": `) {
		t.Errorf("got %v", err)
	}
}

func TestTable(t *testing.T) {
	read := outputs(t)
	if err := Table([]string{"name", "number"}, [][]string{{"a", "1"}, {"b|c", "10"}}); err != nil {
		t.Fatal(err)
	}
	const want = "| name | number |\n| ---- | -----: |\n| a    |      1 |\n| b\\|c |     10 |\n"
	if got := read()[0]["text/markdown"]; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestNowhere(t *testing.T) {
	t.Setenv(OutputEnv, "")
	if err := Table(nil, nil); err != nil {
		t.Error(err)
	}
	t.Setenv(OutputEnv, filepath.Join(t.TempDir(), "missing", "file"))
	if err := Table(nil, nil); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}

func TestErrors(t *testing.T) {
	p := New("", "", "")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"lengths":        {Line(p, "l", Colour(0), []float64{1}, nil), `line "l": 1 x and 0 y`},
		"dots' lengths":  {Dots(p, "d", Colour(0), false, nil, []float64{1}), `dots "d": 0 x and 1 y`},
		"empty":          {Line(p, "l", Colour(0), nil, nil), `line "l": no points`},
		"NaN":            {Dots(p, "d", Colour(0), false, []float64{1}, []float64{math.NaN()}), `dots "d": `},
		"infinity":       {Line(p, "l", Colour(0), []float64{1}, []float64{math.Inf(1)}), `line "l": `},
		"zero":           {Logarithmic(&plot.Axis{Min: 0, Max: 1}, 10, 1), "no logarithm"},
		"infinite range": {Logarithmic(&plot.Axis{Min: 1, Max: math.Inf(1)}, 10, 1), "no logarithm"},
		"no range":       {Logarithmic(&plot.Axis{Min: 2, Max: 2}, 10, 1), "no logarithm"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, c.err, c.want)
		}
	}
}

func TestLogarithmic(t *testing.T) {
	for _, c := range []struct {
		min, max, base float64
		step           int
		want           []string
	}{
		{1e-4, 1, 10, 2, []string{"10⁻⁴", "", "10⁻²", "", "10⁰"}},
		{32, 1 << 9, 2, 3, []string{"", "64", "", "", "512"}},
		{0.03, 1.2, 10, 1, []string{"0.05", "0.1", "0.2", "0.5", "1"}},
	} {
		a := plot.Axis{Min: c.min, Max: c.max}
		if err := Logarithmic(&a, c.base, c.step); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tick := range a.Tick.Marker.Ticks(c.min, c.max) {
			got = append(got, tick.Label)
			if tick.Value < c.min*(1-1e-12) || tick.Value > c.max*(1+1e-12) {
				t.Errorf("tick %g is not within %g to %g", tick.Value, c.min, c.max)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%g to %g: got %q, want %q", c.min, c.max, got, c.want)
		}
	}
}
