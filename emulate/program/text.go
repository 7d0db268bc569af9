package program

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxText bounds a description's size: a known kernel's takes some 8 KiB.
const maxText = 1 << 20

// Parse reads a description. It is strict: every field stands there once, none is
// unknown, and the whole is valid. The error names line and field, not the file.
func Parse(text []byte) (Program, error) {
	p, _, err := parse(text)
	if err != nil {
		return p, err
	}
	return p, p.Validate()
}

func parse(text []byte) (Program, *yaml.Node, error) {
	var p Program
	if len(text) > maxText {
		return p, nil, fmt.Errorf("%d bytes are no description of a kernel (at most %d)", len(text), maxText)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return p, nil, errors.New("the description is empty")
		}
		return p, nil, fmt.Errorf("not YAML: %w", err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return p, nil, errors.New("more than one document")
	}
	err := read(doc.Content[0], reflect.ValueOf(&p).Elem(), &everything, "")
	return p, &doc, err
}

// read sets v, which is the field f or an entry of it, from a node.
func read(n *yaml.Node, v reflect.Value, f *field, path string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
	}
	switch v.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return bad("%s is not a mapping", orWhole(path))
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			x := f.named(key.Value)
			if x == nil {
				return fmt.Errorf("line %d: unknown field %s (%s has %s)", key.Line, join(path, short(key.Value)), orWhole(path), strings.Join(f.names(false), ", "))
			}
			if seen[key.Value] {
				return fmt.Errorf("line %d: %s stands twice", key.Line, join(path, key.Value))
			}
			seen[key.Value] = true
			if err := read(n.Content[i+1], v.Field(x.index), x, join(path, key.Value)); err != nil {
				return err
			}
		}
		for _, name := range f.names(true) {
			if !seen[name] {
				return bad("%s is missing (a description says everything)", join(path, name))
			}
		}
		return nil
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return bad("%s is not a list", path)
		}
		const most = 64
		if len(n.Content) > most {
			return bad("%s has %d entries (at most %d)", path, len(n.Content), most)
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			if err := read(c, v.Index(i), f, join(path, strconv.Itoa(i))); err != nil {
				return err
			}
		}
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		return bad("%s is not a single value", path)
	}
	if err := setText(v, n.Value); err != nil {
		return bad("%s: %v", path, err)
	}
	return nil
}

// maxQuoted is how much of a text an error repeats.
const maxQuoted = 200

// short is a text of a file as an error names it: on one line, and no longer than that.
func short(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			s = strconv.Quote(s)
			break
		}
	}
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "..."
	}
	return s
}

func orWhole(path string) string { return cmp.Or(path, "the description") }

// setText sets a scalar from its text form. What text fields may be is for Validate
// to check.
func setText(v reflect.Value, s string) error {
	whole := func(words map[string]int64, want string) error {
		if n, ok := words[s]; ok {
			v.SetInt(n)
			return nil
		}
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return fmt.Errorf("%s: want %s", short(strconv.Quote(s)), want)
		}
		v.SetInt(n)
		return nil
	}
	switch v.Interface().(type) {
	case Number:
		x, err := parseNumber(s)
		if err != nil {
			return fmt.Errorf("%s: want a number, inf or -inf", short(strconv.Quote(s)))
		}
		v.SetFloat(float64(x))
	case OrUnit:
		return whole(map[string]int64{"unit": 0}, `a whole number or "unit"`)
	case Count:
		return whole(map[string]int64{"all": int64(All)}, `a whole number or "all"`)
	case Level:
		return whole(map[string]int64{"all": int64(AllKeys), "tile": int64(WholeTile)}, `a number of keys, "tile" or "all"`)
	case int:
		return whole(nil, "a whole number")
	case string:
		v.SetString(s)
	default:
		return fmt.Errorf("not a single value")
	}
	return nil
}

// text is the inverse of setText.
func text(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return v.String()
	}
	switch x := v.Interface().(type) {
	case Number:
		return x.String()
	case OrUnit:
		if x == 0 {
			return "unit"
		}
		return strconv.Itoa(int(x))
	case Count:
		if x == All {
			return "all"
		}
		return strconv.Itoa(int(x))
	case Level:
		switch x {
		case AllKeys:
			return "all"
		case WholeTile:
			return "tile"
		}
		return strconv.Itoa(int(x))
	case int:
		return strconv.Itoa(x)
	}
	return v.String()
}

