"""The safetensors format, as far as it is needed here: whole files to and from memory.

The package `safetensors` is not used because its NumPy side knows BF16 and FP8 in
its newest versions only, and copies every tensor on its way.
"""

from __future__ import annotations

import json
from typing import BinaryIO, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

__all__ = ["Raw", "read", "write"]

# Widths of the format's element types, in bytes.
WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}


class Raw(NamedTuple):
    """A tensor as its file holds it: the format's name of its element type, its shape,
    and its elements as contiguous bytes, little endian."""

    dtype: str
    shape: Tuple[int, ...]
    data: "npt.NDArray[np.uint8]"


def write(f: BinaryIO, tensors: Mapping[str, Raw], metadata: Optional[Mapping[str, str]] = None) -> None:
    """Writes a file's content: header, then the tensors in the order given."""
    header: Dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    offset = 0
    for name, t in tensors.items():
        size = WIDTHS[t.dtype] * _count(t.shape)
        if size != t.data.nbytes:
            raise ValueError(f"tensor {name!r}: {t.dtype} {list(t.shape)} takes {size} bytes, but there are {t.data.nbytes}")
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    f.write(len(text).to_bytes(8, "little"))
    f.write(text)
    for t in tensors.values():
        f.write(t.data.data)


def read(data: "npt.NDArray[np.uint8]") -> Tuple[Dict[str, Raw], Dict[str, str]]:
    """The tensors, as views of data, and the metadata of a file in memory."""
    if len(data) < 8:
        raise ValueError("not a safetensors file: it is too short")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if start > len(data):
        raise ValueError("not a safetensors file: its header is longer than it is")
    header = json.loads(data[8:start].tobytes())
    metadata: Dict[str, str] = header.pop("__metadata__", {})
    tensors = {}
    for name, t in header.items():
        lo, hi = t["data_offsets"]
        shape = tuple(t["shape"])
        if not 0 <= lo <= hi <= len(data) - start or hi - lo != WIDTHS[t["dtype"]] * _count(shape):
            raise ValueError(f"tensor {name!r}: bytes {lo} to {hi} are not {t['dtype']} {list(shape)}")
        tensors[name] = Raw(t["dtype"], shape, data[start + lo : start + hi])
    return tensors, metadata


def names(data: "npt.NDArray[np.uint8]") -> List[str]:
    """The names of the tensors of a file in memory."""
    return list(read(data)[0])


def _count(shape: Sequence[int]) -> int:
    n = 1
    for s in shape:
        n *= s
    return n
