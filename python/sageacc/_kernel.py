"""Which kernel is emulated, as a value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional, Tuple, Union

from ._arrays import Array, is_torch

__all__ = ["Kernel", "KernelLike", "resolve"]


@dataclass(frozen=True)
class Kernel:
    """A kernel to emulate: a preset, an alias or a description file, and what of it is
    different. Everything is handed to the command line as it stands (`sageacc kernels`
    lists the choices), so that an unknown one is that program's error.

    Attributes:
        name: a preset as in "sage2-8b-sm90", an alias as in "sageattn@sm_89", a YAML file,
            or "auto" or "sageattn@auto": what `sageattn` runs on the GPU that the tensors are on.
        arch: the architecture whose matrix units run it, as in "sm_90".
        qk_bits: width of Q and K's codes, 4 or 8.
        qk_granularity: what of Q and K shares a scale, as in "per-thread".
        smooth: what is smoothed, as in "q,k" or "none".
        pv_dtype: data type of P and V, as in "e4m3".
        pv_accum: accumulator of PV, as in "fp32+fp16".
        variant: deviations from the program, as in "p-round=zero,level-keys=32".
        settings: single choices of the description, path by path (`--set path=value`).
    """

    name: str = "sage2-8b-sm90"
    arch: Optional[str] = None
    qk_bits: Optional[int] = None
    qk_granularity: Optional[str] = None
    smooth: Optional[str] = None
    pv_dtype: Optional[str] = None
    pv_accum: Optional[str] = None
    variant: Optional[str] = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def flags(self) -> List[str]:
        """The command line's flags of this kernel."""
        out = ["--kernel", self.name]
        for f in dataclasses.fields(self)[1:-1]:
            value = getattr(self, f.name)
            if value is not None:
                out += [f"--{f.name.replace('_', '-')}", str(value)]
        for path, value in self.settings.items():
            out += ["--set", f"{path}={value}"]
        return out

    def __str__(self) -> str:
        return " ".join(self.flags()[1:])

    def __hash__(self) -> int:
        return hash(str(self))


KernelLike = Union[str, Kernel]


def sageattn(capability: Tuple[int, int]) -> Kernel:
    """What `sageattn` runs on a GPU of this compute capability: the program's alias for it."""
    return Kernel("sageattn@sm_%d%d" % capability)


def sage_function(preset: str, capability: Optional[Tuple[int, int]], **given: Any) -> Kernel:
    """What a SageAttention function runs that a GPU of this compute capability is asked for: the
    preset's program on the GPU's matrix units."""
    if preset == "sage2-8b-sm90" or capability is None:
        return Kernel(preset, **given)
    arch = "sm_%d%d" % capability
    if preset.startswith("sage-fp16-triton") and arch != "sm_90":
        # Triton makes wgmma of a dot product on sm_90 and mma.sync elsewhere.
        units = {"scores.unit.instruction": "mma.m16n8k32.s32.s8", "pv.unit.instruction": "mma.m16n8k16.f16.f16"}
        return Kernel(preset, arch=arch, settings=units, **given)
    return Kernel(preset, arch=arch, **given)


def resolve(kernel: KernelLike, *tensors: Array) -> Kernel:
    """The kernel that is meant, "auto" by the device of the tensors.

    Raises:
        ValueError: "auto", and none of the tensors is on a GPU.
    """
    k = Kernel(kernel) if isinstance(kernel, str) else kernel
    if k.name not in ("auto", "sageattn@auto"):
        return k
    for x in tensors:
        if is_torch(x) and x.is_cuda:
            import torch

            named = sageattn(torch.cuda.get_device_capability(x.device))
            given = {f.name: getattr(k, f.name) for f in dataclasses.fields(k) if f.name != "name"}
            return dataclasses.replace(named, **{n: v for n, v in given.items() if v})
    raise ValueError(f"kernel {k.name!r} is what sageattn runs on the tensors' GPU, and these are on none: name the kernel")
