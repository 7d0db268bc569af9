"""The capture itself; see the package's README."""

from __future__ import annotations

import functools
import os
import re
import threading
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional
from safetensors.torch import save

__all__ = ["Adapter", "Call", "Capture", "CaptureWarning"]

# The most channels of a head that the kernels take.
MAX_HEAD_DIM = 128
# How much is kept in memory before a file is written.
PART_BYTES = 256 << 20


class CaptureWarning(UserWarning):
    """Something was not captured, or not as it was; the text says what and why."""


@dataclass
class Call:
    """One call of an attention function: [batch, heads, tokens, head_dim] each.

    scale None stands for 1/sqrt(head_dim). o is None where the output is not what
    the kernel computes of q, k and v. A mask, which broadcasts to [batch, heads,
    queries, keys] as scaled_dot_product_attention's does, is looked at for the items and
    heads that are kept: it must hide nothing there, or be the causal one.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: torch.Tensor | None
    causal: bool = False
    scale: float | None = None
    mask: torch.Tensor | None = None


# An adapter makes a Call of a function's arguments and result; it returns None, or
# raises ValueError with the reason, for what cannot be captured.
Adapter = Callable[[tuple[Any, ...], dict[str, Any], Any], "Call | None"]


def sdpa_call(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call:
    """The adapter of torch.nn.functional.scaled_dot_product_attention."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args)) | kwargs
    q, k, v = given["query"], given["key"], given["value"]
    o = result
    if given.get("dropout_p", 0.0) > 0.0:
        warnings.warn("the output has dropout: left out", CaptureWarning, stacklevel=2)
        o = None
    return Call(q, k, v, o, bool(given.get("is_causal", False)), given.get("scale"), given.get("attn_mask"))


def _mask_is_causal(mask: torch.Tensor, queries: int, keys: int) -> bool:
    """False for a mask that hides nothing, True for the causal one, else an error."""
    visible = mask if mask.dtype == torch.bool else mask == 0
    if bool(visible.all()):
        return False
    hidden = ~visible if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min / 2
    if bool((visible | hidden).all()) and visible.shape[-2:] == (queries, keys):
        # As PyTorch and the kernels align it: query i sees keys 0 to i.
        square = torch.ones(queries, keys, dtype=torch.bool, device=mask.device)
        if bool((visible == square.tril()).all()):
            return True
        if bool((visible == square.tril(keys - queries)).all()):
            raise ValueError(
                f"its causal mask lets the last of {queries} queries see all {keys} keys (cached decoding), "
                "which a dump cannot say: it aligns the first query with the first key"
            )
    raise ValueError("its mask is neither empty nor causal, which a dump cannot say")


