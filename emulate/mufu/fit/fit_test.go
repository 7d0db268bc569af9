package main

import (
	"bytes"
	"os"
	"testing"
)

// TestFit recovers the coefficients from the recordings and finds the tables of
// package mufu, to the byte.
func TestFit(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	var got bytes.Buffer
	if err := fitTables(&got, "testdata"); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../tables.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("the tables recovered from the recordings are not those of tables.go")
	}
}

func TestPack(t *testing.T) {
	raw := []byte{0, 0, 0x80, 0x3f, 1, 0, 0x80, 0x3f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}
	var packed bytes.Buffer
	if err := pack(&packed, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	data := packed.Bytes()
	got, err := unpack(bytes.NewReader(data), 4)
	if err != nil || len(got) != 4 || got[0] != 0x3f800000 || got[1] != 0x3f800001 || got[2] != 0xffffffff || got[3] != 0 {
		t.Errorf("%08x, %v", got, err)
	}
	if _, err := unpack(bytes.NewReader(data), 5); err == nil {
		t.Error("a recording that is too short is accepted")
	}
	if _, err := unpack(bytes.NewReader(data[:10]), 4); err == nil {
		t.Error("a cut recording is accepted")
	}
	if err := pack(&packed, bytes.NewReader(raw[:3])); err == nil {
		t.Error("a cut value is accepted")
	}
}

// TestNoFit: a recording with one wrong result has no coefficients.
func TestNoFit(t *testing.T) {
	f, err := os.Open("testdata/ex2_127.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rec, err := unpack(f, 1<<23)
	if err != nil {
		t.Fatal(err)
	}
	rec[1<<17+5000] += 2
	if c, err := functions[0].fit(map[string][]uint32{"ex2_127": rec}, 1); err == nil {
		t.Errorf("a spoiled segment is solved: %+v", c)
	}
}
