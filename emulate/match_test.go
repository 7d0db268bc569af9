package emulate

import (
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// invent changes one or two fields of a unit that the vector kernels have, so that most
// are almost one that they have.
func invent(r *rand.Rand, u tensorcore.Unit) tensorcore.Unit {
	u.Arch, u.Instruction, u.Executed, u.Evidence = "invented", "invented", "none", "none"
	for range 1 + r.IntN(2) {
		switch r.IntN(5) {
		case 0:
			u.FractionBits = pick(r, []int{tensorcore.Exact, 1, 7, 12, 13, 14, 23, 24, 25, 26, 30})
		case 1:
			u.Steps = tensorcore.Consecutive(u.K, pick(r, []int{1, 2, 4, 8, 16, u.K}))
		case 2:
			// Other sets of keys in as many steps.
			n := pick(r, []int{2, 4, 8})
			u.Steps = make([][]int, n)
			for i := range u.K {
				u.Steps[i%n] = append(u.Steps[i%n], i)
			}
		case 3:
			if u.C == tensorcore.FP32 {
				u.Out = pick(r, []tensorcore.Output{tensorcore.FP22Zero, tensorcore.FP22Nearest, tensorcore.FP32Zero, tensorcore.FP32Nearest})
			} else {
				u.C, u.Out = tensorcore.FP32, tensorcore.FP22Zero
			}
		case 4:
			u.SeparateAdd = !u.SeparateAdd
		}
	}
	return u
}

// withUnit compiles a description and puts an invented unit into it.
func withUnit(t *testing.T, p program.Program, level Level, u tensorcore.Unit) *Kernel {
	t.Helper()
	k, err := NewAt(p, level)
	if err != nil {
		t.Fatal(err)
	}
	k.pvUnit = &u
	k.vecUnit, _ = k.vectorUnit()
	k.portable = k.whyPortable()
	k.lanes = k.planLanes()
	return k
}

// TestInventedUnits: a unit runs in a vector path only if that path has it, in every
// field. A made-up unit with the 13 fraction bits of another must not run as that one.
func TestInventedUnits(t *testing.T) {
	levels := Levels()
	if len(levels) == 1 {
		t.Skip("no vector level")
	}
	n := uint64(240)
	if testing.Short() {
		n = 60
	}
	r := rand.New(rand.NewPCG(3, 5))
	taken, refused := 0, 0
	for seed := range n {
		u := vecUnits[int(seed)%len(vecUnits)].unit
		if seed%4 != 0 {
			u = invent(r, u)
		}
		if err := u.Validate(); err != nil {
			t.Fatal(err)
		}
		p, err := program.Preset("sage2-8b-sm90")
		if err != nil {
			t.Fatal(err)
		}
		edits := []string{"v_codes.format", u.A.String(), "p.format", u.A.String()}
		if u.A == tensorcore.FP16 {
			edits = []string{"v_codes.format", "fp16", "p.format", "fp16", "v_codes.scale", "none", "v_codes.max", "0", "finish.scale", "none"}
		}
		edits = append(edits, "pv.unit.instruction", map[tensorcore.Operand]string{tensorcore.E4M3: "mma.m16n8k32.f32.e4m3", tensorcore.E5M2: "mma.m16n8k32.f32.e5m2", tensorcore.FP16: "mma.m16n8k16.f32.f16"}[u.A])
		if seed%3 == 0 && u.C == tensorcore.FP32 {
			edits = append(edits, "pv.level", "all", "pv.join", "none")
		}
		for i := 0; i < len(edits); i += 2 {
			if err := p.Set(edits[i], edits[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		h, err := randomCall(r, withUnit(t, p, levels[0], u), &p)
		if err != nil {
			t.Fatal(err)
		}
		h.in.Windowed = false
		var want result
		for i, level := range levels {
			k := withUnit(t, p, level, u)
			kv, err := k.Prepare(h.kIn)
			if err != nil {
				t.Fatal(err)
			}
			got := h.run(t, k, kv)
			if i == 0 {
				want = got
				continue
			}
			known := false
			for _, v := range vecUnits {
				known = known || v.unit.Same(&u)
			}
			if got := k.Portable() == ""; got != known {
				t.Errorf("%+v: %q, and the vector kernels have it: %v", u, k.Portable(), known)
			}
			if kv.strips {
				taken++
			} else {
				refused++
			}
			if d := want.differs(&got); d != "" {
				t.Errorf("seed %d: %+v, level %s, in strips %v: %s", seed, u, level, kv.strips, d)
			}
		}
		if t.Failed() {
			return
		}
	}
	if taken < int(n)/10 || refused < int(n)/10 {
		t.Errorf("%d runs in strips, %d not: the test compares too little", taken, refused)
	}
	t.Logf("%d runs in strips, %d not", taken, refused)
}

// TestUnitWithWrongRule is the case that once ran in the path of FP22: 13 fraction bits
// in steps of 32, but FP32 toward zero.
func TestUnitWithWrongRule(t *testing.T) {
	levels := Levels()
	p, err := program.Preset("sage2-8b-sm90")
	if err != nil {
		t.Fatal(err)
	}
	u, err := tensorcore.Lookup(tensorcore.SM90, "wgmma.m64nNk32.f32.e4m3")
	if err != nil {
		t.Fatal(err)
	}
	u.Out = tensorcore.FP32Zero
	k := withUnit(t, p, levels[len(levels)-1], *u)
	if k.Portable() == "" {
		t.Error("a unit of 13 fraction bits that rounds to FP32 runs in the path of FP22")
	}
	// The rule makes a difference, so that a path which ignored it would be seen.
	r := rand.New(rand.NewPCG(1, 1))
	plain, err := NewAt(p, levels[0])
	if err != nil {
		t.Fatal(err)
	}
	d, n := 32, 260
	x := make([]float32, n*d)
	for i := range x {
		x[i] = float32(int(r.NormFloat64()*64)) / 64
	}
	rows := slicesOf(x, d)
	h := &call{nq: n, nk: n, d: d, in: QInput{Q: rows, Len: n}, kIn: KVInput{K: rows, V: rows, Len: n, Dim: d}}
	var res [2]result
	for i, k := range []*Kernel{plain, withUnit(t, p, levels[0], *u)} {
		kv, err := k.Prepare(h.kIn)
		if err != nil {
			t.Fatal(err)
		}
		res[i] = h.run(t, k, kv)
	}
	if res[0].differs(&res[1]) == "" {
		t.Error("the rule changes nothing here")
	}
}
