package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

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
	set := filepath.Join(dir, "set")
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
		{[]string{"validate", "absent.safetensors", "--shape", "1x1/1x5x5x64"}, "--shape is for generated inputs"},
		{[]string{"validate", "--causal"}, "--causal is for a dump"},
		{[]string{"validate", "--units", ".", "--shape", "1x2x3"}, "--shape is for kernels"},
		{[]string{"validate", "--units", ".", "--dtype", "f16"}, "--dtype is for kernels"},
		{[]string{"validate", "--units", ".", "--mask", "full"}, "--mask is for kernels"},
		{[]string{"validate", "--units", ".", "--distribution", ""}, "--distribution is for kernels"},
		{[]string{"validate", "--units", ".", "--size", "small"}, "--size is for kernels"},
		{[]string{"validate", "--units", ".", "--kernel", "sage2-4b"}, "--kernel is for kernels"},
		{[]string{"validate", "--units", ".", "--module", module}, "--module is for kernels"},
		{[]string{"validate", "--units", ".", "--manifest", manifest}, "--manifest is for kernels"},
		{[]string{"validate", "--units", ".", "--layers", "x"}, "--layers is for kernels"},
		{[]string{"validate", "--units", ".", "--explain"}, "--explain is for kernels"},
		{[]string{"validate", "--units", ".", "absent.safetensors"}, "--units excludes dumps"},
		{[]string{"validate", "--results", "5"}, "--results is for instructions"},
		{[]string{"record", "-o", set, "--results", "5"}, "--results is for instructions"},
		{[]string{"record", "-o", set, "--units", ".", "--shape", "1x1/1x5x5x64"}, "--shape is for kernels"},
		{[]string{"record", "-o", set, "--units", ".", "--manifest", manifest}, "both --module and --manifest"},
		{[]string{"record", "-o", set, "--units", ".", "--kernel", "sage2-4b", "--shape", "1x2x3"}, "--shape: "},
		{[]string{"record"}, "-o DIR"},
		{[]string{"record", "-o", set, "--units", ".", "--results", "0"}, "--results is 0"},
		{[]string{"record", "-o", set, "--units", "tcgen05"}, "matches no instruction"},
		{[]string{"record", "-o", dir}, "-o: " + dir + " is not empty"},
		{[]string{"record", "-o", module}, "-o: " + module + " is a file"},
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

// What is asked for twice is run once, in the order of the first time.
func TestGPUFlagsGivenTwice(t *testing.T) {
	f := gpuFlags{
		kernels: []string{"sage2-8b-sm90", "sage2-4b", "sage2-8b-sm90"}, size: "small",
		shapes: []string{"1x2/1x5x7x64", "1x1/1x3x3x64", "01x2/1x5x7x64"},
		dtypes: []string{"bf16", "f16", "bf16"}, masks: []string{"full", "full"}, distributions: "gauss",
	}
	ks, _, err := f.chosen()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range ks {
		names = append(names, k.Manifest.Name)
	}
	if want := []string{"sage2-8b-sm90", "sage2-4b"}; !slices.Equal(names, want) {
		t.Errorf("kernels %v, want %v", names, want)
	}
	cases, _, err := f.cases(&cobra.Command{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	names = nil
	for _, c := range cases {
		names = append(names, c.Name)
	}
	want := []string{"1x2/1x5x7x64 gauss full bf16", "1x2/1x5x7x64 gauss full f16", "1x1/1x3x3x64 gauss full bf16", "1x1/1x3x3x64 gauss full f16"}
	if !slices.Equal(names, want) {
		t.Errorf("cases %v, want %v", names, want)
	}
}

// Without the tag cuda the commands say what to build, and leave nothing behind.
func TestGPUCommandsWithoutCUDA(t *testing.T) {
	if launch.Built() {
		t.Skip("built with the tag cuda")
	}
	out := filepath.Join(t.TempDir(), "set")
	images, manifests := "../../kernels/images/", "../../kernels/manifests/"
	for _, args := range [][]string{
		{"validate"}, {"validate", "--units", "ex2"}, {"record", "-o", out}, {"record", "-o", out, "--units", "ex2"},
		{"record", "-o", out, "--units", "ex2", "--kernel", "sage2-4b", "--shape", "1x1/1x5x5x64", "--results", "5"},
		// Images that fit their manifests.
		{"validate", "--module", images + "sage2_4b.ptx", "--manifest", manifests + "sage2-4b.yaml"},
		{"validate", "--module", images + "sage2_8b_sm90.cubin", "--manifest", manifests + "sage2-8b-sm90.yaml"},
	} {
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
