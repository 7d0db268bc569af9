package program

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// FuzzParse: nothing makes Parse panic, an error is one line, and what it takes is
// written as text that it takes, as the same program.
func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		text := presetText(name)
		f.Add(text)
		// Changes that stay YAML: words and numbers of other lines.
		f.Add(bytes.Replace(text, []byte("8.807"), []byte("-inf"), 1))
		f.Add(bytes.Replace(text, []byte("shift: 0"), []byte("shift: &a 1"), 1))
		f.Add(bytes.Replace(text, []byte("keys: 64"), []byte("keys: 96, max_head_dim: 64"), 1))
	}
	for _, s := range []string{"", "---\n---\n", "a: &a [*a]", "schema: sageacc/program/v1", "tiles: {shapes: [{}]}", "\x00", "? {a: b}\n: c", "<<: {arch: sm_89}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			if s := err.Error(); strings.TrimSpace(s) == "" || strings.Contains(s, "\n") || len(s) > 4000 {
				t.Errorf("the error %q for %q", s, text)
			}
			return
		}
		for _, original := range [][]byte{text, {}} {
			again, err := Text(&p, original)
			if err != nil {
				t.Fatal(err)
			}
			q, err := Parse(again)
			if err != nil {
				t.Fatalf("%v\n%s\nwritten of\n%s", err, again, text)
			}
			if q.Key() != p.Key() || q.Name != p.Name || q.Source != p.Source {
				t.Fatalf("read back with %v\n%s", Diff(&p, &q), again)
			}
		}
		roundTripJSON(t, &p)
	})
}

// roundTripJSON: results carry descriptions as JSON.
func roundTripJSON(t *testing.T, p *Program) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var q Program
	if err := json.Unmarshal(text, &q); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if q.Key() != p.Key() {
		t.Fatalf("as JSON %v", Diff(p, &q))
	}
}

// FuzzApply: nothing makes Apply panic; an error leaves the program; what it makes is
// said by Variant, which Apply takes, with the same result.
func FuzzApply(f *testing.F) {
	for _, list := range []string{"", "none", "p-offset=8,code-round=zero", "tail=all,tail=all", "v-max=1e40", "causal-shift=-1", "p-offset=none",
		"level-keys=32,fraction-bits=14,step=16,sum-round=fp32-zero", "delta-s=raw", "rcp=exact,rcp=divide", "=", ",", "p-offset=default", "p-offset=-0", "p-offset=nan", "key-mask=none"} {
		for i := range Names() {
			f.Add(i, list)
		}
	}
	f.Fuzz(func(t *testing.T, i int, list string) {
		presets := Presets()
		base := presets[int(uint(i)%uint(len(presets)))]
		p := base
		if err := p.Apply(&base, list); err != nil {
			if d := Diff(&base, &p); d != nil {
				t.Fatalf("%q fails with %v and changes %v", list, err, d)
			}
			return
		}
		said := Variant(&base, &p)
		q := base
		if err := q.Apply(&base, said); err != nil {
			t.Fatalf("%q is said as %q: %v", list, said, err)
		}
		if q.Key() != p.Key() {
			t.Fatalf("%q is said as %q, which leaves %v", list, said, Diff(&p, &q))
		}
		if again := Variant(&base, &q); again != said {
			t.Fatalf("%q, then %q", said, again)
		}
		if err := q.Apply(&base, "none"); err != nil || q.Key() != base.Key() {
			t.Fatalf("none leaves %v, %v", Diff(&base, &q), err)
		}
	})
}

// FuzzSet: nothing makes Set panic; what it sets, Get returns, and no other choice
// changes.
func FuzzSet(f *testing.F) {
	for _, s := range []string{"exponent.offset=8", "tiles.shapes.0.keys=96", "tiles.shapes=1", "tiles.shapes.9.keys=1", "tiles.shapes.-1.keys=1", "tiles=1", "=", "a.b=c",
		"pv.level=tile", "mask.value=-inf", "name=x", "exponent.offset.x=1", "tiles.shapes.0.max_head_dim=64", "arch.=", "scores.tail_tiles=99999999999"} {
		path, value, _ := strings.Cut(s, "=")
		f.Add(path, value)
	}
	f.Fuzz(func(t *testing.T, path, value string) {
		base, err := Preset("sage2-8b-sm89")
		if err != nil {
			t.Fatal(err)
		}
		p := base
		if err := p.Set(path, value); err != nil {
			if p.Key() != base.Key() {
				t.Fatalf("%s=%s fails and changes %v", path, value, Diff(&base, &p))
			}
			return
		}
		for _, c := range Diff(&base, &p) {
			if c.Path != path {
				t.Errorf("%s=%s changes %s", path, value, c)
			}
		}
		got := p.Get(path)
		q := base
		if got != "" && q.Set(path, got) != nil || q.Key() != p.Key() && got != "" {
			t.Errorf("%s=%s is %q, which Set does not take", path, value, got)
		}
		_ = p.Validate()
	})
}

