// Package ipynb reads and writes Jupyter notebooks (nbformat 4) with cells for
// the GoNB kernel: what of them is worth keeping, how two runs differ, and the
// Go program that their cells are.
package ipynb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Notebook is a notebook. Its JSON form is that of nbformat 4, keys sorted and
// indented by one blank as Jupyter writes them.
type Notebook struct {
	Cells         []Cell         `json:"cells"`
	Metadata      map[string]any `json:"metadata"`
	NBFormat      int            `json:"nbformat"`
	NBFormatMinor int            `json:"nbformat_minor"`
}

// Cell is a cell. Only those of type "code" have outputs and an execution
// count.
type Cell struct {
	CellType       string         `json:"cell_type"`
	ExecutionCount *int           `json:"execution_count,omitempty"`
	ID             string         `json:"id,omitempty"`
	Metadata       map[string]any `json:"metadata"`
	Outputs        []Output       `json:"outputs,omitempty"`
	Source         Text           `json:"source"`
}

// Output is one output of a cell.
type Output struct {
	Data           map[string]Text `json:"data,omitempty"`
	EName          string          `json:"ename,omitempty"`
	EValue         string          `json:"evalue,omitempty"`
	ExecutionCount *int            `json:"execution_count,omitempty"`
	Metadata       map[string]any  `json:"metadata,omitempty"`
	Name           string          `json:"name,omitempty"`
	OutputType     string          `json:"output_type"`
	Text           Text            `json:"text,omitempty"`
	Traceback      []string        `json:"traceback,omitempty"`
}

// Text is a text of several lines, in JSON a string or a list of lines. It is
// written as a list.
type Text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Text) UnmarshalJSON(b []byte) error {
	var lines []string
	if err := json.Unmarshal(b, &lines); err == nil {
		*t = Text(strings.Join(lines, ""))
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("neither a string nor a list of strings: %.40q", b)
	}
	*t = Text(s)
	return nil
}

