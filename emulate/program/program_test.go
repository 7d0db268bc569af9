package program

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestPresetsRoundTrip(t *testing.T) {
	for _, name := range Names() {
		p, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, original := range [][]byte{nil, {}} {
			text, err := Text(&p, original)
			if err != nil {
				t.Fatal(err)
			}
			q, err := Parse(text)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
			if d := Diff(&p, &q); d != nil || p.Key() != q.Key() {
				t.Errorf("%s: read back with %v", name, d)
			}
			if original == nil && !bytes.Equal(bytes.TrimSpace(text), bytes.TrimSpace(presetText(name))) {
				t.Errorf("%s is not written as it stands:\n%s", name, text)
			}
		}
	}
}

// Every alias is a kernel that can run, and says where.
func TestAliases(t *testing.T) {
	for _, name := range Aliases() {
		p, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := AliasOf(p.Arch); err != nil || got != name {
			t.Errorf("%s runs on %s: %q, %v", name, p.Arch, got, err)
		}
	}
	if _, err := AliasOf("sm_75"); err == nil {
		t.Error("sm_75 has an alias")
	}
}

// TestFA2Tiles compares the keys of a tile with what flash_fwd_launch_template.h launches by
// head_dim, mask and GPU.
func TestFA2Tiles(t *testing.T) {
	for _, c := range []struct {
		arch string
		at   Case
		keys int
	}{
		{"sm_80", Case{HeadDim: 128}, 64},
		{"sm_89", Case{HeadDim: 64}, 128},
		{"sm_89", Case{HeadDim: 96}, 64},
		{"sm_89", Case{HeadDim: 97}, 32},
		{"sm_86", Case{HeadDim: 128}, 32},
		{"sm_86", Case{HeadDim: 128, Causal: true}, 64},
		// A query alone sees every key, with or without the mask.
		{"sm_86", Case{HeadDim: 128, Causal: true, Queries: 1}, 32},
		{"sm_86", Case{HeadDim: 128, Causal: true, Window: true}, 32},
		{"sm_89", Case{HeadDim: 129}, 64},
		{"sm_90", Case{HeadDim: 128}, 64},
		{"sm_120", Case{HeadDim: 128}, 64},
	} {
		p, err := Selection{Kernel: "fa2", Arch: c.arch}.Program()
		if err != nil {
			t.Fatal(err)
		}
		c.at.DType = "fp16"
		if s, _ := p.ShapeAt(c.at); s == nil || s.Keys != c.keys {
			t.Errorf("%s, %+v: %+v, want tiles of %d keys", c.arch, c.at, s, c.keys)
		}
		if small := strings.Contains(p.Shape(), "128x32"); small != (c.arch == "sm_86" || c.arch == "sm_89") {
			t.Errorf("%s: %s", c.arch, p.Shape())
		}
	}
}

// TestAbout: what a description says about itself is no choice, and every line else is one.
func TestAbout(t *testing.T) {
	base, err := Preset("fa2")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range base.Choices() {
		p := base
		value := "1"
		switch {
		case len(c.Choices) > 0:
			value = c.Choices[0]
			if value == c.Value {
				value = c.Choices[len(c.Choices)-1]
			}
		case c.Value == "1":
			value = "2"
		}
		if value == c.Value {
			continue // there is no other
		}
		if err := p.Set(c.Path, value); err != nil {
			t.Fatal(err)
		}
		want := []Change{{c.Path, c.Value, value}}
		if slices.Contains([]string{"schema", "name", "summary", "source", "evidence"}, c.Path) {
			want = nil
		}
		if got := Diff(&base, &p); !slices.Equal(got, want) || (p.Key() == base.Key()) != (want == nil) || p.Get(c.Path) != value {
			t.Errorf("%s=%s: %v, %q", c.Path, value, got, p.Get(c.Path))
		}
	}
}
