// Package program describes attention kernels as data: every choice that decides
// the bits of a tiled attention with an online softmax, as one value with a text
// form in YAML. Package emulate interprets it.
//
// A [Program] says everything explicitly. No field has a default: a file that
// leaves one out is refused, and so is a value that does not exist. The known
// kernels are files of this package ([Preset], [Presets]), with the source of each
// fact beside its line; a kernel of one's own is another such file. [Program.Set]
// changes one choice by its path, [Knobs] are named groups of such changes, and
// [Diff] says in which choices two programs differ.
//
// The short names are the field's: m is a row's running maximum, d its
// denominator, p the weights before normalisation (P~ in the papers), o the
// output accumulator, s a score, sm_scale the softmax scale.
package program

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// Schema is the version of the text form.
const Schema = "sageacc/program/v1"

// Program is the description of an attention kernel. The tag choices lists what a
// text field may be.
type Program struct {
	Schema string `yaml:"schema" json:"schema"`
	Name   string `yaml:"name" json:"name"`
	// Summary is a line about the kernel, Source where its facts are from, Evidence what
	// has been compared with a GPU.
	Summary  string `yaml:"summary" json:"summary"`
	Source   string `yaml:"source" json:"source"`
	Evidence string `yaml:"evidence" json:"evidence"`
	// Arch is the architecture whose matrix units run it, one of tensorcore.Archs. A
	// unit may name another (see Unit).
	Arch        string      `yaml:"arch" json:"arch"`
	Operands    Operands    `yaml:"operands" json:"operands"`
	Smoothing   Smoothing   `yaml:"smoothing" json:"smoothing"`
	QKCodes     QKCodes     `yaml:"qk_codes" json:"qk_codes"`
	VCodes      VCodes      `yaml:"v_codes" json:"v_codes"`
	Tiles       Tiles       `yaml:"tiles" json:"tiles"`
	Mask        Mask        `yaml:"mask" json:"mask"`
	Scores      Scores      `yaml:"scores" json:"scores"`
	Maximum     Maximum     `yaml:"maximum" json:"maximum"`
	Exponent    Exponent    `yaml:"exponent" json:"exponent"`
	Denominator Denominator `yaml:"denominator" json:"denominator"`
	P           P           `yaml:"p" json:"p"`
	PV          PV          `yaml:"pv" json:"pv"`
	Finish      Finish      `yaml:"finish" json:"finish"`
	LSE         LSE         `yaml:"log_sum_exp" json:"log_sum_exp"`
}

// Operands says what the kernel takes and returns.
type Operands struct {
	// DTypes are the dtypes of Q, K and V that the kernel takes, a comma-separated list
	// of fp16, bf16, fp32 and e4m3.
	DTypes string `yaml:"dtypes" json:"dtypes"`
	// MaxHeadDim is the largest head_dim. Smaller ones are padded with zeros by the
	// callers, which changes no score and no other channel.
	MaxHeadDim int `yaml:"max_head_dim" json:"max_head_dim"`
	// Output is the dtype of the output.
	Output string `yaml:"output" json:"output" choices:"input fp16 bf16 fp32"`
	// Subnormals says what FP32 arithmetic makes of subnormal numbers: flushed to zero
	// (--use_fast_math, .ftz) or kept.
	Subnormals string `yaml:"subnormals" json:"subnormals" choices:"flush keep"`
	// Descale is what shares a scale where 16-bit inputs become FP8 codes, amax/448: a batch
	// entry and kv head (and the query heads that share it), or a whole tensor; or, with head, a
	// head of the tensor itself in all batch entries, and the scale is at least 1e-6. Only with
	// head may the query heads of a kv head have different scales.
	Descale string `yaml:"descale" json:"descale" choices:"none kv-head tensor head"`
	// Packed says whether the kernel takes packed sequences, [tokens, heads, head_dim] with
	// the bounds of each.
	Packed string `yaml:"packed" json:"packed" choices:"no yes"`
}