// TestSetGetDiff walks all choices and their values: what is set is got, the list of
// changes takes one program to the other, and back.
func TestSetGetDiff(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, base := range Presets() {
		for _, c := range base.Choices() {
			if got := base.Get(c.Path); got != c.Value {
				t.Errorf("%s: %s is %q, in the list %q", base.Name, c.Path, got, c.Value)
			}
			p := base
			for _, v := range c.Choices {
				if err := p.Set(c.Path, v); err != nil || p.Get(c.Path) != v {
					t.Errorf("%s=%s: %v, then %q", c.Path, v, err, p.Get(c.Path))
				}
				want := []Change{{c.Path, c.Value, v}}
				if v == c.Value {
					want = nil
				}
				if got := Diff(&base, &p); !slices.Equal(got, want) {
					t.Errorf("%s=%s: Diff %v", c.Path, v, got)
				}
			}
			if len(c.Choices) > 0 && p.Set(c.Path, "no such word") == nil {
				t.Errorf("%s takes any word", c.Path)
			}
		}
		a, b := base, base
		for range 30 {
			for _, p := range []*Program{&a, &b} {
				all := p.Choices()
				if c := all[r.IntN(len(all))]; len(c.Choices) > 0 {
					if err := p.Set(c.Path, c.Choices[r.IntN(len(c.Choices))]); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		for _, way := range [][2]*Program{{&a, &b}, {&b, &a}} {
			p := *way[0]
			for _, c := range Diff(way[0], way[1]) {
				path, value, _ := strings.Cut(c.String(), "=")
				if err := p.Set(path, value); err != nil {
					t.Fatal(err)
				}
			}
			if p.Key() != way[1].Key() {
				t.Errorf("%s: the changes leave %v", base.Name, Diff(&p, way[1]))
			}
		}
		roundTripJSON(t, &a)
		roundTripJSON(t, &b)
	}
}

// TestSetOwnsShapes: Set changes no other program's shapes.
func TestSetOwnsShapes(t *testing.T) {
	base, err := Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	p := base
	was := base.Get("tiles.shapes.0.keys")
	if err := p.Set("tiles.shapes.0.keys", "32"); err != nil || base.Get("tiles.shapes.0.keys") != was {
		t.Errorf("%v; the other's keys are %s", err, base.Get("tiles.shapes.0.keys"))
	}
	again, _ := Preset("sage2-8b-sm90")
	again.Tiles.Shapes[0].Keys = 17
	if third, _ := Preset("sage2-8b-sm90"); third.Tiles.Shapes[0].Keys == 17 {
		t.Error("the known kernel's shapes are the caller's")
	}
}

// TestBase: the options with names of their own are no deviations, everything else is.
func TestBase(t *testing.T) {
	for _, s := range []Selection{
		{Kernel: "sage2-8b-sm90"}, {Kernel: "sage2-8b-sm89", Arch: "sm_90"}, {Kernel: "sage2-8b-sm89", Granularity: "per-token"},
		{Kernel: "sage2-8b-sm90", Smooth: "q,k,v"}, {Kernel: "sage2-8b-sm90", PVType: "fp16"}, {Kernel: "sage2-8b-sm89", PVAccum: "fp32+fp16"},
		{Kernel: "sage2-4b", QKBits: 8}, {Kernel: "sage2-8b-sm90", PVType: "e5m2", PVAccum: "fp32", Smooth: "none", QKBits: 4},
	} {
		p, err := s.Program()
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		b := Base(&p)
		if d := Diff(&b, &p); d != nil {
			t.Errorf("%+v deviates by %v", s, d)
		}
		s.Variants = []string{"exp2=exact,rcp=exact"}
		if p, err = s.Program(); err != nil {
			t.Fatal(err)
		}
		if b = Base(&p); Variant(&b, &p) != "exp2=exact,rcp=exact" {
			t.Errorf("%+v deviates by %q", s, Variant(&b, &p))
		}
	}
	p, err := Preset("sage2-4b")
	if err != nil {
		t.Fatal(err)
	}
	p.Name = "mine"
	if b := Base(&p); Diff(&b, &p) != nil {
		t.Error("a kernel that is not known is not its own base")
	}
}

// TestPresets: every known kernel says where its facts are from, and its file is what is
// written of it, takes the dtypes and head dimensions that it claims, and nothing else.
func TestPresets(t *testing.T) {
	for _, p := range Presets() {
		for path, text := range map[string]string{"summary": p.Summary, "source": p.Source, "evidence": p.Evidence} {
			if len(text) < 10 || strings.Contains(text, "\n") {
				t.Errorf("%s: %s is %q", p.Name, path, text)
			}
		}
		written, err := Text(&p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.TrimSpace(written), bytes.TrimSpace(presetText(p.Name))) {
			t.Errorf("%s is not written as it stands", p.Name)
		}
		roundTripJSON(t, &p)
		for _, d := range p.DTypeList() {
			for dim := 1; dim <= p.Operands.MaxHeadDim; dim++ {
				for _, causal := range []bool{false, true} {
					if causal && p.Mask.Causal == "none" {
						continue
					}
					if _, err := p.At(Case{HeadDim: dim, DType: d, Causal: causal}); err != nil {
						t.Fatalf("%s: head_dim %d, %s, causal %v: %v", p.Name, dim, d, causal, err)
					}
				}
			}
		}
		for _, c := range []Case{{HeadDim: 0, DType: p.DTypeList()[0]}, {HeadDim: p.Operands.MaxHeadDim + 1, DType: p.DTypeList()[0]}, {HeadDim: 1, DType: "int3"}, {HeadDim: 1}} {
			if _, err := p.At(c); err == nil {
				t.Errorf("%s takes %+v", p.Name, c)
			}
		}
	}
}
