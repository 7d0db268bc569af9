package layerdumps

import (
	"fmt"
	"maps"
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
		overridden := name == "causal" && opt.Causal != nil || name == "layout" && opt.Layout != nil || name == "sm_scale" && opt.SMScale != nil
		if !overridden {
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
	l.Metadata, l.Synthetic = metadata, metadata["synthetic"]
	return layout, given, nil
}

// flagOf says how metadata is overridden.
var flagOf = map[string]string{
	"causal": "--causal or --causal=false", "layout": "--layout", "sm_scale": "--sm-scale", "synthetic": "it another name",
}
