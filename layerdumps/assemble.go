package layerdumps

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// roles are the last parts of the names of a layer's tensors.
const roles = "qkvo"

// output is the index of o in roles.
const output = 3

// parts are the tensors found for one layer, by their index in roles.
type parts [len(roles)]*rawTensor

// set is the layers found in some files, before they are checked.
type set map[string]*parts

// open does the work of Open; the caller closes d if it fails.
func (d *Dump) open(paths []string, opt Options) error {
	if len(paths) == 0 {
		return errors.New("no dump given")
	}
	if opt.SMScale != nil {
		if err := checkScale(*opt.SMScale); err != nil {
			return err
		}
	}
	lse := make(sums)
	found, err := d.collect(paths, func(t *rawTensor) {
		if !opt.LSE || !lse.add(t) {
			d.Ignored = append(d.Ignored, Ignored{File: t.file, Name: t.name})
		}
	})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("%s: no tensor is named <layer>.q, .k, .v or .o", strings.Join(paths, ", "))
	}
	actualLSE := make(sums)
	actual, err := d.collectActual(opt.Actual, found, func(t *rawTensor) {
		if opt.LSE {
			actualLSE.add(t)
		}
	})
	if err != nil {
		return err
	}
	d.Ignored = append(d.Ignored, lse.without(found)...)
	names, err := found.selectNames(opt)
	if err != nil {
		return err
	}
	for _, name := range names {
		p, from := *found[name], lse
		if actual[name] != nil {
			p[output], from = actual[name], actualLSE
		}
		layer, err := d.assemble(name, &p, actual[name] != nil, opt)
		if err != nil {
			return err
		}
		if err := d.addLSE(&layer, from, &p); err != nil {
			return err
		}
		d.Layers = append(d.Layers, layer)
	}
	return nil
}

// collect reads the files in paths and sorts their tensors into layers. A layer
// may be spread over files. Where a name stands for a whole layer in several
// files, it is several layers, and then the layers of every file are called
// <file>/<layer>.
func (d *Dump) collect(paths []string, ignore func(*rawTensor)) (set, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	byFile := make(map[string]set) // by layer, then by file
	for _, file := range files {
		raw, err := d.read(file)
		if err != nil {
			return nil, err
		}
		for i := range raw {
			t := &raw[i]
			layer, role, ok := splitName(t.name)
			if !ok {
				ignore(t)
				continue
			}
			if byFile[layer] == nil {
				byFile[layer] = make(set)
			}
			p := byFile[layer][file]
			if p == nil {
				p = new(parts)
				byFile[layer][file] = p
			}
			if p[role] != nil {
				return nil, fmt.Errorf("%s: tensor %q: the file is given twice", t.file, t.name)
			}
			p[role] = t
		}
	}
	found := make(set)
	clash := false // some name is a whole layer in several files
	for _, layer := range slices.Sorted(maps.Keys(byFile)) {
		held := byFile[layer]
		_, twice := held.merge(files)
		if twice != nil && !held.whole() {
			return nil, twice
		}
		clash = clash || twice != nil
	}
	for layer, held := range byFile {
		if clash && held.whole() {
			for file, p := range held {
				found[fileLabel(file, files)+"/"+layer] = p
			}
			continue
		}
		found[layer], _ = held.merge(files)
	}
	return found, nil
}

// merge puts a layer together from what each file holds of it, in the order of
// files. The error names a tensor that two of them hold.
func (s set) merge(files []string) (*parts, error) {
	merged := new(parts)
	var twice error
	for _, file := range files {
		p := s[file]
		if p == nil {
			continue
		}
		for role, t := range p {
			switch other := merged[role]; {
			case t == nil:
			case other == nil:
				merged[role] = t
			case twice == nil:
				twice = fmt.Errorf("%s: tensor %q: %s has one of that name too", t.file, t.name, other.file)
			}
		}
	}
	return merged, twice
}

// whole reports whether every file has q, k and v of its own.
func (s set) whole() bool {
	for _, p := range s {
		if p[0] == nil || p[1] == nil || p[2] == nil {
			return false
		}
	}
	return true
}

// fileLabel is the file's name without its ending, or its path where another
// file has that name too.
func fileLabel(file string, files []string) string {
	label := func(f string) string {
		return strings.TrimSuffix(filepath.Base(f), filepath.Ext(f))
	}
	for _, f := range files {
		if f != file && label(f) == label(file) {
			return filepath.ToSlash(strings.TrimSuffix(file, filepath.Ext(file)))
		}
	}
	return label(file)
}

// collectActual reads the outputs that are to replace the dump's.
func (d *Dump) collectActual(paths []string, layers set, ignore func(*rawTensor)) (map[string]*rawTensor, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	// An actual file is often a whole dump; what else it holds is no matter.
	found, err := d.collect(paths, ignore)
	if err != nil {
		return nil, err
	}
	outputs := make(map[string]*rawTensor)
	for _, name := range found.names() {
		o := found[name][output]
		if o == nil {
			continue
		}
		if layers[name] == nil {
			return nil, fmt.Errorf("%s: tensor %q: the dump has no layer %q", o.file, o.name, name)
		}
		outputs[name] = o
	}
	if len(outputs) == 0 {
		return nil, fmt.Errorf("%s: no tensor is named <layer>.o", strings.Join(paths, ", "))
	}
	return outputs, nil
}

