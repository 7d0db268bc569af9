package layerdumps

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/internal/nearest"
)

// metadataNames are the metadata that mean something, each by its name, by names that
// are read as it, since they mean the same wherever they are used, and by names that
// are likely it but may mean something else: those are errors.
var metadataNames = []struct {
	name    string
	aliases []string
	doubt   []string
}{
	{"causal", []string{"is_causal"}, []string{"mask", "masked", "attn_mask", "attention_mask", "mask_type", "use_causal_mask", "causal_mask"}},
	{"layout", []string{"tensor_layout"}, []string{"qkv_layout", "input_layout"}},
	{"sm_scale", []string{"softmax_scale"}, []string{"scale", "scaling", "qk_scale", "attn_scale", "attention_scale", "scale_factor", "softmax_scaling"}},
	{"causal_align", []string{"causal_alignment"}, []string{"mask_align", "causal_mask_align", "alignment"}},
	{"window", []string{"window_size"}, []string{"sliding_window", "window_left", "window_right", "window_size_left", "window_size_right", "local_window", "attention_window", "local_attention"}},
	{"softcap", []string{"logits_soft_cap"}, []string{"soft_cap", "logit_cap", "logits_cap", "logit_softcap", "logits_softcap", "attn_logit_softcapping", "attn_softcap", "cap"}},
	{"synthetic", nil, nil},
}

// known returns the metadata of that name, or of one that stands for it.
func known(metadata map[string]string, name string) (value string, ok bool, err error) {
	at := slices.IndexFunc(metadataNames, func(m struct {
		name    string
		aliases []string
		doubt   []string
	}) bool {
		return m.name == name
	})
	from := ""
	for _, alias := range append([]string{name}, metadataNames[at].aliases...) {
		s, there := metadata[alias]
		switch {
		case !there:
		case !ok:
			value, ok, from = s, true, alias
		case !strings.EqualFold(s, value):
			return "", false, fmt.Errorf("%s is %q and %s is %q", from, value, alias, s)
		}
	}
	return value, ok, nil
}

// lookalike finds metadata that is likely meant to be known but is not, in the order
// of names, and returns it with the known name.
func lookalike(metadata map[string]string) (key, name string) {
	var all []string
	for _, m := range metadataNames {
		all = append(append(all, m.name), m.aliases...)
	}
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if slices.Contains(all, key) {
			continue
		}
		plain := strings.ToLower(strings.NewReplacer("-", "_", " ", "_", ".", "_").Replace(key))
		for _, m := range metadataNames {
			if slices.Contains(m.doubt, plain) {
				return key, m.name
			}
		}
		if name, ok := nearest.Name(plain, all); ok {
			for _, m := range metadataNames {
				if m.name == name || slices.Contains(m.aliases, name) {
					return key, m.name
				}
			}
		}
	}
	return "", ""
}

// applyMetadata reads the metadata that means something to a layer, and returns its
// layout and whether the metadata names it.
func applyMetadata(l *Layer, metadata map[string]string, opt Options) (layout Layout, given bool, err error) {
	if key, name := lookalike(metadata); key != "" {
		// What a flag says need not be known.
		overridden := map[string]bool{
			"causal": opt.Causal != nil, "layout": opt.Layout != nil, "sm_scale": opt.SMScale != nil,
			"causal_align": opt.CausalAlign != nil, "window": opt.Window != nil, "softcap": opt.Softcap != nil,
		}
		if !overridden[name] {
			return 0, false, fmt.Errorf("unknown name %q (%q): if that is %s, call it so, or give %s", key, metadata[key], name, flagOf[name])
		}
	}
	s, given, err := known(metadata, "layout")
	if err != nil {
		return 0, false, err
	}
	if given {
		if layout, err = ParseLayout(s); err != nil {
			return 0, false, err
		}
	}
	s, ok, err := known(metadata, "causal")
	switch {
	case err != nil:
		return 0, false, err
	case !ok:
	case strings.EqualFold(s, "true"):
		l.Causal = true
	case !strings.EqualFold(s, "false"):
		return 0, false, fmt.Errorf("causal %q is neither true nor false", s)
	}
	s, ok, err = known(metadata, "sm_scale")
	if err != nil {
		return 0, false, err
	}
	if ok {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return 0, false, fmt.Errorf("sm_scale %q is not a number", s)
		}
		if err := checkScale(x); err != nil {
			return 0, false, err
		}
		l.SMScale = x
	}
	if err := l.applyCall(metadata, opt); err != nil {
		return 0, false, err
	}
	l.Metadata, l.Synthetic = metadata, metadata["synthetic"]
	return layout, given, nil
}

