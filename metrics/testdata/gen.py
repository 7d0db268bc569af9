#!/usr/bin/env python3
"""Prints the figures that TestNumpy expects, from numpy float64.

The inputs come from a linear congruential generator that the test repeats.
"""
import numpy as np


def lcg(seed, n):
    out, s = np.empty(n, np.float32), seed
    for i in range(n):
        s = (s * 1664525 + 1013904223) % 2**32
        out[i] = (s >> 8) / 2**23 - 1  # in [-1, 1), exact in float32
    return out


for n in (1, 255, 256, 257, 100000):
    ref = lcg(1, n)
    out = ref + lcg(2, n) * np.float32(1 / 64)  # float32
    o, r = out.astype(np.float64), ref.astype(np.float64)
    cos = (o * r).sum() / (np.sqrt((o * o).sum()) * np.sqrt((r * r).sum()))
    l1 = np.abs(o - r).sum() / np.abs(r).sum()
    rmse = np.sqrt(((o - r) ** 2).mean())
    print(f"{{{n}, {cos!r}, {l1!r}, {rmse!r}, {np.abs(o - r).max()!r}}},".replace("np.float64", ""))
