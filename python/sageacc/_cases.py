"""Inputs to try a kernel on: shapes, element types, masks and distributions.

The numbers are the same on every machine and with every version of NumPy: they are
made of integers from a generator whose stream is fixed, by operations that IEEE 754
rounds in one way.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

__all__ = ["Case", "Shape", "cases", "DISTRIBUTIONS", "MASKS"]

Floats = "npt.NDArray[np.float64]"


class Shape(NamedTuple):
    """Lengths of one call; K and V have kv_heads heads of keys tokens."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int

    def __str__(self) -> str:
        return "{}x{}/{}x{}x{}x{}".format(*self)

    @staticmethod
    def of(x: ShapeLike) -> Shape:
        """A shape of "BATCHxHEADS/KV_HEADSxQUERIESxKEYSxHEAD_DIM" (as `sageacc validate` has it), of
        (batch, heads, tokens, head_dim), or of all six lengths in the order of the fields."""
        if isinstance(x, str):
            m = re.fullmatch(r"(\d+)x(\d+)/(\d+)x(\d+)x(\d+)x(\d+)", x)
            if m is None:
                raise ValueError(f"shape {x!r}: want BATCHxHEADS/KV_HEADSxQUERIESxKEYSxHEAD_DIM, as in 1x8/2x1000x1000x64")
            x = tuple(int(n) for n in m.groups())
        if len(x) == 4:
            batch, heads, tokens, dim = x
            x = (batch, heads, heads, tokens, tokens, dim)
        if len(x) != 6:
            raise ValueError(f"shape {x!r}: want 4 lengths (batch, heads, tokens, head_dim) or 6 (batch, heads, kv heads, queries, keys, head_dim)")
        shape = Shape(*(int(n) for n in x))
        if min(shape) < 1 or shape.heads % shape.kv_heads != 0:
            raise ValueError(f"shape {shape}: every length must be at least 1, and the kv heads must divide the heads")
        return shape


ShapeLike = Union[str, Sequence[int]]


def _bias(r: np.random.RandomState, x: Any, size: float, part: float) -> None:
    """Adds one number to a part of the channels of each head."""
    channels = r.randint(0, 1000, x.shape[:2] + (1, x.shape[3])) < 1000 * part
    x += np.where(channels, size * (1.0 - 2.0 * r.randint(0, 2, channels.shape)), 0.0)


def _outliers(r: np.random.RandomState, q: Any, k: Any, v: Any) -> None:
    _bias(r, q, 6, 0.1)
    _bias(r, k, 8, 0.1)


def _scaled(fq: float, fv: float) -> Callable[[np.random.RandomState, Any, Any, Any], None]:
    def apply(r: np.random.RandomState, q: Any, k: Any, v: Any) -> None:
        q *= fq
        k *= fq
        v *= fv

    return apply


def _huge(r: np.random.RandomState, q: Any, k: Any, v: Any) -> None:
    np.clip(v, -3, 3, out=v)
    v *= 1e4


def _holes(r: np.random.RandomState, q: Any, k: Any, v: Any) -> None:
    q *= r.randint(0, 10, q.shape[:3] + (1,)) >= 3
    np.rint(k, out=k)
    v[..., 5 % v.shape[-1]] = 0


#: By name, what is made of independent normal values [batch, heads, tokens, head_dim].
DISTRIBUTIONS: Dict[str, Callable[[np.random.RandomState, Any, Any, Any], None]] = {
    "gauss": _scaled(1, 1),  # independent normal values
    "outliers": _outliers,  # a tenth of the channels of Q and K with a large bias
    "peaky": _scaled(6, 1),  # rows with one large probability
    "bias-v": lambda r, q, k, v: _bias(r, v, 8, 0.5),  # half of V's channels with a bias of 8
    "tiny": _scaled(1e-4, 1e-4),  # everything times 1e-4
    "huge": _huge,  # V up to 3e4
    "holes": _holes,  # rows of Q and a channel of V that are zero, K in whole numbers
}

#: Masks: none, causal=True, a boolean one that hides the last third of the keys, and
#: numbers that are added to the scores.
MASKS = ("full", "causal", "padding", "bias")


def _normal(r: np.random.RandomState, shape: Tuple[int, ...]) -> Any:
    """Nearly normal: sums of twelve uniform numbers, which are exact."""
    x = np.zeros(shape)
    for _ in range(12):
        x += r.randint(0, 1 << 16, shape)
    return (x - 12 * 32767.5) / 65536


def _round(x: Any, dtype: str) -> Any:
    if dtype == "bfloat16":
        import ml_dtypes

        return x.astype(np.float32).astype(ml_dtypes.bfloat16)
    return x.astype(dtype)