func parseNumber(s string) (Number, error) {
	switch s {
	case "-inf", "-.inf":
		return Number(math.Inf(-1)), nil
	case "inf", ".inf":
		return Number(math.Inf(1)), nil
	}
	x, err := strconv.ParseFloat(s, 32)
	if err != nil || x-x != 0 {
		return 0, fmt.Errorf("want a number")
	}
	return Number(x) + 0, nil // of the two zeros there is one
}

// String returns the text form.
func (x Number) String() string {
	switch {
	case math.IsInf(float64(x), -1):
		return "-inf"
	case math.IsInf(float64(x), 1):
		return "inf"
	}
	// Plain digits as far as people write them.
	if a := math.Abs(float64(x)); a == 0 || a >= 1e-5 && a < 1e8 {
		return strconv.FormatFloat(float64(x), 'f', -1, 32)
	}
	return strconv.FormatFloat(float64(x), 'g', -1, 32)
}

// jsonText writes scalars whose text is not a JSON number as strings.
func jsonText(s string) ([]byte, error) {
	if _, err := strconv.ParseFloat(s, 64); err == nil && s != "inf" && s != "-inf" {
		return []byte(s), nil
	}
	return json.Marshal(s)
}

func fromJSON(v reflect.Value, b []byte) error {
	s := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	return setText(v, s)
}