// Smoothing is what is subtracted from Q, K and V before they are quantised, and
// where it comes back.
type Smoothing struct {
	// Q: the mean of each tile of query rows, in FP32. DeltaS is the correction of the
	// scores for it: the mean's products with the smoothed or the raw K, in FP32, one
	// fused multiply-add a channel in order.
	Q      string `yaml:"q" json:"q" choices:"none tile-mean"`
	DeltaS string `yaml:"delta_s" json:"delta_s" choices:"none smoothed raw"`
	// K: the mean over all tokens of a sequence, exact, or as PyTorch computes it
	// (quant.ChannelMean.FrameworkMean), or packed-mean, so over all sequences of the call;
	// rounded to KMean. Or anchor: one of nine keys of the sequence, or nothing, as quant.Anchor
	// chooses. KDifference is how k - mean is rounded.
	K           string `yaml:"k" json:"k" choices:"none mean framework-mean packed-mean anchor"`
	KMean       string `yaml:"k_mean" json:"k_mean" choices:"input fp32"`
	KDifference string `yaml:"k_difference" json:"k_difference" choices:"input fp32 fp32-ftz"`
	// V: the mean of each channel over all tokens, exact, or as csrc/fused/fused.cu sums
	// it (in FP32 over 256 threads; divided by the count padded to 16). Both are
	// subtracted in FP32; input-mean is PyTorch's mean rounded to the dtype of V, and the
	// difference is rounded to it too.
	V string `yaml:"v" json:"v" choices:"none mean fused-mean input-mean"`
}

// QKCodes is how Q and K become the operands of the first product.
type QKCodes struct {
	// Format of the codes; input leaves Q and K as they are, exact leaves them in
	// FP32 whatever the unit.
	Format string `yaml:"format" json:"format" choices:"int8 int4 e4m3 fp16 bf16 input exact"`
	// Granularity says which elements share a scale.
	Granularity string `yaml:"granularity" json:"granularity" choices:"none per-tensor per-block per-warp per-thread per-token"`
	// Scale is the rule for the scale and for the quotient that is rounded: paper, triton
	// and fused are quant.Style's; triton-block is triton's without its epsilon; descale
	// takes a given scale for each head, or makes one of the head's largest magnitude;
	// reciprocal is quant's of that name.
	Scale string `yaml:"scale" json:"scale" choices:"none paper triton triton-block fused descale reciprocal"`
	// Round is the rounding of the codes.
	Round string `yaml:"round" json:"round" choices:"none even away zero"`
	// Fold is what Q is multiplied by, in FP32, before it is quantised.
	Fold string `yaml:"fold" json:"fold" choices:"none sm_scale*log2e"`
	// Rotate, where it stands, is the orthogonal transform of each row of Q and K before they
	// are quantised (quant.Rotation): of every 4, 64 or 128 channels, the last of which are
	// filled up with zeros.
	Rotate string `yaml:"rotate,omitempty" json:"rotate,omitempty" choices:"h4 h64 h128 h128-signed"`
}

// VCodes is how V becomes the operand of the second product.
type VCodes struct {
	Format string `yaml:"format" json:"format" choices:"e4m3 e5m2 int8 fp16 bf16 input exact"`
	Scale  string `yaml:"scale" json:"scale" choices:"none paper fused descale reciprocal"`
	// Max is what the largest magnitude of a channel is scaled to.
	Max   Number `yaml:"max" json:"max"`
	Round string `yaml:"round" json:"round" choices:"none even zero"`
	// Order is the order of keys in the operands P and V: natural, or permuted within
	// 16 (quant.Permute).
	Order string `yaml:"order" json:"order" choices:"natural permuted16"`
	// Beyond is what V has where there are no keys, up to the end of the last tile: zeros, or
	// the rows of the tile before (zeros in the first), which a masked weight multiplies: it
	// matters where they are not finite.
	Beyond string `yaml:"beyond" json:"beyond" choices:"zeros previous-tile"`
	// Cast, where it stands, is what V is rounded to before its scale is found; the scale and the
	// codes are of that.
	Cast string `yaml:"cast,omitempty" json:"cast,omitempty" choices:"fp16"`
}

// Tiles is the order in which a block of query rows meets the keys.
type Tiles struct {
	// Shapes are tried in order; the first whose conditions hold is taken.
	Shapes []Shape `yaml:"shapes" json:"shapes"`
	Order  string  `yaml:"order" json:"order" choices:"first-to-last last-to-first"`
	// Split is into how many parts the tiles of keys are split, each with a softmax of its
	// own, combined at the end: none; a number; or fa2-heuristic, which PyTorch's
	// num_splits_heuristic chooses for the whole call, from SMs, the number of multiprocessors
	// of the GPU. Where there is more than one part the shapes are SplitShapes. Combine, which
	// stands where Split is not none, is whose way of splitting and of combining it is: fa2,
	// FlashAttention-2's, divides all tiles of keys alike for every query and takes exact
	// logarithms and exponentials; fa3, FlashAttention-3's, divides the tiles that a tile of
	// packed rows looks at (the heads of a kv head side by side) and takes approximate ones.
	Split       string  `yaml:"split" json:"split"`
	Combine     string  `yaml:"combine,omitempty" json:"combine,omitempty" choices:"fa2 fa3"`
	SMs         int     `yaml:"sms,omitempty" json:"sms,omitempty"`
	SplitShapes []Shape `yaml:"split_shapes,omitempty" json:"split_shapes,omitempty"`
}

