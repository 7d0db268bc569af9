"""What the program at hand reads of a dump."""

from __future__ import annotations

import functools
from typing import Tuple

import numpy as np

from ._binary import SageaccError
from ._memory import Workspace
from ._safetensors import Raw

__all__ = ["reads_calls", "reads_head_dim", "reads_masks"]


def _says(command: str, head_dim: int, roles: Tuple[str, ...] = (), **metadata: str) -> str:
    """The program's error for a layer of zeros of one token, or nothing."""
    x = np.zeros((1, 1, 1, head_dim), np.float16)
    tensors = {f"l.{r}": Raw("F16", x.shape, x.reshape(-1).view(np.uint8)) for r in "qkv"}
    for r in roles:
        tensors[f"l.{r}"] = Raw("BOOL", (1, 1, 1, 1), np.ones(1, np.uint8))
    try:
        with Workspace() as w:
            w.run([command, w.dump(tensors, {"layout": "HND", **metadata})])
    except SageaccError as e:
        return str(e)
    return ""


@functools.lru_cache(maxsize=None)
def reads_masks() -> bool:
    """Whether a tensor <layer>.mask is a layer's mask, and not one of no meaning."""
    said = _says("emulate", 16, ("mask",))
    # That a kernel takes none is a word on masks too.
    return said == "" or ("mask" in said and "no part of a layer" not in said)


@functools.lru_cache(maxsize=None)
def reads_calls() -> bool:
    """Whether metadata window, softcap and causal_align mean something."""
    return _says("inspect", 16, window="none") != ""


@functools.lru_cache(maxsize=None)
def reads_head_dim(n: int) -> bool:
    """Whether a layer may have n channels."""
    return n <= 128 or _says("inspect", n) == ""
