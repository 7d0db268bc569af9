"""sageacc doctor: is everything here what it should be?"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import _safetensors
from ._api import Comparison, Inputs, compare_inputs
from ._binary import SageaccError, binary, run_command
from ._cases import cases
from ._kernel import Kernel, sage_function, sageattn
from ._safetensors import Raw

__all__ = ["Finding", "doctor", "main"]


@dataclass
class Finding:
    """What was found of one program.

    Attributes:
        name: what was looked at, as in "sageattention 2.2.0: sageattn".
        ok: True if it computes a kernel that is known, bit for bit; False if it should and does
            not; None if it could not be checked.
        text: what it is, or why it was not checked.
    """

    name: str
    ok: Optional[bool]
    text: str

    def __str__(self) -> str:
        return f"{ {True: 'ok  ', False: 'FAIL', None: '-   '}[self.ok] }  {self.name}: {self.text}"


@dataclass
class Subject:
    """A function of an installed package.

    Attributes:
        call: call(q, k, v, causal) on tensors [batch, heads, tokens, head_dim] of a GPU.
        kernels: what it may be, the likeliest first.
        expected: whether it must be one of them.
    """

    name: str
    call: Callable[[Any, Any, Any, bool], Any]
    kernels: List[Kernel] = field(default_factory=list)
    expected: bool = True


def doctor(quick: bool = False) -> List[Finding]:
    """Checks the emulator against recorded outputs of a GPU, and then, on this machine's GPU,
    the attention functions that are installed against the emulator.

    Args:
        quick: one case instead of several for each function.
    """
    found = [_program()]
    if found[0].ok:
        found += _golden()
    return found + _gpu(quick)


def _program() -> Finding:
    try:
        version = run_command(["version"]).stdout.decode().strip()
    except SageaccError as e:
        return Finding("program", False, str(e))
    return Finding("program", True, f"{version}, {binary()}; Python {platform.python_version()} on {platform.platform()}")


def _golden() -> List[Finding]:
    """The emulator against what an H200 returned."""
    data = np.fromfile(Path(__file__).with_name("golden.safetensors"), np.uint8)
    tensors, meta = _safetensors.read(data)
    out = []
    for name, want in tensors.items():
        file, _, role = name.partition(":")
        if "/" not in role:
            continue
        _, mask, kernel, granularity, accum = role.split("/")
        k = Kernel(kernel, arch="sm_90", qk_granularity=granularity, pv_accum=accum)
        c = compare_inputs(_inputs({r: tensors[f"{file}:{r}"] for r in "qkv"}, want, mask == "causal"), k)
        text = f"every bit of {c.difference.elements}" if c.exact and c.difference else c.verdict()
        out.append(Finding(f"emulator, {k}, {mask}", c.exact, f"{text} recorded on {meta['device']} ({meta['kernels']})"))
    return out


def _inputs(tensors: Dict[str, Raw], o: Raw, causal: bool) -> Inputs:
    arrays = {r: t.data.view(np.float16).reshape(t.shape) for r, t in {**tensors, "o": o}.items()}
    x = Inputs(arrays["q"], arrays["k"], arrays["v"], causal=causal)
    x.add_output(arrays["o"])
    return x


# Packages that hold attention functions, by the name that is imported.
PACKAGES = ("sageattention", "flash_attn", "flash_attn_interface", "xformers", "torch")


def _gpu(quick: bool) -> List[Finding]:
    installed = _installed()
    try:
        import torch

        available = torch.cuda.is_available()
    except ImportError:
        return [Finding("GPU", None, f"PyTorch is not installed; not checked: {', '.join(installed) or 'no attention package is installed'}")]
    if not available:
        return [Finding("GPU", None, f"PyTorch {torch.__version__} sees none; not checked: {', '.join(installed)}")]
    capability = torch.cuda.get_device_capability()
    found = [Finding("GPU", None, f"{torch.cuda.get_device_name()}, sm_{capability[0]}{capability[1]}, PyTorch {torch.__version__}")]
    known = _known()
    subjects, missing = _subjects(capability)
    found += missing
    return found + [_examine(s, known, quick) for s in subjects]


def _installed() -> List[str]:
    return [f"{name} {version}" for name in PACKAGES if (version := _version(name))]


def _version(package: str) -> str:
    """The version of what is installed, "" for what is not, though it may be on the path."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _known() -> List[str]:
    """The presets of the program at hand."""
    listed = json.loads(run_command(["kernels", "--format", "json"]).stdout)
    return [k["name"] for k in listed["kernels"]]