// Shape is a tile shape, and where it is taken. Conditions that are not there hold.
type Shape struct {
	// HeadDim is the head_dim and MaxHeadDim the largest, Causal, Window, Masked and Softcap whether
	// there is such a mask, a mask that came with the call or a soft cap ("yes" or "no"), DType the dtype,
	// Arch the architecture (a comma-separated list), Accum the accumulator (Program.Accum), MaxQueries
	// the most queries times query heads of a kv head and MaxKeys the most keys for which the shape is taken.
	HeadDim    int    `yaml:"head_dim,omitempty" json:"head_dim,omitempty"`
	MaxHeadDim int    `yaml:"max_head_dim,omitempty" json:"max_head_dim,omitempty"`
	Causal     string `yaml:"causal,omitempty" json:"causal,omitempty" choices:"yes no"`
	Window     string `yaml:"window,omitempty" json:"window,omitempty" choices:"yes no"`
	Softcap    string `yaml:"softcap,omitempty" json:"softcap,omitempty" choices:"yes no"`
	DType      string `yaml:"dtype,omitempty" json:"dtype,omitempty" choices:"fp16 bf16 fp32 e4m3"`
	Accum      string `yaml:"accum,omitempty" json:"accum,omitempty"`
	Masked     string `yaml:"masked,omitempty" json:"masked,omitempty" choices:"yes no"`
	Arch       string `yaml:"arch,omitempty" json:"arch,omitempty"`
	MaxQueries int    `yaml:"max_queries,omitempty" json:"max_queries,omitempty"`
	MaxKeys    int    `yaml:"max_keys,omitempty" json:"max_keys,omitempty"`
	// Rows query rows make a thread block's tile, WarpRows of them a warp's part, and
	// Keys keys a tile.
	Rows     int `yaml:"rows" json:"rows"`
	WarpRows int `yaml:"warp_rows" json:"warp_rows"`
	Keys     int `yaml:"keys" json:"keys"`
	// Set is what else goes with the shape: a comma-separated list of PATH=VALUE.
	Set string `yaml:"set,omitempty" json:"set,omitempty"`
}

// Mask is which scores are masked, and how.
type Mask struct {
	// Causal is how queries and keys are aligned: top-left masks key j for query i where
	// j > i + Shift, bottom-right where j > i + keys - queries + Shift. bottom-right-unsigned is
	// the same but for blocks of query rows whose first row is aligned with no key, as there are
	// more queries than keys: nothing hides the keys that they look at, which end where the block's
	// last row would see its last. With none the kernel takes neither a causal mask nor a window.
	Causal string `yaml:"causal" json:"causal" choices:"top-left bottom-right bottom-right-unsigned none"`
	Shift  int    `yaml:"shift" json:"shift"`
	// Tiles says in which tiles a causal mask acts: all that the block looks at, or the tail of
	// the scores. A block looks at tiles up to its last row's last key, without Shift: a larger
	// Shift shows no key of the next tile. With shifted the mask acts in all, and Shift moves
	// the end too.
	Tiles string `yaml:"tiles" json:"tiles" choices:"all tail shifted"`
	// Window says whether the kernel takes a window, aligned like a causal mask, or with left
	// one that bounds the keys before the query alone (causal or not).
	Window string `yaml:"window" json:"window" choices:"no yes left"`
	// Beyond says what becomes of the keys between the end and the end of a tile:
	// masked, kept with scores of zero, or, in calls without a causal mask, BeyondValue
	// is added to their scores (and masked in those with one).
	Beyond      string `yaml:"beyond" json:"beyond" choices:"masked kept added"`
	BeyondValue Number `yaml:"beyond_value" json:"beyond_value"`
	// Value is what a masked score becomes.
	Value Number `yaml:"value" json:"value"`
	// Boolean is what a boolean mask does to the score of a key that it hides: it becomes
	// Value, or BooleanValue is added, in one rounding with the product of integer scores and
	// their scale; or the mask becomes an additive one of 0 and -inf. Hidden says what becomes of a tile in which it hides every key from every
	// row of the block: it is run, or skipped.
	Boolean      string `yaml:"boolean" json:"boolean" choices:"none value add additive"`
	BooleanValue Number `yaml:"boolean_value" json:"boolean_value"`
	Hidden       string `yaml:"hidden" json:"hidden" choices:"run skip"`
	// Additive is where an additive mask joins: scaled, to the scores after sm_scale and before
	// log2 e; with-scale, in one rounding with the product of integer scores and their scale
	// (BeyondValue then is rounded to the mask's dtype, the input's); log2e, times log2 e, to the
	// scores as the exponent takes them, where an element that is not finite hides the key: its
	// score becomes Value.
	Additive string `yaml:"additive" json:"additive" choices:"none scaled with-scale log2e"`
	// BlockMap, where it stands, says that the kernel takes a block map, [batch, heads, tiles of
	// query rows, tiles of keys]: a block of query rows runs the tiles that are listed for it, in
	// the order of the program, and no others; the first and the last tile, and those of the tail,
	// are then the listed ones. Without a map every tile is listed.
	BlockMap string `yaml:"block_map,omitempty" json:"block_map,omitempty" choices:"yes"`
}

