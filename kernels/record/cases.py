"""Inputs of attention to record: shapes, values, masks, packed sequences, FP8 with scales.

An input depends on its seed, its form and its number alone, not on which kernels are
installed, so that two machines record the same ones. NumPy and ml_dtypes are all that
is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import ml_dtypes
import numpy as np

FORMS = ("plain", "masked", "packed", "fp8", "wide", "fp8-head", "blocks")
F16, BF16, E4M3 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
F32 = np.dtype(np.float32)
SHORT = {F16: "f16", BF16: "bf16", E4M3: "e4m3", F32: "f32"}
MAX_TOKENS = 1100

HEAD_DIMS = (40, 64, 64, 64, 72, 80, 96, 112, 128, 128, 128)
# FP8 kernels take multiples of 16.
HEAD_DIMS_FP8 = (64, 64, 80, 96, 112, 128, 128)
# Those that FlashInfer's FP8 kernels have.
HEAD_DIMS_FP8_HEAD = (64, 64, 128, 128, 256)
# Of kernels that take more than 128, FP32 too, masks of either kind, and up to 1,399 keys.
HEAD_DIMS_WIDE = (9, 30, 64, 100, 128, 130, 160, 200, 256, 256)
# SpargeAttn's: at least 128 queries.
HEAD_DIMS_BLOCKS = (64, 64, 128)
EDGES_BLOCKS = (128, 129, 160, 191, 192, 193, 255, 256, 257, 320, 384)
# (query heads, kv heads)
HEADS = ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (3, 1))
# Both sides of every block and warp that a kernel here has.
EDGES = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 160, 176, 177, 191, 193, 224, 225, 255, 256, 257, 320, 512, 513, 1024)
# The elements of Q that several heads or a batch may have together; one head may have more.
SEVERAL = 32768


@dataclass
class Inputs:
    """One input and what a call of it may ask for.

    tensors holds q, k and v, [batch, heads, tokens, head_dim] or, packed, [tokens, heads,
    head_dim] with cu_seqlens_q and cu_seqlens_k; masks as mask/NAME, broadcastable to
    [batch, heads, queries, keys]; block maps as map/NAME, [batch, heads, blocks of 64 queries,
    blocks of 128 keys]; FP8's q_descale, k_descale, v_descale [batch, kv heads], of
    the form fp8-head [batch, heads of the tensor].
    """

    name: str
    form: str
    kind: str
    tensors: Dict[str, np.ndarray]
    sm_scale: float
    smooth_k: bool
    lse: bool
    # Whether the quantised tensors are recorded too.
    codes: bool
    window: Tuple[int, int]
    softcap: float
    splits: int
    # A tile of keys may be left out where its scores are that far below, in base 2.
    threshold: float
    seed: Tuple[int, ...] = field(repr=False, default=())

    @property
    def dtype(self) -> np.dtype:
        """The element type of q, k and v."""
        return self.tensors["q"].dtype

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.tensors["q"].shape[-1]

    @property
    def queries(self) -> int:
        """Rows of q of a head, of all sequences if packed."""
        return self.tensors["q"].shape[0 if self.form == "packed" else 2]

    @property
    def keys(self) -> int:
        """Rows of k of a head, of all sequences if packed."""
        return self.tensors["k"].shape[0 if self.form == "packed" else 2]

    @property
    def masks(self) -> List[str]:
        """The names of the masks' tensors."""
        return [n for n in self.tensors if n.startswith("mask/")]

    @property
    def maps(self) -> List[str]:
        """The names of the block maps' tensors."""
        return [n for n in self.tensors if n.startswith("map/")]


