package explain

import (
	"context"
	"fmt"
	"math"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
)

// Stages holds the intermediate tensors of a query head and its kv head as a kernel
// wrote them. Those that are nil are not compared.
type Stages struct {
	// Batch and Head name the query head.
	Batch, Head int
	// KMean [head_dim] is what was subtracted from K.
	KMean []float32
	// KScale holds the dequantisation scales of K by group, in the order of
	// quant.Granularity.KeyGroup; KCodes [keys][head_dim] the codes.
	KScale []float32
	KCodes []int8
	// QScale and QCodes [queries][head_dim] are those of Q, in the order of
	// quant.Granularity.QueryGroup.
	QScale []float32
	QCodes []int8
	// VMean [head_dim] is what was subtracted from V, VScale [head_dim] its scales.
	VMean, VScale []float32
	// VCodes [head_dim][tokens] are the codes of V, channel by channel, tokens in
	// their order (not in the released kernels' permuted one); more tokens than there
	// are keys, the padding of the last tile, are ignored.
	VCodes []uint16
}

// StageReport says which intermediate tensors agree with the emulated ones.
type StageReport struct {
	// Compared lists the stages that were there, in the program's order.
	Compared []string `json:"compared"`
	// First is the first difference, nil if there is none: then what differs comes
	// after these stages.
	First *StageDifference `json:"first"`
}

// StageDifference is the first difference of a stage.
type StageDifference struct {
	Batch int `json:"batch"`
	Head  int `json:"head"`
	// Stage is one of k_mean, k_scale, k_codes, q_scale, q_codes, v_mean, v_scale
	// and v_codes.
	Stage string `json:"stage"`
	// Group is the index of the scale that the element is or belongs to, Token its
	// token and Channel its channel; -1 where the stage has none.
	Group   int `json:"group"`
	Token   int `json:"token"`
	Channel int `json:"channel"`
	// Members says in words what shares the scale.
	Members string `json:"members,omitempty"`
	// Actual and Emulated are the two values; codes of V are decoded.
	Actual   jsonfloat.Float `json:"actual"`
	Emulated jsonfloat.Float `json:"emulated"`
	// Of Elements of the stage, in all heads that were given, Mismatched differ.
	Elements   int `json:"elements"`
	Mismatched int `json:"mismatched"`
}

// String says it in words.
func (d *StageDifference) String() string {
	at := ""
	if d.Token >= 0 {
		at += fmt.Sprintf(", token %d", d.Token)
	}
	if d.Channel >= 0 {
		at += fmt.Sprintf(", channel %d", d.Channel)
	}
	if d.Group >= 0 {
		at += fmt.Sprintf(", group %d (%s)", d.Group, d.Members)
	}
	return fmt.Sprintf("%s of batch %d, head %d%s: actual %.9g, emulated %.9g; %d of %d differ",
		d.Stage, d.Batch, d.Head, at, float64(d.Actual), float64(d.Emulated), d.Mismatched, d.Elements)
}

// String says it in words.
func (r *StageReport) String() string {
	switch {
	case len(r.Compared) == 0:
		return "no intermediate tensor was given"
	case r.First == nil:
		return fmt.Sprintf("%s agree: what differs comes after them", list(r.Compared))
	case r.First.Stage == r.Compared[0]:
		return "the first stage to differ is " + r.First.String()
	}
	agree := r.Compared
	for i, s := range agree {
		if s == r.First.Stage {
			agree = agree[:i]
			break
		}
	}
	verb := "agree"
	if len(agree) == 1 {
		verb = "agrees"
	}
	return fmt.Sprintf("%s %s; the first stage to differ is %s", list(agree), verb, r.First)
}

// stage is one of the tensors of a head. A value's place is told by its index.
type stage struct {
	name     string
	n        int
	actual   func(i int) float32
	emulated func(i int) float32
	place    func(i int) (group, token, channel int)
}

// CompareStages compares the intermediate tensors of heads with those that the
// kernel of a description gives, in the order of the program: K's mean, scales and codes, then
// Q's, then V's. A tensor of the wrong length is an error.
func CompareStages(ctx context.Context, l *layerdumps.Layer, p program.Program, of []Stages) (*StageReport, error) {
	k, err := emulate.New(p)
	if err != nil {
		return nil, err
	}
	bound, err := heads.Bind(k, l)
	if err != nil {
		return nil, err
	}
	k = bound.Kernel
	var all [][]stage
	for i := range of {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		s, err := headStages(bound, &of[i])
		if err != nil {
			return nil, fmt.Errorf("layer %s: stages of batch %d, head %d: %w", l.Name, of[i].Batch, of[i].Head, err)
		}
		all = append(all, s)
	}
	r := &StageReport{Compared: []string{}}
	for n := range stageNames {
		var found *StageDifference
		elements, mismatched := 0, 0
		for i, stages := range all {
			s := &stages[n]
			elements += s.n
			for j := range s.n {
				a, e := s.actual(j), s.emulated(j)
				if math.Float32bits(a) == math.Float32bits(e) || a != a && e != e {
					continue
				}
				mismatched++
				if found == nil {
					found = &StageDifference{
						Batch: of[i].Batch, Head: of[i].Head, Stage: s.name,
						Actual: jsonfloat.Float(a), Emulated: jsonfloat.Float(e),
					}
					found.Group, found.Token, found.Channel = s.place(j)
					if found.Group >= 0 {
						found.Members = members(k, s.name[0] == 'q', found.Group)
					}
				}
			}
		}
		if elements > 0 {
			r.Compared = append(r.Compared, stageNames[n])
		}
		if found != nil && r.First == nil {
			found.Elements, found.Mismatched = elements, mismatched
			r.First = found
		}
	}
	return r, nil
}

