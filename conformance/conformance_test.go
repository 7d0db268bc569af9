package conformance

import (
	"os"
	"runtime"
	"testing"
)

// TestShared runs the recorded set beside the repository, where there is one.
func TestShared(t *testing.T) {
	const dir = "../../shared/conformance"
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no recorded set at %s", dir)
	}
	cases, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Run(t.Context(), cases, runtime.GOMAXPROCS(0), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Cases {
		if r.Status != Pass {
			t.Errorf("%s: %s %s: %d of %d differ, first %+v %s", r.Status, r.File, r.Expect, r.Mismatched, r.Elements, r.First, r.Reason)
		}
	}
	t.Logf("%d passed, %d failed, %d skipped", rep.Passed, rep.Failed, rep.Skipped)
}