// Unit is a matrix instruction, and how it differs from what the architecture has.
type Unit struct {
	// Instruction is in the form of tensorcore.Canonical; a type of input stands for the
	// dtype of the operands, and @ARCH behind it names another architecture.
	// exact is exact arithmetic, rounded once to FP32.
	Instruction string `yaml:"instruction" json:"instruction"`
	// FractionBits and Step, if not "unit", replace those of the unit: the bits that a
	// dot-add keeps and how many consecutive k it takes.
	FractionBits OrUnit `yaml:"fraction_bits" json:"fraction_bits"`
	Step         OrUnit `yaml:"step" json:"step"`
	// SumRound is the rounding of its sums; fp16-nearest also makes the accumulator FP16.
	SumRound string `yaml:"sum_round" json:"sum_round" choices:"unit fp22-zero fp22-nearest fp32-zero fp32-nearest fp16-nearest"`
}

// Scores is the first product, and when the scales join it.
type Scores struct {
	Unit Unit `yaml:"unit" json:"unit"`
	// TailTiles is in how many of a block's last tiles the scores are multiplied by the
	// scales of Q and K, then masked; in all others the scales are a factor of the
	// softmax scale. With a smoothed Q, and with scales per token, the scores are
	// multiplied in every tile.
	TailTiles Count `yaml:"tail_tiles" json:"tail_tiles"`
	// SMScale says where the softmax scale, times log2 e, is applied: in the exponent;
	// nowhere, as Q contains it; to the scores, one factor after the other, an additive mask
	// between them; or, with-scale, to integer scores as one factor with the scales of Q and K.
	SMScale string `yaml:"sm_scale" json:"sm_scale" choices:"exponent folded scores with-scale"`
	// Product is how sm_scale * log2 e is rounded: the FP32 product of both in FP32; the
	// FP64 product of the FP32 scale, rounded; that of the FP64 scale with 1.44269504; or, with
	// fp64-descale, the FP64 product of the FP32 product of the scales of Q and K, the FP64 scale
	// and FP32's log2 e, in that order. In the others the scales of FP8 join it in FP32.
	Product string `yaml:"product" json:"product" choices:"fp32 fp64 fp64-1.44269504 fp64-descale"`
	// HeadDim is the order in which the unit takes the channels: natural, or in parts of
	// 32, the short one first.
	HeadDim string `yaml:"head_dim" json:"head_dim" choices:"natural residual32"`
	// Softcap is how a call's soft cap c is applied, if the kernel takes one: tanh.approx of
	// s * (sm_scale/c) becomes the score, before the mask, and c * log2 e the softmax scale.
	Softcap string `yaml:"softcap" json:"softcap" choices:"none tanh.approx"`
}

// Maximum is a row's running maximum.
type Maximum struct {
	Start Number `yaml:"start" json:"start"`
	// Of says what it is the maximum of: shifted, of scores times scale less the
	// offset of P, per thread; scaled, of the rounded scores times scale, where the offset is then
	// subtracted from the maximum, rounded, in the exponent of P alone; or scores, before their scale. With tile it is the same as shifted,
	// but P is relative to the maximum of its own tile, and what the tile adds to d and O is
	// multiplied by 2^(the tile's maximum - m) where that is below m; tile-unbounded is tile without
	// Start as the least score of a thread, but in the last tile that a block looks at.
	Of string `yaml:"of" json:"of" choices:"shifted scaled scores tile tile-unbounded"`
	// Round is how score * scale - offset is rounded: once (fma), or product and
	// difference each (twice).
	Round string `yaml:"round" json:"round" choices:"fma twice"`
	// Unseen is what a maximum of -inf counts as, in a row that has seen no key: itself, or
	// zero; with lowest the maximum, and what the exponents are lowered by, are FP32's lowest
	// finite number at least.
	Unseen string `yaml:"unseen" json:"unseen" choices:"itself zero lowest"`
}

