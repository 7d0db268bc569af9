package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/kernels/launch"
)

// What is wrong with a command line is said before a GPU is looked for, in one line.
func TestGPUCommandsBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	module := "../../kernels/images/sage2_4b.ptx"
	manifest := "../../kernels/manifests/sage2-4b.yaml"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"validate", "--kernel", "flash"}, `no kernel "flash"`},
		{[]string{"validate", "--module", module}, "both --module and --manifest"},
		{[]string{"validate", "--module", "absent.ptx", "--manifest", manifest}, "absent.ptx"},
		{[]string{"validate", "--module", module, "--manifest", "absent.yaml"}, "absent.yaml"},
		{[]string{"validate", "--module", file("text.ptx", "hello"), "--manifest", manifest}, "text.ptx: neither PTX text nor a cubin"},
		{[]string{"validate", "--module", module, "--manifest", file("bad.yaml", "name: [")}, "bad.yaml"},
		{[]string{"validate", "--module", module, "--manifest", manifest, "--kernel", "sage2-4b"}, "exclude"},
		{[]string{"validate", "--module", "../../kernels/images/units.ptx", "--manifest", manifest}, "no entry"},
		{[]string{"validate", "--size", "huge"}, "--size"},
		{[]string{"validate", "--shape", "1x2x3"}, "--shape"},
		{[]string{"validate", "--dtype", "f64"}, "--dtype"},
		{[]string{"validate", "--mask", "window"}, "--mask"},
		{[]string{"validate", "--distribution", "("}, "--distribution"},
		{[]string{"validate", "--distribution", "none"}, "no case"},
		{[]string{"validate", "--units", "("}, "--units"},
		{[]string{"validate", "--units", "tcgen05"}, "matches no instruction"},
		{[]string{"validate", "--units", ".", "--results", "0"}, "--results"},
		{[]string{"validate", "--units", ".", "--format", "csv"}, "--format"},
		{[]string{"validate", "--format", "csv"}, "--format"},
		{[]string{"validate", "--jobs", "0"}, "--jobs"},
		{[]string{"validate", "absent.safetensors"}, "absent.safetensors"},
		{[]string{"record"}, "-o DIR"},
		{[]string{"record", "-o", dir, "--results", "0"}, "--results"},
		{[]string{"record", "-o", dir, "--units", "tcgen05"}, "matches no instruction"},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(context.Background(), tc.args, &stdout, &stderr); status != exitCannotRun {
			t.Errorf("%v: status %d", tc.args, status)
		}
		line := stderr.String()
		if !strings.Contains(line, tc.want) || strings.Count(line, "\n") != 1 || stdout.Len() > 0 {
			t.Errorf("%v: stderr %q, stdout %q, want one line with %q", tc.args, line, stdout.String(), tc.want)
		}
	}
}

// Without the tag cuda the commands say what to build, and leave nothing behind.
func TestGPUCommandsWithoutCUDA(t *testing.T) {
	if launch.Built() {
		t.Skip("built with the tag cuda")
	}
	out := filepath.Join(t.TempDir(), "set")
	for _, args := range [][]string{{"validate"}, {"validate", "--units", "ex2"}, {"record", "-o", out}, {"record", "-o", out, "--units", "ex2"}} {
		var stdout, stderr bytes.Buffer
		if status := run(context.Background(), args, &stdout, &stderr); status != exitCannotRun {
			t.Errorf("%v: status %d", args, status)
		}
		if line := stderr.String(); !strings.Contains(line, "kernels/launch/build.sh") || strings.Count(line, "\n") != 1 {
			t.Errorf("%v: stderr %q", args, line)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("record without a GPU left a folder")
	}
}
