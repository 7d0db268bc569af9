package sample

import "testing"

func TestSample(t *testing.T) {
	if held["grass"] != Green || len(loose) != 1 {
		t.Error("colours")
	}
	if Limit(9) != 9 || Limit(10) != 10 || Limit(11) != 10 || Limit(12) != 10 {
		t.Error("limit")
	}
}
