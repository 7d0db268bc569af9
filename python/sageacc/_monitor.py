"""Comparing attention with the emulator while the model runs."""

from __future__ import annotations

import json
import os
import threading
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Collection, Dict, List, Optional, Tuple, Type, Union

import torch

from ._api import Difference, Figures, Inputs, figures_of, run_emulate
from ._binary import SageaccError
from ._capture import Part, Selection
from ._functions import Call
from ._kernel import Kernel, KernelLike, resolve
from ._results import merged, write_report
from ._watch import CaptureWarning, Event, UserFunctions, Watcher

__all__ = ["Monitor", "Sample"]

# The emulator's unit of work: rows of queries.
BLOCK = 256


@dataclass
class Sample:
    """What was found of one block of one head of one call.

    Attributes:
        layer, step: whose.
        batch, head: which, of the call's; rows are its queries [first, end).
        kernel: what was emulated; None where it is not known, and then there are no figures of it.
        actual_vs_reference: what the call's output costs against FP32.
        emulated_vs_reference: what the kernel costs.
        difference: actual against emulated, in bits.
        warnings: what else is odd, in words.
    """

    layer: str
    step: int
    batch: int
    head: int
    rows: Tuple[int, int]
    kernel: Optional[Kernel]
    actual_vs_reference: Figures
    emulated_vs_reference: Optional[Figures]
    difference: Optional[Difference]
    warnings: List[str]


