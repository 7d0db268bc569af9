"""The attention functions that callers use, and how their arguments are to be read.

Each library's function has an adapter that makes Calls of its arguments before it
runs, and takes the output of its result afterwards. Nothing here imports a library:
functions of those that are not loaded cannot be called.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch

from ._kernel import Kernel, sage_function, sageattn

__all__ = ["Adapter", "Call", "Function", "FUNCTIONS"]


@dataclass
class Call:
    """One call of an attention function: [batch, heads, tokens, head_dim] each.

    scale None stands for 1/sqrt(head_dim). o is None where the output is not what the
    kernel computes of q, k and v. A mask, which broadcasts to [batch, heads, queries,
    keys], is boolean, True where a key is seen, or is added to the scores.

    Attributes:
        bottom_right: whether causal aligns the last query with the last key, as FlashAttention
            does, and not the first with the first.
        window: how many keys a query sees before and after the one that it is aligned with, -1
            for all.
        softcap: c of c*tanh(score/c), 0 for none.
        kernel: the kernel that the function runs, where it is known.
        extra: further tensors by role, as in {"q_descale": x}.
        suffix: what is added to the layer's name, for one of several.
        output: takes o, [batch, heads, tokens, head_dim], out of the function's result.
        note: why o is left out, if it is.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: Optional[torch.Tensor] = None
    causal: bool = False
    scale: Optional[float] = None
    mask: Optional[torch.Tensor] = None
    bottom_right: bool = False
    window: Optional[Tuple[int, int]] = None
    softcap: float = 0.0
    kernel: Optional[Kernel] = None
    extra: Dict[str, torch.Tensor] = field(default_factory=dict)
    suffix: str = ""
    output: Optional[Callable[[Any], Optional[torch.Tensor]]] = None
    note: str = ""


# An adapter of a user's function makes a Call of its arguments and result; it returns
# None, or raises ValueError with the reason, for what cannot be captured.
Adapter = Callable[[Tuple[Any, ...], Dict[str, Any], Any], Optional[Call]]

Given = Mapping[str, Any]


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, (tuple, list)) else result


def _pick(given: Given, *names: str, default: Any = None) -> Any:
    """The first of the names that was given and is not None."""
    for n in names:
        if given.get(n) is not None:
            return given[n]
    return default


def _qkv(given: Given) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = _pick(given, "q", "query"), _pick(given, "k", "key"), _pick(given, "v", "value")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"its {name} is not to be found among its arguments ({', '.join(given)})")
    return q, k, v


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """[..., tokens, heads, head_dim] as [batch, heads, tokens, head_dim]."""
    return _four_d(x.transpose(-3, -2))


def _four_d(x: torch.Tensor) -> torch.Tensor:
    """[..., heads, tokens, head_dim] as [batch, heads, tokens, head_dim]."""
    if x.dim() < 3:
        raise ValueError(f"a tensor of it has {x.dim()} dimensions")
    return x[None] if x.dim() == 3 else x.flatten(0, -4) if x.dim() > 4 else x


def _float(x: Any) -> Optional[float]:
    return None if x is None else float(x)


def _capability(x: torch.Tensor) -> Optional[Tuple[int, int]]:
    return torch.cuda.get_device_capability(x.device) if x.is_cuda else None


# Adapters: (name of the function, its arguments) to the calls that it stands for.


def _sdpa(name: str, given: Given) -> List[Call]:
    """scaled_dot_product_attention's arguments, and those of what callers put in its place."""
    if given.get("tensor_layout") is not None or "sm_scale" in given:
        return _sage(name, given)
    q, k, v = _qkv(given)
    dropout = (given.get("dropout_p") or 0.0) > 0.0
    return [
        Call(
            _four_d(q), _four_d(k), _four_d(v), None, bool(_pick(given, "is_causal", "causal", default=False)), _float(given.get("scale")),
            _pick(given, "attn_mask", "mask"), kernel=Kernel("fa2") if q.is_cuda and q.dtype != torch.float32 else None,
            output=None if dropout else lambda result: _four_d(_first(result)), note="the output has dropout" if dropout else "",
        )
    ]


