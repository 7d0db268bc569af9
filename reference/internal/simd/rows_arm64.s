//go:build !purego

#include "textflag.h"

// Instructions that Go's assembler lacks, as the Arm Architecture Reference Manual encodes
// them (C4.1, "Advanced SIMD"), with operands in Go's order: d = n op m.
#define FADD4S(m, n, d) WORD $(0x4e20d400 | (m)<<16 | (n)<<5 | (d))
#define FSUB4S(m, n, d) WORD $(0x4ea0d400 | (m)<<16 | (n)<<5 | (d))
#define FMUL4S(m, n, d) WORD $(0x6e20dc00 | (m)<<16 | (n)<<5 | (d))
#define FMAX4S(m, n, d) WORD $(0x4e20f400 | (m)<<16 | (n)<<5 | (d))
#define FMAXV4S(n, d) WORD $(0x6e30f800 | (n)<<5 | (d))
#define FCMGT4S(m, n, d) WORD $(0x6ea0e400 | (m)<<16 | (n)<<5 | (d))
#define FCMEQ4S(m, n, d) WORD $(0x4e20e400 | (m)<<16 | (n)<<5 | (d))
#define FADD2D(m, n, d) WORD $(0x4e60d400 | (m)<<16 | (n)<<5 | (d))
#define FSUB2D(m, n, d) WORD $(0x4ee0d400 | (m)<<16 | (n)<<5 | (d))
#define FMUL2D(m, n, d) WORD $(0x6e60dc00 | (m)<<16 | (n)<<5 | (d))
#define FMAX2D(m, n, d) WORD $(0x4e60f400 | (m)<<16 | (n)<<5 | (d))
#define FMAXP2D(n, d) WORD $(0x7e70f800 | (n)<<5 | (d))
#define FCMGT2D(m, n, d) WORD $(0x6ee0e400 | (m)<<16 | (n)<<5 | (d))
#define FCMEQ2D(m, n, d) WORD $(0x4e60e400 | (m)<<16 | (n)<<5 | (d))
#define BIC(m, n, d) WORD $(0x4e601c00 | (m)<<16 | (n)<<5 | (d))

// func smaxNEON(x *float32, scale float32, groups int) float32
TEXT ·smaxNEON(SB), NOSPLIT, $0-28
	MOVD x+0(FP), R0
	FMOVS scale+8(FP), F16
	MOVD groups+16(FP), R1
	VDUP V16.S[0], V16.S4
	MOVD $0xff800000, R2
	VDUP R2, V0.S4
	VDUP R2, V1.S4
	VDUP R2, V2.S4
	VDUP R2, V3.S4
group:
	VLD1 (R0), [V4.S4, V5.S4, V6.S4, V7.S4]
	FMUL4S(16, 4, 4)
	FMUL4S(16, 5, 5)
	FMUL4S(16, 6, 6)
	FMUL4S(16, 7, 7)
	VST1.P [V4.S4, V5.S4, V6.S4, V7.S4], 64(R0)
	FMAX4S(4, 0, 0)
	FMAX4S(5, 1, 1)
	FMAX4S(6, 2, 2)
	FMAX4S(7, 3, 3)
	SUBS $1, R1
	BNE group
	FMAX4S(1, 0, 0)
	FMAX4S(3, 2, 2)
	FMAX4S(2, 0, 0)
	FMAXV4S(0, 0)
	FMOVS F0, ret+24(FP)
	RET

// func dmaxNEON(x *float64, scale float64, groups int) float64
TEXT ·dmaxNEON(SB), NOSPLIT, $0-32
	MOVD x+0(FP), R0
	FMOVD scale+8(FP), F16
	MOVD groups+16(FP), R1
	VDUP V16.D[0], V16.D2
	MOVD $0xfff0000000000000, R2
	VDUP R2, V0.D2
	VDUP R2, V1.D2
	VDUP R2, V2.D2
	VDUP R2, V3.D2
	LSL $1, R1
half:
	VLD1 (R0), [V4.D2, V5.D2, V6.D2, V7.D2]
	FMUL2D(16, 4, 4)
	FMUL2D(16, 5, 5)
	FMUL2D(16, 6, 6)
	FMUL2D(16, 7, 7)
	VST1.P [V4.D2, V5.D2, V6.D2, V7.D2], 64(R0)
	FMAX2D(4, 0, 0)
	FMAX2D(5, 1, 1)
	FMAX2D(6, 2, 2)
	FMAX2D(7, 3, 3)
	SUBS $1, R1
	BNE half
	FMAX2D(1, 0, 0)
	FMAX2D(3, 2, 2)
	FMAX2D(2, 0, 0)
	FMAXP2D(0, 0)
	FMOVD F0, ret+24(FP)
	RET

