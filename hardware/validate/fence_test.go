package validate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/kernels/launch"
	"github.com/sageacc/sageacc/kernels/manifest"
)

// fakeDevice is a device whose memory is a slice and whose kernel is a function of
// it and of the addresses that it is given.
type fakeDevice struct {
	memory []byte
	kernel func(memory []byte, args []int)
	live   int
}

type fakeMemory struct {
	d        *fakeDevice
	at, size int
}

func (d *fakeDevice) alloc(n int) (memory, error) {
	// The driver aligns to 256 bytes, and what lies between belongs to nobody.
	at := (len(d.memory) + 511) / 256 * 256
	d.memory = append(d.memory, make([]byte, at+n-len(d.memory))...)
	d.live++
	return &fakeMemory{d, at, n}, nil
}

func (d *fakeDevice) launch(_ *manifest.PlannedLaunch, args []launch.Arg) error {
	var x []int
	for _, a := range args {
		x = append(x, int(binary.LittleEndian.Uint64(a[:])))
	}
	d.kernel(d.memory, x)
	return nil
}

func (m *fakeMemory) ArgAt(offset int) launch.Arg { return launch.Int64(int64(m.at + offset)) }

func (m *fakeMemory) Fill(x byte) error {
	copy(m.d.memory[m.at:m.at+m.size], bytes.Repeat([]byte{x}, m.size))
	return nil
}

func (m *fakeMemory) span(offset int, x []byte) ([]byte, error) {
	if offset < 0 || offset+len(x) > m.size {
		return nil, errors.New("outside the buffer")
	}
	return m.d.memory[m.at+offset:][:len(x)], nil
}

func (m *fakeMemory) Upload(offset int, x []byte) error {
	b, err := m.span(offset, x)
	copy(b, x)
	return err
}

func (m *fakeMemory) Download(offset int, x []byte) error {
	b, err := m.span(offset, x)
	copy(x, b)
	return err
}

func (m *fakeMemory) Free() error {
	m.d.live--
	return nil
}

// A kernel that writes where it should not is found out, whichever buffer it
// reaches: also with bytes that it read from memory that nobody wrote.
func TestFences(t *testing.T) {
	plan := &manifest.Plan{
		Sizes: map[string]int{"q": 6, "o": 10, "scratch": 7, "spare": 5, "k": 4},
		Launches: []manifest.PlannedLaunch{{Entry: "go", Args: []manifest.PlannedArg{
			{Buffer: "q"}, {Buffer: "o"}, {Buffer: "scratch"}, {}, {Type: "i32", Int: 3},
		}}},
	}
	inputs := map[string][]byte{"q": []byte("query!"), "k": []byte("keys")}
	// Buffers are reserved in the order of their names: k, o, q, scratch, spare. From
	// the address of one that the kernel is given it reaches one that it is not.
	// Each takes 768 bytes with its guards and its own rounded up, and 256 lie between.
	const distance = 1024
	for _, tc := range []struct {
		name   string
		kernel func(memory []byte, q, o, scratch int)
		want   string
	}{
		{"right", func([]byte, int, int, int) {}, ""},
		{"behind the output", func(m []byte, _, o, _ int) { m[o+10] = 1 }, "beyond the end of o (10 bytes)"},
		{"far behind", func(m []byte, _, o, _ int) { m[o+10+guard-1] = 1 }, "beyond the end of o"},
		{"before the output", func(m []byte, _, o, _ int) { m[o-1] = 1 }, "before the start of o (10 bytes)"},
		{"far before", func(m []byte, _, o, _ int) { m[o-guard] = 1 }, "before the start of o"},
		{"poison behind", func(m []byte, _, o, s int) { m[o+10] = m[s] }, "beyond the end of o"},
		{"poison before", func(m []byte, _, o, s int) { m[o-2] = m[s] }, "before the start of o"},
		{"behind scratch", func(m []byte, _, _, s int) { m[s+7] = 0 }, "beyond the end of scratch"},
		{"behind an input", func(m []byte, q, _, _ int) { m[q+6] = 0 }, "beyond the end of q"},
		{"an input", func(m []byte, q, _, _ int) { m[q]++ }, "changed its input q"},
		{"before what no launch takes", func(m []byte, _, _, s int) { m[s+distance-1] = 0 }, "before the start of spare"},
		{"behind what no launch takes", func(m []byte, _, _, s int) { m[s+distance+5] = 0 }, "beyond the end of spare"},
		{"what no launch takes", func(m []byte, _, _, s int) { m[s+distance+2] = 0 }, "wrote to spare, which no launch takes"},
		{"an input that no launch takes", func(m []byte, _, o, _ int) { m[o-distance] = 0 }, "changed its input k"},
	} {
		d := &fakeDevice{}
		d.kernel = func(m []byte, args []int) {
			q, o, s := args[0], args[1], args[2]
			if q%256 != 0 || o%256 != 0 || s%256 != 0 || args[3] != 0 || args[4] != 3 {
				t.Errorf("%s: arguments %v", tc.name, args)
			}
			if string(m[q:q+6]) != "query!" || m[o] != poison || m[o+9] != poison || m[s] != poison {
				t.Errorf("%s: the kernel finds %q, %x, %x", tc.name, m[q:q+6], m[o:o+10], m[s:s+7])
			}
			copy(m[o:], "0123456789")
			tc.kernel(m, q, o, s)
		}
		out, err := execute(d, plan, inputs)
		if d.live != 0 {
			t.Errorf("%s: %d buffers are not freed", tc.name, d.live)
		}
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
			}
			continue
		}
		want := map[string]string{"o": "0123456789", "scratch": strings.Repeat("\xa5", 7)}
		if err != nil || len(out) != len(want) || string(out["o"]) != want["o"] || string(out["scratch"]) != want["scratch"] {
			t.Errorf("%s: got %q, %v", tc.name, fmt.Sprint(out), err)
		}
	}
	if _, err := execute(&fakeDevice{}, plan, map[string][]byte{"q": []byte("short")}); err == nil || !strings.Contains(err.Error(), "buffer q has 6 bytes") {
		t.Errorf("an input of another size: %v", err)
	}
}