// sums are the tensors <layer>.lse by the layer's name in the files. A name may be
// a layer's in several files.
type sums map[string][]*rawTensor

// add takes a tensor in if it is one.
func (s sums) add(t *rawTensor) bool {
	layer, ok := strings.CutSuffix(t.name, ".lse")
	if !ok || layer == "" {
		return false
	}
	s[layer] = append(s[layer], t)
	return true
}

// without lists those that have no layer in found.
func (s sums) without(found set) []Ignored {
	layers := make(map[string]bool)
	for _, p := range found {
		for _, t := range p {
			if t != nil {
				name, _, _ := splitName(t.name)
				layers[name] = true
			}
		}
	}
	var out []Ignored
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if !layers[name] {
			for _, t := range s[name] {
				out = append(out, Ignored{File: t.file, Name: t.name})
			}
		}
	}
	return out
}

// addLSE finds the log-sum-exp that belongs to the layer's output: in its file, or
// without an output in that of q, or in a file of its own if no other layer has
// that name. It checks its shape against q.
func (d *Dump) addLSE(l *Layer, found sums, p *parts) error {
	beside := p[output]
	if beside == nil {
		beside = p[0]
	}
	name, _, _ := splitName(beside.name)
	var t *rawTensor
	for _, c := range found[name] {
		if c.file == beside.file {
			t = c
		}
	}
	if all := found[name]; t == nil && len(all) > 0 && l.Name == name {
		if t = all[0]; len(all) > 1 {
			return fmt.Errorf("%s: tensor %q: %s has one of that name too", t.file, t.name, all[1].file)
		}
	}
	if t == nil {
		return nil
	}
	if want := []int{l.Q.Batch, l.Q.Heads, l.Q.Tokens}; t.dtype != "F32" || !slices.Equal(t.shape, want) {
		return fmt.Errorf("%s: tensor %q is %s %v; want FP32 [batch, heads, tokens], %v", t.file, t.name, t.dtype, t.shape, want)
	}
	if t.load != nil {
		if err := t.load(); err != nil {
			return err
		}
	}
	l.LSE = &Tensor{
		File: t.file, Name: t.name, DType: F32,
		Batch: l.Q.Batch, Heads: l.Q.Heads, Tokens: l.Q.Tokens, Dim: 1,
		bytes: t.bytes(d.source),
	}
	if !slices.Contains(strings.Split(l.Source, ", "), t.file) {
		l.Source += ", " + t.file
	}
	return nil
}

// splitName takes a tensor's name apart.
func splitName(name string) (layer string, role int, ok bool) {
	n := len(name) - 2
	if n < 1 || name[n] != '.' {
		return "", 0, false
	}
	role = strings.IndexByte(roles, name[n+1])
	return name[:n], role, role >= 0
}

// names returns the layers' names in natural order.
func (s set) names() []string {
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	slices.SortFunc(names, compareNatural)
	return names
}

// selectNames returns the names that opt asks for.
func (s set) selectNames(opt Options) ([]string, error) {
	all := s.names()
	if opt.Layers == nil {
		return all, nil
	}
	var names []string
	for _, name := range all {
		if opt.Layers.MatchString(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		const most = 5
		list := strings.Join(all[:min(len(all), most)], ", ")
		if len(all) > most {
			list += fmt.Sprintf(" and %d more", len(all)-most)
		}
		return nil, fmt.Errorf("no layer matches %q; the dump has %s", opt.Layers, list)
	}
	return names, nil
}

// assemble checks one layer's tensors and puts them together.
func (d *Dump) assemble(name string, p *parts, actual bool, opt Options) (Layer, error) {
	q, k, v, o := p[0], p[1], p[2], p[3]
	if q == nil || k == nil || v == nil {
		return Layer{}, p.incomplete(name)
	}
	l := Layer{Name: name}
	layout := HND
	if err := applyMetadata(&l, &layout, d.Metadata[q.file]); err != nil {
		return Layer{}, fmt.Errorf("%s: metadata: %w", q.file, err)
	}
	outputLayout := layout
	if actual {
		// An actual output may come from another program, hence in another
		// layout, and says so in its own metadata.
		if s, ok := d.Metadata[o.file]["layout"]; ok {
			var err error
			if outputLayout, err = ParseLayout(s); err != nil {
				return Layer{}, fmt.Errorf("%s: metadata: %w", o.file, err)
			}
		}
	}
	if opt.Layout != nil {
		layout, outputLayout = *opt.Layout, *opt.Layout
	}
	if opt.Causal != nil {
		l.Causal = *opt.Causal
	}
	if opt.SMScale != nil {
		l.SMScale = *opt.SMScale
	}
	used := []*rawTensor{q, k, v}
	for i, dst := range []*Tensor{&l.Q, &l.K, &l.V} {
		var err error
		if *dst, err = d.tensor(used[i], layout); err != nil {
			return Layer{}, err
		}
	}
	if o != nil {
		t, err := d.tensor(o, outputLayout)
		if err != nil {
			return Layer{}, err
		}
		used, l.O = append(used, o), &t
	}
	if err := l.check(); err != nil {
		return Layer{}, err
	}
	var sources []string
	for _, t := range used {
		if !slices.Contains(sources, t.file) {
			sources = append(sources, t.file)
		}
	}
	l.Source = strings.Join(sources, ", ")
	return l, nil
}

// incomplete says which of a layer's tensors there are and which are missing.
func (p *parts) incomplete(name string) error {
	var file string
	var has, lacks []string
	for i, t := range p {
		role := roles[i : i+1]
		switch {
		case t != nil:
			has = append(has, role)
			if file == "" {
				file = t.file
			}
		case role != "o":
			lacks = append(lacks, role)
		}
	}
	return fmt.Errorf("%s: layer %q has %s but no %s", file, name, strings.Join(has, ", "), strings.Join(lacks, ", "))
}

// applyMetadata reads the metadata that means something to a layer.
func applyMetadata(l *Layer, layout *Layout, metadata map[string]string) error {
	if s, ok := metadata["layout"]; ok {
		var err error
		if *layout, err = ParseLayout(s); err != nil {
			return err
		}
	}
	switch s, ok := metadata["causal"]; {
	case !ok:
	case strings.EqualFold(s, "true"):
		l.Causal = true
	case !strings.EqualFold(s, "false"):
		return fmt.Errorf("causal %q is neither true nor false", s)
	}
	if s, ok := metadata["sm_scale"]; ok {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("sm_scale %q is not a number", s)
		}
		if err := checkScale(x); err != nil {
			return err
		}
		l.SMScale = x
	}
	l.Synthetic = metadata["synthetic"]
	return nil
}

