// Package jsonfloat holds the number types that sageacc's JSON results use: a
// float64 and a float32 that survive JSON even when they are not finite.
package jsonfloat

import (
	"encoding/json"
	"fmt"
	"math"
)

// Float is a float64 whose NaN and infinities are the JSON strings "NaN",
// "+Inf" and "-Inf". JSON numbers cannot express them, and a kernel under test
// may well produce them, so a result must be able to say so.
type Float float64

// MarshalJSON writes finite values as JSON numbers and the others as strings.
func (f Float) MarshalJSON() ([]byte, error) {
	switch x := float64(f); {
	case math.IsNaN(x):
		return []byte(`"NaN"`), nil
	case math.IsInf(x, 1):
		return []byte(`"+Inf"`), nil
	case math.IsInf(x, -1):
		return []byte(`"-Inf"`), nil
	default:
		return json.Marshal(x)
	}
}

// UnmarshalJSON reads what MarshalJSON writes. As for the predeclared types, a
// JSON null leaves the value as it is.
func (f *Float) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "null":
		return nil
	case `"NaN"`:
		*f = Float(math.NaN())
		return nil
	case `"+Inf"`:
		*f = Float(math.Inf(1))
		return nil
	case `"-Inf"`:
		*f = Float(math.Inf(-1))
		return nil
	}
	var x float64
	if err := json.Unmarshal(b, &x); err != nil {
		return fmt.Errorf(`jsonfloat: %s is neither a number nor "NaN", "+Inf" or "-Inf": %w`, b, err)
	}
	*f = Float(x)
	return nil
}

// Float32 is Float for a float32, written with no more digits than it needs.
type Float32 float32

// MarshalJSON writes finite values as JSON numbers and the others as strings.
func (f Float32) MarshalJSON() ([]byte, error) {
	if f-f != 0 {
		return Float(f).MarshalJSON()
	}
	return json.Marshal(float32(f))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *Float32) UnmarshalJSON(b []byte) error {
	var x float32
	if err := json.Unmarshal(b, &x); err == nil {
		if string(b) != "null" {
			*f = Float32(x)
		}
		return nil
	}
	var wide Float
	if err := wide.UnmarshalJSON(b); err != nil {
		return err
	}
	*f = Float32(wide)
	return nil
}
