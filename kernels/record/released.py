"""Records what the released SageAttention2 kernels return on this GPU.

    python3 released.py OUT [SEED]

writes a conformance set to the folder OUT: outputs, log-sum-exps and quantised
tensors of every program, granularity and accumulator, for random inputs of many
shapes and kinds (the default SEED 9000 gives the set that docs/evidence.md
reports; any other gives inputs that nobody has seen). Every output is recorded
twice, with different garbage in freed memory, so that a result that depends on
uninitialised memory shows as UNSTABLE.

Needs PyTorch, safetensors and the package sageattention (thu-ml/SageAttention,
recorded at commit d1a57a5) with its sm_89 and sm_90 modules.
"""

import json
import os
import sys
import time

import torch
from safetensors.torch import save_file

import sageattention.core as core

t0 = time.time()
OUT = sys.argv[1]
os.makedirs(OUT, exist_ok=True)
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 9000
dev = "cuda"
ARCH = "sm_%d%d" % torch.cuda.get_device_capability()
cap = {}


def wrap(mod, name, key, fn=None):
    f = getattr(mod, name)

    def g(*a, **kw):
        r = f(*a, **kw)
        cap[key] = r
        return r

    setattr(mod, name, g)


wrap(core, "per_warp_int8_cuda", "qk")
wrap(core, "per_thread_int8_triton", "qk")
wrap(core, "per_channel_fp8", "v")
for m in (core.sm89_compile, core.sm90_compile):
    for n in dir(m):
        if n.startswith("qk_int8") and not n.endswith("impl"):
            wrap(m, n, "lse")
META = {
    "layout": "HND",
    "device": torch.cuda.get_device_name(),
    "kernels": f"thu-ml/SageAttention, CUDA {torch.version.cuda}",
}
PROGS = [
    ("sage2-8b-sm89", g, a, sv)
    for g in ("per-thread", "per-warp")
    for a, sv in (("fp32", False), ("fp32+fp32", False), ("fp32+fp16", False), ("fp32", True))
] + [("sage2-8b-sm90", g, "fp32+fp32", False) for g in ("per-thread", "per-warp")]


def poison(byte):
    # leave a known garbage in the allocator's cache, so that a dependence on uninitialised memory shows
    t = [torch.full((1 << 20,), byte, dtype=torch.uint8, device=dev) for _ in range(96)] + [
        torch.full((s,), byte, dtype=torch.uint8, device=dev)
        for s in (512, 1024, 2048, 4096, 8192, 16384, 65536, 262144)
        for _ in range(24)
    ]
    torch.cuda.synchronize()
    del t


def call(p, q, k, v, causal, sm, smooth_k, lse):
    kern, g, a, sv = p
    kw = dict(
        tensor_layout="HND",
        is_causal=causal,
        qk_quant_gran=g.replace("-", "_"),
        sm_scale=sm,
        pv_accum_dtype=a,
        smooth_k=smooth_k,
        return_lse=lse,
    )
    cap.clear()
    if kern == "sage2-8b-sm89":
        r = core.sageattn_qk_int8_pv_fp8_cuda(q, k, v, smooth_v=sv, **kw)
    else:
        r = core.sageattn_qk_int8_pv_fp8_cuda_sm90(q, k, v, **kw)
    torch.cuda.synchronize()
    return r


def same(a, b):
    a = a.contiguous()
    b = b.contiguous()
    if a.dtype.is_floating_point and a.element_size() == 1:
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    n = torch.isnan(a) & torch.isnan(b) if a.dtype.is_floating_point else torch.zeros_like(a, dtype=torch.bool)
    it = {2: torch.int16, 4: torch.int32, 1: torch.int8}[a.element_size()]
    return bool(((a.view(it) == b.view(it)) | n).all())


lines = []
stats = dict(tensors=0, unstable=0, lse_o_differs=0)


