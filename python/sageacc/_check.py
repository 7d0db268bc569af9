"""Asking of a kernel, in a test, that it computes what it should."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass, field
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from ._api import Comparison, Inputs, compare_inputs
from ._arrays import dtype_name, is_torch
from ._call import Caller
from ._cases import Case, ShapeLike, cases
from ._kernel import Kernel, KernelLike, resolve

__all__ = ["CaseResult", "CheckFailed", "Report", "check", "check_case", "FACTOR"]

#: What `mode="budget"` allows unless told otherwise, as a multiple of the kernel's own error.
FACTOR = 1.5

# How many changes of the kernel a failure's explanation combines, by mode. Where another order
# of the same operations is right no bits can tell, so pairs of changes are not worth their time.
CHANGES = {"bitwise": 2, "budget": 1}

# Half the distance of neighbouring numbers, relative: the least error of an output that is
# stored in that format.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


class CheckFailed(AssertionError):
    """A kernel does not compute what it should; the text says where and why.

    Attributes:
        report: the Report of all cases.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass
class CaseResult:
    """What came of one case.

    Attributes:
        case: the Case.
        ok: whether it passed.
        text: why, in a line or more.
        comparison: all figures, and `explain` and `attribute` on demand.
        mode: what it had to pass, "bitwise" or "budget".
    """

    case: Case
    ok: bool
    text: str
    comparison: Comparison
    mode: str = "bitwise"


@dataclass
class Report:
    """The results of a check, in the order of the cases. Its text names the failures."""

    kernel: Kernel
    mode: str
    results: List[CaseResult] = field(default_factory=list)

    @property
    def failures(self) -> List[CaseResult]:
        """The results that are not ok."""
        return [r for r in self.results if not r.ok]

    @property
    def ok(self) -> bool:
        """Whether all cases passed."""
        return not self.failures

    def __str__(self) -> str:
        bad = self.failures
        head = f"{len(bad)} of {len(self.results)} cases fail against {self.kernel} ({self.mode})"
        if not bad:
            head = f"{len(self.results)} cases pass against {self.kernel} ({self.mode})"
        return "\n".join([head, *(f"{r.case}: {r.text}" for r in bad)])


# Who wants to hear of every case: the pytest plugin, of the test that is running.
listener: contextvars.ContextVar[Optional[Callable[[CaseResult, Kernel], None]]] = contextvars.ContextVar("listener", default=None)


def _frame(framework: str, device: Any) -> Tuple[str, Any]:
    """The framework and device to use."""
    if framework == "auto":
        try:
            import torch

            framework = "torch" if torch is not None else "numpy"
        except ImportError:
            framework = "numpy"
    if framework not in ("numpy", "torch"):
        raise ValueError(f"framework is {framework!r}: want 'auto', 'numpy' or 'torch'")
    if framework == "torch" and device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return framework, device


def check(
    fn: Callable[..., Any],
    *,
    kernel: KernelLike = "sage2-8b-sm90",
    shapes: Optional[Sequence[ShapeLike]] = None,
    dtypes: Optional[Sequence[str]] = None,
    masks: Optional[Sequence[str]] = None,
    distributions: Optional[Sequence[str]] = None,
    seeds: Sequence[int] = (1,),
    sm_scales: Sequence[Optional[float]] = (None,),
    mode: str = "bitwise",
    factor: float = FACTOR,
    layout: Optional[str] = None,
    framework: str = "auto",
    device: Any = None,
    explain: bool = True,
    only: Optional[Sequence[Case]] = None,
) -> Report:
    """Runs fn on generated inputs and holds its outputs to an emulated kernel.

    Args:
        fn: fn(q, k, v, ...) returns the output, or a tuple that begins with it. Parameters
            called is_causal or causal; sm_scale, softmax_scale or scale; attn_mask or mask; and
            tensor_layout are passed if there are such and the case needs them.
        kernel: what fn should compute: a name, a YAML file, or a Kernel.
        shapes, dtypes, masks, distributions, seeds, sm_scales: as for `cases`, whose
            defaults None stands for; all combinations are tried.
        mode: "bitwise" asks for the emulated bits. "budget" asks that the error against
            FP32 is at most a multiple of what the kernel's own numerics cost on that very
            input, for programs of the same numerics in another order of operations: for each
            head, with f = factor * (1 + 4 / sqrt(queries)), RMSE <= f * max(RMSE of the
            emulated kernel, u * RMS of the reference), and the largest error <= 2 * f *
            max(that of the kernel, u * largest of the reference), where u is the rounding of the
            output's format. An output that is not finite where the emulated one is fails.
            (docs/python.md says where the numbers come from.)
        factor: the multiple of mode="budget", for many queries.
        layout: of the tensors, "hnd" or "nhd"; by fn's name if it is None.
        framework: of the tensors, "numpy", "torch", or "auto": PyTorch if it is installed.
        device: of PyTorch's tensors; the GPU if it is None and there is one.
        explain: search for the numerics of the first failure, which takes seconds.
        only: these cases, instead of combinations.

    Returns:
        the Report.

    Raises:
        CheckFailed: a case failed; an AssertionError whose text says where the outputs
            differ first, in which stage, and by which numerics, as the command line does.
    """
    __tracebackhide__ = True
    report = Report(Kernel(), mode)
    if only is None:
        given = {"shapes": shapes, "dtypes": dtypes, "masks": masks, "distributions": distributions}
        only = cases(**{k: v for k, v in given.items() if v is not None}, seeds=seeds, sm_scales=sm_scales)  # type: ignore[arg-type]
    if not only:
        raise ValueError("there is no case to check")
    for case in only:
        result = check_case(
            fn, case, kernel=kernel, mode=mode, factor=factor, layout=layout, framework=framework, device=device,
            explain=explain and report.ok,
        )
        report.results.append(result)
        report.kernel = result.comparison.kernel
    if not report.ok:
        raise CheckFailed(report)
    return report


