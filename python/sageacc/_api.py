"""Emulation, reference and comparison of one call of attention."""

from __future__ import annotations

import html
import json
import math
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from . import _safetensors
from ._arrays import Array, Like, dtype_name, is_torch, raw_of
from ._kernel import Kernel, KernelLike, resolve
from ._memory import Workspace, load
from ._safetensors import Raw

__all__ = ["Comparison", "Difference", "Figures", "HeadFigures", "Inputs", "compare", "emulate", "reference"]

LAYER = "call"


class Inputs:
    """One call's arguments, checked and as bytes.

    Args:
        q: [batch, heads, queries, head_dim] ("hnd") or [batch, queries, heads, head_dim]
            ("nhd"): float16, bfloat16, float32, float8_e4m3fn or float8_e5m2.
        k, v: as q, with as many or fewer heads (which divide q's) and any number of keys.
        causal: whether key j is hidden from query i; which j depends on the kernel, for most
            of them j > i.
        sm_scale: the factor of the scores, 1/sqrt(head_dim) if it is None.
        layout: "hnd" or "nhd", of all tensors.
        mask: None, or what broadcasts to [batch, heads, queries, keys]: boolean, True where a
            key is seen, or numbers that are added to the scaled scores. One that hides nothing,
            or what causal=True hides, needs no kernel that takes masks.
        extra: further tensors of the layer by their role, as in {"q_descale": x}.
    """

    def __init__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        causal: bool = False,
        sm_scale: Optional[float] = None,
        layout: str = "hnd",
        mask: Optional[Array] = None,
        extra: Optional[Mapping[str, Array]] = None,
        name: str = LAYER,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> None:
        layout = layout.lower()
        if layout not in ("hnd", "nhd"):
            raise ValueError(f"layout is {layout!r}: want 'hnd' or 'nhd'")
        self.q, self.k, self.v, self.layout, self.name = q, k, v, layout, name
        self.tensors: Dict[str, Raw] = {}
        for role, x in (("q", q), ("k", k), ("v", v)):
            self._put(role, x)
            if x.ndim != 4:
                order = "[batch, heads, tokens, head_dim]" if layout == "hnd" else "[batch, tokens, heads, head_dim]"
                raise ValueError(f"{role} has shape {list(x.shape)}: want {order}")
        if mask is not None:
            causal, mask = self._reduce(mask, causal)
            if mask is not None:
                self._put("mask", mask)
        for role, x in (extra or {}).items():
            self._put(role, x)
        self.metadata = {"layout": layout.upper(), "causal": "true" if causal else "false", **(metadata or {})}
        if sm_scale is not None:
            if not (sm_scale > 0 and math.isfinite(sm_scale)):
                raise ValueError(f"sm_scale is {sm_scale}: want a positive, finite number")
            self.metadata["sm_scale"] = repr(float(sm_scale))

    def _put(self, role: str, x: Array) -> None:
        self.tensors[f"{self.name}.{role}"] = raw_of(x, role)

    def own(self) -> Inputs:
        """Copies the bytes, so that what happens to the arrays does not matter; returns itself."""
        self.tensors = {n: t._replace(data=t.data.copy()) for n, t in self.tensors.items()}
        return self

    @property
    def tokens(self) -> Tuple[int, int]:
        """Queries and keys."""
        axis = 2 if self.layout == "hnd" else 1
        return int(self.q.shape[axis]), int(self.k.shape[axis])

    def _reduce(self, mask: Array, causal: bool) -> Tuple[bool, Optional[Array]]:
        """The mask as causal=True or nothing, where it is that."""
        queries, keys = self.tokens
        m = mask.detach().float().cpu().numpy() if is_torch(mask) and dtype_name(mask) != "bool" else np.asarray(_cpu(mask))
        visible = m if m.dtype == np.bool_ else m == 0
        if visible.all():
            return causal, None
        hidden = ~visible if m.dtype == np.bool_ else m == -np.inf
        square = np.tri(queries, keys, dtype=bool)
        if visible.shape[-2:] == square.shape and (visible | hidden).all() and (visible == square).all():
            return True, None
        return causal, mask

    def carrier(self) -> List[str]:
        """Flags of a kernel that takes these inputs, where only the reference counts."""
        sets: Dict[str, str] = {}
        if f"{self.name}.mask" in self.tensors:
            sets.update({"mask.boolean": "value", "mask.additive": "scaled", "scores.sm_scale": "scores"})
        if "window" in self.metadata:
            sets["mask.window"] = "yes"
        if "softcap" in self.metadata:
            sets["scores.softcap"] = "tanh.approx"
        if "causal_align" in self.metadata:
            sets["mask.causal"] = self.metadata["causal_align"]
        if sets:
            sets = {"mask.tiles": "all", "scores.tail_tiles": "all", **sets}
        if self.tensors[f"{self.name}.q"].dtype.startswith("F8_"):
            sets.update({"operands.dtypes": "e4m3", "operands.output": "fp32"})
        if self.q.shape[-1] > 128:
            sets["operands.max_head_dim"] = "256"
        return ["--kernel", "sage2-8b-sm90", *(f for path, value in sets.items() for f in ("--set", f"{path}={value}"))]

    def add_output(self, o: Array) -> None:
        """Takes o, in q's layout, as what a kernel returned.

        Raises:
            ValueError: it has not q's shape.
        """
        if tuple(o.shape) != tuple(self.q.shape):
            raise ValueError(f"actual has shape {list(o.shape)}, and q {list(self.q.shape)}")
        self._put("o", o)

    def back(self) -> Like:
        """Makes arrays of q's kind and layout of results, which are in layout hnd."""
        return Like(self.q, (0, 2, 1, 3) if self.layout == "nhd" else None)