def _torch_round(x: Any, dtype: str, device: Any) -> Any:
    import torch

    if dtype == "float16":
        # As NumPy rounds, once, from float64.
        return torch.from_numpy(x.astype(np.float16)).to(device)
    return torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)).to(device)


@dataclass(frozen=True)
class Case:
    """One call of a kernel; its text is short and says everything, for a test's id.

    Attributes:
        shape: a Shape.
        dtype: "float16", "bfloat16" or "float32".
        mask: one of MASKS.
        distribution: one of DISTRIBUTIONS.
        seed: of the inputs.
        sm_scale: the factor of the scores, None for 1/sqrt(head_dim).
    """

    shape: Shape
    dtype: str = "float16"
    mask: str = "full"
    distribution: str = "gauss"
    seed: int = 1
    sm_scale: Optional[float] = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("dtype", self.dtype, ("float16", "bfloat16", "float32")),
            ("mask", self.mask, MASKS),
            ("distribution", self.distribution, tuple(DISTRIBUTIONS)),
        ):
            if value not in known:
                raise ValueError(f"{what} is {value!r}: want one of {', '.join(known)}")

    def __str__(self) -> str:
        scale = "" if self.sm_scale is None else f"-scale{self.sm_scale:g}"
        seed = "" if self.seed == 1 else f"-seed{self.seed}"
        return f"{self.shape}-{self.dtype}-{self.mask}-{self.distribution}{scale}{seed}".replace("/", ":")

    @property
    def causal(self) -> bool:
        """Whether the call is with causal=True."""
        return self.mask == "causal"

    def _state(self, what: str) -> np.random.RandomState:
        text = f"{self.seed} {self.shape} {self.distribution} {what}"
        return np.random.RandomState(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little"))

    def inputs(self, framework: str = "numpy", layout: str = "hnd", device: Any = "cpu") -> Tuple[Any, Any, Any]:
        """Q, K and V in the layout, NumPy's ("numpy") or PyTorch's ("torch") on the device."""
        s = self.shape
        r = self._state("")
        q = _normal(r, (s.batch, s.heads, s.queries, s.head_dim))
        k = _normal(r, (s.batch, s.kv_heads, s.keys, s.head_dim))
        v = _normal(r, (s.batch, s.kv_heads, s.keys, s.head_dim))
        DISTRIBUTIONS[self.distribution](r, q, k, v)
        out = []
        for x in (q, k, v):
            if layout == "nhd":
                x = np.ascontiguousarray(x.transpose(0, 2, 1, 3))
            out.append(_torch_round(x, self.dtype, device) if framework == "torch" else _round(x, self.dtype))
        return out[0], out[1], out[2]

    def mask_tensor(self, framework: str = "numpy", device: Any = "cpu") -> Optional[Any]:
        """The mask that is passed as a tensor, [1, 1, queries, keys], if there is one."""
        s = self.shape
        x: Any
        if self.mask == "padding":
            x = np.broadcast_to(np.arange(s.keys) < s.keys - s.keys // 3, (1, 1, s.queries, s.keys)).copy()
        elif self.mask == "bias":
            x = _normal(self._state("mask"), (1, 1, s.queries, s.keys)).astype(np.float32)
        else:
            return None
        if framework == "torch":
            import torch

            x = torch.from_numpy(x)
            return x.to(device) if self.mask == "padding" else x.to(getattr(torch, self.dtype)).to(device)
        return x if self.mask == "padding" else _round(x, self.dtype)


def cases(
    shapes: Sequence[ShapeLike] = ("1x2/2x256x256x64", "1x2/1x333x333x64", "2x4/2x130x130x128", "1x2/2x200x333x128", "1x1/1x1x520x64"),
    dtypes: Sequence[str] = ("float16", "bfloat16"),
    masks: Sequence[str] = ("full", "causal"),
    distributions: Sequence[str] = ("gauss", "outliers", "peaky"),
    seeds: Sequence[int] = (1,),
    sm_scales: Sequence[Optional[float]] = (None,),
) -> List[Case]:
    """All combinations: for `@pytest.mark.parametrize("case", sageacc.cases(...), ids=str)`.

    Args:
        shapes: as Shape.of takes them; the default has whole and ragged tiles, shared kv
            heads, a batch, more keys than queries and a single query.
        dtypes, masks, distributions: as Case has them.
        seeds: of the inputs.
        sm_scales: factors of the scores, None for 1/sqrt(head_dim).
    """
    all_of = itertools.product((Shape.of(s) for s in shapes), dtypes, masks, distributions, seeds, sm_scales)
    return [Case(*x) for x in all_of]
