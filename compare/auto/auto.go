// Package auto chooses the kernel that a dump's own metadata names: the GPU that it was
// recorded on, and the call, as captured.
package auto

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
)

// The names that stand for a choice by metadata. Kernel is what ran: the recorded call's
// kernel, or, where none is recorded, what sageattn() runs on the GPU. Sage is what
// sageattn() runs on the GPU, or the SageAttention function that was recorded.
const (
	Kernel = "auto"
	Sage   = "sageattn@auto"
)

// Names are those names.
func Names() []string { return []string{Kernel, Sage} }

// Is says whether a kernel's name stands for such a choice.
func Is(name string) bool { return slices.Contains(Names(), name) }

// Choice is a kernel and where it is from.
type Choice struct {
	// Selection selects it.
	program.Selection
	// Name is the kernel as --kernel and the flags beside it have it.
	Name string
	// Why says what of the metadata decided.
	Why string
}

// Choose returns the kernel of all layers of a dump that name, one of Names, stands for. The
// error says which file's metadata says nothing, something unknown, or something else than
// another's.
func Choose(name string, d *layerdumps.Dump) (Choice, error) {
	var first Choice
	for i := range d.Layers {
		l := &d.Layers[i]
		c, err := of(name, l.Metadata)
		if err != nil {
			return Choice{}, fmt.Errorf("%s: layer %s: --kernel %s: %w", l.Source, l.Name, name, err)
		}
		if i == 0 {
			first = c
		} else if c.Name != first.Name {
			return Choice{}, fmt.Errorf("%s: layer %s: --kernel %s: it is of %s (%s), and layer %s of %s (%s): choose with --layers, or name a kernel",
				l.Source, l.Name, name, c.Name, c.Why, d.Layers[0].Name, first.Name, first.Why)
		}
	}
	if first.Name == "" {
		return Choice{}, fmt.Errorf("--kernel %s: the dump has no layer", name)
	}
	return first, nil
}

// of chooses by the metadata of one file: kernel and call of what was captured, arch and
// device of the GPU, as the Python package's Capture writes them.
func of(name string, metadata map[string]string) (Choice, error) {
	if text, ok := metadata["kernel"]; ok {
		s, err := parse(text)
		if err != nil {
			return Choice{}, fmt.Errorf("metadata kernel %q: %w", short(text), err)
		}
		if name == Kernel || strings.HasPrefix(s.Kernel, "sage") {
			why := "the recorded call's kernel"
			if call, _, ok := strings.Cut(metadata["call"], "("); ok {
				why = "the recorded call, " + short(call) + "()"
			}
			if device, ok := metadata["device"]; ok {
				why += " on " + short(device)
			}
			return Choice{s, strings.Join(strings.Fields(text), " "), why}, nil
		}
	}
	arch, on, err := gpu(metadata)
	if err != nil {
		return Choice{}, err
	}
	alias, err := program.AliasOf(arch)
	if err != nil {
		return Choice{}, fmt.Errorf("%s: %w", on, err)
	}
	return Choice{program.Selection{Kernel: alias}, alias, "what sageattn() runs on " + on}, nil
}

// gpu returns the architecture of the GPU that metadata names, and the GPU in words.
func gpu(metadata map[string]string) (arch, on string, err error) {
	device, named := metadata["device"]
	arch, given := metadata["arch"]
	if !named && !given {
		return "", "", fmt.Errorf("no metadata device or arch says which GPU it is of: name the kernel")
	}
	known := Arch(device)
	switch {
	case given && !archForm.MatchString(arch):
		return "", "", fmt.Errorf("metadata arch %q is no architecture as in sm_90", short(arch))
	case given && known != "" && known != arch:
		return "", "", fmt.Errorf("metadata device %q is %s, and metadata arch is %s", short(device), known, arch)
	case !given && known == "":
		return "", "", fmt.Errorf("metadata device %q is no GPU whose architecture is known here: name the kernel, or add metadata arch as in sm_90", short(device))
	case !given:
		return known, fmt.Sprintf("%s (%s)", short(device), known), nil
	case !named:
		return arch, arch, nil
	}
	return arch, fmt.Sprintf("%s (%s)", short(device), arch), nil
}

var archForm = regexp.MustCompile(`^sm_[1-9][0-9]{1,2}$`)

// gpus are architectures by what is in a GPU's name, as the driver gives it, in order:
// NVIDIA's table of compute capabilities (developer.nvidia.com/cuda-gpus).
var gpus = []struct {
	name *regexp.Regexp
	arch string
}{
	{word(`V100S?|TITAN V`), "sm_70"},
	{word(`T4|TITAN RTX|RTX 20[5-8]0|QUADRO RTX [0-9]000|GTX 16[56]0`), "sm_75"},
	{word(`A100X?|A800|A30X?`), "sm_80"},
	{word(`A10[GM]?|A16|A2|A40|RTX A[0-9]{3,4}|RTX 30[5-9]0`), "sm_86"},
	{word(`ORIN`), "sm_87"},
	{word(`L2|L4|L20|L40[SG]?|RTX [0-9]{3,4}( SFF)? ADA|RTX 40[5-9]0`), "sm_89"},
	{word(`H100L?|H200|H800|H20|GH200`), "sm_90"},
	{word(`B100|B200|GB200`), "sm_100"},
	{word(`B300|GB300`), "sm_103"},
	{word(`RTX 50[5-9]0|RTX PRO [0-9]{3,4} BLACKWELL`), "sm_120"},
	{word(`GB10`), "sm_121"},
}

func word(names string) *regexp.Regexp { return regexp.MustCompile(`\b(` + names + `)\b`) }

// Arch returns the architecture of a GPU by its name, as in sm_90 for NVIDIA H200, "" if
// the name is of none that is known.
func Arch(device string) string {
	device = strings.NewReplacer("_", " ", "-", " ").Replace(strings.ToUpper(device))
	for _, g := range gpus {
		if g.name.MatchString(device) {
			return g.arch
		}
	}
	return ""
}

// parse reads a known kernel and flags behind it, as the command line has them. It takes
// no file: a dump does not make anything read one.
func parse(text string) (program.Selection, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return program.Selection{}, fmt.Errorf("names no kernel")
	}
	s := program.Selection{Kernel: words[0]}
	if _, err := program.Preset(s.Kernel); err != nil {
		return s, err
	}
	for words = words[1:]; len(words) > 0; words = words[2:] {
		if len(words) == 1 {
			return s, fmt.Errorf("%s has no value", words[0])
		}
		value := words[1]
		switch words[0] {
		case "--arch":
			s.Arch = value
		case "--qk-bits":
			switch value {
			case "4", "8":
				s.QKBits = int(value[0] - '0')
			default:
				return s, fmt.Errorf("--qk-bits is %s: want 4 or 8", value)
			}
		case "--qk-granularity":
			s.Granularity = value
		case "--smooth":
			s.Smooth = value
		case "--pv-dtype":
			s.PVType = value
		case "--pv-accum":
			s.PVAccum = value
		case "--variant":
			s.Variants = append(s.Variants, value)
		case "--set":
			s.Set = append(s.Set, value)
		default:
			return s, fmt.Errorf("unknown flag %s", words[0])
		}
	}
	_, err := s.Program()
	return s, err
}

// short is a text of a file as an error names it.
func short(s string) string {
	const most = 100
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}
