package mufu

import "math"

// tanhTable holds the segments of MUFU.TANH: c0, c1, c2 of 51 segments, by octave of |x|.
var tanhTable = [...][3]int64{
	// |x| in [2^-8, 2^-7)
	{33554432, 2097152, -256},
	// |x| in [2^-7, 2^-6)
	{33553920, 2097024, -768},
	// |x| in [2^-6, 2^-5)
	{33551872, 2096768, -3328},
	// |x| in [2^-5, 2^-4)
	{33543552, 1047616, -2624}, {50294912, 1046304, -3520},
	// |x| in [2^-4, 2^-3)
	{33510784, 1044672, -10176}, {50184576, 1039616, -14208},
	// |x| in [2^-3, 2^-2)
	{33380768, 516256, -8944}, {41604960, 511776, -10816}, {49749952, 506368, -12640}, {57801216, 500048, -14256},
	// |x| in [2^-2, 2^-1)
	{32872320, 493088, -33104}, {40628832, 476480, -38592}, {48097792, 457144, -42976}, {55239936, 435608, -46304},
	// |x| in [2^-1, 2^0)
	{31012000, 412568, -98592}, {37218624, 362992, -100608}, {42624416, 312504, -96608}, {47238688, 264088, -88688},
	// |x| in [2^0, 2^1)
	{51110176, 219688, -78584}, {54311648, 180408, -67824}, {56927776, 146536, -57152}, {59044560, 118004, -47384}, {60743808, 94360, -38736}, {62099216, 75040, -31376}, {63174880, 59400, -25152}, {64025072, 46864, -20072},
	// |x| in [2^1, 2^2)
	{64694912, 36874, -15946}, {65221380, 28942, -12590}, {65634324, 22674, -9898}, {65957684, 17746, -7784}, {66210628, 13870, -6094}, {66408276, 10835, -4776}, {66562620, 8457, -3734}, {66683060, 6599, -2920}, {66777016, 5146, -2278}, {66850280, 4012, -1778}, {66907392, 3127, -1386}, {66951908, 2437, -1082}, {66986592, 1899, -842}, {67013620, 1479, -654}, {67034676, 1152, -508}, {67051080, 897, -394},
	// |x| in [2^2, 2^3)
	{67064000, 2636, -3504}, {67092352, 972, -1296}, {67102784, 356, -464}, {67106624, 132, -176}, {67108048, 48, -64}, {67108560, 20, -32}, {67108752, 8, -16}, {67108816, 4, -8},
}

// tanhOctaves gives, for the octaves from 2^-8 to 2^2, the exponent of the result's
// binade, the base-2 logarithm of the number of segments and the first segment.
var tanhOctaves = [...]struct{ exp, log, first int }{
	{-8, 0, 0}, {-7, 0, 1}, {-6, 0, 2}, {-5, 1, 3}, {-4, 1, 5}, {-3, 2, 7}, {-2, 2, 11}, {-1, 2, 15}, {-1, 3, 19}, {-1, 4, 27}, {-1, 3, 43},
}

// Tanh is tanh.approx.f32 (MUFU.TANH): recorded on an H100 for every x in [2^-27, 2^5),
// by CRC-32 of 4,096 results each; 0 of 65,536 blocks differ. Odd; |x| < 2^-8 (subnormal
// numbers too) is returned unchanged, |x| >= 8 gives 1, NaN 0x7fffffff. In between, of the
// 23 fraction bits of x the first log choose a segment, the next 17 are t and the rest is
// ignored; r = c0<<13 + c1*t + c2*sq(t) is the result in units of 2^(exp-38), truncated to
// 24 significant bits.
func Tanh(x float32) float32 {
	b := math.Float32bits(x)
	sign, a := b&(1<<31), b&^(1<<31)
	switch {
	case a > 0x7f800000:
		return math.Float32frombits(0x7fffffff)
	case a < (127-8)<<23:
		return x
	case a >= (127+3)<<23:
		return math.Float32frombits(sign | 0x3f800000)
	}
	o := tanhOctaves[a>>23-(127-8)]
	frac := int64(a & 0x7fffff)
	c := tanhTable[o.first+int(frac>>(23-o.log))]
	t := frac >> (6 - o.log) & 0x1ffff
	r := c[0]<<13 + c[1]*t + c[2]*square(t)
	exp, shift := o.exp, 15
	if r < 1<<38 {
		exp, shift = exp-1, 14
	}
	return math.Float32frombits(sign | uint32(exp+127)<<23 + uint32(r>>shift-1<<23))
}
