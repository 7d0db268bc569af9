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
