"""Where the numbers of mode="budget" come from (docs/python.md, "The budget").

    python benchmarks/budget.py

First, how far the errors of programs of the same numerics lie apart, by the number of
queries; then, how many of 24 cases fail for each of some faults.
"""

import itertools
import json

import numpy as np

import sageacc
from sageacc import Kernel
from sageacc._api import Inputs, run_emulate
from sageacc._check import FACTOR, check_case

ALIKE = [Kernel("sage2-8b-sm90"), Kernel("sage2-8b-sm89", pv_accum="fp32+fp16"), Kernel("sage2-8b-sm89", pv_accum="fp32+fp32")]
FAULTS = {
    "sage2-8b-sm89, fp32+fp16": Kernel("sage2-8b-sm89", pv_accum="fp32+fp16"),
    "sage2-8b-sm89, fp32": Kernel("sage2-8b-sm89", pv_accum="fp32"),
    "per-warp": Kernel(qk_granularity="per-warp"),
    "per-tensor": Kernel(qk_granularity="per-tensor"),
    "INT4": Kernel(qk_bits=4),
    "E5M2": Kernel(pv_dtype="e5m2"),
    **{
        v: Kernel(variant=v)
        for v in ("rescale-o=none", "rescale-d=none", "causal-shift=1", "causal-shift=-1", "key-mask=none", "p-round=zero", "code-round=zero", "level-keys=32")
    },
}


def ratios(queries):
    """Of the RMSE and of the largest error of each program to each other's, by head."""
    keys = 520 if queries <= 128 else queries
    cases = sageacc.cases([(1, 8, 8, queries, keys, 64)], ["float16"], ["full"], ["gauss", "outliers", "peaky", "bias-v", "tiny", "huge"], range(1, 5))
    inputs = [Inputs(*c.inputs(), name=str(c)) for c in cases]
    errors = []
    for kernel in ALIKE:
        _, meta = run_emulate(inputs, [*kernel.flags(), "--reference", "fp32"])
        heads = [h["emulated_vs_reference"] for layer in json.loads(meta["result"])["layers"] for h in layer["heads"]]
        errors.append([(h["rmse"], h["max_abs"]) for h in heads])
    x = np.array(errors, float)
    return np.concatenate([x[a] / x[b] for a, b in itertools.permutations(range(len(ALIKE)), 2)])


def main():
    print("queries  RMSE: 99%  largest  allowed  largest error: largest  allowed")
    for n in (1, 4, 16, 64, 128, 512):
        r = ratios(n)
        allowed = FACTOR * (1 + 4 / n**0.5)
        print(f"{n:7}  {np.quantile(r[:, 0], 0.99):9.2f}  {r[:, 0].max():7.2f}  {allowed:7.2f}  {r[:, 1].max():22.2f}  {2 * allowed:7.2f}")
    shapes = ["1x2/2x256x256x64", "1x1/1x333x333x64", "1x2/2x200x333x128"]
    cases = sageacc.cases(shapes, ["float16"], ["full", "causal"], ["gauss", "outliers", "peaky", "bias-v"])
    for name, kernel in FAULTS.items():
        fn = lambda q, k, v, *, causal=False, kernel=kernel: sageacc.emulate(q, k, v, causal=causal, kernel=kernel)
        failed = sum(not check_case(fn, c, kernel=ALIKE[0], mode="budget", explain=False, framework="numpy").ok for c in cases)
        print(f"{name:<26} {failed:2} of {len(cases)} fail")


if __name__ == "__main__":
    main()