// Exponent is p = 2^(s*scale - m).
type Exponent struct {
	// Offset is what the exponent of P is lowered by so that P fills its format.
	Offset Number `yaml:"offset" json:"offset"`
	Round  string `yaml:"round" json:"round" choices:"fma twice"`
	// Exp2 is ex2.approx.ftz.f32; ex2.approx.f32, which below -126 is the square of that of
	// half the argument; or 2^x correctly rounded and flushed below 2^-126.
	Exp2 string `yaml:"exp2" json:"exp2" choices:"ex2.approx.ftz ex2.approx exact"`
}

// Denominator is the sum of a row's weights.
type Denominator struct {
	// Of says what is summed: p before or after its conversion, or ones: the matrix unit
	// multiplies the codes of P with ones, all keys in one chain on d. codes-but-last is p in the
	// last tile that a block looks at, codes in the others.
	Of string `yaml:"of" json:"of" choices:"p codes ones codes-but-last"`
	// Unit is the instruction of ones, none otherwise.
	Unit  string `yaml:"unit" json:"unit"`
	Start Number `yaml:"start" json:"start"`
	// Order is the order within a thread, which has two keys of every 8. Onto d: of each
	// 16 keys ((p0+p1)+p8)+p9, or (p0+p1)+(p8+p9); one p after the other (sequential); or
	// as the unit has it (chain). From zero: of a tile, or of each 32 keys, one p after the
	// other, the threads combined, and that sum to a d that the threads share;
	// tile-tree adds a thread's p as a balanced tree.
	Order string `yaml:"order" json:"order" choices:"groups16 pairwise16 sequential chain tile tile-tree groups32"`
	// Rescale is how the old d joins: with the first sum of a tile in one rounding
	// (fma), by a product of its own, or not rescaled at all. multiply-but-last is fma in the
	// last tile that a block looks at, multiply in the others. Where the tile has a factor
	// (maximum.of: tile), fma rounds the first sum times the factor before.
	Rescale string `yaml:"rescale" json:"rescale" choices:"fma multiply multiply-but-last none"`
	// Combine is the order over the four threads of a row.
	Combine string `yaml:"combine" json:"combine" choices:"01+23 02+13"`
}

// P is the conversion of the weights to an operand.
type P struct {
	// Format is that of the operand: V's, or uint8 beside an int8 V.
	Format string `yaml:"format" json:"format" choices:"e4m3 e5m2 int8 uint8 fp16 bf16 input exact"`
	// Scale, where it stands, is what P is multiplied by, in FP32, before its conversion. The
	// denominator sums P without it; V's scale, or 1 where V has none, is divided by it, with
	// div.approx.ftz, and multiplies the inverse.
	Scale Number `yaml:"scale,omitempty" json:"scale,omitempty"`
	Round string `yaml:"round" json:"round" choices:"none even zero"`
}

// PV is the second product, and how it joins the output.
type PV struct {
	Unit Unit `yaml:"unit" json:"unit"`
	// Level is how many keys a sum from zero takes before it joins O: all for one chain
	// over all keys on O itself, tile, or a number that divides the tile.
	Level Level `yaml:"level" json:"level"`
	// Join is how a sum from zero joins: O*alpha + sum in one rounding (fma) or two
	// (twice); twice-but-last, in one in the last tile that a block looks at, in two in the others; memory, where O lives in memory: the sum in the first tile, O*alpha + sum in one
	// rounding in others, and in the last sum/d + (alpha/d)*O, the inverse and each product
	// rounded; factor, O*alpha rounded, and then the sum times the tile's factor (maximum.of: tile)
	// added in one rounding; none where there is one chain.
	Join string `yaml:"join" json:"join" choices:"none fma twice twice-but-last memory factor"`
	// Rescale is how O is multiplied by alpha: in FP32, in FP16 with alpha rounded to
	// FP16, or not at all.
	Rescale string `yaml:"rescale" json:"rescale" choices:"fp32 fp16 none"`
	// Threshold, where it stands, is above 0: a tile that is not of the tail adds nothing to d and
	// O, which are rescaled all the same, where no row of the block has in it a maximum more than
	// the maximum before less Threshold, in base 2. Rows behind the last query count, with scores
	// of zero.
	Threshold Number `yaml:"threshold,omitempty" json:"threshold,omitempty"`
}