def record(name, q, k, v, causals=(False, True), sm=None, quant=True, lse=False, nosmooth=False, note=""):
    tstart = time.time()
    f = name + ".safetensors"
    T = {"q": q, "k": k, "v": v}
    hd = q.size(-1)
    smv = sm if sm is not None else hd**-0.5
    pd = 64 if hd <= 64 else 128
    kp = torch.nn.functional.pad(k, (0, pd - hd)) if pd != hd else k
    km = kp.mean(dim=2, keepdim=True)
    T["quant/k_mean"] = km[..., :hd].contiguous()
    if lse:
        kb = torch.repeat_interleave(km, q.size(1) // k.size(1), dim=1) if q.size(1) != k.size(1) else km
        qp = torch.nn.functional.pad(q, (0, pd - hd)) if pd != hd else q
        T["quant/lse_correction"] = torch.matmul(qp, kb.transpose(2, 3)).squeeze(-1).to(torch.float32)

    def line(**kw):
        lines.append({"file": f, **kw})

    def put(n, t, check=True):
        t = t.contiguous()
        if n in T:
            if check and not same(T[n], t):
                stats["unstable"] += 1
                print("UNSTABLE", name, n, flush=True)
            return False
        T[n] = t
        stats["tensors"] += 1
        return True

    line(op="quantize", kernel="sage2-8b-sm89", smooth_v=False, tensor="k_mean", expect="quant/k_mean", arch=ARCH)
    for rnd, byte in enumerate((0x7F, 0xA5)):
        for p in PROGS:
            kern, g, a, sv = p
            for c in causals:
                for sk in ((True, False) if nosmooth else (True,)):
                    for wl in ((False, True) if lse else (False,)):
                        poison(byte)
                        r = call(p, q, k, v, c, sm, sk, wl)
                        o = r[0] if wl else r
                        on = (
                            f"{'causal' if c else 'full'}/{kern}/{g}/{a}"
                            + ("/smooth-v" if sv else "")
                            + ("" if sk else "/no-smooth-k")
                        )
                        base = dict(
                            op="attention",
                            kernel=kern,
                            qk_granularity=g,
                            pv_accum=a,
                            smooth_v=sv,
                            smooth_k=sk,
                            causal=c,
                            sm_scale=smv,
                            arch=ARCH,
                        )
                        if put("o/" + on, o):
                            line(**base, expect="o/" + on)
                        elif wl and not same(T["o/" + on], o.contiguous()):
                            stats["lse_o_differs"] += 1
                        if wl:
                            if put("lse/" + on, r[1].to(torch.float32)):
                                line(**base, expect="lse/" + on)
                            put("lse_raw/" + on, cap["lse"])
                        if quant:
                            qk = cap["qk"]
                            sfx = "" if sk else "/no-smooth-k"
                            for n, t in zip(("q_int8", "q_scale", "k_int8", "k_scale"), qk):
                                if not sk and n[0] == "q":
                                    continue
                                nm = f"quant/{kern}/{g}{sfx}/{n}"
                                if put(nm, t):
                                    line(
                                        op="quantize",
                                        kernel=kern,
                                        qk_granularity=g,
                                        smooth_k=sk,
                                        tensor=n,
                                        expect=nm,
                                        arch=ARCH,
                                    )
                            if sk:
                                pre = (
                                    "quant/smooth-v"
                                    if sv
                                    else (
                                        "quant/fp32+fp16"
                                        if a == "fp32+fp16"
                                        else "quant/sage2-8b-sm90" if kern[-2:] == "90" else "quant"
                                    )
                                )
                                for n, t in zip(("v_fp8", "v_scale", "v_mean"), cap["v"]):
                                    if t is None:
                                        continue
                                    nm = f"{pre}/{n}"
                                    extra = {"pv_accum": a} if a == "fp32+fp16" else {}
                                    if put(nm, t):
                                        line(
                                            op="quantize",
                                            kernel=kern,
                                            smooth_v=sv,
                                            **extra,
                                            tensor=n,
                                            expect=nm,
                                            arch=ARCH,
                                        )
    T = {n: t.detach().contiguous().cpu() for n, t in T.items()}
    meta = dict(META)
    meta["case"] = note or name
    save_file(T, f"{OUT}/{f}", metadata=meta)
    nan = {
        n: int(torch.isnan(t.float()).sum())
        for n, t in T.items()
        if n.startswith("o/") and torch.isnan(t.float()).any()
    }
    print(
        f'{name:34s} {os.path.getsize(OUT+"/"+f)/2**20:6.2f} MiB {time.time()-tstart:5.1f}s nan={dict(list(nan.items())[:2])}',
        flush=True,
    )


F, B = torch.float16, torch.bfloat16


def rnd(seed, dt, b, hq, hkv, nq, nk, d, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(b, hq, nq, d, generator=g) * scale
    k = torch.randn(b, hkv, nk, d, generator=g) * scale
    v = torch.randn(b, hkv, nk, d, generator=g)
    return [q, k, v], g


def fin(t, dt):
    return [x.to(dt).to(dev).contiguous() for x in t]


def gauss(seed, dt, b, hq, hkv, nq, nk, d, scale=1.0):
    return fin(rnd(seed, dt, b, hq, hkv, nq, nk, d, scale)[0], dt)


def outk(seed, dt, *s):
    (q, k, v), g = rnd(seed, dt, *s)
    d = q.size(-1)
    bias = torch.zeros(1, k.size(1), 1, d)
    for h in range(k.size(1)):
        bias[0, h, 0, torch.randperm(d, generator=g)[:5]] = 8 * torch.sign(torch.randn(5, generator=g))
    return fin([q, k + bias, v], dt)


def biasv(seed, dt, *s):
    (q, k, v), g = rnd(seed, dt, *s)
    d = q.size(-1)
    v = v + 8 * torch.sign(torch.randn(1, v.size(1), 1, d, generator=g)) * (
        torch.rand(1, v.size(1), 1, d, generator=g) < 0.5
    )
    return fin([q, k, v], dt)


def scaled(seed, dt, *s, sq=1.0, sk=1.0, sv=1.0):
    (q, k, v), g = rnd(seed, dt, *s)
    return fin([q * sq, k * sk, v * sv], dt)


def hugev(seed, dt, *s, top=3e4):
    (q, k, v), g = rnd(seed, dt, *s)
    v = (torch.rand(v.shape, generator=g) * 2 - 1) * top
    return fin([q, k, v], dt)


def holes(seed, dt, *s):
    (q, k, v), g = rnd(seed, dt, *s)
    q[:, :, 16:48] = 0
    k[:, :, 64:128] = k[:, :, 64:65]
    v[:, 0, :, 5] = 0
    v[:, 0, :, 7] = -0.75
    k[:, :, :, 3] = 2.0
    return fin([q, k, v], dt)


record("gauss_d128_f16", *gauss(SEED + 1, F, 1, 2, 2, 256, 256, 128), lse=False, nosmooth=False)
record("gauss_d64_bf16", *gauss(SEED + 2, B, 1, 2, 2, 256, 256, 64), nosmooth=True)
record("gqa_d64_f16_n333", *gauss(SEED + 3, F, 1, 4, 2, 333, 333, 64), quant=False, lse=True)
record("gqa_d128_bf16_n333", *gauss(SEED + 4, B, 1, 4, 2, 333, 333, 128), causals=(True,))
record("n1_d64_f16", *gauss(SEED + 5, F, 2, 2, 1, 1, 1, 64), lse=True, nosmooth=True)
record("n1_d128_bf16", *gauss(SEED + 6, B, 2, 2, 2, 1, 1, 128), lse=True)
record("n17_d64_f16", *gauss(SEED + 7, F, 1, 2, 1, 17, 17, 64), lse=True, nosmooth=True)
record("n17_d128_bf16", *gauss(SEED + 8, B, 1, 2, 2, 17, 17, 128), lse=True)
record("n130_d64_f16", *gauss(SEED + 9, F, 1, 2, 1, 130, 130, 64), lse=True, nosmooth=True)
record("n130_d128_f16", *gauss(SEED + 10, F, 1, 2, 1, 130, 130, 128), lse=True)
record("n520_d64_f16", *gauss(SEED + 11, F, 1, 1, 1, 520, 520, 64), lse=True)
record("n520_d128_bf16", *gauss(SEED + 12, B, 1, 1, 1, 520, 520, 128))
record("d96_f16_n130", *gauss(SEED + 13, F, 1, 2, 1, 130, 130, 96), lse=True)
record("d96_bf16_n200", *gauss(SEED + 14, B, 1, 1, 1, 200, 200, 96))
record("d40_f16_n130", *gauss(SEED + 15, F, 1, 2, 1, 130, 130, 40))
record("cross_200x333_d64_f16", *gauss(SEED + 16, F, 1, 4, 2, 200, 333, 64), causals=(False,), lse=True)
record("cross_64x17_d128_bf16", *gauss(SEED + 17, B, 1, 2, 1, 64, 17, 128), causals=(False,))
record("cross_17x520_d64_f16", *gauss(SEED + 18, F, 1, 2, 1, 17, 520, 64), causals=(False,))
record("cross_1x333_d128_f16", *gauss(SEED + 19, F, 2, 2, 1, 1, 333, 128), causals=(False,), lse=True)
record("outlierk_d64_f16_n256", *outk(SEED + 20, F, 1, 2, 2, 256, 256, 64), lse=True, nosmooth=True)
record("outlierk_d128_bf16_n333", *outk(SEED + 21, B, 1, 1, 1, 333, 333, 128))
record("peaky_d64_f16_n333", *gauss(SEED + 22, F, 1, 2, 1, 333, 333, 64, 6.0), lse=True)
record("peaky_d128_bf16_n256", *gauss(SEED + 23, B, 1, 1, 1, 256, 256, 128, 6.0))
record("biasv_d64_f16_n333", *biasv(SEED + 24, F, 1, 2, 1, 333, 333, 64))
record("biasv_d128_bf16_n256", *biasv(SEED + 25, B, 1, 1, 1, 256, 256, 128))
record("tiny_d64_f16_n256", *scaled(SEED + 26, F, 1, 1, 1, 256, 256, 64, sq=1e-4, sk=1e-4, sv=1e-4))
record("tiny_d64_bf16_n130", *scaled(SEED + 27, B, 1, 1, 1, 130, 130, 64, sq=1e-4, sk=1e-4, sv=1e-4))
record("verytiny_d64_bf16_n130", *scaled(SEED + 28, B, 1, 1, 1, 130, 130, 64, sq=1e-9, sk=1e-9, sv=1e-20))
record("hugev_d64_f16_n256", *hugev(SEED + 29, F, 1, 1, 1, 256, 256, 64))
record("hugev_d128_f16_n130", *hugev(SEED + 30, F, 1, 1, 1, 130, 130, 128, top=65504.0))
record("hugev_d64_bf16_n130", *hugev(SEED + 31, B, 1, 1, 1, 130, 130, 64, top=1e30))
record("batch2_d64_f16_n130", *gauss(SEED + 32, F, 2, 4, 2, 130, 130, 64))
record("holes_d64_f16_n200", *holes(SEED + 33, F, 1, 2, 2, 200, 200, 64), lse=True)
record("smscale_d64_bf16_n200", *gauss(SEED + 34, B, 1, 1, 1, 200, 200, 64), sm=0.3)
record("long_d64_f16_n1030", *gauss(SEED + 35, F, 1, 1, 1, 1030, 1030, 64), quant=False)
record("long_d128_bf16_n1030", *gauss(SEED + 36, B, 1, 1, 1, 1030, 1030, 128), quant=False, causals=(True,))
with open(f"{OUT}/cases.jsonl", "w") as fh:
    for l in lines:
        fh.write(json.dumps(l) + "\n")
print(len(lines), "cases", stats, "record seconds", round(time.time() - t0, 1), flush=True)
