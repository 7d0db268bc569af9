package program

import (
	"bytes"
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
