package program

import (
	"strings"
	"testing"
)

// TestParseFaults: every fault of a file is one line that names the place and says what
// would be right.
func TestParseFaults(t *testing.T) {
	good := string(presetText("sage2-8b-sm89"))
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		t.Helper()
		if strings.Count(good, old) == 0 {
			t.Fatalf("the file has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	// A comment may follow a value.
	line := func(key, new string) string {
		t.Helper()
		lines := strings.Split(good, "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, key) {
				lines[i] = new
				return strings.Join(lines, "\n")
			}
		}
		t.Fatalf("the file has no line %q", key)
		return ""
	}
	set := func(path, value string) string {
		t.Helper()
		p, err := Parse([]byte(good))
		if err != nil {
			t.Fatal(err)
		}
		for change := range strings.SplitSeq(path+"="+value, ";") {
			k, v, _ := strings.Cut(change, "=")
			if err := p.Set(k, v); err != nil {
				t.Fatal(err)
			}
		}
		text, err := Text(&p, []byte{})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", "the description is empty"},
		{"a comment", "# nothing\n", "the description is empty"},
		{"two documents", good + "\n---\n" + good, "more than one document"},
		{"no YAML", "schema: [", "not YAML"},
		{"binary", "\x00\x01\x02", "not YAML"},
		{"too long", good + "#" + strings.Repeat("x", maxText), "bytes are no description of a kernel (at most 1048576)"},
		{"deep", "a: " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "not YAML"},
		{"a list", "- a\n- b\n", "line 1: the description is not a mapping"},
		{"a word", "hello", "line 1: the description is not a mapping"},
		{"unknown field", "nonsense: 1\n" + good, "line 1: unknown field nonsense (the description has schema, name"},
		{"unknown field below", line("  shift: 0", "  shift: 0\n  shifted: 1"), "unknown field mask.shifted (mask has causal, shift"},
		{"a field's name in lines", "\"a\\nb\": 1\n" + good, `unknown field "a\nb"`},
		{"missing field", line("  shift: 0", ""), "mask.shift is missing (a description says everything)"},
		{"missing section", line("arch: ", ""), "arch is missing (a description says everything)"},
		{"twice", line("  shift: 0", "  shift: 0\n  shift: 0"), "mask.shift stands twice"},
		{"section twice", good + "\narch: sm_89\n", "arch stands twice"},
		{"no mapping", replace("mask:\n  causal:", "mask: 3\nx:\n  causal:"), "mask is not a mapping"},
		{"no single value", line("arch: ", "arch: [sm_89]"), "arch is not a single value"},
		{"no list", replace("shapes:\n    - {rows: 128, warp_rows: 32, keys: 64}", "shapes: {rows: 128, warp_rows: 32, keys: 64}"), "tiles.shapes is not a list"},
		{"no shape", replace("shapes:\n    - {rows: 128, warp_rows: 32, keys: 64}", "shapes: []"), "tiles.shapes: no shape"},
		{"many shapes", replace("    - {rows: 128", strings.Repeat("    - {rows: 128, warp_rows: 32, keys: 64}\n", 70)+"    - {rows: 128"), "tiles.shapes has 71 entries (at most 64)"},
		{"alias", replace("arch: sm_89\n", "arch: &a sm_89\n") + "\nx: *a\n", "unknown field x"},
		{"alias for a value", replace("  k_mean: input", "  k_mean: &i input") + "\n", ""},
		{"alias of a mapping", replace("  unit: {instruction: mma.m16n8k32.f32.e4m3, fraction_bits: unit, step: unit, sum_round: unit}", "  unit: *u"), "unknown anchor 'u' referenced"},
		{"merge", "<<: {arch: sm_89}\n" + good, "unknown field <<"},
		{"wrong word", line("  q: none", "  q: maybe"), `smoothing.q: unknown value "maybe" (have none, tile-mean)`},
		{"long word", line("  q: none", "  q: "+strings.Repeat("m", 10000)), `smoothing.q: unknown value "mmm`},
		{"empty word", line("  q: none", "  q:"), `smoothing.q: unknown value ""`},
		{"no number", line("  offset: ", "  offset: many"), `exponent.offset: "many": want a number, inf or -inf`},
		{"not a number", line("  offset: ", "  offset: nan"), `exponent.offset: "nan": want a number, inf or -inf`},
		{"too large a number", line("  offset: ", "  offset: 1e99"), `exponent.offset: "1e99": want a number, inf or -inf`},
		{"half a row", replace("rows: 128", "rows: 12.8"), `tiles.shapes.0.rows: "12.8": want a whole number`},
		{"no level", replace("level: tile", "level: most"), `pv.level: "most": want a number of keys, "tile" or "all"`},
		{"no count", replace("tail_tiles: 2", "tail_tiles: some"), `scores.tail_tiles: "some": want a whole number or "all"`},
		{"no bits", replace("fraction_bits: unit", "fraction_bits: few"), `want a whole number or "unit"`},
		{"schema", replace("schema: sageacc/program/v1", "schema: sageacc/program/v0"), `schema: "sageacc/program/v0": want sageacc/program/v1`},
		{"name", line("name: ", "name: a, b"), `name: "a, b": want a name without spaces and commas`},
		{"long name", line("name: ", "name: "+strings.Repeat("a ", 5000)), `want a name without spaces and commas`},
		{"arch", line("arch: ", "arch: sm_1"), `arch: unknown architecture "sm_1" (have sm_70`},
		{"dtype", line("  dtypes: ", "  dtypes: fp16, fp8"), `operands.dtypes: unknown dtype "fp8"`},
		{"no dtype", line("  dtypes: ", "  dtypes: ''"), `operands.dtypes: unknown dtype ""`},

		{"no rows", set("tiles.shapes.0.rows", "0"), "tiles.shapes.0.rows: 0: want 1 to 512"},
		{"negative rows", set("tiles.shapes.0.rows", "-128"), "tiles.shapes.0.rows: -128"},
		{"keys", set("tiles.shapes.0.keys", "40"), "tiles.shapes.0.keys: 40: want a multiple of 16 up to 512"},
		{"warp", set("tiles.shapes.0.warp_rows", "24"), "tiles.shapes.0.warp_rows: 24: want a multiple of 8 that divides the 128 rows"},
		{"head_dim", set("operands.max_head_dim", "0"), "operands.max_head_dim: 0: want 1 to "},
		{"depth", set("tiles.shapes.0.keys", "48"), "pv.unit.instruction: mma.m16n8k32.f32.e4m3 takes 32 keys at a time, which does not divide the tile of 48"},
		{"level", set("pv.level", "48"), "pv.level: 48 does not divide the tile of 64 keys"},
		{"level of half a unit", set("pv.level", "16"), "pv.level: 16 is no multiple of the instruction's depth of 32"},
		{"level of -2", set("pv.level", "-2"), "pv.level: -2: want a number of keys, tile or all"},
		{"join", set("pv.level", "all"), "pv.join: fma: pv.level is all"},
		{"rescale", set("pv.rescale", "fp16"), "pv.rescale: fp16"},
		{"fraction bits", set("pv.unit.fraction_bits", "31"), "pv.unit.fraction_bits: 31: want 1 to 30"},
		{"step", set("pv.unit.step", "5"), "pv.unit: kernel sage2-8b-sm89 cannot run on sm_89: step 5 does not divide the instruction's depth of 32"},
		{"step -1", set("pv.unit.step", "-1"), "pv.unit.step: -1: want a number above 0"},
		{"integers are exact", set("scores.unit.fraction_bits", "13"), "scores.unit: an integer unit is exact"},
		{"no instruction", set("pv.unit.instruction", "fma"), `cannot run on sm_89: sm_89 has no model of instruction "fma"`},
		{"instruction of another", set("pv.unit.instruction", "wgmma.m64nNk32.f32.e4m3"), `sm_89 has no model of instruction "wgmma.m64nNk32.f32.e4m3"`},
		{"operands of P", set("p.format", "fp16"), "p.format: fp16: V's is e4m3"},
		{"operands of V", set("pv.unit.instruction", "mma.m16n8k16.f32.f16"), "pv.unit.instruction: mma.m16n8k16.f32.f16 takes f16 operands, not e4m3"},
		{"P where V is exact", set("v_codes.format=exact;v_codes.scale=none;v_codes.max=0;finish.scale=none;p.format", "int8"), "takes e4m3 operands, and P is int8"},
		{"P's scale", set("p.scale", "448"), "p.scale: 448: the inverse of d undoes it: want finish.scale inverse or none"},
		{"P's scale inf", set("finish.scale=inverse;p.scale", "inf"), "p.scale: inf: want"},
		{"P's scale and d of codes", set("finish.scale=inverse;denominator.of=codes;p.scale", "448"), "p.scale: 448: denominator.of is codes, with the scale; want p"},
		{"no descale", set("scores.product", "fp64-descale"), "scores.product: fp64-descale: wants qk_codes.scale descale and scores.sm_scale exponent, not triton and exponent"},
		{"a sum that is scaled twice", set("log_sum_exp.form", "base2-scaled"), "log_sum_exp.form: base2-scaled: the maximum is scaled already (maximum.of: shifted)"},
		{"no P", set("p.round", "none"), "p.round: none: e4m3 P is rounded"},
		{"V's scale", set("v_codes.scale", "none"), "v_codes.scale: e4m3 V needs a scale"},
		{"V's maximum", set("v_codes.max", "0"), "v_codes.max: 0: want a number above 0"},
		{"V's maximum -inf", set("v_codes.max", "-inf"), "v_codes.max: -inf: want a number above 0"},
		{"V's scale nowhere", set("finish.scale", "none"), "finish.scale: none: V's scale is fused"},
		{"V's mean nowhere", set("smoothing.v", "fused-mean"), "finish.mean: none: smoothing.v is fused-mean"},
		{"V's mean of another", set("smoothing.v=mean;finish.mean", "fma"), "smoothing.v: mean: one quantiser finds mean and scale, and v_codes.scale is fused"},
		{"V's mean in its dtype", set("smoothing.v=input-mean;finish.mean", "output"), "smoothing.v: input-mean: e4m3 V is quantised; want mean or fused-mean"},
		{"codes without scale", set("qk_codes.scale", "none"), "qk_codes: int8 codes need a granularity, a scale and a rounding"},
		{"scale without codes", set("qk_codes.format", "input"), "qk_codes: format input has no scales"},
		{"correction", set("smoothing.delta_s", "raw"), "smoothing.delta_s: raw: the kernel does not smooth Q"},
		{"fold", set("qk_codes.fold", "sm_scale*log2e"), "qk_codes.fold: sm_scale*log2e: the softmax scale stands in scores.sm_scale exponent"},
		{"mask", set("mask.value", "0"), "mask.value: 0: want a number far below all scores"},
		{"start", set("maximum.start", "0"), "maximum.start: 0: want a number far below all scores"},
		{"shift", set("mask.shift", "99999999"), "mask.shift: 99999999: want at most 1048576"},
		{"order", set("tiles.order", "last-to-first"), "mask.tiles: tail: the tail tiles come last only with tiles.order first-to-last"},
		{"boolean in the tail", set("mask.boolean", "value"), "mask.boolean: value: a boolean mask acts in all tiles, and mask.tiles is tail"},
		{"mask beside the correction", set("smoothing.q=tile-mean;smoothing.delta_s=raw;mask.tiles=all;scores.tail_tiles=all;mask.boolean_value=-10000;mask.boolean", "add"), "mask: what is added with the scale has no place beside smoothing.delta_s raw"},
		{"a last tile that is skipped", set("pv.join=memory;finish.inverse=exact;v_codes.scale=none;v_codes.format=exact;v_codes.max=0;finish.scale=none;mask.hidden", "skip"), "mask.hidden: skip: with pv.join memory the last tile divides"},
		{"no tail", set("scores.tail_tiles", "0"), "scores.tail_tiles: 0: with mask.tiles tail nothing would be masked"},
		{"tail of -5", set("scores.tail_tiles", "-5"), "scores.tail_tiles: -5: want a number of tiles or all"},
		{"denominator", set("denominator.start", "2"), "denominator.start: 2: want 0 or 1"},
		{"ones", set("denominator.of", "ones"), "denominator: of ones, order chain and a unit go together"},
		{"fused", set("denominator.order", "groups32"), "denominator.rescale: fma: with denominator.order groups32"},
		{"fused in the last tile", set("denominator.rescale=multiply-but-last;denominator.order", "groups32"), "denominator.rescale: multiply-but-last: with denominator.order groups32"},
		{"no last tile", set("mask.tiles=all;denominator.rescale=multiply-but-last;tiles.order", "last-to-first"), "denominator.rescale multiply-but-last want order first-to-last and split none"},
		{"maximum of scores", set("maximum.of", "scores"), "maximum.of: scores: keys with scales of their own"},
		{"offset", set("exponent.offset", "101"), "exponent.offset: 101: want at most 100"},
		{"threshold", set("pv.threshold", "-1"), "pv.threshold: -1: want a number above 0, or none at all"},
		{"threshold of no number", set("pv.threshold", "inf"), "pv.threshold: inf: want a number above 0, or none at all"},
		{"threshold of a shifted maximum", set("pv.threshold", "50"), "pv.threshold: 50: wants maximum.of scaled"},
		{"threshold beside a mask", set("maximum.of=scaled;pv.threshold", "50"), "pv.threshold: 50: wants tiles.order first-to-last, tiles.split none, no mask but a block map"},
		{"threshold of a chain", set("maximum.of=scaled;mask.causal=none;mask.tiles=all;pv.level=all;pv.join=none;pv.threshold", "50"), "pv.threshold: 50: wants sums from zero"},
		{"block map from behind", set("mask.tiles=all;tiles.order=last-to-first;mask.block_map", "yes"), "mask.block_map: yes: wants tiles.order first-to-last"},
		{"block map", set("mask.block_map=yes;mask.tiles=all;mask.hidden", "skip"), "mask.block_map: yes: wants tiles.order first-to-last, tiles.split none and mask.hidden run"},
		{"no block map", strings.Replace(good, "  additive: none", "  additive: none\n  block_map: no", 1), `mask.block_map: unknown value "no" (have yes)`},
		{"last join", set("mask.tiles=all;pv.join=twice-but-last;tiles.order", "last-to-first"), "pv.join: twice-but-last: wants tiles.order first-to-last"},
		{"scaled maximum", set("maximum.of=scaled;maximum.round", "twice"), "maximum.of: scaled: wants maximum.round fma"},
		{"cast of plain V", set("v_codes.format=exact;v_codes.scale=none;v_codes.max=0;finish.scale=none;v_codes.cast", "fp16"), "v_codes.cast: fp16: exact V has no scale"},
		{"no inverse", set("finish.inverse=divide;finish.scale", "inverse"), "finish.scale: inverse: with finish.inverse divide there is none"},
		{"no inverse of zero", set("finish.inverse=divide;finish.empty", "zero"), "finish.empty: zero: with finish.inverse divide there is no inverse that could be zero"},
	} {
		_, err := Parse([]byte(tc.text))
		switch {
		case tc.want == "":
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
		case err == nil:
			t.Errorf("%s: no error, want %q", tc.name, tc.want)
		case !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1200:
			t.Errorf("%s:\n %.500s\nwant\n %s", tc.name, err, tc.want)
		}
	}
}

// TestAliasesAreRefused: a value stands where it is read.
func TestAliasesAreRefused(t *testing.T) {
	good := string(presetText("sage2-8b-sm89"))
	text := strings.Replace(good, "  q: none", "  q: &n none", 1)
	if _, err := Parse([]byte(text)); err != nil {
		t.Fatalf("an anchor alone: %v", err)
	}
	text = strings.Replace(text, "  delta_s: none", "  delta_s: *n", 1)
	if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "smoothing.delta_s is not a single value") {
		t.Errorf("an alias: %v", err)
	}
}
