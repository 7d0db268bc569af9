"""Records what this project's own attention kernel returns on this GPU.

    nvcc -O3 -std=c++17 -fmad=false -gencode arch=compute_90a,code=sm_90a -o sage2_4b ../attention/run.cu
    python3 own.py OUT [PROGRAM [SEED]]

writes a conformance set of sage2-4b to the folder OUT: shapes, masks, formats and
input distributions, each with the output and the log-sum-exp.

Needs PyTorch and safetensors.
"""

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import save_file

OUT = sys.argv[1]
PROGRAM = sys.argv[2] if len(sys.argv) > 2 else "./sage2_4b"
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1
ARCH = "sm_%d%d" % torch.cuda.get_device_capability()
META = {"device": torch.cuda.get_device_name(), "source": "kernels/attention/sage2_4b.cu"}
NAMES = {torch.float16: "f16", torch.bfloat16: "bf16"}

# batch, heads, kv heads, queries, keys, head_dim
SHAPES = [
    (1, 2, 2, 256, 256, 64),
    (1, 2, 1, 333, 333, 64),
    (2, 4, 2, 130, 130, 128),
    (1, 2, 1, 17, 17, 64),
    (1, 1, 1, 1, 1, 128),
    (1, 2, 2, 200, 333, 128),
    (1, 2, 1, 64, 17, 64),
    (1, 1, 1, 1, 520, 64),
    (1, 1, 1, 1030, 1030, 64),
    (1, 8, 2, 512, 512, 128),
]


def channels(g, x, size, fraction):
    """A bias shared by all tokens on a part of the channels of each head."""
    shape = (1, x.size(1), 1, x.size(3))
    sign = torch.sign(torch.randn(shape, generator=g))
    return x + size * sign * (torch.rand(shape, generator=g) < fraction)


KINDS = {
    "gauss": lambda g, q, k, v: (q, k, v),
    "outliers": lambda g, q, k, v: (channels(g, q, 6, 0.1), channels(g, k, 8, 0.1), v),
    "peaky": lambda g, q, k, v: (q * 6, k * 6, v),
    "bias-v": lambda g, q, k, v: (q, k, channels(g, v, 8, 0.5)),
    "tiny": lambda g, q, k, v: (q * 1e-4, k * 1e-4, v * 1e-4),
    "huge-v": lambda g, q, k, v: (q, k, v.clamp(-3, 3) * 1e4),
    "holes": lambda g, q, k, v: (
        q * (torch.rand(q.shape[:3] + (1,), generator=g) < 0.7),
        k.round(),
        v * (torch.arange(v.size(3)) != 5),
    ),
}


def run(q, k, v, causal, scale):
    b, h, nq, d = q.shape
    raw = b"".join(x.contiguous().view(torch.int16).numpy().tobytes() for x in (q, k, v))
    args = [NAMES[q.dtype], b, h, k.size(1), nq, k.size(2), d, int(causal), repr(scale)]
    out = subprocess.run([PROGRAM, *map(str, args)], input=raw, capture_output=True)
    if out.returncode:
        sys.exit(out.stderr.decode())
    o = torch.frombuffer(bytearray(out.stdout[: q.numel() * 2]), dtype=q.dtype).reshape(q.shape)
    lse = torch.frombuffer(bytearray(out.stdout[q.numel() * 2 :]), dtype=torch.float32).reshape(b, h, nq)
    return o, lse


def main():
    os.makedirs(OUT, exist_ok=True)
    lines, elements = [], 0
    for i, (b, h, kh, nq, nk, d) in enumerate(SHAPES):
        for j, (kind, change) in enumerate(KINDS.items()):
            for dtype in (torch.float16, torch.bfloat16):
                g = torch.Generator().manual_seed(SEED * 1000 + i * 50 + j)
                q = torch.randn(b, h, nq, d, generator=g)
                k, v = (torch.randn(b, kh, nk, d, generator=g) for _ in range(2))
                q, k, v = (x.to(dtype).contiguous() for x in change(g, q, k, v))
                tensors = {"q": q, "k": k, "v": v}
                file = f"sage2-4b_{b}x{h}x{kh}_{nq}x{nk}x{d}_{kind}_{NAMES[dtype]}.safetensors"
                for causal in (False, True):
                    scale = d**-0.5
                    o, lse = run(q, k, v, causal, scale)
                    name = ("causal" if causal else "full") + "/sage2-4b/per-thread/fp32+fp32"
                    tensors["o/" + name], tensors["lse_raw/" + name] = o, lse
                    for part in ("o/", "lse_raw/"):
                        lines.append(
                            {
                                "file": file,
                                "op": "attention",
                                "kernel": "sage2-4b",
                                "qk_granularity": "per-thread",
                                "pv_accum": "fp32+fp32",
                                "causal": causal,
                                "sm_scale": scale,
                                "arch": ARCH,
                                "expect": part + name,
                            }
                        )
                    elements += o.numel()
                save_file(tensors, os.path.join(OUT, file), metadata=META)
    with open(os.path.join(OUT, "cases.jsonl"), "w") as f:
        for line in lines:
            f.write(json.dumps(line) + "\n")
    print(len(lines), "cases,", elements, "output elements")


main()
