// Package manifest describes how a kernel is run: its entry points, grids, blocks
// and arguments as expressions of the problem's shape, the memory it needs, and
// which program it claims to be. It knows nothing of GPUs.
//
// A manifest is a YAML file:
//
//	name: my-kernel
//	emulates: {kernel: sage2-8b-sm90}    # or FILE.yaml, a description beside it, and any of its fields: pv_accum, set, ...
//	arch: sm_90a                         # the oldest GPU; with an a, only that one
//	head_dims: [64, 128]
//	dtypes: [f16, bf16]
//	let:                                 # names for expressions, in order
//	  - tiles: (queries + 63) / 64
//	buffers:                             # memory beside q, k, v, o and lse
//	  q_codes: {type: i8, count: batch * heads * queries * head_dim}
//	launches:                            # in order
//	  - entry: quantize_{dtype}
//	    grid: [tiles, batch * heads]
//	    block: [128]
//	    shared: 0
//	    args: [q, q_codes, i32 queries, f32 sm_scale]
//
// Expressions are integers with + - * / %, parentheses, min and max over the
// variables batch, heads, kv_heads, group (heads / kv_heads), queries, keys,
// head_dim and causal (0 or 1); division truncates. An argument is the name of a
// buffer, null, or a type (i32, i64, f32) and an expression; f32 also knows
// sm_scale, and divides exactly. q, k, v and o are [batch][heads][tokens][head_dim] of the
// dtype, lse is [batch][heads][queries] in FP32, base 2.
//
// A buffer with the name of a stage (see [Stages]) holds that stage's tensor, so
// that a difference can be found where it starts. With "from: emulator" it is not
// scratch but filled with the emulator's, for kernels that take quantised inputs.
package manifest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/datafile"
)

// Manifest is a parsed manifest.
type Manifest struct {
	Name     string              `yaml:"name"`
	Summary  string              `yaml:"summary"`
	Emulates Claim               `yaml:"emulates"`
	Arch     string              `yaml:"arch"`
	HeadDims []int               `yaml:"head_dims"`
	DTypes   []string            `yaml:"dtypes"`
	Let      []map[string]string `yaml:"let"`
	Buffers  map[string]Buffer   `yaml:"buffers"`
	Launches []Launch            `yaml:"launches"`

	dir string // that files are named from
}

// Claim names the program that a kernel says it is: a known kernel or a file that
// describes one (from the manifest's folder), and changes to it, as program.Selection
// takes them. An empty arch is that of the GPU that runs it.
type Claim struct {
	Kernel      string `yaml:"kernel"`
	Arch        string `yaml:"arch"`
	QKBits      int    `yaml:"qk_bits"`
	Granularity string `yaml:"qk_granularity"`
	Smooth      string `yaml:"smooth"`
	PVType      string `yaml:"pv_dtype"`
	PVAccum     string `yaml:"pv_accum"`
	Variant     string `yaml:"variant"`
	// Set changes single choices of the description, PATH=VALUE.
	Set []string `yaml:"set"`
}

// Buffer is memory that a kernel needs.
type Buffer struct {
	// Type is i4 (two to a byte), i8, e4m3, e5m2, f16, bf16, f32, i32 or dtype.
	Type string `yaml:"type"`
	// Count is the number of elements, an expression.
	Count string `yaml:"count"`
	// From is empty, or "emulator".
	From string `yaml:"from"`
}

// Launch is one launch.
type Launch struct {
	Entry  string   `yaml:"entry"`
	Grid   []string `yaml:"grid"`
	Block  []string `yaml:"block"`
	Shared string   `yaml:"shared"`
	Args   Args     `yaml:"args"`
}

// Args are a launch's arguments.
type Args []string

// UnmarshalYAML reads a list whose null is the word: a decoder of strings leaves it out,
// and all arguments behind it move up.
func (a *Args) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: args is not a list", n.Line)
	}
	*a = nil
	for _, c := range n.Content {
		switch {
		case c.Kind != yaml.ScalarNode:
			return fmt.Errorf("line %d: args has an entry that is no text", c.Line)
		case c.Tag == "!!null":
			*a = append(*a, "null")
		default:
			*a = append(*a, c.Value)
		}
	}
	return nil
}