class Capture:
    """Writes the attention layers that run within a `with` block to a folder.

    path        the folder; sageacc takes it as a dump.
    model       names the layers: by the module that calls. Without it they are
                attn.0, attn.1, ... in the order of their calls.
    layers      a regular expression that a layer's name must contain a match of, or a
                collection of names.
    steps       which runs of the model: a number stands for the first so many. Without
                a model, `next_step` says where a step begins.
    heads       the first so many query heads; of grouped ones, whole groups.
    batch       the first so many items of the batch.
    max_bytes   no more than that is written.
    dtype       converts q, k and v, of an FP32 model say; the output is then left out.
    outputs     whether to keep the outputs.
    functions   further functions to wrap: (owner, name) for one with the arguments of
                scaled_dot_product_attention, (owner, name, adapter) for any other.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: torch.nn.Module | None = None,
        layers: str | Collection[str] | None = None,
        steps: int | Collection[int] = 1,
        heads: int | None = None,
        batch: int | None = 1,
        max_bytes: int = 1 << 30,
        dtype: torch.dtype | None = None,
        outputs: bool = True,
        functions: Collection[tuple[Any, str] | tuple[Any, str, Adapter]] = (),
    ) -> None:
        for name, n in (("heads", heads), ("batch", batch), ("max_bytes", max_bytes)):
            if n is not None and n < 1:
                raise ValueError(f"{name} is {n}: want at least 1")
        self.path = Path(path)
        self.written: list[Path] = []
        self._model = model
        self._pattern = re.compile(layers) if isinstance(layers, str) else None
        self._names = None if layers is None or isinstance(layers, str) else frozenset(layers)
        self._steps: Collection[int] = range(steps) if isinstance(steps, int) else frozenset(steps)
        self._heads, self._batch, self._max_bytes = heads, batch, max_bytes
        self._dtype, self._outputs = dtype, outputs
        self._functions: list[tuple[Any, str, Adapter]] = [
            (torch.nn.functional, "scaled_dot_product_attention", sdpa_call)
        ]
        for f in functions:
            self._functions.append((f[0], f[1], f[2] if len(f) == 3 else sdpa_call))
        self._lock = threading.RLock()
        self._local = threading.local()
        self._open = False
        self._reset()

    def _reset(self) -> None:
        self._step = -1 if self._model is not None else 0
        self._calls: dict[str, int] = {}
        self._seen: set[str] = set()
        self._bytes = 0
        self._full = False
        # Tensors by what a file's metadata says: (causal, scale).
        self._parts: dict[tuple[bool, float | None], dict[str, torch.Tensor]] = {}
        self._part_bytes = 0
        self._undo: list[Callable[[], None]] = []

    # The block.

    def __enter__(self) -> Capture:
        if self._undo:
            raise RuntimeError("this Capture is in use")
        self.path.mkdir(parents=True, exist_ok=True)
        if old := sorted(self.path.glob("part-*.safetensors")):
            raise FileExistsError(f"{self.path} holds a dump already ({old[0].name}): take another folder, or remove it")
        self._reset()
        self.written = []
        self._open = True
        try:
            for owner, name, adapter in self._functions:
                self._wrap(owner, name, adapter)
            if self._model is not None:
                self._hook(self._model)
        except BaseException:
            self._open = False
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._restore()
        # Every layer that was captured is whole, also if the block failed.
        try:
            self._flush()
        except OSError as e:
            if error is None:
                raise
            # The block's own error is the one to tell.
            warnings.warn(str(e), CaptureWarning, stacklevel=2)

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def next_step(self) -> None:
        """Begins the next step; a model's runs do so by themselves."""
        with self._lock:
            self._step += 1
            self._calls.clear()

    # Wrapping.

    def _wrap(self, owner: Any, name: str, adapter: Adapter) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # A wrapped function that calls another one is captured once.
            depth = getattr(self._local, "depth", 0)
            self._local.depth = depth + 1
            try:
                result = original(*args, **kwargs)
            finally:
                self._local.depth = depth
            # Blocks that end in another order than they began leave wrappers behind, which
            # then do nothing.
            if depth == 0 and self._open:
                self._record(adapter, args, kwargs, result)
            return result

        own = name in vars(owner) if hasattr(owner, "__dict__") else True
        setattr(owner, name, wrapper)

        def undo() -> None:
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

        self._undo.append(undo)

    def _hook(self, model: torch.nn.Module) -> None:
        for name, module in model.named_modules():

            def enter(_m: torch.nn.Module, _args: Any, name: str = name) -> None:
                stack = self._stack()
                if not stack and name == "":
                    self.next_step()
                stack.append(name)

            def leave(_m: torch.nn.Module, _args: Any, _out: Any) -> None:
                self._stack().pop()

            before = module.register_forward_pre_hook(enter)
            after = module.register_forward_hook(leave, always_call=True)
            self._undo += [before.remove, after.remove]

    def _stack(self) -> list[str]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[str] = self._local.stack
        return stack

    # Recording.

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._seen:
            self._seen.add(key)
            warnings.warn(text, CaptureWarning, stacklevel=4)

    def _layer_name(self) -> str:
        """The name of the layer that is calling, unique within a step."""
        stack = self._stack()
        base = stack[-1] or "model" if stack else "attn"
        n = self._calls.get(base, 0)
        self._calls[base] = n + 1
        return f"{base}.{n}" if n > 0 or not stack else base

    def _wanted(self, name: str) -> bool:
        if self._pattern is not None:
            return self._pattern.search(name) is not None
        return self._names is None or name in self._names

    def _record(self, adapter: Adapter, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        with self._lock:
            name = self._layer_name()
            if self._full or self._step not in self._steps or not self._wanted(name):
                return
            try:
                with torch.no_grad():
                    call = adapter(args, kwargs, result)
                    if call is not None:
                        self._keep(name, call)
            except ValueError as e:
                self._warn_once(name, f"layer {name} is not captured: {e}")

    def _keep(self, name: str, call: Call) -> None:
        q, k, v, o = (None if x is None else _four_d(x) for x in (call.q, call.k, call.v, call.o))
        assert q is not None and k is not None and v is not None
        if q.size(-1) > MAX_HEAD_DIM:
            raise ValueError(f"its head_dim is {q.size(-1)}, and the kernels take up to {MAX_HEAD_DIM}")
        if k.size(-1) != q.size(-1) or v.shape != k.shape or k.size(0) != q.size(0):
            raise ValueError(f"its shapes {list(q.shape)}, {list(k.shape)}, {list(v.shape)} are not one head_dim and batch")
        if k.size(1) == 0 or q.size(1) % k.size(1) != 0:
            raise ValueError(f"its {q.size(1)} query heads do not divide into {k.size(1)} kv heads")
        if q.dtype not in (torch.float16, torch.bfloat16, torch.float32) or not (q.dtype == k.dtype == v.dtype):
            if self._dtype is None:
                raise ValueError(f"its dtypes are {q.dtype}, {k.dtype}, {v.dtype}; pass dtype= to convert")
        if self._dtype is not None and self._dtype != q.dtype:
            o = None
        if not self._outputs or (o is not None and o.shape != q.shape):
            o = None
        batch = q.size(0) if self._batch is None else min(self._batch, q.size(0))
        group = q.size(1) // k.size(1)
        kv_heads = k.size(1) if self._heads is None else min(k.size(1), -(-self._heads // group))
        causal = call.causal
        if call.mask is not None:
            mask = _kept(call.mask, q.size(0), batch, q.size(1), kv_heads * group)
            causal = _mask_is_causal(mask, q.size(2), k.size(2)) or causal
        prefix = f"step{self._step}." if len(self._steps) > 1 else ""
        kept: dict[str, torch.Tensor] = {}
        for part, x, n in (("q", q, kv_heads * group), ("k", k, kv_heads), ("v", v, kv_heads), ("o", o, kv_heads * group)):
            if x is not None:
                x = x[:batch, :n].detach().to(device="cpu", dtype=self._dtype or x.dtype, copy=True)
                kept[f"{prefix}{name}.{part}"] = x.contiguous()
        size = sum(x.numel() * x.element_size() for x in kept.values())
        if self._bytes + size > self._max_bytes:
            self._full = True
            warnings.warn(
                f"layer {name} would exceed the bound of {self._max_bytes} bytes: it and what follows is not captured",
                CaptureWarning,
                stacklevel=5,
            )
            return
        self._bytes += size
        self._part_bytes += size
        self._parts.setdefault((causal, call.scale), {}).update(kept)
        if self._part_bytes >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Writes what is in memory, one file for each kind of metadata."""
        with self._lock:
            for (causal, scale), tensors in self._parts.items():
                meta = {"causal": "true" if causal else "false", "layout": "HND"}
                if scale is not None:
                    meta["sm_scale"] = repr(float(scale))
                target = self.path / f"part-{len(self.written):03d}.safetensors"
                temporary = target.with_suffix(".tmp")
                try:
                    temporary.write_bytes(save(tensors, metadata=meta))
                    os.replace(temporary, target)
                except OSError as e:
                    raise OSError(e.errno, f"layers are not written: {e.strerror or e}", str(target)) from e
                finally:
                    temporary.unlink(missing_ok=True)
                self.written.append(target)
            self._parts.clear()
            self._part_bytes = 0


def _four_d(x: torch.Tensor) -> torch.Tensor:
    """[..., heads, tokens, head_dim] as [batch, heads, tokens, head_dim]."""
    if x.dim() < 3:
        raise ValueError(f"a tensor of it has {x.dim()} dimensions")
    return x[None] if x.dim() == 3 else x.flatten(0, -4) if x.dim() > 4 else x


def _kept(mask: torch.Tensor, batch: int, items: int, heads: int, first: int) -> torch.Tensor:
    """The mask of the first items of a batch and its first heads."""
    if mask.dim() == 4:
        if mask.size(0) == batch:
            mask = mask[:items]
        if mask.size(1) == heads:
            mask = mask[:, :first]
    elif mask.dim() == 3 and mask.size(0) == heads:
        mask = mask[:first]
    return mask