def _wide(x: Array) -> Any:
    return x.float() if is_torch(x) else np.asarray(x).astype(np.float32)


def _cpu(x: Array) -> Any:
    return x.detach().cpu().numpy() if is_torch(x) else x


def run_emulate(inputs: Sequence[Inputs], flags: Sequence[str]) -> Tuple[Dict[str, Raw], Dict[str, str]]:
    """What `sageacc emulate` writes for these layers, each in a file of its own."""
    with Workspace() as w:
        paths = [w.dump(x.tensors, x.metadata, f"{i}") for i, x in enumerate(inputs)]
        out = w.output()
        w.run(["emulate", *paths, *flags], stdout=out)
        return load(out)


def emulate(
    q: Array,
    k: Array,
    v: Array,
    *,
    kernel: KernelLike = "sage2-8b-sm90",
    causal: bool = False,
    sm_scale: Optional[float] = None,
    layout: str = "hnd",
    mask: Optional[Array] = None,
    return_lse: bool = False,
    extra: Optional[Mapping[str, Array]] = None,
) -> Any:
    """What the kernel returns for q, k and v, bit for bit, computed on the CPU.

    Args:
        q, k, v, causal, sm_scale, layout, mask, extra: as for Inputs.
        kernel: a name, a YAML file, or a Kernel.
        return_lse: return the log-sum-exp too.

    Returns:
        The output, of q's kind (NumPy's, or a tensor on q's device), layout and shape, in the
        format that the kernel returns; with return_lse also the natural log-sum-exp of the
        scaled scores, float32 [batch, heads, queries], as the released API returns it.

    Raises:
        SageaccError: the kernel is unknown or does not take such inputs.
    """
    x = Inputs(q, k, v, causal=causal, sm_scale=sm_scale, layout=layout, mask=mask, extra=extra)
    flags = resolve(kernel, q, k, v).flags()
    tensors, _ = run_emulate([x], [*flags, "--lse"] if return_lse else flags)
    back = x.back()
    o = back(tensors[LAYER + ".o"])
    return (o, back(tensors[LAYER + ".lse"])) if return_lse else o


