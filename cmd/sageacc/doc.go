/*
Sageacc measures what quantised attention costs, and checks that a kernel
computes what it should.

It reads dumps of attention layers: Q, K and V as a model computed them and, if
there is one, the output O that a GPU kernel returned. It runs the emulated
kernel, SageAttention2's to the last bit, and full-precision attention, and
compares the outputs.

# Comparing

The sample in the repository has two layers of a language model. For the first
it holds what the released SageAttention2 kernel returned on an H200.

	$ sageacc compare layerdumps/testdata/byte-lm-sample.safetensors --layers 'layers\.0'
	verdict    all fine: the layer has an actual output, bit for bit the emulated one (131072 elements); lowest cos_sim 0.999547 (layers.0.attn)
	kernel     sage2-8b-sm90 on sm_90: wgmma, tiles 64x128
	config     QK int8 per-thread, smooth k; PV e4m3, accumulated in fp32+fp32
	pv unit    wgmma.m64nNk32.f32.e4m3 (QGMMA on sm_90: E8M13 toward zero)
	reference  fp32
	layers     1, FP16 causal

	layer          shape        comparison              cos_sim   rel_l1       rmse    max_abs    differing  max ulp
	-------------  -----------  ---------------------  --------  -------  ---------  ---------  -----------  -------
	layers.0.attn  1x2x1024x64  emulated vs reference  0.999547  0.03430  2.223e-03  4.497e-02
	                            actual vs reference    0.999547  0.03430  2.223e-03  4.497e-02
	                            actual vs emulated            1        0          0          0  0 of 131072    0 ulp

The first row is what the kernel costs against full precision, the second what
the GPU's output costs, and the third whether the two outputs are the same: not
one of 131072 elements differs. With --expect-bit-exact a difference makes the
exit status 1; with --fail-if so does a figure beyond a bound:

	$ sageacc compare layerdumps/testdata/byte-lm-sample.safetensors --layers 'layers\.0' --kernel sage2-4b --fail-if 'rel_l1>0.05'
	verdict    not this kernel: layers.0.attn: 130505 of 131072 elements (99.6%) differ from the emulated ones, though it is this layer's attention (cos_sim 0.999547): another kernel, or other settings
	           beyond a bound: layers.0.attn: emulated.rel_l1 is 0.0850704929 (--fail-if rel_l1>0.05)
	kernel     sage2-4b on sm_89: mma.sync, tiles 128x64, Algorithm 1
	config     QK int4 per-thread, smooth q,k; PV e4m3, accumulated in fp32+fp32
	pv unit    mma.m16n8k32.f32.e4m3 (QMMA on sm_89: E8M13 toward zero)
	reference  fp32
	layers     1, FP16 causal

	layer          shape        comparison              cos_sim   rel_l1       rmse    max_abs         differing    max ulp
	-------------  -----------  ---------------------  --------  -------  ---------  ---------  ----------------  ---------
	layers.0.attn  1x2x1024x64  emulated vs reference  0.996293  0.08507  6.350e-03  2.121e-01
	                            actual vs reference    0.999547  0.03430  2.223e-03  4.497e-02
	                            actual vs emulated     0.996651  0.07834  6.029e-03  2.051e-01  130505 of 131072  21480 ulp

	layers.0.attn: first difference at batch 0, head 0, token 1, channel 0: actual 0xb5cf (-0.363037), emulated 0xb5cb (-0.362061)
	sageacc: check failed: layer layers.0.attn: emulated.rel_l1 is 0.0850704929 (--fail-if rel_l1>0.05)

The kernel's configuration is open. A Hopper GPU runs the sm_89 kernel with other
matrix units than Ada does, and --arch says which:

	$ sageacc compare layerdumps/testdata/byte-lm-sample.safetensors --layers 'layers\.3' --kernel sage2-8b-sm89 --arch sm_90 --pv-accum fp32
	verdict    nothing odd, but no layer has an actual output: what a GPU returns was not checked; lowest cos_sim 0.999647 (layers.3.attn)
	kernel     sage2-8b-sm89 on sm_90: mma.sync, tiles 128x64
	config     QK int8 per-thread, smooth k; PV e4m3, accumulated in fp32
	pv unit    mma.m16n8k32.f32.e4m3 (2 HMMA.16816.F32 + FADD on sm_90: FP32 toward zero)
	reference  fp32
	layers     1, FP16 causal

	layer          shape        comparison              cos_sim   rel_l1       rmse    max_abs
	-------------  -----------  ---------------------  --------  -------  ---------  ---------
	layers.3.attn  1x2x1024x64  emulated vs reference  0.999647  0.02327  1.078e-02  1.177e-01

# Inspecting

Whether smoothing helps is a matter of channels with a bias. For each tensor bias
is the RMS of the channel means over the RMS of the rest, gain how many times
finer the quantisation step becomes by subtracting the mean.

	$ sageacc inspect layerdumps/testdata/byte-lm-sample.safetensors --layers 'layers\.3'
	  tensor  shape           min    max  absmax    rms   bias  gain  verdict
	--------  -----------  ------  -----  ------  -----  -----  ----  -----------------------------------------------
	layers.3.attn: FP16, causal, sm_scale 0.125
	  q       1x2x1024x64  -6.844  7.406   7.406  1.123  0.285  1.47  smooth Q helps: step 1.47x finer
	  k       1x2x1024x64  -8.312  7.656   8.312  1.244  0.343  1.01  smooth K changes little: step 1.01x finer
	  v       1x2x1024x64  -3.344  3.391   3.391  0.698  0.198     1  smooth V changes little: channel step as before

# Tracing

Where a kernel of your own differs, trace shows what each tile of keys should do to
one row, with every digit of the FP32 values; --tile adds every key of a tile.

	$ sageacc trace layerdumps/testdata/byte-lm-sample.safetensors --layer layers.0.attn --head 1 --row 200 --channels 0,1
	kernel     sage2-8b-sm90 on sm_90: wgmma, tiles 64x128
	config     QK int8 per-thread, smooth k; PV e4m3, accumulated in fp32+fp32
	pv unit    wgmma.m64nNk32.f32.e4m3 (QGMMA on sm_90: E8M13 toward zero)
	row        layers.0.attn: batch 0, head 1 (kv head 1), row 200 of 1024; FP16, causal, sm_scale 0.125
	q scale    0.012487797

	Softmax, base 2: the row maximum m (of most kernels less P~'s offset), 2^(m_old - m), d of the row's four threads, and the largest P~.

	tile     keys  visible           m    rescale         d0         d1         d2         d3         P~  of key
	----  -------  -------  ----------  ---------  ---------  ---------  ---------  ---------  ---------  ------
	   0    0-127      128   -7.493164          0   5700.698   5210.083  5767.4243   5355.257  447.88986      93
	   1  128-255       73  -6.6026597  0.5394255  5262.1934  4523.2915   4468.605  4495.0654  447.88986     200

	O after each tile, in units of V's scale and not yet divided, and the tile's own P~V where the accumulator has two levels.

	tile   P~V[0]   P~V[1]       O[0]        O[1]
	----  -------  -------  ---------  ----------
	   0  -464352     -116    -464352        -116
	   1  -681664  -364928  -932147.3  -364990.56

	The row's end: d = 18749.154, 1/d = 5.3335738e-05, base-2 log-sum-exp 7.5918775.

	channel           O        output  bits          actual  bits
	-------  ----------  ------------  ------  ------------  ------
	      0   -932147.3   -0.10272217  0xae93   -0.10272217  0xae93
	      1  -364990.56  -0.029190063  0xa779  -0.029190063  0xa779

# Checking the emulator

Conform runs recorded results of GPUs, ours or yours, through the emulator:

	$ sageacc conform hardware/conformance/testdata/h200 --by-unit --filter '^mma .*e4m3'
	op   unit                                 arch   device       cases  results  differing
	---  -----------------------------------  -----  -----------  -----  -------  ---------
	mma  mma.sync.m16n8k32.f16.e4m3.e4m3.f16  sm_90  NVIDIA H200      1     6144          0
	mma  mma.sync.m16n8k32.f32.e4m3.e4m3.f32  sm_90  NVIDIA H200      1     6144          0
	mma  wgmma.m64n8k32.f16.e4m3.e4m3         sm_90  NVIDIA H200      1     6144          0
	mma  wgmma.m64n8k32.f32.e4m3.e4m3         sm_90  NVIDIA H200      1     6144          0

	4 passed, 0 failed, 0 skipped

# Exit status

0 is fine; 1 means that a check that was asked for failed; 2 that the command
could not run, with one line on standard error that names the file, the tensor
and what is wrong; 130 that it was interrupted. Results go to standard output,
everything else to standard error.
*/
package main