func checkScale(x float64) error {
	if !(x > 0) || math.IsInf(x, 1) {
		return fmt.Errorf("sm_scale %v is not a positive, finite number", x)
	}
	return nil
}

// tensor checks what can be checked of one tensor alone.
func (d *Dump) tensor(t *rawTensor, layout Layout) (Tensor, error) {
	dtype, err := parseDType(t.dtype)
	switch {
	case err != nil:
	case len(t.shape) != 4:
		err = fmt.Errorf("has %d dimensions, %v; want the 4 of %s", len(t.shape), t.shape, layout.dimensions())
	case slices.Contains(t.shape, 0):
		err = fmt.Errorf("is empty: %s %v", layout.dimensions(), t.shape)
	case t.shape[3] > MaxHeadDim:
		err = fmt.Errorf("head_dim is %d; the kernels support up to %d", t.shape[3], MaxHeadDim)
	}
	if err != nil {
		return Tensor{}, fmt.Errorf("%s: tensor %q: %w", t.file, t.name, err)
	}
	if t.load != nil {
		if err := t.load(); err != nil {
			return Tensor{}, err
		}
	}
	heads, tokens := t.shape[1], t.shape[2]
	if layout == NHD {
		heads, tokens = tokens, heads
	}
	return Tensor{
		File: t.file, Name: t.name, DType: dtype,
		Batch: t.shape[0], Heads: heads, Tokens: tokens, Dim: t.shape[3],
		layout: layout, bytes: t.bytes(d.source),
	}, nil
}

// dimensions names the layout's dimensions for messages.
func (l Layout) dimensions() string {
	if l == NHD {
		return "[batch, tokens, heads, head_dim]"
	}
	return "[batch, heads, tokens, head_dim]"
}

// check holds the layer's tensors against each other.
func (l *Layer) check() error {
	q, k, v := &l.Q, &l.K, &l.V
	// differ reports that t does not agree with a tensor that was read before.
	differ := func(t *Tensor, what string, got any, other *Tensor, want any) error {
		return fmt.Errorf("%s: tensor %q: %s %v differs from that of %q, %v", t.File, t.Name, what, got, other.Name, want)
	}
	for _, t := range []*Tensor{k, v} {
		switch {
		case t.DType != q.DType:
			return differ(t, "dtype", t.DType, q, q.DType)
		case t.Batch != q.Batch:
			return differ(t, "batch", t.Batch, q, q.Batch)
		case t.Dim != q.Dim:
			return differ(t, "head_dim", t.Dim, q, q.Dim)
		case q.Heads%t.Heads != 0:
			return fmt.Errorf("%s: tensor %q: its %d heads do not divide the %d of %q", t.File, t.Name, t.Heads, q.Heads, q.Name)
		}
	}
	switch {
	case v.Heads != k.Heads:
		return differ(v, "number of heads", v.Heads, k, k.Heads)
	case v.Tokens != k.Tokens:
		return differ(v, "number of tokens", v.Tokens, k, k.Tokens)
	}
	if o := l.O; o != nil && o.Shape() != q.Shape() {
		return differ(o, "[batch, heads, tokens, head_dim]", o.Shape(), q, q.Shape())
	}
	return nil
}
