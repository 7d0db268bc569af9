// Package conformance reads sets of recorded GPU results and checks that the
// emulator reproduces every one of them bit for bit.
//
// A set is a directory: cases.jsonl, one JSON object a line, and the safetensors
// files that it names, with paths relative to it. A case passes when every
// element of the tensor that it expects has the recorded bit pattern; any NaN
// equals any NaN, +0 and -0 differ. A case is skipped where there is no model of
// its op, instruction, kernel or architecture, or no element to compare; an
// option that no kernel has, a misspelt granularity say, is an error.
package conformance

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/datafile"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// Case is one line of cases.jsonl.
type Case struct {
	File        string `json:"file"`
	Op          string `json:"op"`
	Expect      string `json:"expect"`
	Instruction string `json:"instruction,omitempty"`
	Arch        string `json:"arch,omitempty"`
	Kernel      string `json:"kernel,omitempty"`
	Granularity string `json:"qk_granularity,omitempty"`
	PVAccum     string `json:"pv_accum,omitempty"`
	// QKBits, Smooth, PVType, Variant and Set are as program.Selection takes them.
	QKBits  int      `json:"qk_bits,omitempty"`
	Smooth  string   `json:"smooth,omitempty"`
	PVType  string   `json:"pv_dtype,omitempty"`
	Variant string   `json:"variant,omitempty"`
	Set     []string `json:"set,omitempty"`
	// QuantBackend is whose quantiser a Triton kernel had; CausalAlign, Window [left, right] (-1:
	// no bound), Softcap and Mask, the name of a boolean or additive mask tensor, are the
	// call's; SMs is the number of multiprocessors and NumSplits the number of parts of the
	// keys that the call asked for.
	QuantBackend string  `json:"quant_backend,omitempty"`
	CausalAlign  string  `json:"causal_align,omitempty"`
	Window       []int   `json:"window,omitempty"`
	Softcap      float64 `json:"softcap,omitempty"`
	Mask         string  `json:"mask,omitempty"`
	// BlockMap is the name of a block map, BOOL [batch, heads, tiles of rows, tiles of keys].
	BlockMap  string `json:"block_map,omitempty"`
	SMs       int    `json:"sms,omitempty"`
	NumSplits int    `json:"num_splits,omitempty"`
	// Unstable says that the kernel itself does not return the same each time.
	Unstable bool `json:"unstable,omitempty"`
	// LSE names the tensor of the natural log-sum-exp that came with the output.
	LSE string `json:"lse,omitempty"`
	// Description, if there is one, is the whole kernel, and the fields that name it are
	// for people.
	Description *program.Program `json:"description,omitempty"`
	SmoothK     *bool            `json:"smooth_k,omitempty"`
	SmoothV     bool             `json:"smooth_v,omitempty"`
	Causal      bool             `json:"causal,omitempty"`
	// SMScale is nil where the line has none: 1/sqrt(head_dim).
	SMScale *float64 `json:"sm_scale,omitempty"`
	// Tensor says what a quantize case expects: q_int8, q_scale, k_int8, k_scale,
	// k_mean, v_fp8, v_scale or v_mean.
	Tensor string `json:"tensor,omitempty"`

	dir string
}

// Name identifies a case in messages and for filters.
func (c *Case) Name() string {
	s := c.Op + " " + c.File + " " + c.Expect
	if c.Instruction != "" {
		s += " " + c.Instruction
	}
	return s
}

// casesFile is the list of cases in a set's directory.
const casesFile = "cases.jsonl"

// maxCases bounds the size of that list, in bytes.
const maxCases = 1 << 28

// Load reads the cases of a set whose name matches filter (nil: all).
func Load(dir string, filter *regexp.Regexp) ([]Case, error) {
	path := filepath.Join(dir, casesFile)
	f, err := datafile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxCases {
		return nil, fmt.Errorf("%s: %d bytes are over the limit of %d", path, st.Size(), maxCases)
	}
	cases, err := parse(f, dir, filter)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cases, nil
}

