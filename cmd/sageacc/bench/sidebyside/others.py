"""Rates of other bit-accurate models of FP8 matrix units, in multiply-adds a second.

    pip install torch mmaemu
    PYTHONPATH=/path/to/MMA-Sim python others.py [threads]

MMA-Sim (github.com/microsoft/MMA-Sim) runs one wgmma tile, mmaemu (PyPI) a GEMM;
each is skipped where it is not installed.
"""
import sys
import time
import warnings

import torch

warnings.simplefilter("ignore")
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
fp8 = torch.float8_e4m3fn


def rate(name, macs, run):
    """Prints the best of three runs."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    print(f"{name}: {macs / best:.3g} MAC/s ({best:.4f} s)", flush=True)


try:
    from mmasim.simulator.nv_ptx import wgmma

    unit = wgmma("Hopper", "m64n8k32.f32.e4m3.e4m3")
    a, b = torch.randn(64, 32).to(fp8), torch.randn(32, 8).to(fp8)
    c = torch.zeros(64, 8)
    rate("MMA-Sim wgmma.m64n8k32.f32.e4m3", 64 * 8 * 32, lambda: unit(a, b, c))
except ImportError as err:
    print("MMA-Sim:", err)

try:
    import mmaemu

    for profile, n in [("ada", 256), ("ada", 512), ("hopper", 1024)]:
        x = torch.randn(n, n).to(fp8)
        one = torch.tensor(1.0)
        rate(
            f"mmaemu {profile} {n}^3",
            n**3,
            lambda: mmaemu.scaled_mm(x, x.t(), one, one, out_dtype=torch.bfloat16, profile=profile, splitk=1),
        )
except ImportError as err:
    print("mmaemu:", err)