def draw(seed: int, form: str, number: int) -> Inputs:
    """The input of that number: the same on every machine."""
    # Of the last two forms each was the sixth when its sets were recorded.
    key = (seed, min(FORMS.index(form), 5), number)
    g = np.random.default_rng(key)
    d = int(g.choice({"fp8": HEAD_DIMS_FP8, "wide": HEAD_DIMS_WIDE, "fp8-head": HEAD_DIMS_FP8_HEAD, "blocks": HEAD_DIMS_BLOCKS}.get(form, HEAD_DIMS)))
    hq, hk = HEADS[g.integers(len(HEADS))]
    b = 1 + int(g.random() < 0.15)
    dtype = (F16, BF16)[g.integers(2)] if form != "wide" else (F16, BF16, F32)[g.integers(3)]
    masked = form == "masked" or (form == "wide" and g.random() < 0.4)
    packing = None
    if form == "packed":
        packing = _lengths(g)
        b, nq, nk = 1, sum(packing[0]), sum(packing[1])
    else:
        limit = 333 if masked else MAX_TOKENS
        nq = _tokens(g, limit) if form != "blocks" else int(g.choice(EDGES_BLOCKS) if g.random() < 0.6 else g.integers(128, 400))
        nk = nq if g.random() < (0.2 if form == "blocks" else 0.65) else _tokens(g, limit)
        if form == "blocks" and g.random() < 0.6:
            nk = int(g.integers(300, MAX_TOKENS))  # several tiles before the last
        if form == "wide" and not masked and g.random() < 0.25:
            nq, nk = min(nq, 150), int(g.integers(1025, 1400))  # where tiles become larger
    if b * hq * max(nq, nk) * d > SEVERAL:
        b, hq, hk = 1, min(hq, 2), 1
    if hq * max(nq, nk) * d > 2 * SEVERAL:
        hq = 1
    kinds = [k for k in KINDS if k not in ("big-v", "very-tiny") or dtype != F16]
    if form in FP8_FORMS:
        kinds = [k for k in kinds if not k.endswith(("-nan", "-inf"))]
    # Half of them plain noise: the others are one each.
    kind = "gauss" if g.random() < 0.4 else kinds[g.integers(len(kinds))]
    with np.errstate(over="ignore", invalid="ignore"):
        values = KINDS[kind](g, *(g.standard_normal((b, h, n, d)).astype(np.float32) for h, n in ((hq, nq), (hk, nk), (hk, nk))))
        if form == "blocks" and g.random() < 0.7:
            values = _apart(g, *values)
        tensors = FP8_FORMS[form](g, values) if form in FP8_FORMS else {n: x.astype(dtype) for n, x in zip("qkv", values)}
        if masked:
            for name in g.choice(list(MASKS), 2, replace=False):
                tensors["mask/" + name] = _mask(name, g, (b, hq, nq, nk), dtype)
        if form == "blocks":
            for name in g.choice(list(MAPS), 2, replace=False):
                tensors["map/" + name] = _map(name, g, (b, hq, -(-nq // 64), -(-nk // 128)))
    if packing:
        tensors = {n: np.ascontiguousarray(x[0].swapaxes(0, 1)) for n, x in tensors.items()}
        integer = (np.int32, np.int64)[g.integers(2)]
        for name, lengths in zip(("cu_seqlens_q", "cu_seqlens_k"), packing):
            tensors[name] = np.cumsum([0] + lengths).astype(integer)
    return Inputs(
        name=f"s{seed}_{form}{number:03d}_{kind}_d{d}_{SHORT[tensors['q'].dtype]}_{nq}x{nk}",
        form=form,
        kind=kind,
        tensors=tensors,
        sm_scale=d**-0.5 if g.random() < 0.8 else float(g.choice([0.3, -0.125, 0.0, 1e-6, 0.04])),
        smooth_k=bool(g.random() < 0.85),
        lse=bool(g.random() < 0.5),
        codes=bool(g.random() < 0.15),
        window=(int(g.integers(nk + 1)), int(g.integers(nk + 1))),
        softcap=float(g.choice([0.0, 0.0, 5.0, 20.0])),
        splits=int(g.choice([1, 1, 2, 3])),
        threshold=float(g.choice([50, 50, 6, 2, 0.5, 0.25])),
        seed=key,
    )


def _tokens(g: np.random.Generator, limit: int) -> int:
    if g.random() < 0.5:
        return int(g.choice([n for n in EDGES if n <= limit]))
    return int(math.exp(g.random() * math.log(limit + 1)))


def _lengths(g: np.random.Generator) -> Tuple[List[int], List[int]]:
    """Lengths of packed sequences; a sequence without keys has no defined result."""
    lq = [_tokens(g, 200) for _ in range(int(g.integers(1, 6)))]
    return lq, list(lq) if g.random() < 0.6 else [_tokens(g, 200) for _ in lq]


Triple = Tuple[np.ndarray, np.ndarray, np.ndarray]


def _outliers(g: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A few channels of each head far from zero."""
    y = x.copy()
    for h in range(x.shape[1]):
        channels = g.permutation(x.shape[3])[:5]
        y[:, h, :, channels] += 8 * np.sign(g.standard_normal(5)).astype(np.float32)[:, None, None]
    return y


def _outlier_q(g: np.random.Generator, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Triple:
    q[:, :, ::7, :3] *= 50
    return q, k, v


def _holes(g: np.random.Generator, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Triple:
    """Rows and channels that are zero or constant."""
    q[:, :, 16:48] = 0
    k[:, :, 64:128] = k[:, :, :1]
    v[:, 0, :, 5], v[:, 0, :, 7], k[:, :, :, 3] = 0, -0.75, 2
    return q, k, v


def _special(g: np.random.Generator, x: np.ndarray, *values: float) -> np.ndarray:
    for value in values:
        x[0, 0, g.integers(x.shape[2]), g.integers(x.shape[3])] = value
    return x


def _uniform(g: np.random.Generator, x: np.ndarray, lo: float, hi: float) -> np.ndarray:
    return (lo + (hi - lo) * g.random(x.shape)).astype(np.float32)


# What the values are: from noise to what no model has.
KINDS = {
    "gauss": lambda g, q, k, v: (q, k, v),
    "outlier-k": lambda g, q, k, v: (q, _outliers(g, k), v),
    "outlier-q": _outlier_q,
    "peaky": lambda g, q, k, v: (q * 6, k * 6, v),
    "ramp": lambda g, q, k, v: (q, k * np.linspace(0.1, 4, k.shape[2], dtype=np.float32)[:, None], v),
    "drift": lambda g, q, k, v: (q, k * 0.7 + np.linspace(0, 4, k.shape[2], dtype=np.float32)[:, None], v + 0.3),
    "biased-v": lambda g, q, k, v: (q, k, _outliers(g, v)),
    "ties": lambda g, q, k, v: (np.round(q), np.round(k), np.round(v)),
    "sparse": lambda g, q, k, v: tuple(x * (g.random(x.shape) < 0.1) for x in (q, k, v)),
    "tiny": lambda g, q, k, v: (q * 1e-4, k * 1e-4, v * 1e-4),
    "very-tiny": lambda g, q, k, v: (q * 1e-9, k * 1e-9, v * 1e-20),
    "subnormal": lambda g, q, k, v: (q * 1e-38, k * 1e-39, v * 3e-39),
    "huge": lambda g, q, k, v: (q * 2000, k * 2000, v),
    "huge-v": lambda g, q, k, v: (q, k, _uniform(g, v, -3e4, 3e4)),
    "max-v": lambda g, q, k, v: (q, k, _uniform(g, v, -65504, 65504)),
    "positive-v": lambda g, q, k, v: (q, k, _uniform(g, v, 0, 3000)),
    "big-v": lambda g, q, k, v: (q, k, v * 1e30),
    "holes": _holes,
    "zeros": lambda g, q, k, v: (q * 0, k * 0, v * 0),
    "constant-k": lambda g, q, k, v: (q, k * 0 + 1.5, v),
    "q-nan": lambda g, q, k, v: (_special(g, q, math.nan, math.inf), k, v),
    "k-inf": lambda g, q, k, v: (q, _special(g, k, math.inf, -math.inf), v),
    "v-inf": lambda g, q, k, v: (q, k, _special(g, v, math.inf, -math.inf, math.nan)),
}


def _apart(g: np.random.Generator, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Triple:
    """Adds a direction to Q, and so much of it to the keys of a tile that its scores lie above or
    below those of others by up to forty: a threshold may leave out a tile that shows in the output."""
    d = q.shape[-1]
    away = (g.standard_normal(d) * math.sqrt(math.exp(g.random() * math.log(20)) / math.sqrt(d))).astype(np.float32)
    steps = g.integers(-1, 2, -(-k.shape[2] // 128)) if g.random() < 0.7 else np.linspace(-1, 1, -(-k.shape[2] // 128))
    return q + away, k + np.repeat(steps, 128)[: k.shape[2], None].astype(np.float32) * away, v


def _fp8(g: np.random.Generator, values: Triple) -> Dict[str, np.ndarray]:
    """E4M3 with a scale for each (batch, kv head), which the query heads of a group share."""
    hk = values[1].shape[1]
    out = {}
    for name, x in zip("qkv", values):
        b, h, n, d = x.shape
        grouped = x.reshape(b, hk, h // hk * n * d)
        scale = np.maximum(np.abs(grouped).max(2), np.float32(1e-12)) / np.float32(448)
        out[name] = np.clip(grouped / scale[..., None], -448, 448).astype(np.float32).astype(E4M3).reshape(x.shape)
        out[name + "_descale"] = scale.astype(np.float32)
    return out


def _fp8_head(g: np.random.Generator, values: Triple) -> Dict[str, np.ndarray]:
    """E4M3 with a scale for each head of each tensor: of its largest magnitude, or one that knows nothing of it."""
    out = {}
    for name, x in zip("qkv", values):
        scale = np.maximum(np.abs(x).max((2, 3)) / np.float32(448), np.float32(1e-6))
        if g.random() < 0.3:
            scale = np.full_like(scale, g.choice([1.0, 0.01, 3.7]))
        out[name] = np.clip(x / scale[..., None, None], -448, 448).astype(np.float32).astype(E4M3)
        out[name + "_descale"] = scale.astype(np.float32)
    return out


FP8_FORMS = {"fp8": _fp8, "fp8-head": _fp8_head}

MASKS = ("half", "few", "keys", "rows", "tiles", "late", "band", "padded", "none", "add", "add-inf", "add-rows", "add-lowest", "add-million", "add-large", "alibi")


def _mask(name: str, g: np.random.Generator, shape: Tuple[int, int, int, int], dtype: np.dtype) -> np.ndarray:
    """A mask: boolean, True where a key takes part, or of q's type, to be added."""
    b, h, nq, nk = shape
    rows, columns = np.arange(nq)[:, None], np.arange(nk)[None]
    if name.startswith("add") or name == "alibi":
        return _bias(name, g, shape).astype(dtype)
    if name == "half":
        return g.random(shape) < 0.5
    if name == "few":
        return g.random((1, 1, nq, nk)) < 0.1
    if name == "keys":
        return g.random((b, h, 1, nk)) < 0.6
    if name == "late":  # the first tile is all masked
        return np.broadcast_to(columns >= min(70, nk - 1), (b, 1, nq, nk)).copy()
    if name == "band":
        return (np.abs(rows - columns) < 20)[None, None]
    if name == "padded":
        return np.broadcast_to(columns < g.integers(1, nk + 1, (b, 1, 1, 1)), (b, 1, 1, nk)).copy()
    if name == "none":
        return np.zeros((1, 1, nq, nk), bool)
    m = g.random(shape) < 0.6
    if name == "rows":
        m[:, :, ::5] = False
    if name == "tiles":  # whole tiles of some heads
        for i in range(0, nq, 128):
            for j in range(0, nk, 64):
                m[:, : int(g.integers(h + 1)), i : i + 128, j : j + 64] = False
    return m


def _bias(name: str, g: np.random.Generator, shape: Tuple[int, int, int, int]) -> np.ndarray:
    _, h, nq, nk = shape
    if name == "alibi":
        return (-0.25 * np.abs(np.arange(nq)[:, None] - np.arange(nk)[None]))[None, None]
    if name == "add":
        return g.standard_normal(shape)
    if name == "add-large":
        return g.standard_normal(shape) * 300
    m = g.standard_normal((1, h if name == "add-inf" else 1, nq, nk))
    if name == "add-inf":
        m[g.random(m.shape) < 0.3] = -math.inf
    if name == "add-rows":
        m[:, :, ::7], m[:, :, 3::7, :64] = -math.inf, -math.inf
    if name in ("add-lowest", "add-million"):
        low = -65504 if name == "add-lowest" else -1e6
        m = np.where(g.random(m.shape) < 0.5, low, 0.0)
        m[:, :, ::9] = low
    return m


MAPS = ("all", "half", "few", "dense", "one", "diagonal", "early", "columns")


def _map(name: str, g: np.random.Generator, shape: Tuple[int, int, int, int]) -> np.ndarray:
    """A block map, with at least one block in every row: one without has no output."""
    rows, columns = np.arange(shape[2])[:, None], np.arange(shape[3])[None]
    density = {"all": 1.0, "half": 0.5, "few": 0.15, "dense": 0.85}.get(name, 0.5)
    m = g.random(shape) < density
    if name == "one":
        m[:] = False
    if name == "diagonal":  # those of a causal mask
        m[:] = columns * 128 <= rows * 64 + 63
    if name == "early":  # the last block is never listed, unless it is the only one
        m[..., -1] = False
    if name == "columns":  # the same in every row
        m[:] = m[:, :, :1]
    empty = ~m.any(-1)
    m[empty, g.integers(max(1, shape[3] - (name == "early")), size=int(empty.sum()))] = True
    return m


def window_hides(inputs: Inputs) -> Optional[Tuple[int, int]]:
    """The input's window where it hides a key in front and behind, else None."""
    left, right = inputs.window
    return inputs.window if left < inputs.keys - 1 and right < inputs.queries - 1 else None
