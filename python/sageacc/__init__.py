"""sageacc: does your quantised attention kernel compute what you think it computes?

    import sageacc

    o = my_attention(q, k, v)                                    # any kernel, NumPy or PyTorch
    c = sageacc.compare(q, k, v, actual=o, kernel="sage2-8b-sm90")
    print(c.verdict())                                           # bit for bit, or where not
    print(c.explain())                                           # and why

The kernels are emulated on the CPU, bit for bit, by the program that the wheel
bundles; it is also the command `sageacc`. NumPy is all that is needed; arrays in BF16
or FP8 need ml_dtypes or PyTorch. `check` and the pytest plugin ask the question in a
test, `Capture`, `Monitor` and `find_nonfinite` ask it of a running PyTorch model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from ._api import Comparison as Comparison
    from ._api import Difference as Difference
    from ._api import Figures as Figures
    from ._api import HeadFigures as HeadFigures
    from ._api import compare as compare
    from ._api import emulate as emulate
    from ._api import reference as reference
    from ._binary import SageaccError as SageaccError
    from ._binary import binary as binary
    from ._capture import Adapter as Adapter
    from ._capture import Call as Call
    from ._capture import Capture as Capture
    from ._capture import CaptureWarning as CaptureWarning
    from ._cases import DISTRIBUTIONS as DISTRIBUTIONS
    from ._cases import MASKS as MASKS
    from ._cases import Case as Case
    from ._cases import Shape as Shape
    from ._cases import cases as cases
    from ._check import CaseResult as CaseResult
    from ._check import CheckFailed as CheckFailed
    from ._check import Report as Report
    from ._check import check as check
    from ._kernel import Kernel as Kernel
    from ._monitor import Monitor as Monitor
    from ._monitor import Sample as Sample
    from ._nonfinite import NonFinite as NonFinite
    from ._nonfinite import find_nonfinite as find_nonfinite
    from ._record import recorded as recorded

# Names are looked up when they are first used: the command line need not wait for NumPy,
# nor emulation for PyTorch.
_HOME = {
    "Comparison": "_api",
    "Difference": "_api",
    "Figures": "_api",
    "HeadFigures": "_api",
    "compare": "_api",
    "emulate": "_api",
    "reference": "_api",
    "SageaccError": "_binary",
    "binary": "_binary",
    "Adapter": "_capture",
    "Call": "_capture",
    "Capture": "_capture",
    "CaptureWarning": "_capture",
    "DISTRIBUTIONS": "_cases",
    "MASKS": "_cases",
    "Case": "_cases",
    "Shape": "_cases",
    "cases": "_cases",
    "CaseResult": "_check",
    "CheckFailed": "_check",
    "Report": "_check",
    "check": "_check",
    "Kernel": "_kernel",
    "Monitor": "_monitor",
    "Sample": "_monitor",
    "NonFinite": "_nonfinite",
    "find_nonfinite": "_nonfinite",
    "recorded": "_record",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sageacc' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(set(globals()) | set(_HOME))
