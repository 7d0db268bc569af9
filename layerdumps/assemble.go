package layerdumps

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate/format"
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
	found, ignored, err := d.collect(paths, opt.Names)
	if err != nil {
		return err
	}
	ignored = append(ignored, found.dropWeak()...)
	byNumber := func(a, b *rawTensor) int { return cmp.Compare(a.number, b.number) }
	slices.SortFunc(ignored, byNumber)
	if len(found) == 0 {
		return opt.Names.absent(paths, describeAll(ignored), 0, 1, 2, 3)
	}
	more := make(extras)
	ignored = slices.DeleteFunc(ignored, func(t *rawTensor) bool { return more.add(t, opt.LSE) })
	ofActual := make(extras)
	actual, err := d.collectActual(opt, found, ofActual)
	if err != nil {
		return err
	}
	ignored = append(ignored, more.without(found)...)
	slices.SortFunc(ignored, byNumber)
	for _, t := range ignored {
		d.Ignored = append(d.Ignored, Ignored{File: t.file, Name: t.name})
	}
	names, err := found.selectNames(opt)
	if err != nil {
		return err
	}
	for _, name := range names {
		p, from := *found[name], more
		if actual[name] != nil {
			p[output], from = actual[name], ofActual
		}
		bounds, err := d.findBounds(name, &p, more)
		if err != nil {
			return err
		}
		layer, err := d.assemble(name, &p, actual[name] != nil, opt, bounds != nil)
		if err != nil {
			return err
		}
		if err := d.addCall(&layer, more, &p, bounds.sequences()); err != nil {
			return err
		}
		if err := d.addLSE(&layer, from, &p, bounds != nil); err != nil {
			return err
		}
		layers := []Layer{layer}
		if bounds != nil {
			if layers, err = bounds.split(&layer); err != nil {
				return err
			}
		}
		d.Layers = append(d.Layers, layers...)
	}
	return nil
}

