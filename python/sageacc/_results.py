"""Several results as one, in the command line's JSON form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Dict, List, Sequence

from ._memory import Workspace

__all__ = ["merged", "write_report"]

_FIELDS = ("cos_sim", "rel_l1", "rmse", "max_abs")


def merged(results: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """One result of the layers of all, which must be of one kernel and reference."""
    out = {k: v for k, v in results[0].items() if k not in ("args", "layers", "average", "worst")}
    layers = [layer for r in results for layer in r["layers"]]
    out["layers"] = layers
    for name, of in (("average", _average), ("worst", _worst)):
        rows: Dict[str, Any] = {}
        for row in ("emulated_vs_reference", "actual_vs_reference", "actual_vs_emulated"):
            values = [layer[row] for layer in layers if layer.get(row)]
            if values:
                rows[row] = {f: _json(of(f, [float(v[f]) for v in values])) for f in _FIELDS}
        out[name] = rows
    return out


def _average(field: str, values: List[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)


def _worst(field: str, values: List[float]) -> float:
    """NaN is worse than any number."""
    if any(v != v for v in values):
        return math.nan
    return min(values) if field == "cos_sim" else max(values)


def _json(x: float) -> Any:
    """Numbers that JSON has not, as the command line writes them."""
    return x if math.isfinite(x) else "NaN" if x != x else "+Inf" if x > 0 else "-Inf"


def write_report(result: Dict[str, Any], path: Path) -> None:
    """`sageacc report` of a result."""
    with Workspace() as w:
        file, page = w.folder() / "result.json", w.folder() / "report.html"
        file.write_text(json.dumps(result), encoding="utf-8")
        w.run(["report", str(file), "-o", str(page)])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