def check_case(
    fn: Callable[..., Any],
    case: Case,
    *,
    kernel: KernelLike = "sage2-8b-sm90",
    mode: str = "bitwise",
    factor: float = FACTOR,
    layout: Optional[str] = None,
    framework: str = "auto",
    device: Any = None,
    explain: bool = True,
) -> CaseResult:
    """One case of `check`, whose arguments these are; it returns a failure instead of raising it."""
    if mode not in CHANGES:
        raise ValueError(f"mode is {mode!r}: want 'bitwise' or 'budget'")
    if not factor >= 1:
        raise ValueError(f"factor is {factor}: want at least 1")
    caller = Caller(fn)
    layout = layout or caller.layout
    framework, device = _frame(framework, device)
    q, k, v = case.inputs(framework, layout, device)
    mask = case.mask_tensor(framework, device)
    # The bytes are taken first: a kernel may change its inputs.
    x = Inputs(q, k, v, causal=case.causal, sm_scale=case.sm_scale, layout=layout, mask=mask, name=str(case)).own()
    group = case.shape.heads // case.shape.kv_heads
    o = caller(q, k, v, causal=case.causal, sm_scale=case.sm_scale, layout=layout, mask=mask, group=group)
    if not (is_torch(o) or isinstance(o, np.ndarray)):
        raise TypeError(f"{caller.name} returned a {type(o).__name__}: want a NumPy array or a PyTorch tensor")
    x.add_output(o)
    c = compare_inputs(x, resolve(kernel, q, k, v))
    if mode == "bitwise":
        ok, text = c.exact, c.verdict()
    else:
        ok, text = _within(c, factor, dtype_name(o))
    changed = _changed(x, q, k, v)
    if changed:
        text += f"\n  note: the call changed its {changed} in place"
    if not ok and explain:
        text += "".join(f"\n  {line}" for line in c.explain(changes=CHANGES[mode]).splitlines())
    result = CaseResult(case, ok, text, c, mode)
    if (hear := listener.get()) is not None:
        hear(result, c.kernel)
    return result


def _changed(x: Inputs, q: Any, k: Any, v: Any) -> str:
    """Which inputs are no longer what was passed."""
    now = Inputs(q, k, v, layout=x.layout, name=x.name)
    names = [r for r in "qkv" if not np.array_equal(now.tensors[f"{x.name}.{r}"].data, x.tensors[f"{x.name}.{r}"].data)]
    return ", ".join(names)


def _within(c: Comparison, factor: float, dtype: str) -> Tuple[bool, str]:
    """Whether every head's error is within the budget, and the worst head in words."""
    ref = c.reference.detach().cpu().numpy() if is_torch(c.reference) else c.reference
    if c._inputs.layout == "nhd":
        ref = ref.transpose(0, 2, 1, 3)
    unit = _ROUNDING.get(dtype, 0.0)
    worst, text = -1.0, ""
    for h in c.heads:
        r = ref[h.batch, h.head].astype(np.float64)
        # Few rows are few draws of an error: its RMS varies more.
        spread = factor * (1 + 4 / np.sqrt(len(r)))
        assert h.actual_vs_reference is not None
        for what, of, cost, floor, times in (
            ("RMSE", h.actual_vs_reference.rmse, h.emulated_vs_reference.rmse, float(np.sqrt(np.mean(r * r))), spread),
            ("largest error", h.actual_vs_reference.max_abs, h.emulated_vs_reference.max_abs, float(np.abs(r).max()), 2 * spread),
        ):
            if not np.isfinite(cost):
                continue  # the kernel's own output is not finite: nothing is promised
            allowed = times * max(cost, unit * floor)
            # An output of zeros where zeros are due is no error; NaN is the worst.
            ratio = of / allowed if allowed > 0 else (0.0 if of == 0 else np.inf)
            ratio = ratio if ratio == ratio else np.inf
            if ratio > worst:
                worst = float(ratio)
                text = (
                    f"batch {h.batch}, head {h.head}: {what} against FP32 is {of:.3e}, allowed are {allowed:.3e}: "
                    f"{times:.3g} times the kernel's own {cost:.3e}"
                )
    return worst <= 1, text
