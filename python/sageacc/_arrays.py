"""Arrays of NumPy and tensors of PyTorch, as bytes and back.

Neither ml_dtypes nor torch is imported unless the caller's arrays are theirs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from ._safetensors import Raw

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeGuard

    Array = Union["npt.NDArray[Any]", "torch.Tensor"]
else:
    Array = Any

__all__ = ["Array", "Like", "is_torch", "raw_of", "dtype_name"]

# The format's names by NumPy's (and ml_dtypes') and PyTorch's, and back.
_NUMPY = {
    "bool": "BOOL",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "uint8": "U8",
    "int32": "I32",
    "int64": "I64",
}
_NAMES: Dict[str, str] = {v: k for k, v in _NUMPY.items()}


def is_torch(x: object) -> "TypeGuard[torch.Tensor]":
    """Whether x is a PyTorch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def dtype_name(x: Array) -> str:
    """The name of x's element type, as in "float16" or "bfloat16"."""
    return str(x.dtype).rpartition(".")[2]


def raw_of(x: Array, what: str) -> Raw:
    """The elements of x as bytes; copies only what is not contiguous or not on the CPU.

    Raises:
        TypeError: x, which the message calls what, is no array of a type that the
            format has.
    """
    if is_torch(x):
        return _raw_of_torch(x, what)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{what} is a {type(x).__name__}: want a NumPy array or a PyTorch tensor")
    name = _NUMPY.get(x.dtype.name)
    if name is None:
        raise TypeError(f"{what} has dtype {x.dtype}: want float16, bfloat16 (ml_dtypes) or float32")
    data = np.ascontiguousarray(x)
    if data.dtype.byteorder == ">" or (data.dtype.byteorder == "=" and sys.byteorder == "big"):
        data = data.byteswap()
    # Through the shape's loss: an array of no dimensions has no bytes of its own.
    return Raw(name, x.shape, data.reshape(-1).view(np.uint8))


def _raw_of_torch(x: Any, what: str) -> Raw:
    torch = sys.modules["torch"]
    name = _NUMPY.get(dtype_name(x))
    if name is None:
        raise TypeError(f"{what} has dtype {x.dtype}: want torch.float16, bfloat16 or float32")
    data = x.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return Raw(name, tuple(x.shape), data)


class Like:
    """Makes arrays of the same kind as x: NumPy's, or tensors on x's device.

    transpose is applied to the dimensions of four-dimensional results.
    """

    def __init__(self, x: Array, transpose: Optional[Tuple[int, ...]] = None) -> None:
        self._transpose = transpose
        self._make: Callable[[Raw], Any] = _numpy_of
        if is_torch(x):
            device = x.device
            self._make = lambda raw: _torch_of(raw, device)

    def __call__(self, raw: Raw) -> Any:
        x = self._make(raw)
        if self._transpose is not None and len(raw.shape) == 4:
            return x.permute(self._transpose) if is_torch(x) else x.transpose(self._transpose)
        return x


def _numpy_of(raw: Raw) -> "npt.NDArray[Any]":
    name = _NAMES[raw.dtype]
    if raw.dtype in ("BF16", "F8_E4M3", "F8_E5M2"):
        import ml_dtypes

        dtype: "npt.DTypeLike" = getattr(ml_dtypes, name)
    else:
        dtype = name
    return raw.data.view(dtype).reshape(raw.shape)


def _torch_of(raw: Raw, device: Any) -> Any:
    torch = sys.modules["torch"]
    data = raw.data
    if not data.flags.writeable or data.ctypes.data % 8 != 0:
        # PyTorch warns of the one, and its kernels may not expect the other.
        data = data.copy()
    return torch.from_numpy(data).view(getattr(torch, _NAMES[raw.dtype])).reshape(raw.shape).to(device)
