package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestUsageErrors: what cobra itself would answer with a page of help and
// status 0 is one line and status 2.
func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"help", "frobnicate"}, `"frobnicate"`},
		{[]string{"help", "compare", "frobnicate"}, `"frobnicate"`},
		{[]string{"completion", "tcsh"}, `"tcsh"`},
		{[]string{"completion", "bash", "zsh"}, `"zsh"`},
		{[]string{"--frobnicate"}, "sageacc: unknown flag: --frobnicate (see sageacc --help)\n"},
		{[]string{"version", "x"}, `"x"`},
		{[]string{"comapre"}, "sageacc: unknown command \"comapre\" for \"sageacc\": did you mean sageacc compare?\n"},
		{[]string{"help", "reprot"}, "did you mean sageacc report?\n"},
		{[]string{sample}, "did you mean sageacc compare " + sample + "?\n"},
		{[]string{"compare", "--fail_if", "x"}, "sageacc: compare: unknown flag: --fail_if: did you mean --fail-if? (see sageacc compare --help)\n"},
		{[]string{"compare", "--kernal=x"}, "did you mean --kernel?"},
		{[]string{"diff", "--max-grwoth", "5"}, "did you mean --max-growth?"},
		{[]string{"compare", "-x"}, "unknown shorthand flag: 'x' in -x (see sageacc compare --help)\n"},
	} {
		code, out, errs := sage(t, tc.args...)
		if code != exitCannotRun || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit %d, stdout %.200q, stderr %q", tc.args, code, out, errs)
		}
	}
}

func TestHelpCommand(t *testing.T) {
	_, want, _ := sage(t, "compare", "--help")
	code, out, errs := sage(t, "help", "compare")
	if code != exitOK || out != want || errs != "" {
		t.Errorf("exit %d, stderr %q, stdout:\n%s\nwant:\n%s", code, errs, out, want)
	}
	for _, args := range [][]string{nil, {"help"}, {"completion"}, {"completion", "bash", "--help"}, {"help", "help"}} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), args, &stdout, &stderr)
		if out := stdout.String(); code != exitOK || stderr.Len() > 0 || !strings.Contains(out, "Examples:\n  s") {
			t.Errorf("%v: exit %d, stderr %q, stdout:\n%s", args, code, &stderr, out)
		}
	}
}