def _sage_kernel(name: str, given: Given, q: torch.Tensor) -> Optional[Kernel]:
    """What SageAttention's function of this name runs."""
    capability = _capability(q)
    if name == "sageattn":
        return sageattn(capability) if capability else None
    preset = {
        "sageattn_qk_int8_pv_fp8_cuda_sm90": "sage2-8b-sm90",
        "sageattn_qk_int8_pv_fp8_cuda": "sage2-8b-sm89",
        "sageattn_qk_int8_pv_fp16_cuda": "sage-fp16-cuda",
        "sageattn_qk_int8_pv_fp16_triton": "sage-fp16-triton",
        "sageattn_varlen": "sage-fp16-triton-varlen",
    }.get(name)
    if preset is None:
        return None
    granularity, smooth = given.get("qk_quant_gran"), [x for x in "kv" if given.get(f"smooth_{x}")]
    return sage_function(
        preset,
        capability,
        qk_granularity=granularity.replace("_", "-") if granularity else None,
        smooth=None if "smooth_k" not in given else ",".join(smooth) or "none",
        pv_accum=given.get("pv_accum_dtype"),
    )


def _sage(name: str, given: Given) -> List[Call]:
    """SageAttention: sageattn and the functions that it chooses from."""
    q, k, v = _qkv(given)
    order = _heads_first if str(given.get("tensor_layout") or "HND").upper() == "NHD" else _four_d
    return [
        Call(
            order(q), order(k), order(v), None, bool(given.get("is_causal")), _float(given.get("sm_scale")), given.get("attn_mask"),
            kernel=_sage_kernel(name, given, q), output=lambda result: order(_first(result)),
        )
    ]


def _flash(name: str, given: Given) -> List[Call]:
    """FlashAttention's functions of padded tensors, [batch, tokens, heads, head_dim]."""
    if (qkv := given.get("qkv")) is not None:
        q, k, v = qkv.unbind(-3)
    elif (kv := given.get("kv")) is not None:
        q, (k, v) = given["q"], kv.unbind(-3)
    else:
        q, k, v = _qkv(given)
    what = _flash_traits(given)
    fp8 = "float8" in str(q.dtype)
    window, softcap = _flash_bounds(given)
    family = "fa3-fp8" if fp8 else "fa3" if "fa3" in name else "fa2"
    extra = {r: given[r] for r in ("q_descale", "k_descale", "v_descale") if isinstance(given.get(r), torch.Tensor)}
    return [
        Call(
            _heads_first(q), _heads_first(k), _heads_first(v), None, bool(given.get("causal")), _float(_pick(given, "softmax_scale")),
            bottom_right=True, window=window, softcap=softcap, kernel=Kernel(family), extra=extra, output=None if what else lambda r: _heads_first(_first(r)), note=what,
        )
    ]


def _flash_traits(given: Given) -> str:
    """What of a call no dump says; an error for what changes the attention itself."""
    x = given.get("alibi_slopes")
    if isinstance(x, torch.Tensor) or x:
        raise ValueError("it has alibi_slopes, which a dump cannot say")
    return "the output has dropout" if (given.get("dropout_p") or 0.0) > 0 else ""


def _flash_bounds(given: Given) -> Tuple[Optional[Tuple[int, int]], float]:
    """The window of a call, None for none, and its soft cap."""
    window = given.get("window_size")
    sides = tuple(-1 if w is None else int(w) for w in (window if isinstance(window, (tuple, list)) else (window, window)))
    return ((sides[0], sides[1]) if max(sides) >= 0 else None), float(given.get("softcap") or 0.0)


