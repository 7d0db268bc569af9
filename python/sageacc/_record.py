"""Outputs of a GPU, kept to test without one."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Union

import numpy as np

from . import _safetensors
from ._arrays import Like, is_torch, raw_of
from ._call import CAUSAL, LAYOUT, MASK, SCALE
from ._safetensors import Raw

__all__ = ["Recorded", "recorded"]


class Recorded:
    """An attention function, or what it returned when it was last recorded. Use `recorded`."""

    def __init__(self, path: Union[str, "os.PathLike[str]"], fn: Optional[Callable[..., Any]], live: bool, record: bool) -> None:
        self.path = Path(path)
        self._fn, self._live, self._record = fn, live, record
        self._tensors: Dict[str, Raw] = {}
        self._metadata: Dict[str, str] = {}
        if self.path.exists():
            self._tensors, self._metadata = _safetensors.read(np.fromfile(self.path, np.uint8))
        if fn is not None:
            self.__name__ = getattr(fn, "__name__", type(fn).__name__)
            try:
                # So that a caller sees fn's parameters.
                self.__signature__ = inspect.signature(fn)
            except (TypeError, ValueError):
                pass
        else:
            self.__name__ = self.path.stem

    def __call__(self, q: Any, k: Any, v: Any, **kwargs: Any) -> Any:
        """The output for these arguments, fn's or as it was recorded.

        Raises:
            LookupError: it was not recorded.
        """
        name = _digest(q, k, v, kwargs)
        if self._live:
            assert self._fn is not None
            o = self._fn(q, k, v, **kwargs)
            if self._record:
                self._keep(name, o[0] if isinstance(o, (tuple, list)) else o)
            return o
        if name not in self._tensors:
            raise LookupError(
                f"{self.path} has no output for this call of {self.__name__}: record it on a machine with a GPU, with SAGEACC_RECORD=1"
            )
        return Like(q)(self._tensors[name])

    def _keep(self, name: str, o: Any) -> None:
        self._tensors[name] = raw_of(o, "the output")
        if is_torch(o) and o.is_cuda:
            import torch

            self._metadata.update(device=torch.cuda.get_device_name(o.device), versions=f"torch {torch.__version__}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with temporary.open("wb") as f:
            _safetensors.write(f, self._tensors, self._metadata)
        temporary.replace(self.path)


def recorded(path: Union[str, "os.PathLike[str]"], fn: Optional[Callable[..., Any]] = None, *, live: Optional[bool] = None) -> Recorded:
    """The function itself where there is a GPU, and elsewhere what it returned when it was recorded.

        attention = sageacc.recorded("outputs.safetensors", my_kernel)
        sageacc.check(attention, kernel=...)

    With the environment variable SAGEACC_RECORD=1 a live call's output is kept in the
    file, by a digest of the arguments: their bytes are not kept, since `cases` gives the
    same on every machine.

    Args:
        path: a safetensors file of outputs.
        fn: the function; None for one that exists elsewhere.
        live: whether to call fn; if it is None, where fn is given and PyTorch sees a GPU.
    """
    if live is None:
        live = fn is not None and _gpu()
    if live and fn is None:
        raise ValueError("live=True needs a function to call")
    return Recorded(path, fn, live, os.environ.get("SAGEACC_RECORD", "") not in ("", "0"))


def _gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _digest(q: Any, k: Any, v: Any, kwargs: Mapping[str, Any]) -> str:
    """A digest of a call, whatever its parameters are called: with fn and without are the same."""
    h = hashlib.sha256()
    plain: Dict[str, Any] = {}
    arrays = {"q": q, "k": k, "v": v}
    for name, value in kwargs.items():
        name = next((names[-1] for names in (CAUSAL, SCALE, MASK, LAYOUT) if name in names), name)
        if is_torch(value) or isinstance(value, np.ndarray):
            arrays[name] = value
        elif value not in (None, False) and (name, value) != ("tensor_layout", "HND") and name != "enable_gqa":
            plain[name] = value
    for name, x in sorted(arrays.items()):
        raw = raw_of(x, name)
        h.update(f"{name} {raw.dtype} {list(raw.shape)} ".encode())
        h.update(raw.data.data)
    h.update(json.dumps(plain, sort_keys=True, default=str).encode())
    return h.hexdigest()[:32]
