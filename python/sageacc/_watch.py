"""Watching the attention functions that a model calls, without disturbing it."""

from __future__ import annotations

import functools
import sys
import threading
import types
import warnings
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional

from ._functions import FUNCTIONS, Adapter, Call, Function, of_user, read, transformers_functions

__all__ = ["CaptureWarning", "Event", "Watcher"]

UserFunctions = Collection[Union[Tuple[Any, str], Tuple[Any, str, Adapter]]]


_NONE = torch.empty(0)
_BY_NAME = {f.name: f for f in reversed(FUNCTIONS)}


class CaptureWarning(UserWarning):
    """Something was not captured, or not as it was; the text says what and why."""


class Stop(BaseException):
    """Ends the model's run on purpose. Not an Exception, so that no model's own handler takes it."""


class Event:
    """One call of attention that is being watched.

    Attributes:
        name: the layer's.
        step: which run of the model it belongs to, from 0.
        call: the Call.
        function: what was called, as in "sageattention.sageattn".
        state: what `before` returned.
    """

    def __init__(self, name: str, step: int, call: Call, function: str, text: str) -> None:
        self.name, self.step, self.call, self.function, self.text = name, step, call, function, text
        self.state: Any = None


class Watcher:
    """Wraps attention functions for the time of a `with` block, wherever loaded modules and the
    model hold them, and names the layers that call them.

    Subclasses say what is wanted of the calls: `wanted`, `before` and `after`. Whatever these
    raise becomes a warning: the model never sees it (but for Stop).
    """

    def __init__(self, model: Any = None, functions: UserFunctions = ()) -> None:
        self._models = _modules_of(model)
        self._user = list(functions)
        self._lock = threading.RLock()
        self._local = threading.local()
        self._open = False
        self._undo: List[Callable[[], None]] = []
        self._reset()

    def _reset(self) -> None:
        self._step = -1 if self._models else 0
        self._calls: Dict[str, int] = {}
        self._warned: set[str] = set()
        #: Layers that called something, and which functions were called how often.
        self.seen: Dict[str, int] = {}
        self.called: Dict[str, int] = {}
        self._watched: List[str] = []

    # For subclasses.

    def wanted(self, name: str, step: int) -> bool:
        """Whether a layer is of interest."""
        return True

    def before(self, event: Event) -> Any:
        """Looks at a call's inputs before it runs; what it returns is the event's state. None
        leaves the call alone."""
        return ()

    def after(self, event: Event, output: Optional[torch.Tensor]) -> None:
        """Looks at a call's output; None where it is not the kernel's."""

    # The block.

    def start(self) -> None:
        """Begins to watch."""
        if self._undo:
            raise RuntimeError(f"this {type(self).__name__} is in use")
        self._reset()
        self._open = True
        try:
            self._install()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Puts everything back."""
        self._open = False
        while self._undo:
            self._undo.pop()()

    def next_step(self) -> None:
        """Begins the next step; a model's runs do so by themselves."""
        with self._lock:
            self._step += 1
            self._calls.clear()

    # Wrapping.

    def _install(self) -> None:
        places: List[Tuple[Any, str, Function, Optional[Adapter]]] = []
        for f in FUNCTIONS:
            for m in f.modules:
                module = sys.modules.get(m)
                if module is not None and callable(module.__dict__.get(f.name)):
                    places.append((module, f.name, f, None))
                    if str(f) not in self._watched:
                        self._watched.append(str(f))
        places += [(holder, name, f, None) for holder, name, f in transformers_functions()]
        for u in self._user:
            f, adapter = of_user(u[1], u[2] if len(u) == 3 else None)
            places.append((u[0], u[1], f, adapter))
            self._watched.append(u[1])
        # One wrapper for each function, however many names it has.
        wrappers: Dict[int, Callable[..., Any]] = {}
        originals: Dict[int, Any] = {}
        for holder, name, f, adapter in places:
            original = holder[name] if isinstance(holder, dict) else getattr(holder, name)
            bound = isinstance(original, types.MethodType)
            key = id(original)
            if bound or key not in wrappers:
                # What stands in another function's place is read by its own name.
                f = _BY_NAME.get(getattr(original, "__name__", ""), f) if f.name == "scaled_dot_product_attention" else f
                wrapper = self._wrapper(f, original, adapter)
                if not bound:
                    wrappers[key], originals[key] = wrapper, original
            else:
                wrapper = wrappers[key]
            self._put(holder, name, original, wrapper)
        self._replace_copies(wrappers, originals)
        for prefix, model in self._models:
            self._hook(prefix, model)
        if hasattr(torch.backends, "mha") and torch.backends.mha.get_fastpath_enabled():
            # nn.MultiheadAttention's fast path calls nothing that could be watched.
            torch.backends.mha.set_fastpath_enabled(False)
            self._undo.append(lambda: torch.backends.mha.set_fastpath_enabled(True))

    def _put(self, holder: Any, name: str, original: Any, wrapper: Any) -> None:
        if isinstance(holder, dict):
            holder[name] = wrapper
            self._undo.append(lambda: holder.__setitem__(name, original))
            return
        own = name in vars(holder) if hasattr(holder, "__dict__") else True
        setattr(holder, name, wrapper)

        def undo() -> None:
            if own:
                setattr(holder, name, original)
            else:
                delattr(holder, name)

        self._undo.append(undo)

    def _replace_copies(self, wrappers: Dict[int, Callable[..., Any]], originals: Dict[int, Any]) -> None:
        """Where a module took a function by name (`from torch.nn.functional import ...`), or a
        model's module holds one as an attribute, it is wrapped there too."""
        holders: List[Any] = [m for m in list(sys.modules.values()) if isinstance(m, types.ModuleType)]
        for _, model in self._models:
            for module in model.modules():
                holders.append(module)
                holders += [x for x in vars(module).values() if hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType, torch.Tensor))]
        done = set()
        for holder in holders:
            if id(holder) in done:
                continue
            done.add(id(holder))
            space = getattr(holder, "__dict__", None)
            if not isinstance(space, dict) or getattr(holder, "__name__", "").startswith("sageacc"):
                continue
            for name, value in list(space.items()):
                if id(value) in wrappers and originals[id(value)] is value:
                    try:
                        self._put(holder, name, value, wrappers[id(value)])
                    except (AttributeError, TypeError):
                        continue  # a holder that lets nothing be set

    def _wrapper(self, f: Function, original: Callable[..., Any], adapter: Optional[Adapter]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # Blocks that end in another order than they began leave wrappers behind, which
            # then do nothing.
            if not self._open:
                return original(*args, **kwargs)
            local = self._local
            if getattr(local, "depth", 0) > 0:
                # A watched function that calls another one is one call; what it chose is of use.
                local.inner.append((f, original, args, kwargs))
                return original(*args, **kwargs)
            if f.outer:
                before = getattr(local, "count", 0)
                events: List[Event] = []
                result = original(*args, **kwargs)
                if getattr(local, "count", 0) == before:
                    events = self._begin(f, original, None, args, kwargs)
                    self._end(events, None, args, kwargs, result)
                return result
            local.count = getattr(local, "count", 0) + 1
            events = self._begin(f, original, adapter, args, kwargs)
            local.depth, local.inner = 1, []
            try:
                result = original(*args, **kwargs)
            finally:
                local.depth = 0
            self._end(events, adapter, args, kwargs, result)
            return result

        return wrapper

    def _guarded(self, name: str, do: Callable[[], Any]) -> Any:
        """What do returns, or None and a warning."""
        try:
            with torch.no_grad():
                return do()
        except ValueError as e:
            self.warn(name, f"layer {name} is not captured: {e}")
        except Exception as e:
            self.warn(name, f"layer {name} is not captured: {type(e).__name__}: {e}")
        return None

    def _begin(
        self, f: Function, original: Callable[..., Any], adapter: Optional[Adapter], args: Tuple[Any, ...], kwargs: Dict[str, Any]
    ) -> List[Event]:
        with self._lock:
            name = self._layer_name()
            self.seen[name] = self.seen.get(name, 0) + 1
            self.called[str(f)] = self.called.get(str(f), 0) + 1
            # A pipeline's other models may run before the first step.
            step = max(self._step, 0)
            if not self.wanted(name, step):
                return []
            text = f"{f.name}({_arguments(args, kwargs)})"
            if adapter is not None:
                # A user's adapter wants the result too.
                return [Event(name, step, Call(_NONE, _NONE, _NONE), f.name, text)]
            events = []
            for call in self._guarded(name, lambda: read(f, original, args, kwargs)) or ():
                event = Event(f"{name}.{call.suffix}" if call.suffix else name, step, call, str(f), text)
                event.state = self._guarded(event.name, lambda event=event: self.before(event))  # type: ignore[misc]
                if event.state is not None:
                    events.append(event)
            return events

    def _end(self, events: Sequence[Event], adapter: Optional[Adapter], args: Tuple[Any, ...], kwargs: Dict[str, Any], result: Any) -> None:
        if not events or not self._open:
            return
        with self._lock:
            if adapter is not None:
                event = events[0]
                call = self._guarded(event.name, lambda: adapter(args, kwargs, result))
                if call is None:
                    return
                event.call = call
                event.state = self._guarded(event.name, lambda: self.before(event))
                if event.state is not None:
                    self._guarded(event.name, lambda: self.after(event, call.o))
                return
            for event in events:
                self._specialise(event)
                self._guarded(event.name, lambda event=event: self.after(event, event.call.output(result) if event.call.output else None))  # type: ignore[misc]

    def _specialise(self, event: Event) -> None:
        """What sageattn chose is known once it has called it."""
        for f, original, args, kwargs in getattr(self._local, "inner", ()):
            if f.name.startswith("sageattn_"):
                try:
                    event.call.kernel = read(f, original, args, kwargs)[0].kernel
                    event.text += f" -> {f.name}"
                except (ValueError, IndexError):
                    continue

    # Names and steps.

    def _hook(self, prefix: str, model: torch.nn.Module) -> None:
        # Of a pipeline, the first model's runs are the steps.
        counts = prefix == self._models[0][0]
        for name, module in model.named_modules():
            full = ".".join(x for x in (prefix, name) if x)

            def enter(_m: torch.nn.Module, _args: Any, name: str = name, full: str = full) -> None:
                if not self._open:
                    return
                stack = self._stack()
                if not stack and name == "" and counts:
                    self.next_step()
                stack.append(full)

            def leave(_m: torch.nn.Module, _args: Any, _out: Any) -> None:
                stack = self._stack()
                if stack:
                    stack.pop()

            before = module.register_forward_pre_hook(enter)
            after = module.register_forward_hook(leave, always_call=True)
            self._undo += [before.remove, after.remove]

    def _stack(self) -> List[str]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: List[str] = self._local.stack
        return stack

    def _layer_name(self) -> str:
        """The name of the layer that is calling, unique within a step."""
        stack = self._stack()
        base = stack[-1] or "model" if stack else "attn"
        n = self._calls.get(base, 0)
        self._calls[base] = n + 1
        return f"{base}.{n}" if n > 0 or not stack else base

    # Warnings.

    def warn(self, key: str, text: str) -> None:
        """Warns once for each key."""
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(text, CaptureWarning, stacklevel=2)

    def nothing(self) -> str:
        """Why there may be nothing of interest: what was watched and what was seen."""
        if self.seen:
            names = list(self.seen)
            return f"layers that called attention: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        text = f"no watched function was called ({', '.join(self._watched)})"
        likely = [
            f"{p}.{n}".strip(".") for p, m in self._models for n, x in m.named_modules() if "attn" in n.lower() or "attention" in type(x).__name__.lower()
        ]
        if likely:
            text += f"; modules that look like attention: {', '.join(likely[:6])}{', ...' if len(likely) > 6 else ''}"
        if any(type(x).__name__ == "OptimizedModule" for _, m in self._models for x in m.modules()):
            text += "; the model is compiled (torch.compile): run it uncompiled"
        return text + "; name the function that computes it: functions=[(owner, name, adapter)]"


def _modules_of(model: Any) -> List[Tuple[str, torch.nn.Module]]:
    """A module, or those of a pipeline: the one that runs once a step first."""
    if model is None:
        return []
    if isinstance(model, torch.nn.Module):
        return [("", model)]
    components = getattr(model, "components", None)
    if isinstance(components, dict):
        found = [(n, m) for n, m in components.items() if isinstance(m, torch.nn.Module)]
        found.sort(key=lambda x: x[0] not in ("transformer", "unet"))
        if found:
            return found
    raise TypeError(f"model is a {type(model).__name__}: want a torch.nn.Module, or a pipeline with components")


def _arguments(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> str:
    """A call's plain arguments, as they were written."""
    words = [_word(x) for x in args] + [f"{n}={_word(x)}" for n, x in kwargs.items()]
    return ", ".join(words)[:300]


def _word(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return f"{str(x.dtype).rpartition('.')[2]}{list(x.shape)}"
    return repr(x) if isinstance(x, (int, float, str, bool, type(None))) else type(x).__name__