// SEXP replaces V4 by its exponential, 0 where it is below the smallest argument and NaN
// where it is NaN, and adds it to a sum; constants in V16 to V26, top in V27.
#define SEXP(sum) \
	FSUB4S(27, 4, 4)              \
	VMOV V18.B16, V5.B16          \
	VFMLA V17.S4, V4.S4, V5.S4    \
	FSUB4S(18, 5, 6)              \
	VMOV V4.B16, V7.B16           \
	VFMLS V19.S4, V6.S4, V7.S4    \
	VFMLS V20.S4, V6.S4, V7.S4    \
	VMOV V22.B16, V8.B16          \
	VFMLA V21.S4, V7.S4, V8.S4    \
	VMOV V23.B16, V9.B16          \
	VFMLA V8.S4, V7.S4, V9.S4     \
	VMOV V24.B16, V8.B16          \
	VFMLA V9.S4, V7.S4, V8.S4     \
	VMOV V25.B16, V9.B16          \
	VFMLA V8.S4, V7.S4, V9.S4     \
	VMOV V26.B16, V8.B16          \
	VFMLA V9.S4, V7.S4, V8.S4     \
	VMOV V26.B16, V9.B16          \
	VFMLA V8.S4, V7.S4, V9.S4     \
	VSHL $23, V5.S4, V5.S4        \
	VADD V5.S4, V9.S4, V9.S4      \
	FCMGT4S(4, 16, 6)             \
	BIC(6, 9, 9)                  \
	FCMEQ4S(4, 4, 6)              \
	VBIF V6.B16, V4.B16, V9.B16   \
	VST1.P [V9.S4], 16(R0)        \
	FADD4S(9, sum, sum)

// func sweighNEON(x *float32, top float32, groups int, table *float32) float32
TEXT ·sweighNEON(SB), NOSPLIT, $0-36
	MOVD x+0(FP), R0
	FMOVS top+8(FP), F27
	MOVD groups+16(FP), R1
	MOVD table+24(FP), R2
	VDUP V27.S[0], V27.S4
	MOVD $32, R3
	VLD1R.P (R2)(R3), [V16.S4]
	VLD1R.P (R2)(R3), [V17.S4]
	VLD1R.P (R2)(R3), [V18.S4]
	VLD1R.P (R2)(R3), [V19.S4]
	VLD1R.P (R2)(R3), [V20.S4]
	VLD1R.P (R2)(R3), [V21.S4]
	VLD1R.P (R2)(R3), [V22.S4]
	VLD1R.P (R2)(R3), [V23.S4]
	VLD1R.P (R2)(R3), [V24.S4]
	VLD1R.P (R2)(R3), [V25.S4]
	VLD1R.P (R2)(R3), [V26.S4]
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16
group:
	VLD1 (R0), [V4.S4]
	SEXP(0)
	VLD1 (R0), [V4.S4]
	SEXP(1)
	VLD1 (R0), [V4.S4]
	SEXP(2)
	VLD1 (R0), [V4.S4]
	SEXP(3)
	SUBS $1, R1
	BNE group
	// The second half of the 16 sums is added to the first, until one is left.
	FADD4S(2, 0, 0)
	FADD4S(3, 1, 1)
	FADD4S(1, 0, 0)
	VEOR V1.B16, V1.B16, V1.B16
	VMOV V0.D[1], V1.D[0]
	FADD4S(1, 0, 0)
	VMOV V0.S[1], V1.S[0]
	FADD4S(1, 0, 0)
	FMOVS F0, ret+32(FP)
	RET

// DEXP is SEXP for V8 in float64; constants in V16 to V31, top in V15.
#define DEXP(sum) \
	FSUB2D(15, 8, 8)              \
	VMOV V18.B16, V9.B16          \
	VFMLA V17.D2, V8.D2, V9.D2    \
	FSUB2D(18, 9, 10)             \
	VMOV V8.B16, V11.B16          \
	VFMLS V19.D2, V10.D2, V11.D2  \
	VFMLS V20.D2, V10.D2, V11.D2  \
	VMOV V22.B16, V12.B16         \
	VFMLA V21.D2, V11.D2, V12.D2  \
	VMOV V23.B16, V13.B16         \
	VFMLA V12.D2, V11.D2, V13.D2  \
	VMOV V24.B16, V12.B16         \
	VFMLA V13.D2, V11.D2, V12.D2  \
	VMOV V25.B16, V13.B16         \
	VFMLA V12.D2, V11.D2, V13.D2  \
	VMOV V26.B16, V12.B16         \
	VFMLA V13.D2, V11.D2, V12.D2  \
	VMOV V27.B16, V13.B16         \
	VFMLA V12.D2, V11.D2, V13.D2  \
	VMOV V28.B16, V12.B16         \
	VFMLA V13.D2, V11.D2, V12.D2  \
	VMOV V29.B16, V13.B16         \
	VFMLA V12.D2, V11.D2, V13.D2  \
	VMOV V30.B16, V12.B16         \
	VFMLA V13.D2, V11.D2, V12.D2  \
	VMOV V31.B16, V13.B16         \
	VFMLA V12.D2, V11.D2, V13.D2  \
	VMOV V31.B16, V12.B16         \
	VFMLA V13.D2, V11.D2, V12.D2  \
	VSHL $52, V9.D2, V9.D2        \
	VADD V9.D2, V12.D2, V12.D2    \
	FCMGT2D(8, 16, 10)            \
	BIC(10, 12, 12)               \
	FCMEQ2D(8, 8, 10)             \
	VBIF V10.B16, V8.B16, V12.B16 \
	VST1.P [V12.D2], 16(R0)       \
	FADD2D(12, sum, sum)