def _varlen(name: str, given: Given) -> List[Call]:
    """Functions of packed sequences, [total tokens, heads, head_dim]: a call for each sequence."""
    q, k, v = _qkv(given)
    sage = name.startswith("sage")
    what = "" if sage else _flash_traits(given)
    window, softcap = (None, 0.0) if sage else _flash_bounds(given)
    lo_q, lo_k = (_pick(given, f"cu_seqlens_{x}").tolist() for x in "qk")
    n = len(lo_q) - 1
    if sage and n > 1 and given.get("smooth_k", True):
        what = "K's mean is over all sequences"
    kernel = _sage_kernel(name, given, q) if sage else Kernel("fa3" if "fa3" in name else "fa2")
    calls = []

    def rows_of(lo: int, hi: int) -> Callable[[Any], Optional[torch.Tensor]]:
        return lambda result: _heads_first(_first(result)[lo:hi])

    for i in range(n):
        rows, keys = slice(lo_q[i], lo_q[i + 1]), slice(lo_k[i], lo_k[i + 1])
        if lo_q[i] == lo_q[i + 1] or lo_k[i] == lo_k[i + 1]:
            continue  # an empty sequence
        calls.append(
            Call(
                _heads_first(q[rows]), _heads_first(k[keys]), _heads_first(v[keys]), None, bool(_pick(given, "causal", "is_causal")),
                _float(_pick(given, "softmax_scale", "sm_scale")), bottom_right=not sage, window=window, softcap=softcap, kernel=kernel, suffix=f"seq{i}" if n > 1 else "",
                output=None if what else rows_of(lo_q[i], lo_q[i + 1]), note=what,
            )
        )
    return calls


def _xformers(name: str, given: Given) -> List[Call]:
    """The memory_efficient_attention of xformers, [batch, tokens, heads, head_dim] or without heads."""
    q, k, v = _qkv(given)
    if q.dim() == 5:
        raise ValueError("its five dimensions (groups of heads) are not read")
    order = _heads_first if q.dim() == 4 else lambda x: x[:, None]
    bias, causal, mask = given.get("attn_bias"), False, None
    if isinstance(bias, torch.Tensor):
        mask = bias if bias.dim() == 4 else bias[:, None]
    elif bias is not None:
        if type(bias).__name__ not in ("LowerTriangularMask", "LowerTriangularFromBottomRightMask"):
            raise ValueError(f"its bias is a {type(bias).__name__}, which a dump cannot say")
        causal = True
    dropout = (given.get("p") or 0.0) > 0
    return [
        Call(
            order(q), order(k), order(v), None, causal, _float(given.get("scale")), mask,
            bottom_right=type(bias).__name__ == "LowerTriangularFromBottomRightMask", kernel=Kernel("sdpa-efficient"),
            output=None if dropout else lambda r: order(r), note="the output has dropout" if dropout else "",
        )
    ]


def _diffusers(name: str, given: Given) -> List[Call]:
    """The dispatch of diffusers, [batch, tokens, heads, head_dim]."""
    q, k, v = _qkv(given)
    dropout = (given.get("dropout_p") or 0.0) > 0
    return [
        Call(
            _heads_first(q), _heads_first(k), _heads_first(v), None, bool(given.get("is_causal")), _float(given.get("scale")),
            given.get("attn_mask"), output=None if dropout else lambda r: _heads_first(_first(r)), note="the output has dropout" if dropout else "",
        )
    ]


def _transformers(name: str, given: Given) -> List[Call]:
    """The attention interface of transformers: tensors [batch, heads, tokens, head_dim], the result
    [batch, tokens, heads, head_dim]."""
    q, k, v = _qkv(given)
    if given.get("softcap"):
        raise ValueError("it has softcap, which a dump cannot say")
    mask = given.get("attention_mask")
    causal = given.get("is_causal")
    if causal is None:
        causal = getattr(given.get("module"), "is_causal", True)
    # Without a mask, models rely on the flag; with one, it says all. A single query sees all.
    causal = bool(causal) and mask is None and q.size(-2) > 1 and name != "eager_attention_forward"
    if isinstance(mask, torch.Tensor) and mask.dim() == 4:
        mask = mask[..., : k.size(-2)]
    dropout = (given.get("dropout") or 0.0) > 0
    return [
        Call(
            q, k, v, None, causal, _float(given.get("scaling")), mask,
            output=None if dropout else lambda r: _heads_first(_first(r)), note="the output has dropout" if dropout else "",
        )
    ]


