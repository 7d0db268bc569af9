"""Records this GPU's matrix units and its FP32 arithmetic with flush-to-zero.

    nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o mma ../probes/mma.cu
    nvcc -O3 -gencode arch=compute_90a,code=sm_90a -o ftz ../probes/ftz.cu
    python3 units.py OUT [PROBES [SEED]]

writes a conformance set to the folder OUT; PROBES is the folder with the two
programs (default: here). The tiles of a unit come in twelve equal parts: any
finite bits, normal, subnormal, overflow, dominating and vanishing accumulators,
cancellation, signed zeros, NaN and infinities, special accumulators, few terms of
wide exponents, and attention-like operands.

Needs PyTorch, NumPy and safetensors.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
import torch
from safetensors.torch import save_file

t0 = time.time()
OUT = sys.argv[1]
os.makedirs(OUT, exist_ok=True)
PROBES = sys.argv[2] if len(sys.argv) > 2 else "."
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 7100
DEVICE = torch.cuda.get_device_name()
ARCH = "sm_%d%d" % torch.cuda.get_device_capability()
F = torch.float32
H = torch.float16
E4 = torch.float8_e4m3fn
E5 = torch.float8_e5m2
BF = torch.bfloat16
I8 = torch.int8
I32 = torch.int32
U = [
    ("mma.sync.m16n8k32.f32.e4m3.e4m3.f32", E4, F, 16, 32),
    ("mma.sync.m16n8k32.f32.e5m2.e5m2.f32", E5, F, 16, 32),
    ("mma.sync.m16n8k32.f16.e4m3.e4m3.f16", E4, H, 16, 32),
    ("mma.sync.m16n8k32.f16.e5m2.e5m2.f16", E5, H, 16, 32),
    ("mma.sync.m16n8k16.f32.f16.f16.f32", H, F, 16, 16),
    ("mma.sync.m16n8k16.f16.f16.f16.f16", H, H, 16, 16),
    ("mma.sync.m16n8k16.f32.bf16.bf16.f32", BF, F, 16, 16),
    ("mma.sync.m16n8k32.s32.s8.s8.s32", I8, I32, 16, 32),
    ("mma.sync.m16n8k64.s32.s4.s4.s32", "s4", I32, 16, 64),
    ("wgmma.m64n8k32.f32.e4m3.e4m3", E4, F, 64, 32),
    ("wgmma.m64n8k32.f32.e5m2.e5m2", E5, F, 64, 32),
    ("wgmma.m64n8k32.f16.e4m3.e4m3", E4, H, 64, 32),
    ("wgmma.m64n8k32.f16.e5m2.e5m2", E5, H, 64, 32),
    ("wgmma.m64n8k16.f32.f16.f16", H, F, 64, 16),
    ("wgmma.m64n8k16.f16.f16.f16", H, H, 64, 16),
    ("wgmma.m64n8k32.s32.s8.s8", I8, I32, 64, 32),
]
INT = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def bits(x):
    return x.contiguous().view(INT[x.element_size()])


def randbits(shape, dt, g):
    n = torch.tensor([], dtype=dt).element_size()
    r = torch.randint(0, 256, tuple(shape) + (n,), generator=g, dtype=torch.uint8)
    return r.view(dt).reshape(shape)


def finite(x, g):
    # replaces NaN and Inf by 1
    f = x.to(F)
    bad = ~torch.isfinite(f)
    return assign(x.clone(), bad, 1.0)


def assign(x, mask, val):
    b = bits(x)
    v = bits(torch.tensor([val], dtype=F).to(x.dtype))[0]
    b[mask] = v
    return b.view(x.dtype).reshape(x.shape)


def gen(name, kd, cd, m, k, T, seed):
    g = torch.Generator().manual_seed(seed)
    A = []
    B = []
    C = []
    cats = 12
    per = T // cats
    big = {E4: 448.0, E5: 57344.0, H: 65504.0, BF: 3e38}[kd]
    tiny = {E4: 2**-9, E5: 2**-16, H: 2**-24, BF: 2**-126}[kd]

    def rn(*s):
        return torch.randn(*s, generator=g)

    def ru(*s):
        return torch.rand(*s, generator=g)

    def wide(shape, lo, hi):
        return torch.sign(rn(*shape)) * torch.exp2(ru(*shape) * (hi - lo) + lo)

    for c in range(cats):
        n = per if c < cats - 1 else T - per * (cats - 1)
        sa, sb, sc = (n, m, k), (n, 8, k), (n, m, 8)
        l2 = float(np.log2(big))
        if c == 0:  # any finite bit pattern
            a, b = finite(randbits(sa, kd, g), g), finite(randbits(sb, kd, g), g)
            cc = finite(randbits(sc, cd, g), g) if cd == H else wide(sc, -20, 20)
        elif c == 1:
            a, b, cc = rn(*sa), rn(*sb), rn(*sc)
        elif c == 2:  # subnormal and tiny operands, tiny accumulators
            a, b = wide(sa, float(np.log2(tiny)), float(np.log2(tiny)) + 5), wide(
                sb, float(np.log2(tiny)), float(np.log2(tiny)) + 5
            )
            cc = wide(sc, -24 if cd == H else -149, -14 if cd == H else -40)
        elif c == 3:  # large: sums overflow FP16, and FP32 for BF16
            a, b = wide(sa, l2 - 6, l2), wide(sb, l2 - 6, l2)
            cc = wide(sc, 8, 16) if cd == H else wide(sc, 20, 127.9)
        elif c == 4:  # dominating accumulator
            a, b = rn(*sa), rn(*sb)
            cc = wide(sc, 4, 15.9) if cd == H else wide(sc, 5, 40)
        elif c == 5:  # vanishing accumulator
            a, b = rn(*sa), rn(*sb)
            cc = wide(sc, -24, -4) if cd == H else wide(sc, -60, -5)
        elif c == 6:  # cancellation: the second half undoes the first
            a, b = rn(*sa), rn(*sb)
            p = torch.randperm(k, generator=g)
            h = k // 2
            a[:, :, p[h:]] = -a[:, :, p[:h]]
            b[:, :, p[h:]] = b[:, :, p[:h]]
            a[:, :, p[h:]] *= 1 + (ru(n, m, h) < 0.1) * 0.25
            cc = wide(sc, -14, -2)
            cc = cc * (ru(*sc) < 0.8)
        elif c == 7:  # signed zeros
            a, b = rn(*sa) * (ru(*sa) < 0.05), rn(*sb) * (ru(*sb) < 0.3)
            a = torch.where(ru(*sa) < 0.5, a, -a)
            b = torch.where(ru(*sb) < 0.5, b, -b)
            cc = torch.where(ru(*sc) < 0.5, 0.0, -0.0) + rn(*sc) * (ru(*sc) < 0.1)
            cc = torch.where(cc == 0, torch.where(ru(*sc) < 0.5, 0.0, -0.0), cc)
        elif c == 8:  # a few NaN and infinities among the operands
            a, b, cc = rn(*sa), rn(*sb), rn(*sc)
        elif c == 9:  # special accumulators
            a, b = rn(*sa) * 4, rn(*sb) * 4
            sp = torch.tensor(
                [
                    float("inf"),
                    -float("inf"),
                    float("nan"),
                    0.0,
                    -0.0,
                    65504.0,
                    -65504.0,
                    2.0**-24,
                    -(2.0**-24),
                    3.4028234663852886e38,
                    -3.4028234663852886e38,
                    2.0**-149,
                    -(2.0**-149),
                    2.0**-126,
                    65519.0,
                    -65519.0,
                ]
            )
            cc = sp[torch.randint(0, len(sp), sc, generator=g)]
            a = a * (ru(n, 1, 1) < 0.7)
        elif c == 10:  # few terms, exponents all over the range
            a = wide(sa, float(np.log2(tiny)), l2) * (ru(*sa) < 0.2)
            b = wide(sb, float(np.log2(tiny)), l2) * (ru(*sb) < 0.5)
            cc = wide(sc, -24, 15.9) if cd == H else wide(sc, -30, 30)
            cc = cc * (ru(*sc) < 0.7)
        else:  # attention: P in [0,448], V about 1 or filling the range
            a = 448 * torch.exp2(-8 * ru(*sa)) if kd != H else ru(*sa)
            s = torch.where(ru(n, 1, 1) < 0.5, 2.25, min(big, 448.0))
            b = rn(*sb) * s / 3
            cc = rn(*sc) * torch.exp2(12 * ru(*sc))
            if kd in (E4, E5):
                b = b.clamp(-big, big)
        cv = lambda x, d: x if x.dtype == d else (x.clamp(-big, big) if d in (E4, E5) else x).to(d)
        a, b = cv(a, kd), cv(b, kd)
        cc = cc if cc.dtype == cd else cc.to(cd)
        if c == 8:
            sp = [float("nan")] if kd == E4 else [float("nan"), float("inf"), -float("inf")]
            for v in sp:
                a = assign(a, ru(*sa) < 0.004, v)
                b = assign(b, ru(*sb) < 0.002, v)
            for v in (float("inf"), -float("inf"), float("nan")):
                cc = assign(cc, ru(*sc) < 0.02, v)
            a = assign(a, ru(*sa) < 0.02, 0.0)
            b = assign(b, ru(*sb) < 0.02, 0.0)
        A.append(bits(a))
        B.append(bits(b))
        C.append(bits(cc))
    return [torch.cat(x).view(d) for x, d in ((A, kd), (B, kd), (C, cd))]


def genint(kd, m, k, T, seed):
    g = torch.Generator().manual_seed(seed)
    lo, hi = (-8, 8) if kd == "s4" else (-128, 128)
    a = torch.randint(lo, hi, (T, m, k), generator=g, dtype=I8)
    b = torch.randint(lo, hi, (T, 8, k), generator=g, dtype=I8)
    q = T // 4
    a[:q] = lo
    b[:q] = torch.where(
        torch.rand(q, 8, 1, generator=g) < 0.5, torch.tensor(lo, dtype=I8), torch.tensor(hi - 1, dtype=I8)
    )
    c = torch.randint(-(2**31), 2**31 - 1, (T, m, 8), generator=g, dtype=torch.int64)
    c[: q // 2] = 2**31 - 1 - torch.randint(0, 2000000, (q // 2, m, 8), generator=g)
    c[q // 2 : q] = -(2**31) + torch.randint(0, 2000000, (q - q // 2, m, 8), generator=g)
    c[q : 2 * q] = torch.randint(-5000, 5000, (q, m, 8), generator=g)
    return a, b, c.to(I32)


lines = []


def one(i, name, kd, cd, m, k):
    T = 1200 if kd == "s4" else 2160 if m == 16 else 540
    a, b, c = genint(kd, m, k, T, SEED + i) if kd in (I8, "s4") else gen(name, kd, cd, m, k, T, SEED + i)
    pk = lambda x: ((x[..., 0::2] & 15) | (x[..., 1::2] << 4)).to(torch.int8) if kd == "s4" else x
    raw = b"".join(bits(pk(x) if j < 2 else x).numpy().tobytes() for j, x in enumerate((a, b, c)))
    ds = []
    for _ in range(2):
        r = subprocess.run([os.path.join(PROBES, "mma"), name, str(T)], input=raw, capture_output=True)
        if r.returncode:
            print("FAILED", name, r.stderr.decode()[-300:])
            break
        ds.append(r.stdout)
    if len(ds) < 2:
        return
    d = torch.frombuffer(bytearray(ds[0]), dtype=cd).reshape(T, m, 8)
    f = ARCH.replace("_", "") + "_" + name.replace(".sync", "").replace(".", "_") + ".safetensors"
    save_file(
        {"a": a, "b": b, "c": c, "d": d},
        f"{OUT}/{f}",
        metadata={"instruction": name, "arch": ARCH, "device": DEVICE, "source": "kernels/probes/mma.cu"},
    )
    lines.append({"file": f, "op": "mma", "instruction": name, "arch": ARCH, "expect": "d"})
    df = d.to(torch.float64)
    ok = torch.isfinite(df)
    ref = torch.einsum("tmk,tnk->tmn", a.to(torch.float64), b.to(torch.float64)) + c.to(torch.float64)
    if not df.dtype == cd and kd in (I8, "s4"):
        bad = int((((ref + 2**31) % 2**32 - 2**31) != df).sum())
        print(name, T, "stable", ds[0] == ds[1], "int mismatches", bad, flush=True)
        return
    sl = slice(T // 12, 2 * (T // 12))
    e = ((df - ref)[sl].abs()).max()
    print(
        name,
        T,
        "stable",
        ds[0] == ds[1],
        "finite %.3f" % ok.float().mean(),
        "nan %.3f" % torch.isnan(df).float().mean(),
        "max abs err gauss",
        float(e),
        flush=True,
    )


for i, u in enumerate(U):
    one(i, *u)
# flush-to-zero at the threshold
rng = np.random.default_rng(SEED)
n = 1 << 20
am = rng.integers(1 << 23, 1 << 24, n).astype(np.uint32)
a = ((am & 0x7FFFFF) | (127 << 23)).astype(np.uint32).view(np.float32)
bm = (np.float32(1) / a).astype(np.float32)


def bump(x, d):
    return (x.view(np.int32) + d.astype(np.int32)).view(np.float32)


b = bump(bm, rng.integers(-4, 5, n))
s = np.where(rng.random(n) < 0.5, -1, 1).astype(np.float32)
z = np.zeros(n, np.float32)
T = {}
T["mul"] = np.stack([a * np.float32(2.0**-63) * s, b * np.float32(2.0**-63), z], 1)
cc = bump(np.full(n, 2.0**-126, np.float32), rng.integers(-3, 4, n) * (rng.random(n) < 0.5))
cc = np.where(np.abs(cc) < 2.0**-126, np.float32(2.0**-126), cc)
f1 = np.stack([a * np.float32(2.0**-62) * s, b * np.float32(2.0**-63), -cc * s], 1)
f2 = np.stack(
    [
        a * np.float32(2.0**-63) * s,
        b * np.float32(2.0**-63),
        np.where(rng.random(n) < 0.5, 0.0, -0.0).astype(np.float32),
    ],
    1,
)
f3 = rng.integers(0, 1 << 32, (n, 3), dtype=np.uint64).astype(np.uint32).view(np.float32)
T["fma"] = np.concatenate([f1, f2, f3])
g1 = np.stack(
    [
        bump(np.full(n, 2.0**-125, np.float32), rng.integers(-8, 8, n)),
        z,
        -bump(np.full(n, 2.0**-126, np.float32), rng.integers(0, 8, n)),
    ],
    1,
)
T["add"] = np.concatenate([g1, rng.integers(0, 1 << 26, (n, 3), dtype=np.uint64).astype(np.uint32).view(np.float32)])
out = {}
for op, x in T.items():
    x = np.ascontiguousarray(x.astype(np.float32))
    r = subprocess.run([os.path.join(PROBES, "ftz"), op, str(len(x))], input=x.tobytes(), capture_output=True)
    if r.returncode:
        print("FAILED ftz", op, r.stderr)
        continue
    y = np.frombuffer(r.stdout, np.float32)
    k = 1 << 17
    idx = np.concatenate([np.arange(k) + j * n for j in range(len(x) // n)])
    out[op + ".x"] = torch.from_numpy(x[idx].copy())
    out[op + ".y"] = torch.from_numpy(y[idx].copy())
    print("ftz", op, len(y), "zeros", int((y == 0).sum()))
FTZ = ARCH.replace("_", "") + "_ftz.safetensors"
for op in out:
    if op.endswith(".y"):
        lines.append({"file": FTZ, "op": "arith", "instruction": op[:-2] + ".rn.ftz.f32", "arch": ARCH, "expect": op})
save_file(
    out,
    f"{OUT}/{FTZ}",
    metadata={
        "source": "kernels/probes/ftz.cu: x is [n,3] a,b,c; mul a*b, fma a*b+c, add a+c, all .rn.ftz.f32",
        "device": DEVICE,
    },
)
with open(f"{OUT}/cases.jsonl", "w") as fh:
    for l in lines:
        fh.write(json.dumps(l) + "\n")
print("units seconds", round(time.time() - t0, 1))