class Monitor(Watcher):
    """Compares the attention of a running model with the emulator, on samples, without a dump.

        with torch.no_grad(), sageacc.Monitor(model, kernel="auto") as m:
            pipe(prompt)
        print(m.table())
        m.report("attention.html")

    Of each call some heads are taken, and of each a block of 256 queries with all of its keys;
    which ones changes from call to call, in a fixed order. The comparison runs on other threads.

    Args:
        model: as for Capture.
        kernel: what the calls should compute: a name, a YAML file or a Kernel; "auto" takes it of
            the function that is called, the arguments and the GPU.
        layers, steps: as for Capture, but all steps if it is None.
        heads: how many heads of each call.
        every: looks at every so many calls of a layer only.
        precision: of the reference, "fp32" or "fp64".
        jobs: how many comparisons run at a time. The model waits while twice as many are due.
        functions: as for Capture.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        kernel: KernelLike = "auto",
        layers: Union[str, Collection[str], None] = None,
        steps: Union[int, Collection[int], None] = None,
        heads: int = 1,
        every: int = 1,
        precision: str = "fp32",
        jobs: int = 2,
        functions: UserFunctions = (),
    ) -> None:
        for name, n in (("heads", heads), ("every", every), ("jobs", jobs)):
            if n < 1:
                raise ValueError(f"{name} is {n}: want at least 1")
        self._kernel: Optional[Kernel] = None if kernel == "auto" else resolve(kernel)
        self._select = Selection(layers, range(1 << 62) if steps is None else steps)
        self._heads, self._every, self._precision, self._jobs = heads, every, precision, jobs
        self.samples: List[Sample] = []
        self._results: List[Tuple[str, Dict[str, Any]]] = []
        super().__init__(model, functions)

    def _reset(self) -> None:
        super()._reset()
        self._count: Dict[str, int] = {}
        self._work: List["Future[Optional[Tuple[Sample, Dict[str, Any]]]]"] = []

    def __enter__(self) -> Monitor:
        self.samples, self._results = [], []
        self.start()
        self._pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="sageacc")
        self._room = threading.BoundedSemaphore(2 * self._jobs)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()
        self._pool.shutdown(wait=True)
        for work in self._work:
            if (found := work.result()) is not None:
                self.samples.append(found[0])
                self._results.append((str(found[0].kernel), found[1]))
        self._work.clear()
        if not self.samples and error is None:
            warnings.warn(f"nothing was compared: {self.nothing()}", CaptureWarning, stacklevel=2)

    def wanted(self, name: str, step: int) -> bool:
        """Whether a layer's call is looked at."""
        if step not in self._select.steps or not self._select.names(name):
            return False
        n = self._count.get(name, 0)
        self._count[name] = n + 1
        return n % self._every == 0

    def before(self, event: Event) -> Any:
        """Takes the sampled heads of Q, K and V."""
        kept = []
        for batch, head, rows in self._choose(event):
            kept.append((batch, head, rows, Part(None, None, None).keep(_one_head(event.call, batch, head), None)))
        return kept

    def _choose(self, event: Event) -> List[Tuple[int, int, Tuple[int, int]]]:
        """Heads and blocks of a call, spread over them and over its layer's calls."""
        q = event.call.q
        q = q if q.dim() == 4 else q[None] if q.dim() == 3 else q.flatten(0, -4)
        all_heads, blocks = q.size(0) * q.size(1), -(-q.size(2) // BLOCK)
        n = (self._count.get(event.name, 1) - 1) // self._every
        # Additive recurrences with two irrational numbers visit heads and blocks evenly, without
        # a pattern; layers begin at other places.
        phase = zlib.crc32(event.name.encode()) / 2**32
        chosen = []
        for i in range(min(self._heads, all_heads)):
            at = (int(all_heads * ((phase + 0.7548776662 * n) % 1)) + i * all_heads // self._heads) % all_heads
            block = int(blocks * ((phase + 0.5698402910 * n + 0.6180339887 * (i + 1)) % 1))
            chosen.append((at // q.size(1), at % q.size(1), (block * BLOCK, min((block + 1) * BLOCK, q.size(2)))))
        return chosen

    def after(self, event: Event, output: Optional[torch.Tensor]) -> None:
        """Takes the sampled heads of the output, and has them compared."""
        if output is None or output.shape != event.call.q.shape:
            self.warn(f"{event.name} output", f"layer {event.name} is not compared: {event.call.note or 'its output has another shape'}")
            return
        kernel = self._kernel or event.call.kernel
        for batch, head, rows, kept in event.state:
            o = output[batch : batch + 1, head : head + 1].detach().to("cpu", copy=True)
            x = kept.tensors
            inputs = Inputs(
                x["q"], x["k"], x["v"], causal=kept.causal, sm_scale=event.call.scale, mask=x.get("mask"), name=event.name,
                metadata=kept.metadata,
                extra={r: t for r, t in x.items() if r not in ("q", "k", "v", "mask")},
            )
            inputs.add_output(o)
            self._room.acquire()
            self._work.append(self._pool.submit(self._compare, inputs, kernel, event.name, event.step, batch, head, rows))

    def _compare(
        self, inputs: Inputs, kernel: Optional[Kernel], layer: str, step: int, batch: int, head: int, rows: Tuple[int, int]
    ) -> Optional[Tuple[Sample, Dict[str, Any]]]:
        try:
            flags = ["--reference", self._precision, "--rows", f"{rows[0]}:{rows[1]}"]
            try:
                _, meta = run_emulate([inputs], [*(kernel or Kernel()).flags(), *flags])
            except SageaccError as e:
                if kernel is None or self._kernel is not None:
                    raise
                # The function's kernel is not one that can be emulated: the reference can.
                self.warn(str(kernel), f"kernel {kernel} is not compared: {e}")
                kernel = None
                _, meta = run_emulate([inputs], [*inputs.carrier(), *flags])
            result = json.loads(meta["result"])
            found = result["layers"][0]
            found["name"] = f"step{step}.{layer} [{batch},{head}]"
            rows = tuple(found.get("sampled", rows))  # whole chunks of the kernel's tiles
            actual, emulated, difference = figures_of(found)
            assert actual is not None
            sample = Sample(
                layer, step, batch, head, rows, kernel, actual, emulated if kernel else None, difference if kernel else None,
                list(found.get("warnings", ())) if kernel else [],
            )
            return sample, result
        except SageaccError as e:
            self.warn(layer, f"layer {layer} is not compared: {e}")
            return None
        finally:
            self._room.release()

    # What was found.

    @property
    def exact(self) -> bool:
        """Whether every sample of every call is the emulated kernel's, bit for bit."""
        return bool(self.samples) and all(s.difference is not None and s.difference.mismatched == 0 for s in self.samples)

    def table(self) -> str:
        """A line for each layer: the worst of its samples, worst layer first."""
        layers: Dict[str, List[Sample]] = {}
        for s in self.samples:
            layers.setdefault(s.layer, []).append(s)
        rows = [["layer", "samples", "kernel", "actual cos_sim", "rel_l1", "kernel's own", "differing", "worst at"]]
        for _, name in sorted(((_key(_worst(ss)), n) for n, ss in layers.items()), reverse=True):
            ss = layers[name]
            worst = _worst(ss)
            a, e, d = worst.actual_vs_reference, worst.emulated_vs_reference, worst.difference
            rows.append(
                [
                    name, str(len(ss)), str(worst.kernel or "unknown"), f"{a.cos_sim:.6f}", f"{a.rel_l1:.5f}", f"{e.rel_l1:.5f}" if e else "",
                    f"{d.mismatched} of {d.elements}" if d else "", f"step {worst.step}, head {worst.batch},{worst.head}, rows {worst.rows[0]}-{worst.rows[1] - 1}",
                ]
            )
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])

    def report(self, path: Union[str, "os.PathLike[str]"]) -> List[Path]:
        """Writes a page with charts of all samples (`sageacc report`), one for each kernel, and
        returns the files."""
        if not self.samples:
            raise ValueError("there is nothing to report: nothing was compared")
        target, out = Path(path), []
        kernels = sorted({k for k, _ in self._results})
        for i, kernel in enumerate(kernels):
            page = target if len(kernels) == 1 else target.with_name(f"{target.stem}-{i}{target.suffix}")
            write_report(merged([r for k, r in self._results if k == kernel]), page)
            out.append(page)
        return out

    def __str__(self) -> str:
        return self.table()


def _key(s: Sample) -> Tuple[float, float]:
    """How bad a sample is: NaN first, then the difference in bits, then the error."""
    rel = s.actual_vs_reference.rel_l1
    return (s.difference.mismatched / s.difference.elements if s.difference else 0.0, rel if rel == rel else float("inf"))


def _worst(samples: List[Sample]) -> Sample:
    return max(samples, key=_key)


def _one_head(call: Call, batch: int, head: int) -> Call:
    """A head of a call, with the kv head that it shares."""
    from ._capture import four_d, kept_mask
    from ._functions import replaced

    q, k, v = four_d(call.q), four_d(call.k), four_d(call.v)
    kv = head * k.size(1) // q.size(1)
    mask = call.mask
    if mask is not None:
        while mask.dim() < 4:
            mask = mask[None]
        b, h = (batch if mask.size(0) > 1 else 0), (head if mask.size(1) > 1 else 0)
        mask = kept_mask(mask[b : b + 1, h : h + 1], 1, 1, 1, 1)
    extra = {r: x[batch : batch + 1, kv : kv + 1] if x.dim() == 2 else x for r, x in call.extra.items()}
    one = slice(kv, kv + 1)
    return replaced(call, q=q[batch : batch + 1, head : head + 1], k=k[batch : batch + 1, one], v=v[batch : batch + 1, one], mask=mask, extra=extra)
