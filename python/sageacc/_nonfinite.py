"""Where NaN and infinities come from: the first call whose inputs had none."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, List, Optional, Tuple, Type, Union

import torch

from . import _safetensors
from ._api import Comparison, Inputs, compare_inputs
from ._arrays import raw_of
from ._binary import SageaccError
from ._capture import Part, describe
from ._functions import Call
from ._kernel import Kernel, KernelLike, resolve
from ._watch import CaptureWarning, Event, Stop, UserFunctions, Watcher

__all__ = ["NonFinite", "NonFiniteFinder", "find_nonfinite"]

FP16_MAX = 65504.0


@dataclass
class NonFinite:
    """The first call that returned NaN or infinity where its inputs had none. Its text says it all.

    Attributes:
        step: the run of the model, from 0.
        layer: the module that called.
        function: what was called.
        batch, head, token, channel: where the first such value is; for what is not attention,
            only the first index of a flat output, as token.
        count: how many values of the output are not finite, of how many.
        tile: the tile of keys in which it begins, as (first key, last key), where it is known.
        stages: what broke, in words, cause before effect.
        dump: the file that holds the call, None for what is not attention.
        attention: whether it was a call of attention.
    """

    step: int
    layer: str
    function: str
    batch: int
    head: int
    token: int
    channel: int
    count: Tuple[int, int]
    attention: bool
    kernel: Optional[Kernel] = None
    tile: Optional[Tuple[int, int]] = None
    stages: List[str] = field(default_factory=list)
    dump: Optional[Path] = None

    def __str__(self) -> str:
        bad, of = self.count
        where = f"batch {self.batch}, head {self.head}, token {self.token}, channel {self.channel}" if self.attention else f"element {self.token}"
        lines = [f"step {self.step}, layer {self.layer}: {self.function} returned {bad} of {of} values that are not finite, from inputs that are", f"first at {where}"]
        if self.tile is not None:
            lines[-1] += f"; it begins with the keys {self.tile[0]} to {self.tile[1]}"
        lines += self.stages
        if self.dump is not None:
            lines.append(f"the call is kept: sageacc compare {self.dump}" + (f" --kernel {self.kernel}" if self.kernel else ""))
        return "\n".join(lines)


class NonFiniteFinder(Watcher):
    """The `with` block of find_nonfinite.

    Attributes:
        found: the NonFinite, or None while all is well.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        kernel: KernelLike = "auto",
        path: Union[str, "os.PathLike[str]"] = "nonfinite.safetensors",
        modules: bool = True,
        stop: bool = True,
        echo: Callable[[str], None] = print,
        functions: UserFunctions = (),
    ) -> None:
        self.found: Optional[NonFinite] = None
        self._kernel: Optional[Kernel] = None if kernel == "auto" else resolve(kernel)
        self._path, self._every_module, self._halt, self._echo = Path(path), modules, stop, echo
        super().__init__(model, functions)

    def __enter__(self) -> NonFiniteFinder:
        self.found = None
        self.start()
        if self._every_module:
            for prefix, model in self._models:
                for name, module in model.named_modules():
                    if not any(True for _ in module.children()):
                        hook = module.register_forward_hook(self._leaf(".".join(x for x in (prefix, name) if x)), with_kwargs=True)
                        self._undo.append(hook.remove)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> bool:
        self.stop()
        if not self.seen and self.found is None and error is None and not self._models:
            warnings.warn(f"nothing was looked at: {self.nothing()}", CaptureWarning, stacklevel=2)
        # Its own end of the block is no error of the block's.
        return isinstance(error, Stop) and self.found is not None

    def _leaf(self, name: str) -> Callable[..., None]:
        def look(module: torch.nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if self.found is not None or not self._open:
                return
            bad = self._guarded(name, lambda: _bad(out, (args, kwargs)))
            if bad is None:
                return
            with self._lock:
                self.found = NonFinite(
                    max(self._step, 0), name, type(module).__name__, 0, 0, bad[1], 0, (bad[0], bad[2]), False, stages=_overflow(out)
                )
            self._tell()

        return look

    def before(self, event: Event) -> Any:
        """Whether Q, K and V are finite, as a number on their device: nothing waits for it."""
        if self.found is not None:
            return None
        c = event.call
        c.q, c.k, c.v = (x if x.dim() == 4 else x[None] if x.dim() == 3 else x.flatten(0, -4) for x in (c.q, c.k, c.v))
        return _finite(c.q) & _finite(c.k) & _finite(c.v), [x._version for x in (c.q, c.k, c.v)]

    def after(self, event: Event, output: Optional[torch.Tensor]) -> None:
        """Looks at the output, and at the call if that is not finite."""
        if output is None or self.found is not None:
            return
        finite, versions = event.state
        if not bool(finite & ~_finite(output)):
            return
        place = (~torch.isfinite(output)).flatten().nonzero()
        flat = int(place[0])
        b, h, t, c = (int(i) for i in torch.unravel_index(torch.tensor(flat), output.shape))
        self.found = found = NonFinite(
            event.step, event.name, event.text, b, h, t, c, (len(place), output.numel()), True, self._kernel or event.call.kernel
        )
        for name, x, version in zip("qkv", (event.call.q, event.call.k, event.call.v), versions):
            if x._version != version:
                found.stages.append(f"the call changed its {name} in place: what is kept is not what was passed")
        self._guarded(event.name, lambda: self._examine(event, output, found))
        self._tell()

    def _examine(self, event: Event, output: torch.Tensor, found: NonFinite) -> None:
        """Keeps the head that broke, and says which stage did."""
        from ._monitor import _one_head

        call = _one_head(event.call, found.batch, found.head)
        kept = Part(None, None, None).keep(call, None)
        o = output[found.batch : found.batch + 1, found.head : found.head + 1].detach().cpu().contiguous()
        x = kept.tensors
        name = event.name
        extra = {r: t for r, t in x.items() if r not in ("q", "k", "v", "mask")}
        inputs = Inputs(x["q"], x["k"], x["v"], causal=kept.causal, sm_scale=call.scale, mask=x.get("mask"), name=name, extra=extra, metadata=kept.metadata)
        inputs.add_output(o)
        inputs.metadata.update(describe(event))
        tensors = {f"{name}.{r}": raw_of(t, r) for r, t in x.items()}
        tensors[f"{name}.o"] = raw_of(o, "o")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("wb") as f:
            _safetensors.write(f, tensors, inputs.metadata)
        found.dump = self._path
        emulated = False
        if found.kernel is not None:
            try:
                comparison = compare_inputs(inputs, found.kernel)
            except SageaccError as e:
                found.stages.append(f"kernel {found.kernel} cannot say which stage: {e}")
            else:
                emulated = _stages(comparison, found)
        if not emulated:
            _suspect(kept.tensors["q"], kept.tensors["k"], kept.tensors["v"], kept.causal, call, found)

    def _tell(self) -> None:
        self._echo(str(self.found))
        if self._halt:
            raise Stop


def find_nonfinite(
    model: Any = None,
    *,
    kernel: KernelLike = "auto",
    path: Union[str, "os.PathLike[str]"] = "nonfinite.safetensors",
    modules: bool = True,
    stop: bool = True,
    echo: Callable[[str], None] = print,
    functions: UserFunctions = (),
) -> NonFiniteFinder:
    """Finds the first call that returns NaN or infinity where its inputs had none: the cause of
    the black image.

        with torch.no_grad(), sageacc.find_nonfinite(pipe) as f:
            pipe(prompt)
        f.found                      # None, or step, layer, head, tile and what broke

    Outputs are looked at on the GPU. At the first such call the text is printed, the head that
    broke is kept as a dump, and the block ends.

    Args:
        model: as for Capture: a module, or a pipeline with its parts.
        kernel: what attention calls should compute, to name the stage; "auto" as for Monitor.
        path: the file for the call's dump.
        modules: look at the outputs of all other modules too: a Linear in FP16 overflows more often
            than attention does.
        stop: end the block at the first find; else the model runs on.
        echo: what is told the text.
        functions: as for Capture.
    """
    return NonFiniteFinder(model, kernel=kernel, path=path, modules=modules, stop=stop, echo=echo, functions=functions)


def _finite(x: torch.Tensor) -> torch.Tensor:
    if "float8" in str(x.dtype):
        x = x.float()
    return torch.isfinite(x).all()


def _tensors(x: Any) -> List[torch.Tensor]:
    """The floating-point tensors in nested arguments."""
    if isinstance(x, torch.Tensor):
        return [x] if x.is_floating_point() and x.numel() > 0 else []
    if isinstance(x, dict):
        x = tuple(x.values())
    return [t for y in x for t in _tensors(y)] if isinstance(x, (tuple, list)) else []


def _bad(out: Any, inputs: Any) -> Optional[Tuple[int, int, int]]:
    """How many values of an output are not finite, the first of them, and of how many, if all
    inputs are finite."""
    outs, ins = _tensors(out), _tensors(inputs)
    if not outs or not ins:
        return None
    flag = torch.stack([~_finite(x).to(outs[0].device) for x in outs]).any() & torch.stack([_finite(x).to(outs[0].device) for x in ins]).all()
    if not bool(flag):
        return None
    for x in outs:
        place = (~torch.isfinite(x.float())).flatten().nonzero()
        if len(place):
            return len(place), int(place[0]), x.numel()
    return None


def _overflow(out: Any) -> List[str]:
    x = _tensors(out)[0]
    finite = x[torch.isfinite(x)]
    if x.dtype == torch.float16:
        most = float(finite.abs().max()) if finite.numel() else 0.0
        return [f"the output is FP16, which ends at 65504; the largest finite value is {most:.4g}: run this module in BF16 or FP32"]
    return [f"the output is {str(x.dtype).rpartition('.')[2]}; {int(torch.isnan(x).sum())} values are NaN"]


def _stages(c: Comparison, found: NonFinite) -> bool:
    """What the emulated kernel met on this head; whether it is not finite either."""
    broken = [w for w in c.warnings if " NaN" in w or " Inf" in w or " zero" in w]
    own = (~torch.isfinite(torch.as_tensor(c.emulated).float()))[0, 0]
    if not bool(own.any()):
        found.stages.append(f"{c.kernel} itself returns finite numbers for this head: what ran is another program, or has a fault")
        return False
    found.stages += [f"{c.kernel} breaks in {w}" for w in broken if not w.startswith(f"{c._inputs.name}.")]
    row = found.token if bool(own[found.token].any()) else int(own.any(-1).nonzero()[0])
    found.tile = _first_tile(c, row)
    same = "bit for bit" if c.exact else "though not bit for bit what was returned"
    found.stages.append(f"the emulated kernel returns {int(own.sum())} such values for this head, {same}")
    return True


def _first_tile(c: Comparison, row: int) -> Optional[Tuple[int, int]]:
    """The keys of the first tile after which a row is not finite."""
    try:
        trace = json.loads(c.trace(0, row, 0, "--format=json"))
    except SageaccError:
        return None
    for tile in trace["tiles"]:
        values = [*tile.get("tile_sums", ()), *tile["output"], tile["row_max"], *tile["denominators"]]
        if any(isinstance(x, str) for x in values):  # NaN and infinities are strings
            return tile["key"], tile["key"] + tile["keys"] - 1
    return None


def _suspect(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, call: Call, found: NonFinite) -> None:
    """Without a kernel to emulate: what of the head, computed in FP64, is beyond what formats hold."""
    scale = call.scale if call.scale is not None else q.size(-1) ** -0.5
    row, keys = found.token, k.double()[0, 0]
    if causal:
        keys = keys[: row + 1]
    values = v.double()[0, 0][: len(keys)]
    s = q.double()[0, 0, row] @ keys.T
    largest = float(s.abs().max())
    if largest > FP16_MAX:
        found.stages.append(f"Q K^T of this row reaches {largest:.4g} before scaling: beyond FP16's 65504")
    p = torch.exp((s - s.max()) * scale)
    sums = torch.cumsum(p * values[:, found.channel], 0).abs()
    if float(sums.max()) > FP16_MAX:
        at = int((sums > FP16_MAX).nonzero()[0])
        found.stages.append(f"the sum of P V in channel {found.channel} reaches {float(sums.max()):.4g}, from key {at} on beyond an FP16 accumulator's 65504")
        found.tile = found.tile or (at // 64 * 64, min(at // 64 * 64 + 63, len(keys) - 1))
    zero = [int(c) for c in (v[0, 0].abs().amax(0) == 0).nonzero()]
    if zero:
        found.stages.append(f"channels of V are all zeros, which a quantiser per channel divides by: {', '.join(map(str, zero[:8]))}")
    for name, x in (("Q", q), ("K", k), ("V", v)):
        most = float(x.double().abs().max())
        if most > FP16_MAX:
            found.stages.append(f"{name} reaches {most:.4g}: beyond FP16, to which a kernel may cast it")
    if not found.stages:
        found.stages.append("nothing of this head is beyond any format's range: the call itself, or memory that it reads, is at fault")
