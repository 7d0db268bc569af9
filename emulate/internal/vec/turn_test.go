package vec_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/internal/vec"
)

// guard is what stands where nothing may be written.
const guard = 0x5a

// TestTurn: numbers keep their bits, NaN and subnormal ones too, and none is written beside the columns.
func TestTurn(t *testing.T) {
	forLevels(t, 200, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		n, columns := r.IntN(70), r.IntN(70)
		if round%2 == 0 { // whole registers
			n, columns = n&^15, columns&^3
		}
		from, to := columns+r.IntN(3), n+r.IntN(3)
		src, dst := make([]float32, n*from), make([]float32, columns*to+1)
		for i := range src {
			src[i] = math.Float32frombits(r.Uint32())
		}
		for i := range dst {
			dst[i] = guard
		}
		want := clone(dst)
		for i := range n {
			for c := range columns {
				want[c*to+i] = src[i*from+c]
			}
		}
		l.Turn(dst, to, src, from, n, columns)
		same(t, "word", dst, want)
	})
}

func TestPack(t *testing.T) {
	forLevels(t, 200, func(t *testing.T, l vec.Level, r *rand.Rand, round int) {
		d, n := 1+r.IntN(140), 1+r.IntN(rows)
		if round%2 == 0 { // whole registers
			d, n = 16*(1+r.IntN(9)), rows
		} else if round%4 == 1 { // all rows, and channels that fill up
			n = rows
		}
		quads := (d + 3) / 4
		codes, dst := make([]int8, n*d), make([]uint8, quads*4*rows+1)
		for i := range codes {
			codes[i] = int8(r.Uint32())
		}
		for i := range dst {
			dst[i] = guard
		}
		want := clone(dst)
		for i := range want[:quads*4*rows] {
			row, c := i/4%rows, i/4/rows*4+i%4
			want[i] = 128
			if row < n && c < d {
				want[i] = uint8(int(codes[row*d+c]) + 128)
			}
		}
		l.Pack(dst[:quads*4*rows], codes, d)
		if !slices.Equal(dst, want) {
			t.Fatalf("%d rows of %d: %v, want %v", n, d, dst, want)
		}
	})
}

// TestPutRows: rows come to where Put puts them.
func TestPutRows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		dim, keys := 1+r.IntN(40), 32*(1+r.IntN(4))
		got, want := vec.NewValues(nil, dim, keys, 32, vec.Unit{Step: 32}), vec.NewValues(nil, dim, keys, 32, vec.Unit{Step: 32})
		first := r.IntN(keys)
		n := 1 + r.IntN(keys-first)
		if n > 8 && r.IntN(2) == 0 {
			first, n = first&^7, n&^7
		}
		codes := make([]uint8, n*dim)
		for i := range codes {
			codes[i] = uint8(r.Uint32())
			want.Put(i%dim, first+i/dim, uint16(codes[i]))
		}
		got.PutRows(first, codes)
		for c := range dim {
			for key := range keys {
				if got.Code(c, key) != want.Code(c, key) {
					t.Fatalf("%d rows of %d from %d on: channel %d, key %d: %d, want %d", n, dim, first, c, key, got.Code(c, key), want.Code(c, key))
				}
			}
		}
	}
}

func TestKeyBias(t *testing.T) {
	if len(vec.Levels()) == 1 {
		t.Skip("no vector level on this machine")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 210 {
		d := 1 + round/3
		if round >= 180 { // beyond what four counts hold
			d = 1000 + 50*(round-180)
		}
		k, bias, want := make([]int8, 5*d), make([]int32, 5), make([]int32, 5)
		for i := range k {
			k[i] = [3]int8{int8(r.Uint32()), -128, 127}[round%3]
			want[i/d] -= 128 * int32(k[i])
		}
		if vec.KeyBias(bias, k); !slices.Equal(bias, want) {
			t.Errorf("%d channels: %d, want %d", d, bias, want)
		}
	}
}
