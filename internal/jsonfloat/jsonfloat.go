// Package jsonfloat holds the one number type that sageacc's JSON results use:
// a float64 that survives JSON even when it is not finite.
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