// MarshalJSON writes a number, or "inf" or "-inf".
func (x Number) MarshalJSON() ([]byte, error) { return jsonText(x.String()) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (x *Number) UnmarshalJSON(b []byte) error { return fromJSON(reflect.ValueOf(x).Elem(), b) }

// MarshalJSON writes a number or "unit".
func (x OrUnit) MarshalJSON() ([]byte, error) { return jsonText(text(reflect.ValueOf(x))) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (x *OrUnit) UnmarshalJSON(b []byte) error { return fromJSON(reflect.ValueOf(x).Elem(), b) }

// MarshalJSON writes a number or "all".
func (x Count) MarshalJSON() ([]byte, error) { return jsonText(text(reflect.ValueOf(x))) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (x *Count) UnmarshalJSON(b []byte) error { return fromJSON(reflect.ValueOf(x).Elem(), b) }

// MarshalJSON writes a number, "tile" or "all".
func (x Level) MarshalJSON() ([]byte, error) { return jsonText(text(reflect.ValueOf(x))) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (x *Level) UnmarshalJSON(b []byte) error { return fromJSON(reflect.ValueOf(x).Elem(), b) }

// Choice is one choice of a program.
type Choice struct {
	// Path is where it stands, as in scores.unit.instruction or tiles.shapes.0.keys, Value
	// its text. Choices, where there are some, are all that it may be.
	Path, Value string
	Choices     []string
}

// Choices lists all choices of a program, in the order of the text form.
func (p *Program) Choices() []Choice { return p.choices(true) }

// choices is Choices, with those that decide no bits or without them.
func (p *Program) choices(all bool) []Choice {
	out := make([]Choice, 0, 128) // most programs have fewer
	p.walk(func(at string, f *field, v reflect.Value) {
		if all || !f.about {
			out = append(out, Choice{join(at, f.path), text(v), f.choices})
		}
	})
	return out
}

// Set changes the choice at a path. It checks the value's form and whether it is one
// of the field's; Validate says whether the whole still holds together. The program's
// shapes are its own afterwards.
func (p *Program) Set(path, value string) error {
	p.Tiles.Shapes, p.Tiles.SplitShapes = slices.Clone(p.Tiles.Shapes), slices.Clone(p.Tiles.SplitShapes)
	v, f := reflect.ValueOf(p).Elem(), &everything
	parts := strings.Split(path, ".")
	for i, part := range parts {
		at := strings.Join(parts[:i], ".")
		switch v.Kind() {
		case reflect.Struct:
			x := f.named(part)
			if x == nil {
				return fmt.Errorf("no field %q in %s (it has %s)", part, orWhole(at), strings.Join(f.names(false), ", "))
			}
			v, f = v.Field(x.index), x
		case reflect.Slice:
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 || n >= v.Len() {
				return fmt.Errorf("no entry %q in %s (it has 0 to %d)", part, at, v.Len()-1)
			}
			v = v.Index(n)
		default:
			return fmt.Errorf("%s is a single value", at)
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		return fmt.Errorf("%s has fields of its own: %s", path, strings.Join(f.names(false), ", "))
	case reflect.Slice:
		return fmt.Errorf("%s is a list: name an entry, as in %s.0.%s", path, path, f.names(true)[0])
	}
	if err := f.check(value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := setText(v, value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// check says whether the value is one of the field's.
func (f *field) check(value string) error {
	if len(f.choices) > 0 && !slices.Contains(f.choices, value) {
		return fmt.Errorf("unknown value %s (have %s)", short(strconv.Quote(value)), strings.Join(f.choices, ", "))
	}
	return nil
}

// Get returns the text of the choice at a path, "" where there is none.
func (p *Program) Get(path string) string {
	value := ""
	p.walk(func(at string, f *field, v reflect.Value) {
		if strings.HasSuffix(path, f.path) && join(at, f.path) == path {
			value = text(v)
		}
	})
	return value
}

// Change is a choice in which two programs differ.
type Change struct {
	Path string `json:"path"`
	From string `json:"from"`
	To   string `json:"to"`
}

// String writes the change as --set takes it.
func (c Change) String() string { return c.Path + "=" + c.To }

// Diff lists the choices in which b differs from a, those that decide bits only.
func Diff(a, b *Program) []Change {
	var out []Change
	from, to := a.choices(false), b.choices(false)
	before := make(map[string]string, len(from))
	for _, c := range from {
		before[c.Path] = c.Value
	}
	for _, c := range to {
		if was := before[c.Path]; was != c.Value {
			out = append(out, Change{c.Path, was, c.Value})
		}
		delete(before, c.Path)
	}
	for _, c := range from {
		if was, gone := before[c.Path]; gone {
			out = append(out, Change{c.Path, was, ""})
		}
	}
	return out
}

// Key is the same text for programs that make the same choices.
func (p *Program) Key() string {
	var b strings.Builder
	b.Grow(4 << 10)
	p.walk(func(at string, f *field, v reflect.Value) {
		if !f.about {
			if at != "" {
				b.WriteString(at)
				b.WriteByte('.')
			}
			b.WriteString(f.path)
			b.WriteByte('=')
			b.WriteString(text(v))
			b.WriteByte('\n')
		}
	})
	return b.String()
}

// Text returns the description as YAML. Where p has a known kernel's name, or comes
// with the text it was read from, the comments of that text stand beside its lines,
// and a line that was changed says what it was.
func Text(p *Program, original []byte) ([]byte, error) {
	if original == nil {
		original = presetText(p.Name)
	}
	var old Program
	var doc *yaml.Node
	if original != nil {
		var err error
		if old, doc, err = parse(original); err != nil || len(old.Tiles.Shapes) != len(p.Tiles.Shapes) {
			doc = nil
		}
	}
	if doc == nil {
		doc = &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{node(reflect.ValueOf(p).Elem(), &everything)}}
	} else {
		was := map[string]string{}
		for _, c := range old.Choices() {
			was[c.Path] = c.Value
		}
		for _, c := range p.Choices() {
			n, line := find(doc.Content[0], c.Path)
			if n == nil || was[c.Path] == c.Value {
				continue
			}
			n.Value, n.Tag, n.Style = c.Value, "", 0
			switch {
			case slices.Contains(about, c.Path):
			case line == n:
				n.LineComment = "# changed: was " + was[c.Path]
			default: // one of several on a line
				line.LineComment = strings.TrimPrefix(line.LineComment+"; changed: "+c.Path[strings.LastIndexByte(c.Path, '.')+1:]+" was "+was[c.Path], "; ")
			}
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// find returns the scalar at a path, and the node whose line it stands on.
func find(n *yaml.Node, path string) (scalar, line *yaml.Node) {
	for part := range strings.SplitSeq(path, ".") {
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == part {
					next = n.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(part); err == nil && i < len(n.Content) {
				next = n.Content[i]
			}
		}
		if next == nil {
			return nil, nil
		}
		if n = next; line == nil && n.Style&yaml.FlowStyle != 0 {
			line = n
		}
	}
	if line == nil {
		line = n
	}
	return n, line
}

// node is the YAML of v, which is the field f or an entry of it, without comments.
func node(v reflect.Value, f *field) *yaml.Node {
	switch v.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range f.fields {
			x := &f.fields[i]
			if x.optional && v.Field(x.index).IsZero() {
				continue
			}
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: x.name}, node(v.Field(x.index), x))
		}
		if t := v.Type().Name(); t == "Shape" || t == "Unit" {
			n.Style = yaml.FlowStyle
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			n.Content = append(n.Content, node(v.Index(i), f))
		}
		return n
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: text(v)}
}