// func dweighNEON(x *float64, top float64, groups int, table *float64) float64
TEXT ·dweighNEON(SB), NOSPLIT, $0-40
	MOVD x+0(FP), R0
	FMOVD top+8(FP), F15
	MOVD groups+16(FP), R1
	MOVD table+24(FP), R2
	VDUP V15.D[0], V15.D2
	MOVD $32, R3
	VLD1R.P (R2)(R3), [V16.D2]
	VLD1R.P (R2)(R3), [V17.D2]
	VLD1R.P (R2)(R3), [V18.D2]
	VLD1R.P (R2)(R3), [V19.D2]
	VLD1R.P (R2)(R3), [V20.D2]
	VLD1R.P (R2)(R3), [V21.D2]
	VLD1R.P (R2)(R3), [V22.D2]
	VLD1R.P (R2)(R3), [V23.D2]
	VLD1R.P (R2)(R3), [V24.D2]
	VLD1R.P (R2)(R3), [V25.D2]
	VLD1R.P (R2)(R3), [V26.D2]
	VLD1R.P (R2)(R3), [V27.D2]
	VLD1R.P (R2)(R3), [V28.D2]
	VLD1R.P (R2)(R3), [V29.D2]
	VLD1R.P (R2)(R3), [V30.D2]
	VLD1R.P (R2)(R3), [V31.D2]
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16
	VEOR V4.B16, V4.B16, V4.B16
	VEOR V5.B16, V5.B16, V5.B16
	VEOR V6.B16, V6.B16, V6.B16
	VEOR V7.B16, V7.B16, V7.B16
group:
	VLD1 (R0), [V8.D2]
	DEXP(0)
	VLD1 (R0), [V8.D2]
	DEXP(1)
	VLD1 (R0), [V8.D2]
	DEXP(2)
	VLD1 (R0), [V8.D2]
	DEXP(3)
	VLD1 (R0), [V8.D2]
	DEXP(4)
	VLD1 (R0), [V8.D2]
	DEXP(5)
	VLD1 (R0), [V8.D2]
	DEXP(6)
	VLD1 (R0), [V8.D2]
	DEXP(7)
	SUBS $1, R1
	BNE group
	FADD2D(4, 0, 0)
	FADD2D(5, 1, 1)
	FADD2D(6, 2, 2)
	FADD2D(7, 3, 3)
	FADD2D(2, 0, 0)
	FADD2D(3, 1, 1)
	FADD2D(1, 0, 0)
	VMOV V0.D[1], V1.D[0]
	FADD2D(1, 0, 0)
	FMOVD F0, ret+32(FP)
	RET

// func sjoinNEON(acc, x *float32, decay float32, panels int)
TEXT ·sjoinNEON(SB), NOSPLIT, $0-32
	MOVD acc+0(FP), R0
	MOVD x+8(FP), R1
	FMOVS decay+16(FP), F16
	MOVD panels+24(FP), R2
	VDUP V16.S[0], V16.S4
	LSL $1, R2
half:
	VLD1 (R0), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	VFMLA V16.S4, V0.S4, V4.S4
	VFMLA V16.S4, V1.S4, V5.S4
	VFMLA V16.S4, V2.S4, V6.S4
	VFMLA V16.S4, V3.S4, V7.S4
	VST1.P [V4.S4, V5.S4, V6.S4, V7.S4], 64(R0)
	SUBS $1, R2
	BNE half
	RET

// func djoinNEON(acc, x *float64, decay float64, panels int)
TEXT ·djoinNEON(SB), NOSPLIT, $0-32
	MOVD acc+0(FP), R0
	MOVD x+8(FP), R1
	FMOVD decay+16(FP), F16
	MOVD panels+24(FP), R2
	VDUP V16.D[0], V16.D2
	LSL $1, R2
half:
	VLD1 (R0), [V0.D2, V1.D2, V2.D2, V3.D2]
	VLD1.P 64(R1), [V4.D2, V5.D2, V6.D2, V7.D2]
	VFMLA V16.D2, V0.D2, V4.D2
	VFMLA V16.D2, V1.D2, V5.D2
	VFMLA V16.D2, V2.D2, V6.D2
	VFMLA V16.D2, V3.D2, V7.D2
	VST1.P [V4.D2, V5.D2, V6.D2, V7.D2], 64(R0)
	SUBS $1, R2
	BNE half
	RET
