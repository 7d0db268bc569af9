"""Dumps Q, K, V and O of a running model's attention as safetensors."""

from __future__ import annotations

import functools
import os
import re
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Collection, Dict, List, Optional, Tuple, Type, Union

import torch

from . import _safetensors
from ._arrays import raw_of
from ._functions import Adapter, Call
from ._probe import reads_calls, reads_head_dim, reads_masks
from ._safetensors import Raw
from ._watch import CaptureWarning, Event, UserFunctions, Watcher

__all__ = ["Adapter", "Call", "Capture", "CaptureWarning"]

# How much is kept in memory before a file is written.
PART_BYTES = 256 << 20
# Rows of queries are kept in whole tiles of every program, so that scales that rows share
# stay as they are.
ROWS = 128


class Capture(Watcher):
    """Writes the attention layers that run within a `with` block to a folder.

        with torch.no_grad(), Capture("dump", model=model, layers=r"attn", heads=8):
            model(**inputs)

    The model runs as ever: whatever goes wrong here is a CaptureWarning.

    Args:
        path: the folder; every command of sageacc takes it as a dump.
        model: names the layers, by the module that calls: a torch.nn.Module, or a pipeline of
            diffusers, whose transformer or unet counts the steps. Without it layers are attn.0,
            attn.1, ... in the order of their calls.
        layers: a regular expression that a layer's name must contain a match of, or a
            collection of names.
        steps: which runs of the model: a number stands for the first so many. Without a model,
            `next_step` says where a step begins.
        heads: the first so many query heads; of grouped ones, whole groups.
        rows: the first so many queries (rounded up to 128, whole tiles), with all keys.
        batch: the first so many items of the batch.
        max_bytes: no more than that is written.
        dtype: converts q, k and v, of an FP32 model say; the output is then left out.
        outputs: whether to keep the outputs.
        functions: further functions to watch: (owner, name) for one with the arguments of
            scaled_dot_product_attention, (owner, name, adapter) for any other.
    """

    def __init__(
        self,
        path: Union[str, "os.PathLike[str]"],
        *,
        model: Any = None,
        layers: Union[str, Collection[str], None] = None,
        steps: Union[int, Collection[int]] = 1,
        heads: Optional[int] = None,
        rows: Optional[int] = None,
        batch: Optional[int] = 1,
        max_bytes: int = 1 << 30,
        dtype: Optional[torch.dtype] = None,
        outputs: bool = True,
        functions: UserFunctions = (),
    ) -> None:
        for name, n in (("heads", heads), ("rows", rows), ("batch", batch), ("max_bytes", max_bytes)):
            if n is not None and n < 1:
                raise ValueError(f"{name} is {n}: want at least 1")
        self.path = Path(path)
        self.written: List[Path] = []
        self._select = Selection(layers, steps)
        self._part = Part(heads, rows, batch)
        self._max_bytes, self._dtype, self._outputs = max_bytes, dtype, outputs
        super().__init__(model, functions)

    def _reset(self) -> None:
        super()._reset()
        self._bytes = 0
        self._full = False
        self._failure: Optional[OSError] = None
        # Tensors by what a file's metadata says.
        self._parts: Dict[Tuple[Tuple[str, str], ...], Dict[str, Raw]] = {}
        self._part_bytes = 0

    # The block.

    def __enter__(self) -> Capture:
        if self._undo:
            raise RuntimeError("this Capture is in use")
        self.path.mkdir(parents=True, exist_ok=True)
        if old := sorted(self.path.glob("part-*.safetensors")):
            raise FileExistsError(f"{self.path} holds a dump already ({old[0].name}): take another folder, or remove it")
        self.written = []
        self.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()
        # Every layer that was captured is whole, also if the block failed.
        self._flush()
        if self._failure is not None:
            if error is None:
                raise self._failure
            # The block's own error is the one to tell.
            warnings.warn(str(self._failure), CaptureWarning, stacklevel=2)
        elif not self.written and error is None:
            warnings.warn(f"nothing was captured: {self._why()}", CaptureWarning, stacklevel=2)

    def _why(self) -> str:
        if self.seen and not any(self._select.names(n) for n in self.seen):
            return f"no layer matches layers={self._select.layers!r}; {self.nothing()}"
        if self.seen and not self._warned:
            return f"the layers ran in none of the steps asked for; {self.nothing()}"
        return self.nothing()

    # What is wanted.

    def wanted(self, name: str, step: int) -> bool:
        """Whether a layer is captured."""
        return not self._full and step in self._select.steps and self._select.names(name)

    def before(self, event: Event) -> Any:
        """Takes Q, K and V, before the call can change them."""
        kept = self._part.keep(event.call, self._dtype)
        return kept, self._part.marks(event.call)

    def after(self, event: Event, output: Optional[torch.Tensor]) -> None:
        """Takes the output and keeps the layer."""
        kept, marks = event.state
        call, name = event.call, event.name
        prefix = f"step{event.step}." if len(self._select.steps) > 1 else ""
        if changed := self._part.changed(call, marks):
            self.warn(f"{name} in place", f"layer {name}: the call changed its {changed} in place; the dump has what was passed")
        if call.note:
            self.warn(f"{name} output", f"layer {name}: {call.note}: left out")
        o = output if self._outputs and not call.note else None
        if o is not None and o.shape == call.q.shape and (self._dtype in (None, call.q.dtype)):
            kept.tensors["o"] = self._part.output(call, o)
        tensors = {f"{prefix}{name}.{role}": raw_of(x, role) for role, x in kept.tensors.items()}
        size = sum(x.data.nbytes for x in tensors.values())
        if self._bytes + size > self._max_bytes:
            self._full = True
            self.warn(
                "full", f"layer {name} would exceed the bound of {self._max_bytes} bytes: it and what follows is not captured"
            )
            return
        self._bytes += size
        self._part_bytes += size
        meta = {"causal": "true" if kept.causal else "false", "layout": "HND", **kept.metadata, **describe(event)}
        if call.scale is not None:
            meta["sm_scale"] = repr(float(call.scale))
        self._parts.setdefault(tuple(meta.items()), {}).update(tensors)
        if self._part_bytes >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Writes what is in memory, one file for each kind of metadata. A failure ends the
        capture and is told when the block ends."""
        with self._lock:
            try:
                for meta, tensors in self._parts.items():
                    target = self.path / f"part-{len(self.written):03d}.safetensors"
                    temporary = target.with_suffix(".tmp")
                    try:
                        with temporary.open("wb") as f:
                            _safetensors.write(f, tensors, dict(meta))
                        os.replace(temporary, target)
                    except OSError as e:
                        raise OSError(e.errno, f"layers are not written: {e.strerror or e}", str(target)) from e
                    finally:
                        if temporary.exists():
                            temporary.unlink()
                    self.written.append(target)
            except OSError as e:
                self._full, self._failure = True, self._failure or e
            self._parts.clear()
            self._part_bytes = 0


class Selection:
    """Which layers, by name, in which steps."""

    def __init__(self, layers: Union[str, Collection[str], None], steps: Union[int, Collection[int]]) -> None:
        self.layers = layers
        self.steps: Collection[int] = range(steps) if isinstance(steps, int) else steps
        self._pattern = re.compile(layers) if isinstance(layers, str) else None

    def names(self, name: str) -> bool:
        """Whether a layer of this name is wanted."""
        if self._pattern is not None:
            return self._pattern.search(name) is not None
        return self.layers is None or name in self.layers


class Kept:
    """What is kept of a call: tensors on the CPU by their role, whether it is causal, and what
    else a dump's metadata says of it."""

    def __init__(self, tensors: Dict[str, torch.Tensor], causal: bool, metadata: Dict[str, str]) -> None:
        self.tensors, self.causal, self.metadata = tensors, causal, metadata