def reference(
    q: Array,
    k: Array,
    v: Array,
    *,
    precision: str = "fp32",
    causal: bool = False,
    sm_scale: Optional[float] = None,
    layout: str = "hnd",
    mask: Optional[Array] = None,
    return_lse: bool = False,
    extra: Optional[Mapping[str, Array]] = None,
) -> Any:
    """Attention in full precision: the exact inputs, every operation rounded to FP32 or FP64.

    Args:
        q, k, v, causal, sm_scale, layout, mask, extra: as for Inputs.
        precision: "fp32" or "fp64".
        return_lse: return the natural log-sum-exp of the scaled scores too.

    Returns:
        The output, float32 or float64, of q's kind, layout and shape; with return_lse also
        [batch, heads, queries] of the same type.
    """
    if mask is not None and dtype_name(mask) not in ("bool", dtype_name(q)):
        # A kernel takes a mask of its inputs' type; widening changes no value.
        q, k, v, mask = (_wide(y) for y in (q, k, v, mask))
    x = Inputs(q, k, v, causal=causal, sm_scale=sm_scale, layout=layout, mask=mask, extra=extra)
    tensors, _ = run_emulate([x], [*x.carrier(), "--reference", precision, *(["--lse"] if return_lse else [])])
    back = x.back()
    o = back(tensors[LAYER + ".reference"])
    return (o, back(tensors[LAYER + ".reference_lse"])) if return_lse else o


class Figures(NamedTuple):
    """How far an output is from another: cosine similarity, relative L1 (the sum of absolute
    differences over that of the other's absolute values), root mean square and largest
    absolute difference."""

    cos_sim: float
    rel_l1: float
    rmse: float
    max_abs: float


class Difference(NamedTuple):
    """How two outputs differ in bits: how many elements do of how many (any NaN equals any
    other, +0 and -0 differ), how many representable numbers lie between at the most, and
    where the first is: batch, head, token, channel."""

    elements: int
    mismatched: int
    max_ulp: int
    first: Optional[Tuple[int, int, int, int]]


class HeadFigures(NamedTuple):
    """The comparisons of one head; those with an actual output are None without one."""

    batch: int
    head: int
    emulated_vs_reference: Figures
    actual_vs_reference: Optional[Figures]
    actual_vs_emulated: Optional[Figures]
    difference: Optional[Difference]


def _figures(x: Optional[Mapping[str, Any]]) -> Optional[Figures]:
    return None if x is None else Figures(*(float(x[f]) for f in Figures._fields))


def _difference(x: Optional[Mapping[str, Any]]) -> Optional[Difference]:
    if x is None:
        return None
    m = x["first_mismatch"]
    first = (m["batch"], m["head"], m["token"], m["channel"]) if m else None
    return Difference(x["elements"], x["mismatched"], x["max_ulp"], first)


def figures_of(layer: Mapping[str, Any]) -> Tuple[Optional[Figures], Optional[Figures], Optional[Difference]]:
    """Actual against reference, emulated against reference, and actual against emulated in bits,
    of a layer of a result."""
    return (
        _figures(layer.get("actual_vs_reference")),
        _figures(layer.get("emulated_vs_reference")),
        _difference(layer.get("actual_vs_emulated")),
    )