@dataclass(frozen=True)
class Function:
    """A function to watch.

    Attributes:
        modules: the modules that have it, whichever is loaded.
        name: its name there.
        adapter: what reads its arguments.
        parameters: the names of its positional ones, where Python cannot read them.
        outer: it calls another function of this list, if it knows one; that one counts then.
    """

    modules: Tuple[str, ...]
    name: str
    adapter: Callable[[str, Given], List[Call]]
    parameters: Tuple[str, ...] = ()
    outer: bool = False

    def __str__(self) -> str:
        return f"{self.modules[0]}.{self.name}"


_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

FUNCTIONS: Tuple[Function, ...] = (
    Function(("torch.nn.functional",), "scaled_dot_product_attention", _sdpa, _SDPA),
    *(
        Function(("sageattention", "sageattention.core"), n, _sage, ("q", "k", "v", "tensor_layout", "is_causal", "sm_scale"))
        for n in (
            "sageattn",
            "sageattn_qk_int8_pv_fp16_triton",
            "sageattn_qk_int8_pv_fp16_cuda",
            "sageattn_qk_int8_pv_fp8_cuda",
            "sageattn_qk_int8_pv_fp8_cuda_sm90",
        )
    ),
    Function(("sageattention", "sageattention.core"), "sageattn_varlen", _varlen),
    Function(("sageattn3", "sageattn3.api"), "sageattn3_blackwell", _sage, ("q", "k", "v", "attn_mask", "is_causal")),
    *(
        Function((m, f"{m}.flash_attn_interface") if m == "flash_attn" else (m,), n, a)
        for m in ("flash_attn", "flash_attn_interface", "flash_attn_3.flash_attn_interface")
        for n, a in (
            ("flash_attn_func", _flash),
            ("flash_attn_qkvpacked_func", _flash),
            ("flash_attn_kvpacked_func", _flash),
            ("flash_attn_varlen_func", _varlen),
        )
    ),
    Function(("xformers.ops", "xformers.ops.fmha"), "memory_efficient_attention", _xformers),
    Function(("diffusers.models.attention_dispatch",), "dispatch_attention_fn", _diffusers, outer=True),
)


def read(function: Function, original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> List[Call]:
    """The calls that a function's arguments stand for.

    Raises:
        ValueError: they are something that cannot be said of one.
    """
    given: Dict[str, Any] = {}
    names: Sequence[str] = function.parameters
    try:
        parameters = inspect.signature(original).parameters
        if any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters.values()):
            names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            # A default is as good as an argument: SageAttention's say which accumulator runs.
            given = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    except (TypeError, ValueError):
        pass
    for n, x in zip(names, args):
        given[n] = x
    given.update(kwargs)
    # FlashAttention-3 has FlashAttention-2's names in a module of its own.
    name = function.name + ("_fa3" if "flash_attn_interface" in function.modules[0] else "")
    return function.adapter(name, given)


def transformers_functions() -> Iterator[Tuple[Any, str, Function]]:
    """The attention interface of transformers and the models' own eager functions: what holds each
    (a dict or a module), by which name, and how it is read."""
    utils = sys.modules.get("transformers.modeling_utils")
    registry = getattr(utils, "ALL_ATTENTION_FUNCTIONS", None)
    mapping = getattr(registry, "_global_mapping", None)
    if isinstance(mapping, dict):
        for key in mapping:
            if key not in ("flex_attention",) and not key.startswith("paged"):
                yield mapping, key, Function(("transformers",), key, _transformers, _TRANSFORMERS, outer=True)
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and "eager_attention_forward" in getattr(module, "__dict__", {}):
            yield module, "eager_attention_forward", Function((name,), "eager_attention_forward", _transformers, _TRANSFORMERS, outer=True)


_TRANSFORMERS = ("module", "query", "key", "value", "attention_mask")


def of_user(name: str, adapter: Optional[Adapter]) -> Tuple[Function, Optional[Adapter]]:
    """A user's function: with an adapter that is run after it, or read as scaled_dot_product_attention."""
    return Function(("",), name, _sdpa, _SDPA), adapter


def replaced(call: Call, **changes: Any) -> Call:
    """A copy with other fields."""
    return replace(call, **changes)