// Finish makes the output of O.
type Finish struct {
	// Inverse is the division by d: times rcp.approx.ftz.f32, times 1/d correctly
	// rounded, or an IEEE division of every element.
	Inverse string `yaml:"inverse" json:"inverse" choices:"rcp.approx.ftz exact divide div.full"`
	// Scale is when V's scale is applied: to O/d, or to the inverse.
	Scale string `yaml:"scale" json:"scale" choices:"none output inverse"`
	// Mean is when V's mean is added: with its scale in one rounding (fma), or to the
	// output, in its dtype.
	Mean string `yaml:"mean" json:"mean" choices:"none fma output"`
	// Empty is the inverse of a d that is 0 or NaN: what the division gives, one, or zero. With
	// hidden-zero it is what the division gives, and O/d is zero in a row from which masks hide every
	// key.
	Empty string `yaml:"empty" json:"empty" choices:"divide one zero hidden-zero"`
	// First is what the output is rounded to before its dtype; fp32-as-bf16 is BF16 where that
	// dtype is FP32.
	First string `yaml:"first" json:"first" choices:"none fp16 fp32-as-bf16"`
	Round string `yaml:"round" json:"round" choices:"even zero none"`
}

// LSE is the log-sum-exp that the kernel writes.
type LSE struct {
	// Form is lg2(d) + m in base 2, with lg2.approx.ftz, or, base2-libdevice, Triton's log2f;
	// base2-scaled, fma(m, scale, lg2(d)) of a maximum of scores, which callers get in base 2; the
	// natural fma(m, sm_scale, lg2(d) * ln 2); natural-offset, fma(m, scale * ln 2, lg2(d *
	// 2^-offset) * ln 2); or natural-libm, m / log2 e + logf(d).
	Form string `yaml:"form" json:"form" choices:"none base2 base2-libdevice base2-scaled natural natural-offset natural-libm"`
}

// Number is an FP32 number; its text form is the shortest that gives it back, -inf and
// inf included.
type Number float32

// OrUnit is a whole number, or 0, in text "unit", for what the unit has.
type OrUnit int

// Count is a number of tiles, or All.
type Count int

// All is every tile.
const All Count = -1

// Level is a number of keys, or one of the two constants.
type Level int

// Levels.
const (
	WholeTile Level = 0
	AllKeys   Level = -1
)

// Case is what a program's choices may depend on.
type Case struct {
	HeadDim int
	Causal  bool
	Window  bool
	Softcap bool
	// Masked says that a boolean or additive mask comes with the call.
	Masked bool
	// DType is that of the inputs: fp16, bf16, fp32 or e4m3.
	DType string
	// The whole call's shape; zeros stand for one head, of which nothing else is known but perhaps
	// its keys.
	Batch, Heads, KVHeads, Queries, Keys int
}

