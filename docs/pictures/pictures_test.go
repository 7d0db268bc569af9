package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPictures: the pictures that are kept are those that are drawn, and are XML.
func TestPictures(t *testing.T) {
	kept, err := filepath.Glob("*.svg")
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != len(pictures) {
		t.Errorf("%d pictures are kept, %d are drawn", len(kept), len(pictures))
	}
	for name, draw := range pictures {
		s, err := draw()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := os.ReadFile(name + ".svg")
		if err != nil {
			t.Error(err)
		} else if string(b) != s {
			t.Errorf("%s.svg is not what is drawn (go run ./docs/pictures)", name)
		}
		for d := xml.NewDecoder(strings.NewReader(s)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
		}
		if !strings.Contains(s, `aria-label="`) || strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
			t.Errorf("%s has no description, or a coordinate that is none", name)
		}
	}
}