// parse reads the lines of a cases.jsonl.
func parse(r io.Reader, dir string, filter *regexp.Regexp) ([]Case, error) {
	var cases []Case
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for line := 1; scan.Scan(); line++ {
		if len(scan.Bytes()) == 0 {
			continue
		}
		c := Case{dir: dir}
		if err := json.Unmarshal(scan.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		switch {
		case c.File == "" || c.Op == "" || c.Expect == "":
			return nil, fmt.Errorf("line %d: a case needs file, op and expect", line)
		case !filepath.IsLocal(c.File):
			return nil, fmt.Errorf("line %d: file %q is not below the set's directory", line, c.File)
		}
		if err := c.selection().Check(); err != nil {
			return nil, fmt.Errorf("line %d: case %q: %w", line, c.Name(), err)
		}
		if filter == nil || filter.MatchString(c.Name()) {
			cases = append(cases, c)
		}
	}
	return cases, scan.Err()
}

// file is an open recording. fault is the first error of reading it, which the end of
// the case reports: until then what cannot be read is zero.
type file struct {
	*safetensors.File
	fault *atomic.Pointer[error]
}

// tensor is a tensor of a recording, read by windows: single elements are asked for,
// mostly one after the other.
type tensor struct {
	*safetensors.Tensor
	fault  *atomic.Pointer[error]
	window []byte
	start  int64 // of the window
}

// windowSize is what is read of a tensor at a time.
const windowSize = 1 << 16

// find returns the named tensor, nil if there is none.
func (f file) find(name string) *tensor {
	t := f.Tensor(name)
	if t == nil {
		return nil
	}
	return &tensor{Tensor: t, fault: f.fault}
}

// read fills b with the bytes from off on.
func (t *tensor) read(b []byte, off int64) {
	if n, err := t.ReadAt(b, off); n < len(b) {
		clear(b)
		t.fault.CompareAndSwap(nil, &err)
	}
}

// at returns the n bytes from off on.
func (t *tensor) at(off int64, n int) []byte {
	if off < t.start || off+int64(n) > t.start+int64(len(t.window)) {
		size := int(min(windowSize, t.Size()-off))
		if cap(t.window) < size {
			t.window = make([]byte, size)
		}
		t.window, t.start = t.window[:size], off
		t.read(t.window, off)
	}
	return t.window[off-t.start:][:n]
}

// tensor finds a tensor and checks its shape: want gives the length of each
// dimension, or -1 for any. It skips the case of a tensor without elements: the other
// sizes of such a shape are bounded by nothing, since they take no bytes.
func (f file) tensor(name string, want ...int) (*tensor, error) {
	t := f.find(name)
	if t == nil {
		return nil, fmt.Errorf("%s: no tensor %q", f.Name, name)
	}
	ok := len(t.Shape) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = want[i] < 0 || want[i] == t.Shape[i]
	}
	if !ok {
		return nil, fmt.Errorf("%s: tensor %q has shape %v, expected %v (-1: any)", f.Name, name, t.Shape, want)
	}
	if slices.Contains(t.Shape, 0) {
		return nil, errSkip{errNoElement}
	}
	return t, nil
}

// width returns the bytes of an element, 0 for a dtype that recordings do not
// use.
func width(dtype string) int {
	switch dtype {
	case "F8_E4M3", "F8_E5M2", "I8", "BOOL":
		return 1
	case "F16", "BF16":
		return 2
	case "F32", "I32":
		return 4
	}
	return 0
}

// bitsAt returns the bit pattern of element i; I8 is sign-extended. It is for one
// goroutine at a time.
func bitsAt(t *tensor, i int) uint32 {
	n := width(t.DType)
	return pattern(t.DType, t.at(int64(i)*int64(n), n))
}

// pattern is the bit pattern of an element's bytes.
func pattern(dtype string, b []byte) uint32 {
	switch len(b) {
	case 1:
		if dtype == "I8" {
			return uint32(int8(b[0]))
		}
		return uint32(b[0])
	case 2:
		return uint32(binary.LittleEndian.Uint16(b))
	}
	return binary.LittleEndian.Uint32(b)
}

// isNaN reports whether a bit pattern is a NaN of the dtype.
func isNaN(dtype string, b uint32) bool {
	switch dtype {
	case "F8_E4M3":
		return b&0x7f == 0x7f
	case "F8_E5M2":
		return b&0x7f > 0x7c
	case "F16":
		return b&0x7fff > 0x7c00
	case "BF16":
		return b&0x7fff > 0x7f80
	case "F32":
		return b&0x7fff_ffff > 0x7f80_0000
	}
	return false
}

// nan is the pattern of the dtype's NaN that emulated results have: a GPU's.
func nan(dtype string) uint32 {
	switch dtype {
	case "F8_E4M3", "F8_E5M2":
		return uint32(format.E4M3NaN)
	case "F32":
		return format.NaN32
	}
	return format.NaN16
}

// dtypeOf maps a safetensors dtype to an input format.
func dtypeOf(t *tensor) (format.DType, error) {
	switch t.DType {
	case "F16":
		return format.FP16, nil
	case "BF16":
		return format.BF16, nil
	case "F32":
		return format.FP32, nil
	case "F8_E4M3":
		return format.FP8, nil
	}
	return 0, fmt.Errorf("tensor %q has dtype %s, expected F16, BF16, F32 or F8_E4M3", t.Name, t.DType)
}

// valueAt returns element i of an F16, BF16 or F32 tensor.
func valueAt(t *tensor, i int) float32 { return value(t.DType, bitsAt(t, i)) }

// value is what a bit pattern of F16, BF16 or F32 stands for.
func value(dtype string, b uint32) float32 {
	switch dtype {
	case "F16":
		return format.FP16ToFloat32(uint16(b))
	case "BF16":
		return format.BF16ToFloat32(uint16(b))
	case "F8_E4M3":
		return format.E4M3(b).Float32()
	}
	return math.Float32frombits(b)
}
