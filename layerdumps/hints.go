package layerdumps

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// extTorch are the endings of files that torch.save writes.
var extTorch = []string{".pt", ".pth", ".bin", ".ckpt"}

// convert says how to make a dump of a file of PyTorch's.
const convert = "PyTorch can convert it: safetensors.torch.save_file(torch.load(FILE), \"dump.safetensors\")"

// hint says what a file is that cannot be read as a dump, and what to do about it; nil
// if that is not known.
func hint(path string) error {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	// A zip's first members are named near its beginning, and PyTorch writes data.pkl
	// first.
	const most = 512
	head := make([]byte, most)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil
	}
	head = head[:n]
	is := func(s string) bool { return bytes.HasPrefix(head, []byte(s)) }
	ext := strings.ToLower(filepath.Ext(path))
	say := func(format string, args ...any) error {
		return fmt.Errorf("%s: "+format, append([]any{path}, args...)...)
	}
	switch {
	case is("version https://git-lfs.github.com/spec/"):
		return say("it is a Git LFS pointer, not the file itself: git lfs pull fetches that")
	case is("PK\x03\x04") && bytes.Contains(head, []byte("data.pkl")):
		return say("it is a file of PyTorch's (torch.save); %s", convert)
	case is("PK\x03\x04") && ext != extNPZ:
		return say("it is a zip archive; if it is NumPy's, its name has to end in %s", extNPZ)
	case is("\x93NUMPY") && ext != extNPY:
		return say("it is an array of NumPy's; its name has to end in %s", extNPY)
	case len(head) > 1 && head[0] == 0x80 && 2 <= head[1] && head[1] <= 5:
		return say("it is a Python pickle; if torch.save wrote it, %s", convert)
	case is("GGUF"):
		return say("it is a GGUF model, which holds weights and no activations")
	case is("<!DOCTYPE") || is("<!doctype") || is("<html"):
		return say("it is a web page, not the file: the download went wrong")
	case slices.Contains(extTorch, ext):
		return say("not a dump; if torch.save wrote it, %s", convert)
	}
	return nil
}
