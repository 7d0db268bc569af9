package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// scan reads one JSON value with the package's scanner, through a buffer so small that
// every token crosses its end.
func scan(data []byte) (kind string, err error) {
	s := &scanner{r: bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(data)), 16)}
	if kind, err = s.skip(0); err != nil {
		return "", err
	}
	return kind, s.end()
}

// FuzzScan holds the scanner to encoding/json: it takes the same values, and reads the
// same strings.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":[1,-2.5e+7,"x\u00e9\n"],"b":{"c":null}}`, ` [true,false , null]`, `"\ud83d\ude00"`, `"\ud83d"`, `"\x"`, `"a`, `01`, `1e`, `-`, `.5`, `1.`, `[1,]`, `{"a":1,}`, `{"a" 1}`, `{1:2}`, "\"\t\"", `nul`, `nulll`, `{}{}`, `"\`, `"\u12"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, err := scan(data)
		if want := json.Valid(data) && utf8.Valid(data); want != (err == nil) {
			// What the scanner bounds and encoding/json does not.
			for _, limit := range []string{"nested", "more than"} {
				if err != nil && strings.Contains(err.Error(), limit) {
					return
				}
			}
			t.Fatalf("%q: encoding/json and UTF-8 %v, the scanner %v", data, want, err)
		}
		if err != nil || kind != "string" {
			return
		}
		var want string
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		s := &scanner{r: bufio.NewReader(bytes.NewReader(data))}
		if got, err := s.text(maxValue); err != nil || string(got) != want {
			t.Fatalf("%q: read as %q, %v", data, got, err)
		}
	})
}

// TestScanLimits: what a header may hold is bounded.
func TestScanLimits(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	for _, tc := range []struct{ header, want string }{
		{`{"` + strings.Repeat("n", maxName+1) + `":{}}`, "more than 65536 bytes: \"nnn"},
		{`{"t":{"x":` + deep + `}}`, "nested more than 1000 deep"},
		{`{"t":{"x":` + strings.Repeat("9", 2000) + `}}`, "a number of more than 1000 digits"},
		{`{"t":{"dtype":"F16","shape":[` + strings.Repeat("1,", 64) + `1]}}`, `tensor "t": shape: more than 64 numbers`},
		{`{"t":{"dtype":"F16","shape":[0],"data_offsets":[0,0],"x":` + strings.Repeat("[", 999) + strings.Repeat("]", 999) + `}}`, ""},
		{`{"` + strings.Repeat("n", maxName) + `":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}`, ""},
	} {
		_, err := Parse("x", file(tc.header, 0))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || len(err.Error()) > 500) {
			t.Errorf("%.60s...: %.500v, want %q", tc.header, err, tc.want)
		}
	}
	if err := Write(t.TempDir()+"/f", nil, []Tensor{{Name: strings.Repeat("n", maxName+1), DType: "I8", Shape: []int{0}}}); err == nil || len(err.Error()) > 500 {
		t.Errorf("a name that cannot be read was written: %.500v", err)
	}
}

// TestReadFails: a file that ends early, or cannot be read, after it was opened.
func TestReadFails(t *testing.T) {
	data := file(`{"t":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4)
	for cut := range data {
		r := &cutReader{data: data, size: cut}
		f, err := Read("x", r, int64(len(data)))
		if err == nil {
			_, err = f.Tensors[0].Bytes()
		}
		if err == nil {
			t.Errorf("cut to %d bytes: no error", cut)
		}
	}
}

// cutReader is a file that became shorter.
type cutReader struct {
	data []byte
	size int
}

func (r *cutReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(r.data[:r.size]).ReadAt(p, off)
	if err == io.EOF {
		err = fmt.Errorf("cut")
	}
	return n, err
}

// BenchmarkManyTensors is a header of 100,000 tensors.
func BenchmarkManyTensors(b *testing.B) {
	var h strings.Builder
	h.WriteByte('{')
	for i := range 100_000 {
		if i > 0 {
			h.WriteByte(',')
		}
		fmt.Fprintf(&h, `"layers.%d.attn.%c":{"dtype":"F16","shape":[1,1,1,1],"data_offsets":[%d,%d]}`, i/4, "qkvo"[i%4], 2*i, 2*i+2)
	}
	h.WriteByte('}')
	data := binary.LittleEndian.AppendUint64(nil, uint64(h.Len()))
	data = append(append(data, h.String()...), make([]byte, 200_000)...)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("x", data); err != nil {
			b.Fatal(err)
		}
	}
}
