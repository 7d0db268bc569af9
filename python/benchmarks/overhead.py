"""What a call costs beside the arithmetic: emulate of 1 x 2 x 128 x 64, from NumPy and back.

    python benchmarks/overhead.py

prints the median and the slowest of 50 calls, and of starting the program alone.
"""

import statistics
import time

import sageacc
from sageacc._binary import run_command


def times(call, n=50):
    """Milliseconds of n calls, after three that warm caches up."""
    out = []
    for i in range(n + 3):
        start = time.perf_counter()
        call()
        if i >= 3:
            out.append((time.perf_counter() - start) * 1e3)
    return out


def main():
    q, k, v = sageacc.Case(sageacc.Shape(1, 2, 2, 128, 128, 64)).inputs()
    for name, call in (
        ("sageacc version, a process", lambda: run_command(["version"])),
        ("emulate", lambda: sageacc.emulate(q, k, v)),
        ("emulate with the log-sum-exp", lambda: sageacc.emulate(q, k, v, return_lse=True)),
        ("compare", lambda: sageacc.compare(q, k, v, actual=q)),
    ):
        t = times(call)
        print(f"{name:<30} median {statistics.median(t):6.1f} ms, slowest of {len(t)} {max(t):6.1f} ms")


if __name__ == "__main__":
    main()