class Comparison:
    """The result of `compare`: what the kernel costs, what the actual output costs, and
    whether the two are the same. It prints as the command line's table.

    Attributes:
        kernel: what was emulated.
        emulated: the emulated output, as `emulate` returns it.
        reference: full precision, as `reference` returns it.
        emulated_vs_reference, actual_vs_reference, actual_vs_emulated: Figures; the latter two
            None without an actual output.
        difference: Difference of actual and emulated output, or None without an actual one.
        heads: HeadFigures of every head, batch by batch.
        warnings: what else is odd, in words: saturation, NaN, zeros.
        result: all of it as the command line's JSON (`sageacc compare --format json`).
    """

    def __init__(self, inputs: Inputs, kernel: Kernel, precision: str, tensors: Mapping[str, Raw], result: Dict[str, Any]) -> None:
        self.kernel = kernel
        self.result = result
        self._inputs, self._precision = inputs, precision
        back = inputs.back()
        self.emulated = back(tensors[f"{inputs.name}.o"])
        self.reference = back(tensors[f"{inputs.name}.reference"])
        layer = result["layers"][0]
        self.emulated_vs_reference = Figures(*(float(layer["emulated_vs_reference"][f]) for f in Figures._fields))
        self.actual_vs_reference = _figures(layer.get("actual_vs_reference"))
        self.actual_vs_emulated = _figures(layer.get("actual_vs_emulated"))
        self.difference = _difference(layer.get("actual_vs_emulated"))
        self.warnings: List[str] = list(layer.get("warnings", ()))
        self.heads = [
            HeadFigures(
                h["batch"],
                h["head"],
                Figures(*(float(h["emulated_vs_reference"][f]) for f in Figures._fields)),
                _figures(h.get("actual_vs_reference")),
                _figures(h.get("actual_vs_emulated")),
                _difference(h.get("actual_vs_emulated")),
            )
            for h in layer["heads"]
        ]

    @property
    def exact(self) -> bool:
        """Whether there is an actual output and every bit of it is the emulated one's."""
        return self.difference is not None and self.difference.mismatched == 0

    def _run(self, command: str, *flags: str) -> bytes:
        """What a command says of this call."""
        with Workspace() as w:
            path = w.dump(self._inputs.tensors, self._inputs.metadata, self._inputs.name)
            return w.run([command, path, *self.kernel.flags(), *flags])

    def _compare(self, *flags: str) -> bytes:
        return self._run("compare", "--reference", self._precision, *flags)

    def explain(self, changes: int = 2) -> str:
        """Where the actual output differs, and which numerics give it: what `sageacc compare
        --explain` says, one finding a line; nothing where the outputs are the same.

        Args:
            changes: how many changes of the kernel are combined, 1 to 3; 3 takes minutes.

        Raises:
            ValueError: there is no actual output.
        """
        if self.difference is None:
            raise ValueError("there is no actual output to explain: pass actual= to compare")
        text = self._compare("--explain", "--explain-changes", str(changes)).decode()
        return "\n".join(
            line[len(self._inputs.name) + 2 :] for line in text.splitlines() if line.startswith(f"{self._inputs.name}: ")
        )

    def attribute(self) -> str:
        """How much of the error each step of the kernel causes, as a table: each step alone
        with all others exact, and the kernel with that step exact."""
        text = self._compare("--attribute").decode()
        return text[text.index("What causes the error") :]

    def attribution(self) -> Dict[str, Any]:
        """The figures of `attribute`, as the command line's JSON has them."""
        result = json.loads(self._compare("--attribute", "--format", "json"))
        found: Dict[str, Any] = result["layers"][0]["attribution"]
        return found

    def trace(self, head: int, row: int, batch: int = 0, *flags: str) -> str:
        """One row of queries through the emulated kernel, tile by tile, beside the actual
        output (`sageacc trace`, whose flags, as in "--tile=1", may follow)."""
        return self._run("trace", f"--batch={batch}", f"--head={head}", f"--row={row}", *flags).decode()

    def to_json(self, *, explain: bool = False, attribute: bool = False) -> str:
        """The result as `sageacc compare --per-head --format json` gives it, to be kept or
        compared with another by `sageacc diff`."""
        flags = ["--per-head", "--format", "json", *(["--explain"] if explain else []), *(["--attribute"] if attribute else [])]
        return self._compare(*flags).decode()

    def to_html(self, path: Optional[Union[str, "os.PathLike[str]"]] = None, *, explain: bool = False, attribute: bool = False) -> str:
        """One page with charts (`sageacc report`), which is also written to path if there is one."""
        text = self.to_json(explain=explain and self.difference is not None, attribute=attribute)
        with Workspace() as w:
            result, page = w.folder() / "result.json", w.folder() / "report.html"
            result.write_text(text, encoding="utf-8")
            w.run(["report", str(result), "-o", str(page)])
            out = page.read_text(encoding="utf-8")
        if path is not None:
            Path(path).write_text(out, encoding="utf-8")
        return out

    def save_dump(self, path: Union[str, "os.PathLike[str]"], name: Optional[str] = None) -> None:
        """Writes the call as a dump that every command reads (`sageacc compare`, `trace`, ...),
        as a layer of that name."""
        own = f"{self._inputs.name}."
        tensors = {f"{name}.{n[len(own):]}" if name else n: t for n, t in self._inputs.tensors.items()}
        with Path(path).open("wb") as f:
            _safetensors.write(f, tensors, self._inputs.metadata)

    def verdict(self) -> str:
        """One line: whether the actual output is the emulated one, or else where and how far
        it is from it."""
        if self.difference is None:
            f = self.emulated_vs_reference
            return f"{self.kernel}: cos_sim {f.cos_sim:.6f}, rel_l1 {f.rel_l1:.5f} against {self._precision}"
        d = self.difference
        if self.exact:
            return f"every bit of {d.elements} elements is that of {self.kernel}"
        where = "" if d.first is None else "; first at batch {}, head {}, token {}, channel {}".format(*d.first)
        return f"{d.mismatched} of {d.elements} elements differ from {self.kernel}, up to {d.max_ulp} ulp{where}"

    def __str__(self) -> str:
        return self._compare().decode().rstrip("\n")

    def __repr__(self) -> str:
        return f"<sageacc.Comparison: {self.verdict()}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict and a table, heads included."""
        rows = [("all", "", self.emulated_vs_reference, self.actual_vs_reference, self.difference)]
        rows += [(str(h.batch), str(h.head), h.emulated_vs_reference, h.actual_vs_reference, h.difference) for h in self.heads]
        head = ["batch", "head", "emulated cos_sim", "rel_l1"]
        if self.difference is not None:
            head += ["actual cos_sim", "rel_l1", "differing", "max ulp"]
        cells = []
        for batch, h, emulated, actual, d in rows:
            row = [batch, h, f"{emulated.cos_sim:.6f}", f"{emulated.rel_l1:.5f}"]
            if actual is not None and d is not None:
                row += [f"{actual.cos_sim:.6f}", f"{actual.rel_l1:.5f}", f"{d.mismatched} of {d.elements}", str(d.max_ulp)]
            cells.append("".join(f"<td>{html.escape(c)}</td>" for c in row))
        colour = "inherit" if self.difference is None else "#1a7f37" if self.exact else "#cf222e"
        notes = "".join(f"<li>{html.escape(w)}</li>" for w in self.warnings)
        return (
            f'<p style="color:{colour}"><b>{html.escape(self.verdict())}</b></p><table><thead><tr>'
            + "".join(f"<th>{c}</th>" for c in head)
            + "</tr></thead><tbody>"
            + "".join(f"<tr>{c}</tr>" for c in cells)
            + f"</tbody></table>{'<ul>' + notes + '</ul>' if notes else ''}"
        )