class Part:
    """Which heads, rows and items of a call are kept: the first ones of each."""

    def __init__(self, heads: Optional[int], rows: Optional[int], batch: Optional[int]) -> None:
        self._heads, self._batch = heads, batch
        self._rows = None if rows is None else -(-rows // ROWS) * ROWS

    def sizes(self, call: Call) -> Tuple[int, int, int, int]:
        """Items, query heads, kv heads and queries that are kept."""
        q, k = call.q, call.k
        group = q.size(1) // k.size(1)
        kv = k.size(1) if self._heads is None else min(k.size(1), -(-self._heads // group))
        items = q.size(0) if self._batch is None else min(self._batch, q.size(0))
        # What is aligned with the last key is not with fewer queries.
        all_rows = self._rows is None or _aligned(call)
        return items, kv * group, kv, q.size(2) if all_rows or self._rows is None else min(self._rows, q.size(2))

    def keep(self, call: Call, dtype: Optional[torch.dtype]) -> Kept:
        """Copies of what is kept of Q, K, V and the mask.

        Raises:
            ValueError: why the call cannot be a layer of a dump.
        """
        call.q, call.k, call.v = (four_d(x) for x in (call.q, call.k, call.v))
        q, k, v = call.q, call.k, call.v
        if k.size(-1) != q.size(-1) or v.shape != k.shape or k.size(0) != q.size(0):
            raise ValueError(f"its shapes {list(q.shape)}, {list(k.shape)}, {list(v.shape)} are not one head_dim and batch")
        if k.size(1) == 0 or q.size(1) % k.size(1) != 0:
            raise ValueError(f"its {q.size(1)} query heads do not divide into {k.size(1)} kv heads")
        if not reads_head_dim(q.size(-1)):
            raise ValueError(f"its head_dim is {q.size(-1)}, and the kernels take up to 256")
        if dtype is None and (q.dtype not in READ or not (q.dtype == k.dtype == v.dtype)):
            raise ValueError(f"its dtypes are {q.dtype}, {k.dtype}, {v.dtype}; pass dtype= to convert")
        items, heads, kv, rows = self.sizes(call)
        causal = call.causal
        mask: Optional[torch.Tensor] = None
        metadata = call_metadata(call)
        if metadata and not reads_calls():
            raise ValueError(f"it has {', '.join(metadata)}, which a dump cannot say")
        if causal and call.bottom_right and q.size(2) != k.size(2) and "causal_align" not in metadata:
            causal = False
            if q.size(2) > 1:  # a single query sees all keys
                mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril(k.size(2) - q.size(2))[None, None]
        if call.mask is not None:
            kind = kept_mask(call.mask, q.size(0), items, q.size(1), heads)
            what = mask_kind(kind, q.size(2), k.size(2))
            causal, mask = (causal or what == "causal", mask) if what != "other" else (causal, _four_d_mask(kind))
        if mask is not None and not reads_masks():
            if mask_kind(mask, q.size(2), k.size(2), end=True) == "end":
                raise ValueError(
                    f"its causal mask lets the last of {q.size(2)} queries see all {k.size(2)} keys (cached decoding), "
                    "which a dump cannot say: it aligns the first query with the first key"
                )
            raise ValueError("its mask is neither empty nor causal, which a dump cannot say")
        tensors = {
            "q": q[:items, :heads, :rows],
            "k": k[:items, :kv],
            "v": v[:items, :kv],
        }
        tensors = {r: copied(x, dtype) for r, x in tensors.items()}
        if mask is not None:
            tensors["mask"] = copied(mask[:, :, :rows] if mask.size(2) > 1 else mask, None)
        for r, x in call.extra.items():
            tensors[r] = copied(x[:items, :kv] if x.dim() == 2 else x, None)
        return Kept(tensors, causal, metadata)

    def output(self, call: Call, o: torch.Tensor) -> torch.Tensor:
        """A copy of what is kept of the output."""
        items, heads, _, rows = self.sizes(call)
        return copied(o[:items, :heads, :rows], None)

    def marks(self, call: Call) -> List[Any]:
        """What shows later whether Q, K or V was changed: the sums of what is kept, as integers."""
        items, heads, kv, rows = self.sizes(call)
        kept = (call.q[:items, :heads, :rows], call.k[:items, :kv], call.v[:items, :kv])
        return [_mark(x) for x in kept]

    def changed(self, call: Call, marks: List[Any]) -> str:
        """Which of Q, K and V are no longer what they were."""
        return ", ".join(n for n, a, b in zip("QKV", marks, self.marks(call)) if not torch.equal(a, b))


READ = (torch.float16, torch.bfloat16, torch.float32, *(getattr(torch, n) for n in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, n)))


def _aligned(call: Call) -> bool:
    """Whether the call aligns its last query with the last key, and it matters."""
    differ = call.q.size(-2) != call.k.size(-2)
    return call.window is not None or (call.causal and call.bottom_right and differ and call.q.size(-2) > 1)


def call_metadata(call: Call) -> Dict[str, str]:
    """What a dump's metadata says of a call beside causal and sm_scale."""
    out: Dict[str, str] = {}
    if call.window is not None:
        out["window"] = f"{call.window[0]},{call.window[1]}"
    if call.softcap:
        out["softcap"] = repr(float(call.softcap))
    if (out or (_aligned(call) and reads_calls())) and call.bottom_right and _aligned(call):
        out["causal_align"] = "bottom-right"
    return out


def _mark(x: torch.Tensor) -> torch.Tensor:
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    bits = x.detach().contiguous().view(integers)
    # A sum by channel and one by row: what leaves both as they are is no accident.
    return torch.cat([bits.sum(-1, dtype=torch.int64).flatten(), bits.sum(-2, dtype=torch.int64).flatten()])


def copied(x: torch.Tensor, dtype: Optional[torch.dtype]) -> torch.Tensor:
    """A contiguous copy on the CPU."""
    return x.detach().to(device="cpu", dtype=dtype or x.dtype, copy=True).contiguous()


def four_d(x: torch.Tensor) -> torch.Tensor:
    """[..., heads, tokens, head_dim] as [batch, heads, tokens, head_dim]."""
    if x.dim() < 3:
        raise ValueError(f"a tensor of it has {x.dim()} dimensions")
    return x[None] if x.dim() == 3 else x.flatten(0, -4) if x.dim() > 4 else x


def mask_kind(mask: torch.Tensor, queries: int, keys: int, end: bool = False) -> str:
    """"none" for a mask that hides nothing, "causal" for the one that lets query i see the keys 0
    to i, as PyTorch and the kernels align it; with end, "end" for the one that lets the last query
    see all keys; else "other"."""
    visible = mask if mask.dtype == torch.bool else mask == 0
    if bool(visible.all()):
        return "none"
    hidden = ~visible if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min / 2
    if bool((visible | hidden).all()) and visible.shape[-2:] == (queries, keys):
        square = torch.ones(queries, keys, dtype=torch.bool, device=mask.device)
        if bool((visible == square.tril()).all()):
            return "causal"
        if end and bool((visible == square.tril(keys - queries)).all()):
            return "end"
    return "other"


def kept_mask(mask: torch.Tensor, batch: int, items: int, heads: int, first: int) -> torch.Tensor:
    """The mask of the first items of a batch and its first heads."""
    if mask.dim() == 4:
        if mask.size(0) == batch:
            mask = mask[:items]
        if mask.size(1) == heads:
            mask = mask[:, :first]
    elif mask.dim() == 3 and mask.size(0) == heads:
        mask = mask[:first]
    return mask


def _four_d_mask(mask: torch.Tensor) -> torch.Tensor:
    while mask.dim() < 4:
        mask = mask[None]
    return mask


def describe(event: Event) -> Dict[str, str]:
    """Where and how a call ran, for a file's metadata."""
    meta = {"call": event.text, "versions": _versions()}
    x = event.call.q
    if x.is_cuda:
        meta["device"] = torch.cuda.get_device_name(x.device)
        meta["arch"] = "sm_%d%d" % torch.cuda.get_device_capability(x.device)
    else:
        meta["device"] = str(x.device)
    if event.call.kernel is not None:
        meta["kernel"] = str(event.call.kernel)
    return meta


@functools.lru_cache(maxsize=None)
def _versions() -> str:
    from importlib import metadata

    found = [f"torch {torch.__version__}"]
    for name in ("sageattention", "flash_attn", "flash_attn_3", "xformers", "diffusers", "transformers", "triton"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
