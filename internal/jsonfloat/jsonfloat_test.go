package jsonfloat

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		value float64
		text  string
	}{
		{0, "0"},
		{math.Copysign(0, -1), "-0"},
		{1.5, "1.5"},
		{-0.1, "-0.1"},
		{math.MaxFloat64, "1.7976931348623157e+308"},
		{math.SmallestNonzeroFloat64, "5e-324"},
		{math.NaN(), `"NaN"`},
		{math.Inf(1), `"+Inf"`},
		{math.Inf(-1), `"-Inf"`},
	} {
		b, err := json.Marshal(Float(tc.value))
		if err != nil || string(b) != tc.text {
			t.Errorf("Marshal(%v) = %s, %v; want %s", tc.value, b, err, tc.text)
			continue
		}
		var back Float
		if err := json.Unmarshal(b, &back); err != nil {
			t.Errorf("Unmarshal(%s): %v", b, err)
			continue
		}
		got := float64(back)
		same := math.Float64bits(got) == math.Float64bits(tc.value)
		if math.IsNaN(tc.value) {
			same = math.IsNaN(got)
		}
		if !same {
			t.Errorf("%s came back as %v, want %v", b, got, tc.value)
		}
	}
}

func TestFloat32(t *testing.T) {
	for _, tc := range []struct {
		value float32
		text  string
	}{
		{0.1, "0.1"}, // and not the 17 digits of the float64
		{float32(math.Copysign(0, -1)), "-0"},
		{math.MaxFloat32, "3.4028235e+38"},
		{math.SmallestNonzeroFloat32, "1e-45"},
		{float32(math.NaN()), `"NaN"`},
		{float32(math.Inf(1)), `"+Inf"`},
		{float32(math.Inf(-1)), `"-Inf"`},
	} {
		b, err := json.Marshal(Float32(tc.value))
		if err != nil || string(b) != tc.text {
			t.Errorf("Marshal(%v) = %s, %v; want %s", tc.value, b, err, tc.text)
			continue
		}
		var back Float32
		if err := json.Unmarshal(b, &back); err != nil {
			t.Errorf("Unmarshal(%s): %v", b, err)
		}
		if got := float32(back); math.Float32bits(got) != math.Float32bits(tc.value) && (got == got || tc.value == tc.value) {
			t.Errorf("%s came back as %v, want %v", b, got, tc.value)
		}
	}
	f := Float32(3)
	if err := json.Unmarshal([]byte("null"), &f); err != nil || f != 3 {
		t.Errorf("null: %v, %v", f, err)
	}
	if err := json.Unmarshal([]byte(`"x"`), &f); err == nil {
		t.Error("a word was accepted")
	}
}

func TestInsideStruct(t *testing.T) {
	type row struct {
		A Float  `json:"a"`
		B *Float `json:"b,omitempty"`
	}
	x := Float(math.Inf(-1))
	b, err := json.Marshal(row{A: 2, B: &x})
	if err != nil || string(b) != `{"a":2,"b":"-Inf"}` {
		t.Fatalf("got %s, %v", b, err)
	}
	var back row
	if err := json.Unmarshal([]byte(`{"a":null,"b":"NaN"}`), &back); err != nil {
		t.Fatal(err)
	}
	if back.A != 0 || !math.IsNaN(float64(*back.B)) {
		t.Errorf("got %+v", back)
	}
}

func TestRefuses(t *testing.T) {
	for _, text := range []string{`"Inf"`, `"nan"`, `"1"`, `true`, `[1]`, `1e999`} {
		f := Float(7)
		err := json.Unmarshal([]byte(text), &f)
		if err == nil || !strings.Contains(err.Error(), "jsonfloat") {
			t.Errorf("Unmarshal(%s) = %v, want a jsonfloat error", text, err)
		}
		if f != 7 {
			t.Errorf("Unmarshal(%s) changed the value to %v", text, f)
		}
	}
}