def compare(
    q: Array,
    k: Array,
    v: Array,
    *,
    actual: Optional[Array] = None,
    kernel: KernelLike = "sage2-8b-sm90",
    precision: str = "fp32",
    causal: bool = False,
    sm_scale: Optional[float] = None,
    layout: str = "hnd",
    mask: Optional[Array] = None,
    extra: Optional[Mapping[str, Array]] = None,
    name: str = LAYER,
) -> Comparison:
    """Compares the emulated kernel, full precision and, if there is one, an actual output.

    Args:
        q, k, v, causal, sm_scale, layout, mask, extra: as for Inputs.
        actual: what a kernel returned for them, of q's shape and layout.
        kernel: the kernel that it should be: a name, a YAML file, or a Kernel.
        precision: of the reference, "fp32" or "fp64".
        name: what the call is called in tables.
    """
    x = Inputs(q, k, v, causal=causal, sm_scale=sm_scale, layout=layout, mask=mask, extra=extra, name=name)
    if actual is not None:
        x.add_output(actual)
    return compare_inputs(x, resolve(kernel, q, k, v), precision)


def compare_inputs(x: Inputs, kernel: Kernel, precision: str = "fp32") -> Comparison:
    """compare, of a call whose bytes are at hand."""
    tensors, metadata = run_emulate([x], [*kernel.flags(), "--reference", precision])
    return Comparison(x, kernel, precision, tensors, json.loads(metadata["result"]))