// At returns the program with the choices made that depend on a case: one shape, and
// no dtype called input. The error says what the kernel does not take.
func (p Program) At(c Case) (Program, error) {
	if c.HeadDim < 1 || c.HeadDim > p.Operands.MaxHeadDim {
		return p, fmt.Errorf("head_dim %d: kernel %s supports 1 to %d", c.HeadDim, p.Name, p.Operands.MaxHeadDim)
	}
	if !slices.Contains(p.DTypeList(), c.DType) {
		return p, fmt.Errorf("kernel %s does not take %s inputs (it takes %s)", p.Name, c.DType, p.Operands.DTypes)
	}
	if p.Mask.Causal == "none" && (c.Causal || c.Window) {
		instead := "it may take them as a mask tensor"
		if p.Mask.BlockMap != "" {
			instead = "it takes a block map"
		}
		return p, fmt.Errorf("kernel %s takes no causal mask and no window (mask.causal: none); %s", p.Name, instead)
	}
	s, _, split := p.choose(c)
	if s == nil {
		return p, fmt.Errorf("kernel %s has no tile shape for head_dim %d, %s, causal %v, window %v", p.Name, c.HeadDim, c.DType, c.Causal, c.Window)
	}
	p.Tiles.Split, p.Tiles.SMs, p.Tiles.SplitShapes = split, 0, nil
	p.Tiles.Shapes = []Shape{{Rows: s.Rows, WarpRows: s.WarpRows, Keys: s.Keys}}
	if s.Set != "" {
		for change := range strings.SplitSeq(s.Set, ",") {
			path, value, _ := strings.Cut(strings.TrimSpace(change), "=")
			if err := p.Set(path, value); err != nil {
				return p, err
			}
		}
	}
	if n := s.Rows + c.Keys - c.Queries; n <= 0 && c.Causal && c.Queries > 0 && p.Mask.Causal == "bottom-right-unsigned" && p.PV.Join == "memory" {
		return p, fmt.Errorf("kernel %s never writes the first query rows of such a call, which see no key: %d queries, %d keys, causal bottom-right, head_dim %d",
			p.Name, c.Queries, c.Keys, c.HeadDim)
	}
	for _, f := range []*string{&p.QKCodes.Format, &p.VCodes.Format, &p.P.Format} {
		if *f == "input" {
			*f = c.DType
		}
	}
	ptx := map[string]string{"fp16": "f16", "bf16": "bf16", "e4m3": "e4m3"}[c.DType]
	for _, u := range []*Unit{&p.Scores.Unit, &p.PV.Unit} {
		if strings.Contains(u.Instruction, ".input") {
			if ptx == "" {
				return p, fmt.Errorf("kernel %s has no matrix unit for %s inputs", p.Name, c.DType)
			}
			u.Instruction = strings.Replace(u.Instruction, ".input", "."+ptx, 1)
		}
	}
	return p, nil
}

// ShapeAt returns the shape that At takes in a case, and its path, as in tiles.shapes.1; nil
// where there is none.
func (p *Program) ShapeAt(c Case) (*Shape, string) {
	s, path, _ := p.choose(c)
	return s, path
}

// choose returns what a case decides of the tiles: the shape, nil for none, its path and the
// split.
func (p *Program) choose(c Case) (shape *Shape, path, split string) {
	shapes, list := p.Tiles.Shapes, "tiles.shapes"
	split = p.Tiles.Split
	if split == fa2Heuristic {
		n := fa2Splits(p.Tiles.SMs, c)
		if split = "none"; n > 1 {
			split = strconv.Itoa(n)
		}
	}
	if split != "none" && p.Tiles.SplitShapes != nil {
		shapes, list = p.Tiles.SplitShapes, "tiles.split_shapes"
	}
	if p.Mask.Causal == "bottom-right" && c.Queries == 1 && !c.Window {
		c.Causal = false // the last query sees every key
	}
	i := slices.IndexFunc(shapes, func(s Shape) bool { return s.holds(p, c) })
	if i < 0 {
		return nil, "", split
	}
	return &shapes[i], fmt.Sprintf("%s.%d", list, i), split
}

// possible says whether the shape's conditions on the program itself hold.
func (s *Shape) possible(p *Program) bool {
	return (s.Accum == "" || s.Accum == p.Accum()) && (s.Arch == "" || slices.Contains(list(s.Arch), p.Arch))
}

// holds says whether the shape's conditions do.
func (s *Shape) holds(p *Program, c Case) bool {
	yes := func(want string, is bool) bool { return want == "" || (want == "yes") == is }
	return (s.HeadDim == 0 || c.HeadDim == s.HeadDim) && (s.MaxHeadDim == 0 || c.HeadDim <= s.MaxHeadDim) &&
		yes(s.Causal, c.Causal) && yes(s.Window, c.Window) && yes(s.Softcap, c.Softcap) && yes(s.Masked, c.Masked) && (s.DType == "" || s.DType == c.DType) &&
		s.possible(p) &&
		(s.MaxKeys == 0 || c.Keys > 0 && c.Keys <= s.MaxKeys) &&
		(s.MaxQueries == 0 || c.Queries > 0 && c.Queries*max(1, c.Heads/max(1, c.KVHeads)) <= s.MaxQueries)
}

// fa2Heuristic is the value of Tiles.Split that chooses by fa2Splits.
const fa2Heuristic = "fa2-heuristic"

