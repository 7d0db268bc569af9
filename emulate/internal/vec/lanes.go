package vec

// Control says what FP32 operations do with subnormal numbers: a value of amd64's MXCSR.
type Control uint32

// Controls.
const (
	Keep  Control = 0x1f80
	Flush Control = 0x1f80 | 0x8040 // flush to zero, denormals are zeros
)

// Weight is a format of P for Round.
type Weight uint8

// Formats of weights.
const (
	WeightFP16 Weight = iota
	WeightBF16
	WeightE4M3
	WeightE5M2
	WeightInt
)

// Join is what Combine does.
type Join uint8

// Joins.
const (
	JoinNone     Join = iota // o*alpha
	JoinNoneFP16             // the same, rounded to FP16
	JoinFMA                  // o*alpha + tile in one rounding
	JoinTwice                // in two
	JoinFactor               // o*alpha rounded, + tile*factor in one rounding
)
