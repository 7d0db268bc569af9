package sweep

import "testing"

func TestFull(t *testing.T) {
	for value, want := range map[string]bool{"": false, "yes": false, "full": true} {
		t.Setenv(Variable, value)
		if Full() != want {
			t.Errorf("%s=%q: %v", Variable, value, !want)
		}
	}
}