// Stages are the tensors before the attention itself, in the program's order:
// the mean of K [kv heads][head_dim]; the scales of K and Q by group; their codes,
// [heads][tokens][head_dim], K's possibly padded with tokens; V's mean and scale [kv
// heads][head_dim] and its codes [kv heads][head_dim][tokens padded], permuted
// within 16 tokens. Means and scales are f32, f16, bf16 or dtype, rounded to it;
// codes of K and Q i8, or i4 where the program has codes of 4 bits; V's codes are of
// the program's type for them: e4m3, e5m2, i8 or f16.
func Stages() []string {
	return []string{"k_mean", "k_scale", "k_codes", "q_scale", "q_codes", "v_mean", "v_scale", "v_codes"}
}

// builtin are the buffers that every problem has.
var builtin = []string{"q", "k", "v", "o", "lse"}

var types = map[string]int{"i4": 4, "i8": 8, "e4m3": 8, "e5m2": 8, "f16": 16, "bf16": 16, "dtype": 16, "f32": 32, "i32": 32}

// Read parses a manifest; name stands for it in errors. A file that it names is looked
// for in the working directory.
func Read(name string, r io.Reader) (*Manifest, error) { return readIn(name, "", r) }

func readIn(name, dir string, r io.Reader) (*Manifest, error) {
	m, err := parse(r, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// Open reads a manifest file. A description that it names is looked for in the
// manifest's folder.
func Open(path string) (*Manifest, error) {
	f, err := datafile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readIn(path, filepath.Dir(path), f)
}

// maxSize bounds a manifest's size, maxHeadDims what it does: all of it is tried
// when it is read.
const (
	maxSize     = 64 << 10
	maxHeadDims = 16
)

func parse(r io.Reader, dir string) (*Manifest, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSize {
		return nil, errors.New("longer than a manifest can be (64 KiB)")
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	m := &Manifest{dir: dir}
	if err := d.Decode(m); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("empty")
		}
		var typeErr *yaml.TypeError
		if errors.As(err, &typeErr) {
			return nil, errors.New(strings.Join(typeErr.Errors, "; "))
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

var archPattern = regexp.MustCompile(`^sm_[0-9]{2,3}a?$`)

func (m *Manifest) check() error {
	if m.Name == "" {
		return errors.New("no name")
	}
	if m.Emulates.Kernel == "" {
		return errors.New("emulates: no kernel: which program does it claim to be?")
	}
	p, err := m.Program("")
	if err != nil {
		return fmt.Errorf("emulates: %w", err)
	}
	if !archPattern.MatchString(m.Arch) {
		return fmt.Errorf("arch is %q: want one such as sm_89 or sm_90a", m.Arch)
	}
	if n := len(m.HeadDims); n < 1 || n > maxHeadDims {
		return fmt.Errorf("%d head_dims: want 1 to %d of them", n, maxHeadDims)
	}
	for i, d := range m.HeadDims {
		if most := p.Operands.MaxHeadDim; d < 1 || d > most || slices.Contains(m.HeadDims[:i], d) {
			return fmt.Errorf("head_dims has %d: want 1 to %d, each once", d, most)
		}
	}
	if len(m.DTypes) == 0 {
		return errors.New("no dtypes")
	}
	for i, d := range m.DTypes {
		if d != "f16" && d != "bf16" || slices.Contains(m.DTypes[:i], d) {
			return fmt.Errorf("dtypes has %q: want f16 and bf16, each once", d)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Buffers)) {
		b := m.Buffers[name]
		switch {
		case slices.Contains(builtin, name):
			return fmt.Errorf("buffer %s: every problem has it", name)
		case types[b.Type] == 0:
			return fmt.Errorf("buffer %s: type is %q: want one of %s", name, b.Type, strings.Join(slices.Sorted(maps.Keys(types)), ", "))
		case b.From != "" && b.From != "emulator":
			return fmt.Errorf("buffer %s: from is %q: only the emulator fills buffers", name, b.From)
		case b.From != "" && !slices.Contains(Stages(), name):
			return fmt.Errorf("buffer %s: the emulator has no such tensor (it has %s)", name, strings.Join(Stages(), ", "))
		case slices.Contains(Stages(), name):
			if err := m.checkStage(b.Type, m.stageTypes(name, &p)); err != nil {
				return fmt.Errorf("buffer %s: %w", name, err)
			}
		}
	}
	if len(m.Launches) == 0 {
		return errors.New("no launches")
	}
	written := false
	for _, l := range m.Launches {
		if l.Entry == "" {
			return errors.New("a launch without entry")
		}
		written = written || slices.Contains(l.Args, "o")
	}
	if !written {
		return errors.New("no launch takes o, the output")
	}
	return m.try()
}

// stageTypes returns the types that a stage's buffer may have: the program's codes,
// or numbers.
func (m *Manifest) stageTypes(name string, p *program.Program) []string {
	switch {
	case name == "v_codes" && p.VCodes.Format == "fp16":
		if slices.Equal(m.DTypes, []string{"f16"}) {
			return []string{"f16", "dtype"}
		}
		return []string{"f16"}
	case name == "v_codes":
		if p.VCodes.Format == "int8" {
			return []string{"i8"}
		}
		return []string{p.VCodes.Format}
	case !strings.HasSuffix(name, "_codes"):
		return []string{"f32", "f16", "bf16", "dtype"}
	case p.Bits() == 4:
		return []string{"i4", "i8"}
	}
	return []string{"i8"}
}

// checkStage reports a type that is not among those that a stage may have.
func (m *Manifest) checkStage(kind string, may []string) error {
	if !slices.Contains(may, kind) {
		return fmt.Errorf("type is %s: what this program has there is %s", kind, strings.Join(may, ", "))
	}
	if odd := slices.IndexFunc(m.HeadDims, func(d int) bool { return d%2 != 0 }); kind == "i4" && odd >= 0 {
		return fmt.Errorf("type is i4: rows of head_dim %d would end within a byte", m.HeadDims[odd])
	}
	return nil
}

// try evaluates every expression for all that the kernel does, on a problem that
// fits nothing and on the smallest, so that a fault shows at once.
func (m *Manifest) try() error {
	for p := range m.problems(Problem{Batch: 1, Heads: 2, KVHeads: 1, Queries: 17, Keys: 19, Scale: 0.125}, smallest) {
		if _, err := m.plan(p); err != nil {
			return fmt.Errorf("%w (where head_dim = %d, dtype = %s, causal = %t, queries = %d, keys = %d)", err, p.HeadDim, p.DType, p.Causal, p.Queries, p.Keys)
		}
	}
	return nil
}

// smallest is the shape of the smallest problem.
var smallest = Problem{Batch: 1, Heads: 1, KVHeads: 1, Queries: 1, Keys: 1, Scale: 1}

// problems yields each shape with every head_dim, dtype and mask.
func (m *Manifest) problems(shapes ...Problem) iter.Seq[Problem] {
	return func(yield func(Problem) bool) {
		for _, p := range shapes {
			for _, p.HeadDim = range m.HeadDims {
				for _, p.DType = range m.DTypes {
					for _, p.Causal = range []bool{false, true} {
						if !yield(p) {
							return
						}
					}
				}
			}
		}
	}
}

// Program returns the description of the kernel that it claims to be. arch is the GPU's,
// for a claim that names none; it may be empty: the known kernel's own.
func (m *Manifest) Program(arch string) (program.Program, error) {
	c := &m.Emulates
	if c.Arch != "" {
		arch = c.Arch
	}
	s := program.Selection{
		Kernel: c.Kernel, Dir: m.dir, Arch: arch, QKBits: c.QKBits, Granularity: c.Granularity,
		Smooth: c.Smooth, PVType: c.PVType, PVAccum: c.PVAccum, Set: c.Set,
	}
	if c.Variant != "" {
		s.Variants = []string{c.Variant}
	}
	return s.Program()
}

// Runs reports whether a GPU of compute capability sm (90 for 9.0) can run the
// kernel.
func (m *Manifest) Runs(sm int) error {
	var want int
	// The pattern was checked.
	_, _ = fmt.Sscanf(m.Arch, "sm_%d", &want)
	if strings.HasSuffix(m.Arch, "a") && sm != want {
		return fmt.Errorf("%s needs an %s GPU; this one is sm_%d", m.Name, strings.TrimSuffix(m.Arch, "a"), sm)
	}
	if sm < want {
		return fmt.Errorf("%s needs a GPU of %s or later; this one is sm_%d", m.Name, m.Arch, sm)
	}
	return nil
}

// ptxEntry finds the names of a PTX text's entry points and their parameters.
var ptxEntry = regexp.MustCompile(`\.entry\s+([A-Za-z0-9_$%]+)\s*(?:\(([^)]*)\))?`)

// CheckImage reports an image that is neither PTX text nor a cubin, or that does
// not have an entry point that the manifest launches, by its whole name, with as many
// parameters as the manifest has arguments: the driver reads as many as the entry has.
func CheckImage(m *Manifest, image []byte) error {
	// params returns how many parameters an entry has, -1 if there is no such entry.
	var params func(entry string) (int, error)
	switch {
	case bytes.HasPrefix(image, []byte("\x7fELF")):
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return fmt.Errorf("not a cubin: %w", err)
		}
		defer f.Close()
		params = func(entry string) (int, error) { return cubinParams(f, entry) }
	case bytes.Contains(image, []byte(".version")) && bytes.Contains(image, []byte(".entry")):
		entries := map[string]int{}
		for _, match := range ptxEntry.FindAllSubmatch(image, -1) {
			entries[string(match[1])] = bytes.Count(match[2], []byte(".param"))
		}
		params = func(entry string) (int, error) {
			if n, ok := entries[entry]; ok {
				return n, nil
			}
			return -1, nil
		}
	default:
		return errors.New("neither PTX text nor a cubin")
	}
	for p := range m.problems(smallest) {
		plan, err := m.Plan(p)
		if err != nil {
			return err
		}
		for _, l := range plan.Launches {
			n, err := params(l.Entry)
			switch {
			case err != nil:
				return err
			case n < 0:
				return fmt.Errorf("no entry %s, which the manifest %s launches", l.Entry, m.Name)
			case n != len(l.Args):
				return fmt.Errorf("entry %s has %d parameters, and the manifest %s gives it %d arguments", l.Entry, n, m.Name, len(l.Args))
			}
		}
	}
	return nil
}

// cubinParams returns how many parameters an entry of a cubin has, -1 if there is no such
// entry. The section .nv.info.ENTRY is a list of attributes, a byte each for its form and
// its kind and 16 bits that are its value or, in form 4, the size of what follows; there
// is one of kind 0x17 for each parameter (cuobjdump -elf shows them as EIATTR_KPARAM_INFO).
func cubinParams(f *elf.File, entry string) (int, error) {
	const sized, paramInfo = 4, 0x17
	if f.Section(".text."+entry) == nil {
		return -1, nil
	}
	s := f.Section(".nv.info." + entry)
	if s == nil {
		return 0, nil
	}
	x, err := s.Data()
	if err != nil {
		return 0, fmt.Errorf("not a cubin: %s: %w", s.Name, err)
	}
	n := 0
	for len(x) >= 4 {
		form, kind, size := x[0], x[1], 0
		if form == sized {
			size = int(x[2]) | int(x[3])<<8
		}
		if kind == paramInfo {
			n++
		}
		x = x[min(len(x), 4+size):]
	}
	return n, nil
}