// fa2Splits is num_splits_heuristic of FlashAttention-2 as PyTorch calls it
// (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp): as many parts as
// fill the GPU to 85% of what the best number does.
func fa2Splits(sms int, c Case) int {
	if c.Batch == 0 {
		return 1 // of a call nothing is known but perhaps its keys
	}
	ceil := func(a, b int) int { return (a + b - 1) / b }
	batch, heads, kvHeads, queries := max(1, c.Batch), max(1, c.Heads), max(1, c.KVHeads), max(1, c.Queries)
	if queries == 1 && heads > kvHeads && !c.Window {
		queries, heads = heads/kvHeads, kvHeads // the group's heads become rows
	}
	keys := 64
	switch {
	case c.HeadDim <= 64:
		keys = 256
	case c.HeadDim <= 128:
		keys = 128
	}
	sms *= 2
	n, m := ceil(c.Keys, keys), batch*heads*ceil(queries, 64)
	if float32(m) >= 0.8*float32(sms) {
		return 1
	}
	const most = 128
	last := min(most, sms, n)
	eligible := func(s int) bool { return s == 1 || ceil(n, s) != ceil(n, s-1) }
	filled := make([]float32, last+1)
	best := float32(0)
	for s := 1; s <= last; s++ {
		if eligible(s) {
			waves := float32(m*s) / float32(sms)
			filled[s] = waves / float32(math.Ceil(float64(waves)))
			best = max(best, filled[s])
		}
	}
	for s := 1; s <= last; s++ {
		if eligible(s) && float64(filled[s]) >= float64(0.85*float64(best)) {
			return s
		}
	}
	return 1
}

// Parts is the number of parts into which the keys are split, of a program at a case.
func (p *Program) Parts() int {
	n, err := strconv.Atoi(p.Tiles.Split)
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// DTypeList is Operands.DTypes as a list.
func (p *Program) DTypeList() []string { return list(p.Operands.DTypes) }

// list is a comma-separated list.
func list(text string) []string {
	var out []string
	for s := range strings.SplitSeq(text, ",") {
		out = append(out, strings.TrimSpace(s))
	}
	return out
}

// Tiling returns the tile shape of a program with one shape, the first of others.
func (p *Program) Tiling() quant.Tiling {
	s := p.Tiles.Shapes[0]
	return quant.Tiling{BlockQ: s.Rows, WarpQ: s.WarpRows, BlockK: s.Keys}
}

// Shape says in a few words what the kernel's tiles are.
func (p *Program) Shape() string {
	unit := "mma.sync"
	switch i := p.PV.Unit.Instruction; {
	case strings.HasPrefix(i, "wgmma"):
		unit = "wgmma"
	case i == "exact":
		unit = i
	}
	var tiles []string
	for _, s := range p.Tiles.Shapes {
		if t := fmt.Sprintf("%dx%d", s.Rows, s.Keys); s.possible(p) && !slices.Contains(tiles, t) {
			tiles = append(tiles, t)
		}
	}
	text := unit + ", tiles " + strings.Join(tiles, ", ")
	if p.Tiles.Order == "last-to-first" {
		text += ", last to first"
	}
	if p.QKCodes.Scale == "paper" {
		text += ", Algorithm 1"
	}
	return text
}

// Lookup returns the matrix unit on arch, nil for exact arithmetic.
func (u Unit) Lookup(arch string) (*tensorcore.Unit, error) {
	if u.Instruction == "exact" {
		return nil, nil
	}
	name := u.Instruction
	if i := strings.IndexByte(name, '@'); i >= 0 {
		name, arch = name[:i], name[i+1:]
	}
	t, err := tensorcore.Lookup(arch, name)
	if err != nil {
		return nil, err
	}
	w := *t
	if u.FractionBits != 0 {
		w.FractionBits = int(u.FractionBits)
	}
	if u.Step != 0 {
		if u.Step < 0 || w.K%int(u.Step) != 0 {
			return nil, fmt.Errorf("step %d does not divide the instruction's depth of %d", u.Step, w.K)
		}
		w.Steps = tensorcore.Consecutive(w.K, int(u.Step))
	}
	if u.SumRound != "unit" {
		w.Out, w.C = sumRounds[u.SumRound], tensorcore.FP32
		if u.SumRound == "fp16-nearest" {
			w.C = tensorcore.FP16
		}
	}
	// What an integer unit cannot be, Validate says.
	if err := w.Validate(); err != nil && !t.Integer() {
		return nil, err
	}
	return &w, nil
}

var sumRounds = map[string]tensorcore.Output{
	"fp22-zero": tensorcore.FP22Zero, "fp22-nearest": tensorcore.FP22Nearest,
	"fp32-zero": tensorcore.FP32Zero, "fp32-nearest": tensorcore.FP32Nearest,
	"fp16-nearest": tensorcore.FP16Nearest,
}

// OneChain says that all keys go through one accumulator.
func (p *Program) OneChain() bool { return p.PV.Level == AllKeys }

// Nowhere is no architecture: what does not depend on one has it.
const Nowhere = ""
