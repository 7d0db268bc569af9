"""The GPU that record.py records on: tensors to and from it, and its memory made repeatable.

Needs PyTorch. SageAttention's functions are watched as they call their quantisers, so
that what these made can be recorded too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import types
from typing import Any, Callable, Dict, Optional, Tuple

import ml_dtypes
import numpy as np

from cases import Inputs

# What an output may leave unwritten or read beyond its end shows as a difference between
# calls with other bytes in freed memory. One of them is NaN in FP16 and BF16.
POISONS = (0x7F, 0xA5)

# What the quantisers of sageattention.core return, by their names there.
QK = ("q_int8", "q_scale", "k_int8", "k_scale")
QUANTISERS = {
    "per_warp_int8_cuda": QK,
    "per_thread_int8_triton": QK,
    "per_block_int8_triton": QK,
    "per_block_int8_cuda": QK,
    "per_channel_fp8": ("v_fp8", "v_scale", "v_mean"),
}

# PyTorch has dtypes that NumPy lacks: both are seen as integers on the way.
BITS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

FILL = r"""
extern "C" __global__ void fill(unsigned n, unsigned *sink) {
  extern __shared__ volatile unsigned words[];
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) words[i] = 0;
  __syncthreads();
  if (words[(threadIdx.x * 97) % n]) *sink = 1;
}
"""


class Skip(Exception):
    """A call that cannot be recorded here, with the reason."""


class Gpu:
    """The current CUDA device."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise Skip("PyTorch sees no CUDA device")
        self.torch = torch
        major, minor = torch.cuda.get_device_capability()
        self.capability = 10 * major + minor
        self.arch = f"sm_{self.capability}"
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
        self.captured: Dict[str, Any] = {}
        self._sage: Any = None
        self._sparge: Any = None
        self._clear: Any = None

    def metadata(self) -> Dict[str, str]:
        """What the files of the set say of their origin."""
        versions = [f"CUDA {self.torch.version.cuda}"]
        for package in ("torch", "triton", "sageattention", "flash_attn_3", "comfy_kitchen", "flashinfer-python", "spas_sage_attn"):
            try:
                versions.append(f"{package} {importlib.metadata.version(package)}")
            except importlib.metadata.PackageNotFoundError:
                pass
        return {"layout": "HND", "device": self.torch.cuda.get_device_name(), "kernels": ", ".join(versions)}

    def tensor(self, x: np.ndarray) -> Any:
        """A host array on the device."""
        t = self.torch
        dtypes = {ml_dtypes.bfloat16: t.bfloat16, ml_dtypes.float8_e4m3fn: t.float8_e4m3fn, np.float16: t.float16, np.bool_: t.bool}
        plain = t.from_numpy(np.ascontiguousarray(x).view(BITS[x.dtype.itemsize])).cuda()
        return plain.view(dtypes.get(x.dtype.type) or getattr(t, x.dtype.name))

    def array(self, x: Any) -> np.ndarray:
        """A tensor of the device as a host array."""
        t = self.torch
        dtypes = {t.bfloat16: ml_dtypes.bfloat16, t.float8_e4m3fn: ml_dtypes.float8_e4m3fn, t.float16: np.float16, t.float32: np.float32}
        x = x.detach().contiguous()
        integer = {1: t.uint8, 2: t.int16, 4: t.int32}[x.element_size()]
        return x.view(integer).cpu().numpy().view(dtypes.get(x.dtype, np.int8))

    def prepare(self, byte: int) -> None:
        """Leaves that byte in the memory that the next call's tensors will take."""
        t = self.torch
        sizes = [1 << 20] * 24 + [512, 1024, 2048, 4096, 8192, 16384, 65536, 262144] * 12
        kept = [t.full((n,), byte, dtype=t.uint8, device="cuda") for n in sizes]
        t.cuda.synchronize()
        del kept

    def finish(self) -> None:
        """Waits for the device; raises what went wrong there."""
        self.torch.cuda.synchronize()

    def means(self, x: Inputs) -> Dict[str, np.ndarray]:
        """K's mean as SageAttention takes it, and what its log-sum-exp is corrected by.

        The correction is a matrix product of the framework, whose sums have no order that
        could be relied on, so it is recorded with the log-sum-exp.
        """
        t = self.torch
        q, k = self.tensor(x.tensors["q"]), self.tensor(x.tensors["k"])
        padding = (64 if x.head_dim <= 64 else 128) - x.head_dim
        q, k = (t.nn.functional.pad(y, (0, padding)) if padding else y for y in (q, k))
        mean = k.mean(dim=2, keepdim=True)
        out = {"quant/k_mean": self.array(mean[..., : x.head_dim])}
        if x.lse and x.form != "blocks":
            group = q.size(1) // k.size(1)
            wide = t.repeat_interleave(mean, group, dim=1) if group > 1 else mean
            out["quant/lse_correction"] = self.array(t.matmul(q, wide.transpose(2, 3)).squeeze(-1).float())
        return out

    def sage(self) -> Any:
        """sageattention.core, watched."""
        if self._sage is None:
            core = importlib.import_module("sageattention.core")
            for name, results in QUANTISERS.items():
                setattr(core, name, self._watched(getattr(core, name), results))
            module = getattr(core, "sm80_compile", None)
            for name in dir(module):
                if name.startswith("qk_int8") and not name.endswith("impl"):
                    setattr(module, name, self._cleared(getattr(module, name)))
            self._sage = core
        return self._sage

    def sparge(self) -> Any:
        """spas_sage_attn.core, watched."""
        if self._sparge is None:
            core = importlib.import_module("spas_sage_attn.core")
            core.get_vanilla_qk_quant = self._watched(core.get_vanilla_qk_quant, ("q_int8", "q_scale", "k_int8", "k_scale"))
            quantise = core.fused.scale_fuse_quant_cuda

            def values(v: Any, codes: Any, scale: Any, *args: Any) -> Any:
                self.captured.update(v_fp8=codes, v_scale=scale)
                return quantise(v, codes, scale, *args)

            core.fused = types.SimpleNamespace(transpose_pad_permute_cuda=core.fused.transpose_pad_permute_cuda, scale_fuse_quant_cuda=values)
            self._sparge = core
        return self._sparge

    def _watched(self, f: Callable[..., Any], results: Tuple[str, ...]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            r = f(*args, **kwargs)
            self.captured.update({n: t for n, t in zip(results, r) if t is not None})
            return r

        return call

    def _cleared(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """The FP16 kernels load V without filling what lies beyond its end: in the first tile
        that is what an earlier kernel left in shared memory, and a NaN there is one in every
        output. Zeros are the defined case."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if args[1].shape[2] < 64 and not self.clear():
                raise Skip("fewer than 64 keys read shared memory that was never written: CuPy is needed to clear it")
            return f(*args, **kwargs)

        return call

    def clear(self) -> bool:
        """Zeroes the shared memory of every multiprocessor; false without CuPy."""
        if self._clear is None:
            self._clear = self._clearer() or False
        if self._clear:
            self.torch.cuda.synchronize()
            self._clear()
        return bool(self._clear)

    def _clearer(self) -> Optional[Callable[[], None]]:
        try:
            import cupy
        except ImportError:
            return None
        kernel = cupy.RawKernel(FILL, "fill")
        size = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        kernel.max_dynamic_shared_size_bytes = size
        sink = cupy.zeros(1, dtype=cupy.uint32)

        def run() -> None:
            kernel((2 * self.multiprocessors,), (512,), (cupy.uint32(size // 4), sink), shared_mem=size)
            cupy.cuda.runtime.deviceSynchronize()

        return run