// applyCall reads what metadata say of a call beside its mask and scale; options go before
// them.
func (l *Layer) applyCall(metadata map[string]string, opt Options) error {
	for _, x := range []struct {
		name string
		read func(string) error
	}{
		{"causal_align", func(s string) (err error) { l.CausalAlign, err = ParseCausalAlign(s); return err }},
		{"window", func(s string) error {
			w, err := ParseWindow(s)
			l.Window = &w
			return err
		}},
		{"softcap", func(s string) (err error) { l.Softcap, err = ParseSoftcap(s); return err }},
	} {
		s, ok, err := known(metadata, x.name)
		if err == nil && ok {
			err = x.read(s)
		}
		if err != nil {
			return err
		}
	}
	if opt.CausalAlign != nil {
		l.CausalAlign = *opt.CausalAlign
	}
	if opt.Window != nil {
		l.Window = opt.Window
	}
	if l.Window != nil && l.Window.Left < 0 && l.Window.Right < 0 {
		l.Window = nil
	}
	if opt.Softcap != nil {
		l.Softcap = *opt.Softcap
	}
	return nil
}

// ParseCausalAlign reads top-left or bottom-right; "kernel" and "" leave it to the kernel.
func ParseCausalAlign(s string) (string, error) {
	switch x := strings.ToLower(strings.ReplaceAll(s, "_", "-")); x {
	case "top-left", "bottom-right":
		return x, nil
	case "kernel", "":
		return "", nil
	}
	return "", fmt.Errorf("causal_align %q is neither top-left nor bottom-right", s)
}

// ParseWindow reads LEFT,RIGHT, two whole numbers, -1 for no bound, with or without
// brackets.
func ParseWindow(s string) (Window, error) {
	inner := strings.TrimSpace(s)
	for _, b := range []string{"()", "[]"} {
		if len(inner) > 1 && inner[0] == b[0] && inner[len(inner)-1] == b[1] {
			inner = inner[1 : len(inner)-1]
			break
		}
	}
	left, right, ok := strings.Cut(inner, ",")
	l, err := strconv.Atoi(strings.TrimSpace(left))
	r, err2 := strconv.Atoi(strings.TrimSpace(right))
	if !ok || err != nil || err2 != nil || l < -1 || r < -1 || max(l, r) > math.MaxInt32 {
		return Window{}, fmt.Errorf("window %q is not LEFT,RIGHT, two whole numbers, -1 for no bound", s)
	}
	return Window{Left: l, Right: r}, nil
}

// ParseSoftcap reads a soft cap, a finite number; 0 for none.
func ParseSoftcap(s string) (float64, error) {
	x, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	// The kernels hold it in FP32.
	if f := float32(x); err != nil || !(x >= 0) || math.IsInf(float64(f), 0) || x > 0 && f == 0 {
		return 0, fmt.Errorf("softcap %q is not a finite number of at least 0", s)
	}
	return x, nil
}

// flagOf says how metadata is overridden.
var flagOf = map[string]string{
	"causal": "--causal or --causal=false", "layout": "--layout", "sm_scale": "--sm-scale", "causal_align": "--causal-align", "window": "--window", "softcap": "--softcap", "synthetic": "it another name",
}