// collect reads the files in paths and sorts their tensors into layers; those that
// belong to none it returns in their order. A layer may be spread over files. Where a
// name stands for a whole layer in several files, it is several layers, and then the
// layers of every file are called <file>/<layer>.
func (d *Dump) collect(paths []string, names Names) (set, []*rawTensor, error) {
	files, indexes, err := expand(paths)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range indexes {
		d.Files = append(d.Files, x.path)
	}
	number := make(map[string]int, len(files)) // of a file, where it is given first
	for i, f := range slices.Backward(files) {
		number[f] = i
	}
	var all []*rawTensor
	layers := make(map[string]*holders)
	put := func(t *rawTensor) error {
		if layers[t.layer] == nil {
			layers[t.layer] = new(holders)
		}
		p := layers[t.layer].of(t.file, number[t.file])
		if other := p[t.role]; other != nil {
			if other.name != t.name {
				return fmt.Errorf("%s: tensors %q and %q are both %s of layer %q (--names says which is)", t.file, other.name, t.name, roleNames[t.role][0], t.layer)
			}
			return fmt.Errorf("%s: tensor %q: the file is given twice", t.file, t.name)
		}
		p[t.role] = t
		t.used = true
		return nil
	}
	var weak []*rawTensor // those that may have a role
	for _, file := range files {
		raw, err := d.read(file)
		for _, x := range indexes {
			if err == nil {
				err = x.check(file, raw)
			}
		}
		if err != nil {
			return nil, nil, err
		}
		for i := range raw {
			t := &raw[i]
			t.number = len(all)
			all = append(all, t)
			p, ok, err := names.find(t.name)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", t.file, err)
			}
			t.part, t.named = p, ok
			switch {
			case !ok || p.role >= lse:
			case p.weak:
				weak = append(weak, t)
			default:
				if err := put(t); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	for _, t := range weak {
		if h := layers[t.layer]; h == nil || !h.surely(t.role) {
			if err := put(t); err != nil {
				return nil, nil, err
			}
		}
	}
	var ignored []*rawTensor
	for _, t := range all {
		if !t.used {
			ignored = append(ignored, t)
		}
	}
	found := make(set, len(layers))
	clash := false // some name is a whole layer in several files
	for _, layer := range slices.Sorted(maps.Keys(layers)) {
		h := layers[layer]
		merged, twice := h.merge()
		if twice != nil && !h.whole() {
			return nil, nil, twice
		}
		clash = clash || twice != nil
		found[layer] = merged
	}
	if !clash {
		return found, ignored, nil
	}
	label := fileLabels(files)
	for layer, h := range layers {
		if !h.whole() {
			continue
		}
		delete(found, layer)
		for i, p := range h.parts {
			found[label(h.files[i])+"/"+layer] = p
		}
	}
	return found, ignored, nil
}

// holders are the files that hold tensors of one layer, in the order of the files, and
// what each of them holds.
type holders struct {
	files   []string
	numbers []int
	parts   []*parts
}

// of returns what a file holds, to be added to.
func (h *holders) of(file string, number int) *parts {
	// Most often it is the last.
	at := len(h.numbers)
	if at > 0 && number <= h.numbers[at-1] {
		at, _ = slices.BinarySearch(h.numbers, number)
	}
	if at == len(h.numbers) || h.numbers[at] != number {
		h.files = slices.Insert(h.files, at, file)
		h.numbers = slices.Insert(h.numbers, at, number)
		h.parts = slices.Insert(h.parts, at, new(parts))
	}
	return h.parts[at]
}

// surely reports whether some file has a tensor whose name leaves no doubt that it has
// the role.
func (h *holders) surely(role int) bool {
	return slices.ContainsFunc(h.parts, func(p *parts) bool { return p[role] != nil && !p[role].weak })
}

// merge puts the layer together from what each file holds of it. The error names a
// tensor that two of them hold.
func (h *holders) merge() (*parts, error) {
	if len(h.parts) == 1 {
		return h.parts[0], nil
	}
	merged := new(parts)
	var twice error
	for _, p := range h.parts {
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
func (h *holders) whole() bool {
	for _, p := range h.parts {
		if p[0] == nil || p[1] == nil || p[2] == nil {
			return false
		}
	}
	return true
}

// fileLabels returns a function that gives a file's name without its ending, or its
// path where another of the files has that name too.
func fileLabels(files []string) func(file string) string {
	label := func(f string) string { return strings.TrimSuffix(filepath.Base(f), filepath.Ext(f)) }
	first := make(map[string]string)
	shared := make(map[string]bool)
	for _, f := range files {
		l := label(f)
		if other, ok := first[l]; ok && other != f {
			shared[l] = true
		}
		first[l] = f
	}
	return func(f string) string {
		if l := label(f); !shared[l] {
			return l
		}
		return filepath.ToSlash(strings.TrimSuffix(f, filepath.Ext(f)))
	}
}

// dropWeak takes out the layers that are made of weak names alone and are not whole:
// their tensors, which it returns, are likely something else.
func (s set) dropWeak() []*rawTensor {
	var out []*rawTensor
	for name, p := range s {
		if p[0] != nil && p[1] != nil && p[2] != nil {
			continue
		}
		if slices.ContainsFunc(p[:], func(t *rawTensor) bool { return t != nil && !t.weak }) {
			continue
		}
		for _, t := range p {
			if t != nil {
				out = append(out, t)
			}
		}
		delete(s, name)
	}
	return out
}

// describeAll names the first few tensors for a message; it is empty if there is none.
func describeAll(ts []*rawTensor) string {
	return some(len(ts), func(i int) string { return fmt.Sprintf("%q %v", ts[i].name, ts[i].shape) })
}

// collectActual reads the outputs that are to replace the dump's.
func (d *Dump) collectActual(opt Options, layers set, more extras) (map[string]*rawTensor, error) {
	if len(opt.Actual) == 0 {
		return nil, nil
	}
	// An actual file is often a whole dump; what else it holds is no matter.
	found, ignored, err := d.collect(opt.Actual, opt.Names)
	if err != nil {
		return nil, err
	}
	for _, t := range ignored {
		more.add(t, opt.LSE)
	}
	outputs := make(map[string]*rawTensor)
	for _, name := range found.names() {
		o := found[name][output]
		if o == nil {
			continue
		}
		at := name
		if layers[at] == nil {
			switch {
			case o.weak && o.layer == BareLayer && name == BareLayer && len(layers) == 1:
				// An output without the name of a layer is that of the only one.
				at = layers.names()[0]
			case o.weak:
				continue
			default:
				return nil, fmt.Errorf("%s: tensor %q: the dump has no layer %q; it has %s", o.file, o.name, name, list(layers.names()))
			}
		}
		outputs[at] = o
	}
	if len(outputs) == 0 {
		var all []*rawTensor
		for _, name := range found.names() {
			for _, t := range found[name] {
				if t != nil {
					all = append(all, t)
				}
			}
		}
		return nil, opt.Names.absent(opt.Actual, describeAll(append(all, ignored...)), output)
	}
	return outputs, nil
}

// addCall finds what the layer's call was given beside q, k and v. Its packed sequences are
// 0 where it is not packed.
func (d *Dump) addCall(l *Layer, found extras, p *parts, sequences int) error {
	for _, x := range []struct {
		role int
		add  func(*Layer, *rawTensor) error
	}{{maskRole, d.mask}, {qDescale, d.descale(&l.QDescale, &l.Q, sequences)}, {kDescale, d.descale(&l.KDescale, &l.K, sequences)}, {vDescale, d.descale(&l.VDescale, &l.V, sequences)}, {blockMapRole, d.blockMap}} {
		t, err := found.of(x.role, l.Name, p[0])
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		if (x.role == maskRole || x.role == blockMapRole) && sequences > 0 {
			return fmt.Errorf("%s: tensor %q: packed sequences (cu_seqlens) take no %s", t.file, t.name, strings.ReplaceAll(roleNames[x.role][0], "_", " "))
		}
		if err := x.add(l, t); err != nil {
			return err
		}
		l.from(t.file)
	}
	return nil
}

// from adds a file to the layer's Source.
func (l *Layer) from(file string) {
	if !slices.Contains(strings.Split(l.Source, ", "), file) {
		l.Source += ", " + file
	}
}

// addLSE finds the log-sum-exp that belongs to the layer's output: in its file, or
// without an output in that of q, or in a file of its own if no other layer has
// that name. It checks its shape against q.
func (d *Dump) addLSE(l *Layer, found extras, p *parts, packed bool) error {
	beside := p[output]
	if beside == nil {
		beside = p[0]
	}
	t, err := found.of(lse, l.Name, beside)
	if t == nil || err != nil {
		return err
	}
	want, dims := []int{l.Q.Batch, l.Q.Heads, l.Q.Tokens}, "[batch, heads, tokens]"
	if packed {
		want, dims = want[1:], "[heads, tokens]"
	}
	if t.dtype != "F32" || !slices.Equal(t.shape, want) {
		return fmt.Errorf("%s: tensor %q is %s %v; want FP32 %s, %v", t.file, t.name, t.dtype, t.shape, dims, want)
	}
	if err := t.ready(); err != nil {
		return err
	}
	l.LSE = &Tensor{
		File: t.file, Name: t.name, DType: format.FP32,
		Batch: l.Q.Batch, Heads: l.Q.Heads, Tokens: l.Q.Tokens, Dim: 1,
		bytes: t.bytes(d.source),
	}
	l.from(t.file)
	return nil
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
		return nil, fmt.Errorf("no layer matches %q; the dump has %s", opt.Layers, list(all))
	}
	return names, nil
}

// assemble checks one layer's tensors and puts them together.
func (d *Dump) assemble(name string, p *parts, actual bool, opt Options, packed bool) (Layer, error) {
	q, k, v, o := p[0], p[1], p[2], p[3]
	if q == nil || k == nil || v == nil {
		return Layer{}, d.incomplete(name, p)
	}
	l := Layer{Name: name}
	layout, given, err := applyMetadata(&l, d.Metadata[q.file], opt)
	if err != nil {
		return Layer{}, fmt.Errorf("%s: metadata: %w", q.file, err)
	}
	outputLayout := layout
	if actual {
		// An actual output may come from another program, hence in another
		// layout, and says so in its own metadata.
		s, ok, err := known(d.Metadata[o.file], "layout")
		if err == nil && ok {
			outputLayout, err = ParseLayout(s)
		}
		if err != nil {
			return Layer{}, fmt.Errorf("%s: metadata: %w", o.file, err)
		}
	}
	if opt.Layout != nil {
		layout, outputLayout, given = *opt.Layout, *opt.Layout, true
	}
	if packed {
		layout, outputLayout, given = NHD, NHD, true
	}
	l.LayoutGiven = given
	if opt.Causal != nil {
		l.Causal = *opt.Causal
	}
	if opt.SMScale != nil {
		l.SMScale = *opt.SMScale
	}
	used := []*rawTensor{q, k, v}
	for i, dst := range []*Tensor{&l.Q, &l.K, &l.V} {
		var err error
		if *dst, err = d.tensor(used[i], layout, packed); err != nil {
			return Layer{}, err
		}
	}
	if o != nil {
		t, err := d.tensor(o, outputLayout, packed)
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
func (d *Dump) incomplete(name string, p *parts) error {
	var file, layer string
	var has, lacks []string
	for i, t := range p {
		role := roles[i : i+1]
		switch {
		case t != nil:
			has = append(has, role)
			if file == "" {
				file, layer = t.file, t.layer
			}
		case i != output:
			lacks = append(lacks, role)
		}
	}
	var near []string
	for _, x := range d.Ignored {
		if strings.HasPrefix(x.Name, layer) {
			near = append(near, strconv.Quote(x.Name))
		}
	}
	more := ""
	if near != nil {
		more = fmt.Sprintf("; there is %s (--names says how they are called)", list(near))
	}
	return fmt.Errorf("%s: layer %q has %s but no %s%s", file, name, strings.Join(has, ", "), strings.Join(lacks, ", "), more)
}

func checkScale(x float64) error {
	if !(x > 0) || math.IsInf(x, 1) {
		return fmt.Errorf("sm_scale %v is not a positive, finite number", x)
	}
	return nil
}

// tensor checks what can be checked of one tensor alone.
func (d *Dump) tensor(t *rawTensor, layout Layout, packed bool) (Tensor, error) {
	dtype, err := parseDType(t.dtype, t.role != output)
	shape, dims, n := t.shape, layout.dimensions(), 4
	if packed {
		dims, n = "[tokens, heads, head_dim], which cu_seqlens bounds", 3
	}
	switch {
	case err != nil:
	case len(shape) != n:
		err = fmt.Errorf("has %d dimensions, %v; want the %d of %s", len(shape), shape, n, dims)
	case slices.Contains(shape, 0):
		err = fmt.Errorf("is empty: %s %v", dims, shape)
	case shape[n-1] > MaxHeadDim:
		err = fmt.Errorf("head_dim is %d; the kernels support up to %d", shape[n-1], MaxHeadDim)
	}
	if err != nil {
		return Tensor{}, fmt.Errorf("%s: tensor %q: %w", t.file, t.name, err)
	}
	if err := t.ready(); err != nil {
		return Tensor{}, err
	}
	if packed {
		shape = append([]int{1}, shape...)
	}
	heads, tokens := shape[1], shape[2]
	if layout == NHD {
		heads, tokens = tokens, heads
	}
	return Tensor{
		File: t.file, Name: t.name, DType: dtype,
		Batch: shape[0], Heads: heads, Tokens: tokens, Dim: shape[3],
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