// MarshalJSON implements json.Marshaler.
func (t Text) MarshalJSON() ([]byte, error) {
	lines := strings.SplitAfter(string(t), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return encode(lines)
}

// MarshalJSON implements json.Marshaler: nbformat wants a code cell's outputs and
// count even where there are none, and a display's metadata.
func (c Cell) MarshalJSON() ([]byte, error) {
	m := map[string]any{"cell_type": c.CellType, "metadata": notNil(c.Metadata), "source": c.Source}
	if c.ID != "" {
		m["id"] = c.ID
	}
	if c.CellType == "code" {
		m["execution_count"] = c.ExecutionCount
		outputs := c.Outputs
		if outputs == nil {
			outputs = []Output{}
		}
		m["outputs"] = outputs
	}
	return encode(m)
}

// MarshalJSON implements json.Marshaler.
func (o Output) MarshalJSON() ([]byte, error) {
	type plain Output
	b, err := encode(plain(o))
	if err != nil || o.OutputType != "display_data" && o.OutputType != "execute_result" || len(o.Metadata) > 0 {
		return b, err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	m["metadata"] = map[string]any{}
	return encode(m)
}

func notNil(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// encode is json.Marshal with <, > and & as they are.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

// Parse reads a notebook. It refuses any format but nbformat 4.
func Parse(b []byte) (*Notebook, error) {
	nb := &Notebook{}
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(nb); err != nil {
		return nil, fmt.Errorf("not a notebook: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("not a notebook: there is more after the notebook")
	}
	if nb.NBFormat != 4 {
		return nil, fmt.Errorf("not a notebook: nbformat is %d, not 4", nb.NBFormat)
	}
	for i, c := range nb.Cells {
		switch c.CellType {
		case "code":
		case "markdown", "raw":
			if len(c.Outputs) > 0 || c.ExecutionCount != nil {
				return nil, fmt.Errorf("cell %d: a cell of type %s has outputs", i+1, c.CellType)
			}
		default:
			return nil, fmt.Errorf("cell %d: unknown cell type %q", i+1, c.CellType)
		}
	}
	return nb, nil
}

// Open reads the notebook at path.
func Open(path string) (*Notebook, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	nb, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return nb, nil
}

// Format returns the notebook's file.
func (nb *Notebook) Format() ([]byte, error) {
	b, err := encode(nb)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := json.Indent(&buf, b, "", " "); err != nil {
		return nil, err
	}
	buf.WriteByte('\n')
	return buf.Bytes(), nil
}

// Clean drops what differs from run to run and from machine to machine: times,
// versions, how a stream of text was cut into pieces. Counts, outputs and
// sources stay.
func (nb *Notebook) Clean() {
	nb.Metadata = map[string]any{
		"kernelspec":    map[string]any{"display_name": "Go (gonb)", "language": "go", "name": "gonb"},
		"language_info": map[string]any{"file_extension": ".go", "name": "go"},
	}
	for i := range nb.Cells {
		c := &nb.Cells[i]
		delete(c.Metadata, "execution")
		var outputs []Output
		for _, o := range c.Outputs {
			if n := len(outputs); n > 0 && o.OutputType == "stream" && outputs[n-1].OutputType == "stream" && outputs[n-1].Name == o.Name {
				outputs[n-1].Text += o.Text
				continue
			}
			outputs = append(outputs, o)
		}
		c.Outputs = outputs
	}
}

// absolute matches the beginning of an absolute path of Unix or Windows: at least
// two names, so that a fraction or a lone slash is none.
var absolute = regexp.MustCompile(`(?m)(?:^|[\s"'=(])(?:/[A-Za-z0-9._+-]+/[A-Za-z0-9._+-]+|[A-Za-z]:\\[A-Za-z0-9._])\S*`)

// Fault returns what makes a notebook unfit to be kept, nil if there is nothing:
// a code cell that was not run or failed, cells run out of order, an absolute
// path.
func (nb *Notebook) Fault() error {
	count := 0
	for i, c := range nb.Cells {
		at := func(format string, args ...any) error {
			return fmt.Errorf("cell %d: %w", i+1, fmt.Errorf(format, args...))
		}
		b, err := encode(c.Metadata)
		if err != nil {
			return err
		}
		texts := []Text{c.Source, Text(b)}
		for _, o := range c.Outputs {
			if o.OutputType == "error" {
				return at("failed: %s: %s", o.EName, o.EValue)
			}
			if o.OutputType == "stream" && o.Name == "stderr" {
				return at("wrote to standard error: %s", o.Text)
			}
			texts = append(texts, o.Text)
			for _, mime := range slices.Sorted(maps.Keys(o.Data)) {
				texts = append(texts, o.Data[mime])
			}
		}
		for _, t := range texts {
			if p := absolute.FindString(string(t)); p != "" {
				return at("holds an absolute path: %s", strings.TrimSpace(p))
			}
		}
		if c.CellType == "code" {
			count++
			if c.ExecutionCount == nil || *c.ExecutionCount != count {
				return at("not the %d. that was run", count)
			}
		}
	}
	return nil
}

// Difference returns where two notebooks first differ in their cells, nil if they
// do not.
func Difference(kept, now *Notebook) error {
	for i := range min(len(kept.Cells), len(now.Cells)) {
		a, b := kept.Cells[i], now.Cells[i]
		if a.CellType != b.CellType || a.Source != b.Source {
			return fmt.Errorf("cell %d: another source", i+1)
		}
		if err := DifferentOutputs(a.Outputs, b.Outputs); err != nil {
			return fmt.Errorf("cell %d: %w", i+1, err)
		}
	}
	if len(kept.Cells) != len(now.Cells) {
		return fmt.Errorf("%d cells, not %d", len(now.Cells), len(kept.Cells))
	}
	return nil
}

// DifferentOutputs returns how the outputs of a cell differ from the kept ones.
func DifferentOutputs(kept, now []Output) error {
	for i := range min(len(kept), len(now)) {
		a, b := kept[i], now[i]
		if a.OutputType != b.OutputType || a.Name != b.Name {
			return fmt.Errorf("output %d is %s %s, not %s %s", i+1, b.OutputType, b.Name, a.OutputType, a.Name)
		}
		if err := differentText(a.Text, b.Text); err != nil {
			return fmt.Errorf("output %d: %w", i+1, err)
		}
		types, others := slices.Sorted(maps.Keys(a.Data)), slices.Sorted(maps.Keys(b.Data))
		if !slices.Equal(types, others) {
			return fmt.Errorf("output %d is %s, not %s", i+1, strings.Join(others, ", "), strings.Join(types, ", "))
		}
		for _, mime := range types {
			if err := differentText(a.Data[mime], b.Data[mime]); err != nil {
				return fmt.Errorf("output %d, %s: %w", i+1, mime, err)
			}
		}
	}
	if len(kept) != len(now) {
		return fmt.Errorf("%d outputs, not %d", len(now), len(kept))
	}
	return nil
}

func differentText(kept, now Text) error {
	if kept == now {
		return nil
	}
	a, b := strings.Split(string(kept), "\n"), strings.Split(string(now), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Errorf("line %d is %.120q, kept was %.120q", i+1, b[i], a[i])
		}
	}
	return fmt.Errorf("%d lines, kept were %d", len(b), len(a))
}
