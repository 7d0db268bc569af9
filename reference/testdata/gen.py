#!/usr/bin/env python3
"""Writes attention.json, the fixture of TestNumpyFixture: attention in numpy float64.

Inputs are multiples of 1/256, so that JSON carries them exactly. Run in this
folder: python3 gen.py > attention.json
"""
import json

import numpy as np

rng = np.random.default_rng(20241117)


def case(name, nq, nk, d, lo, causal, scale, spread):
    def draw(n):
        return np.round(rng.normal(size=(n, d)) * spread * 256) / 256

    q, k, v = draw(nq), draw(nk), draw(nk)
    s = (q @ k.T) * scale
    if causal:
        rows = lo + np.arange(nq)[:, None]
        s = np.where(np.arange(nk)[None, :] <= rows, s, -np.inf)
    top = s.max(axis=1, keepdims=True)
    p = np.exp(s - top)
    total = p.sum(axis=1, keepdims=True)
    return dict(
        name=name, lo=lo, nk=nk, d=d, causal=causal, scale=scale,
        q=q.ravel().tolist(), k=k.ravel().tolist(), v=v.ravel().tolist(),
        out=(p @ v / total).ravel().tolist(),
        lse=(top + np.log(total)).ravel().tolist(),
    )


json.dump([
    case("plain", 5, 7, 8, 0, False, 0.35, 1.0),
    case("causal", 9, 9, 4, 0, True, 0.5, 1.0),
    case("causal, rows from the middle, more keys than rows", 4, 40, 5, 17, True, 0.4, 1.0),
    case("causal, more rows than keys", 12, 6, 3, 0, True, 0.6, 1.0),
    case("peaked scores", 6, 11, 16, 0, False, 4.0, 8.0),
], __import__("sys").stdout)
