"""Calling an attention function without knowing what its parameters are called."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, Optional, Tuple

__all__ = ["Caller"]

# What the parameters are called in the field, most common first.
CAUSAL = ("is_causal", "causal")
SCALE = ("sm_scale", "softmax_scale", "scale", "scaling")
MASK = ("attn_mask", "attention_mask", "mask", "attn_bias")
LAYOUT = ("tensor_layout",)

# Functions without a signature that Python could read.
_KNOWN = {"scaled_dot_product_attention": ("is_causal", "scale", "attn_mask", "enable_gqa")}


class Caller:
    """Calls fn(q, k, v, ...) with whatever names fn has for the other arguments."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.name = getattr(fn, "__name__", type(fn).__name__)
        self._any = False
        try:
            parameters = inspect.signature(fn).parameters
            names: Tuple[str, ...] = tuple(parameters)
            self._any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        except (TypeError, ValueError):
            if self.name not in _KNOWN:
                raise TypeError(f"{self.name} has no signature to read: wrap it as lambda q, k, v, *, causal, sm_scale: ...") from None
            names = _KNOWN[self.name]
        self._names = names

    def _find(self, names: Tuple[str, ...]) -> Optional[str]:
        return next((n for n in names if n in self._names), None)

    @property
    def layout(self) -> str:
        """The layout of a function that takes one only: FlashAttention's is "nhd"."""
        return "nhd" if self.name.startswith(("flash_attn", "_flash_attn", "memory_efficient_attention")) else "hnd"

    def __call__(
        self, q: Any, k: Any, v: Any, *, causal: bool, sm_scale: Optional[float], layout: str, mask: Optional[Any], group: int
    ) -> Any:
        """The output, of those that return more the first.

        Raises:
            TypeError: fn has no parameter for what is asked of it.
        """
        kwargs: Dict[str, Any] = {}
        for names, value, wanted in ((CAUSAL, causal, causal), (SCALE, sm_scale, sm_scale is not None), (MASK, mask, mask is not None)):
            name = self._find(names)
            if name is not None and wanted:
                kwargs[name] = value
            elif wanted and self._any:
                kwargs[names[-1] if names is CAUSAL else names[0]] = value
            elif wanted:
                raise TypeError(f"{self.name} has no parameter called {' or '.join(names)}: wrap it in a function that has")
        if (name := self._find(LAYOUT)) is not None:
            kwargs[name] = layout.upper()
        if group > 1 and "enable_gqa" in self._names:
            kwargs["enable_gqa"] = True
        result = self.fn(q, k, v, **kwargs)
        return result[0] if isinstance(result, (tuple, list)) else result