var stageNames = [...]string{"k_mean", "k_scale", "k_codes", "q_scale", "q_codes", "v_mean", "v_scale", "v_codes"}

// headStages returns all stages of a head, in order; those that were not given are
// empty.
func headStages(l *heads.Layer, s *Stages) ([]stage, error) {
	k := l.Kernel
	if s.Batch < 0 || s.Batch >= l.Q.Batch || s.Head < 0 || s.Head >= l.Q.Heads {
		return nil, fmt.Errorf("the layer has %d batches of %d heads", l.Q.Batch, l.Q.Heads)
	}
	d, nk := l.Q.Dim, l.K.Tokens
	kv, err := k.Prepare(l.KV(s.Batch, l.KVHead(s.Head)))
	if err != nil {
		return nil, err
	}
	tiling, g := k.Tiling(), k.Granularity()
	kCodes, kScale := kv.KeyCodes()
	vCodes, stride, vScale, vMean := kv.ValueCodes()
	var qCodes []int8
	var qScale []float32
	if s.QCodes != nil || s.QScale != nil {
		qCodes, qScale = k.QuantizeQuery(l.Query(s.Batch, s.Head), d)
	}
	vTokens := len(s.VCodes) / d
	if len(s.VCodes) != vTokens*d || s.VCodes != nil && vTokens < nk {
		return nil, fmt.Errorf("v_codes has %d elements: want %d channels of at least %d", len(s.VCodes), d, nk)
	}

	var out []stage
	check := func(name string, have, want int) {
		switch {
		case have == 0 || have == want || err != nil:
		case want == 0:
			err = fmt.Errorf("%s is there, and the kernel as given has none", name)
		default:
			err = fmt.Errorf("%s has %d elements: want %d", name, have, want)
		}
	}
	floats := func(a, e []float32, place func(i int) (group, token, channel int)) {
		name := stageNames[len(out)]
		check(name, len(a), len(e))
		out = append(out, stage{name, len(a), func(i int) float32 { return a[i] }, func(i int) float32 { return e[i] }, place})
	}
	codes := func(a, e []int8, group func(token int) int) {
		name := stageNames[len(out)]
		check(name, len(a), len(e))
		out = append(out, stage{
			name, len(a), func(i int) float32 { return float32(a[i]) }, func(i int) float32 { return float32(e[i]) },
			func(i int) (int, int, int) { return group(i / d), i / d, i % d },
		})
	}
	channel := func(i int) (int, int, int) { return -1, -1, i }
	group := func(i int) (int, int, int) { return i, -1, -1 }
	floats(s.KMean, kv.KeyMean(), channel)
	floats(s.KScale, kScale, group)
	codes(s.KCodes, kCodes, func(t int) int { return g.KeyGroup(tiling, t) })
	floats(s.QScale, qScale, group)
	codes(s.QCodes, qCodes, func(t int) int { return g.QueryGroup(tiling, t) })
	floats(s.VMean, vMean, channel)
	floats(s.VScale, vScale, channel)
	n := 0
	if s.VCodes != nil {
		n = d * nk
		if vCodes == nil {
			return nil, fmt.Errorf("v_codes is there, and the kernel as given has none")
		}
	}
	out = append(out, stage{
		stageNames[len(out)], n,
		func(i int) float32 { return k.DecodeV(s.VCodes[i/nk*vTokens+i%nk]) },
		func(i int) float32 { return k.DecodeV(vCodes[i/nk*stride+i%nk]) },
		func(i int) (int, int, int) { return -1, i % nk, i / nk },
	})
	return out, err
}

// members says which rows share a scale.
func members(k *emulate.Kernel, query bool, group int) string {
	t := k.Tiling()
	span := func(what string, lo, n int) string { return fmt.Sprintf("%s %d to %d", what, lo, lo+n-1) }
	switch g := k.Granularity(); {
	case g == quant.PerTensor:
		return "all rows"
	case g == quant.PerToken:
		return fmt.Sprintf("row %d", group)
	case query && g == quant.PerBlock:
		return span("queries", group*t.BlockQ, t.BlockQ)
	case query && g == quant.PerWarp:
		return span("queries", group*t.WarpQ, t.WarpQ)
	case query:
		return fmt.Sprintf("row mod 8 = %d of %s", group%8, span("queries", group/8*t.WarpQ, t.WarpQ))
	case g == quant.PerThread:
		return fmt.Sprintf("row mod 8 = %d or %d of %s", group%4*2, group%4*2+1, span("keys", group/4*t.BlockK, t.BlockK))
	}
	return span("keys", group*t.BlockK, t.BlockK)
}

// list joins words with commas and an "and".
func list(words []string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		s := words[0]
		for _, w := range words[1 : n-1] {
			s += ", " + w
		}
		return s + " and " + words[n-1]
	}
}