def _subjects(capability: Tuple[int, int]) -> Tuple[List[Subject], List[Finding]]:
    """The functions to look at, and those that cannot be."""
    import torch
    from torch.nn import functional

    out: List[Subject] = []
    missing: List[Finding] = []

    def load(module: str, what: Callable[[Any], None]) -> None:
        import importlib

        try:
            what(importlib.import_module(module))
        except ImportError as e:
            if (e.name or "").partition(".")[0] != module.partition(".")[0]:
                missing.append(Finding(module, None, f"does not load: {e}"))

    def sage(m: Any) -> None:
        version = _version("sageattention")
        out.append(
            Subject(f"sageattention {version}: sageattn", lambda q, k, v, c: m.sageattn(q, k, v, is_causal=c), [sageattn(capability)])
        )
        for name, preset, accums in (
            ("sageattn_qk_int8_pv_fp8_cuda_sm90", "sage2-8b-sm90", ("fp32+fp32",)),
            ("sageattn_qk_int8_pv_fp8_cuda", "sage2-8b-sm89", ("fp32", "fp32+fp32", "fp32+fp16")),
            ("sageattn_qk_int8_pv_fp16_cuda", "sage-fp16-cuda", ("fp32", "fp16", "fp16+fp32")),
        ):
            fn = getattr(m, name, None)
            if fn is None or (name.endswith("sm90") and capability != (9, 0)):
                continue
            for accum in accums:
                call = _sage_call(fn, pv_accum_dtype=accum)
                out.append(Subject(f"sageattention {version}: {name}, {accum}", call, [sage_function(preset, capability, pv_accum=accum)]))
        if (fn := getattr(m, "sageattn_qk_int8_pv_fp16_triton", None)) is not None:
            out.append(Subject(f"sageattention {version}: sageattn_qk_int8_pv_fp16_triton", _sage_call(fn), [sage_function("sage-fp16-triton", capability)]))

    def flash(kernel: str) -> Callable[[Any], None]:
        def add(m: Any) -> None:
            def call(q: Any, k: Any, v: Any, c: bool) -> Any:
                o = m.flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), causal=c)
                return (o[0] if isinstance(o, tuple) else o).transpose(1, 2)

            out.append(Subject(f"{m.__name__} {getattr(m, '__version__', '')}: flash_attn_func", call, [Kernel(kernel)]))

        return add

    load("sageattention", sage)
    load("flash_attn", flash("fa2"))
    load("flash_attn_interface", flash("fa3"))
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for backend, kernel in ((SDPBackend.FLASH_ATTENTION, "fa2"), (SDPBackend.EFFICIENT_ATTENTION, "sdpa-efficient")):

        def call(q: Any, k: Any, v: Any, c: bool, backend: Any = backend) -> Any:
            group = q.size(1) // k.size(1)
            if group > 1:
                k, v = (x.repeat_interleave(group, 1) for x in (k, v))
            with sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(q, k, v, is_causal=c)

        out.append(Subject(f"torch {torch.__version__}: {backend.name}", call, [Kernel(kernel)]))
    return out, missing


def _sage_call(fn: Callable[..., Any], **options: Any) -> Callable[[Any, Any, Any, bool], Any]:
    return lambda q, k, v, causal: fn(q, k, v, is_causal=causal, **options)


def _examine(s: Subject, known: Sequence[str], quick: bool) -> Finding:
    """Runs a function on a few inputs and holds its outputs to what it may be."""
    tried = [k for k in s.kernels if k.name in known or k.name.startswith("sageattn@")]
    shapes = ["1x2/1x333x333x64"] if quick else ["1x2/2x256x256x64", "1x2/1x333x333x64", "1x2/2x130x130x128"]
    chosen = cases(shapes, ("float16",) if quick else ("float16", "bfloat16"), ("full", "causal"), ("gauss", "outliers"))
    if not tried:
        return Finding(s.name, None, f"this version emulates none of {', '.join(map(str, s.kernels))}")
    best: Optional[Tuple[Kernel, int, int, Comparison]] = None
    outputs = []
    try:
        for case in chosen:
            q, k, v = case.inputs("torch", device="cuda")
            x = Inputs(q, k, v, causal=case.causal)
            x.add_output(s.call(q, k, v, case.causal))
            outputs.append(x)
    except Exception as e:
        return Finding(s.name, None, f"does not run here: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200])
    for kernel in tried:
        try:
            of = [compare_inputs(x, kernel) for x in outputs]
        except SageaccError as e:
            return Finding(s.name, None, f"{kernel}: {e}")
        differing = sum(c.difference.mismatched for c in of if c.difference)
        elements = sum(c.difference.elements for c in of if c.difference)
        if differing == 0:
            return Finding(s.name, True, f"it is {kernel}, bit for bit: {len(of)} cases, {elements} elements")
        if best is None or differing < best[1]:
            best = kernel, differing, elements, max(of, key=lambda c: c.difference.mismatched if c.difference else 0)
    assert best is not None
    kernel, differing, elements, worst = best
    return Finding(s.name, False if s.expected else None, f"it is not {kernel}: {differing} of {elements} elements differ; {worst.verdict()}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line: 0 if nothing is wrong, 1 if something is, 2 if the program does not run."""
    p = argparse.ArgumentParser(
        prog="sageacc doctor",
        description="Holds the emulator to recorded outputs of a GPU, and the attention functions that are installed here, on this GPU, to the emulator, bit for bit.",
        epilog="example: sageacc doctor --quick",
    )
    p.add_argument("--quick", action="store_true", help="one shape for each function")
    p.add_argument("--format", choices=("table", "json"), default="table", help="output format")
    args = p.parse_args(argv)
    found = doctor(args.quick)
    if args.format == "json":
        print(json.dumps({"schema": "sageacc/doctor/v1", "findings": [vars(f) for f in found]}, indent=2))
    else:
        print(*found, sep="\n")
    if found[0].ok is False:
        return 2
    return 1 if any(f.ok is False for f in found) else 0


if __name__ == "__main__":
    sys.exit(main())
