"""Records what attention kernels return on this GPU, as a conformance set.

    python3 record.py OUT --seeds 101 102
    sageacc conform OUT --by-unit

Every kernel of table.py whose package is installed is called on generated inputs
(cases.py); the others are named with the reason. Each call is made twice, with other
bytes in freed memory: what differs between the two is marked unstable, and conform
leaves it out. OUT appears when everything is written, or not at all.

Needs NumPy, ml_dtypes and PyTorch; CuPy for inputs of fewer than 64 keys of
sage-fp16-cuda. The exit status is 1 if a call failed, 2 if nothing was recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import ml_dtypes
import numpy as np

from cases import FORMS, Inputs, draw
from gpu import POISONS, Gpu, Skip
from table import QUANTISED, TABLE, Fields, Row, available

DTYPES = {
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.int8): "I8",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
    np.dtype(np.bool_): "BOOL",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file. The package of that name takes BF16 and FP8 from NumPy in
    some of its versions only."""
    header: Dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, x in tensors.items():
        header[name] = {"dtype": DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            f.write(x.tobytes())


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two results are bit for bit the same, any NaN being any other."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if np.issubdtype(a.dtype, np.integer):
        return bool((a == b).all())
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32}[a.dtype.itemsize]
    return bool(((a.view(unsigned) == b.view(unsigned)) | (np.isnan(a) & np.isnan(b))).all())


def call_name(row: Row, f: Fields) -> str:
    """What tells a call from the others on its input. conform --by-unit leaves out what
    precedes the kernel's name."""
    first = ["causal" if f["causal"] else "full"]
    for key in ("causal_align", "window", "softcap", "num_splits"):
        if key in f:
            first.append(key.replace("_", "-") + "=" + ("_".join(map(str, f[key])) if key == "window" else str(f[key])))
    first += f.get("set", [])
    rest = ["" if f.get("smooth_k", True) else "no-smooth-k", f.get("mask", "").removeprefix("mask/"), f.get("block_map", "").removeprefix("map/")]
    return "/".join([",".join(first), row.name, *filter(None, rest)])


class Recording:
    """The file of one input, and its lines."""

    def __init__(self, x: Inputs, arch: str) -> None:
        self.input, self.arch = x, arch
        self.tensors = dict(x.tensors)
        self.lines: Dict[str, Dict[str, Any]] = {}

    def put(self, name: str, value: np.ndarray, line: Optional[Fields] = None) -> None:
        """Keeps a result, with the line that checks it; a second one only compares."""
        value = np.ascontiguousarray(value)
        if name not in self.tensors:
            self.tensors[name] = value
            if line is not None:
                self.lines[name] = {"file": self.input.name + ".safetensors", **line, "expect": name, "arch": self.arch}
        elif not same(self.tensors[name], value):
            for other in self.lines.values():
                if name in (other["expect"], other.get("lse")):
                    other["unstable"] = True

    def call(self, row: Row, f: Fields, result: Mapping[str, np.ndarray]) -> None:
        """Keeps what a call returned."""
        name = call_name(row, f)
        line = {"op": "attention", **f}
        lse = result.get("lse")
        if lse is not None and row.kernel.startswith("sage"):  # the API's, a case of its own
            self.put("lse/" + name, lse, line)
        elif lse is not None:
            line["lse"] = "lse/" + name
        self.put("o/" + name, result["o"], line)
        if "lse" in line:
            self.put("lse/" + name, result["lse"])
        if not self.input.codes:
            return
        for tensor in QUANTISED:
            if tensor in result:
                fields = row.fields({"smooth_k": f.get("smooth_k", True), "sm_scale": f["sm_scale"], "tensor": tensor})
                self.put(f"quant/{row.name}/{tensor}", result[tensor], {"op": "quantize", **fields})

    def means(self, row: Row, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps K's mean and the log-sum-exp's correction."""
        for name, x in arrays.items():
            self.put(name, x, {"op": "quantize", "kernel": row.kernel, "tensor": "k_mean"} if name == "quant/k_mean" else None)


class Recorder:
    """Records inputs with rows into a folder, and counts."""

    def __init__(self, gpu: Any, rows: Sequence[Row], folder: Path, calls: int = 0) -> None:
        self.gpu, self.rows, self.folder, self.calls = gpu, rows, folder, calls
        self.metadata = gpu.metadata()
        self.lines: List[Dict[str, Any]] = []
        self.bytes = 0
        self.skipped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def chosen(self, x: Inputs) -> List[Tuple[Row, Fields]]:
        """The calls that are made of an input: all, or so many of them."""
        every = [(row, row.fields(call)) for row in self.rows for call in row.calls(x)]
        if not self.calls or len(every) <= self.calls:
            return every
        g = np.random.default_rng((*x.seed, 1))
        return [every[i] for i in sorted(g.choice(len(every), self.calls, replace=False))]

    def record(self, x: Inputs) -> None:
        """Records an input, unless no row takes it."""
        rec = Recording(x, self.gpu.arch)
        broken = set()
        chosen = self.chosen(x)
        for byte in POISONS:
            for row, f in chosen:
                name = call_name(row, f)
                if name in broken:
                    continue
                try:
                    self.gpu.prepare(byte)
                    result = row.run(self.gpu, x, f)
                    self.gpu.finish()
                    if row.kernel.startswith(("sage", "sparge")) and x.form != "packed":
                        rec.means(row, self.gpu.means(x))
                except Skip as err:
                    self.skipped[f"{row.name}: {err}"] += 1
                    broken.add(name)
                except Exception as err:  # one kernel's fault is no reason to lose the others
                    self.failed[f"{row.name}: {type(err).__name__}: {' '.join(str(err).split())[:200]}"] += 1
                    broken.add(name)
                    self.gpu.finish()  # a fault that the device keeps ends the run here
                else:
                    rec.call(row, f, result)
        if not rec.lines:
            return
        path = self.folder / (x.name + ".safetensors")
        write_safetensors(path, rec.tensors, {**self.metadata, "case": x.kind})
        self.bytes += path.stat().st_size
        self.lines += rec.lines.values()

    def finish(self) -> None:
        """Writes the list of cases."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (self.folder / "cases.jsonl").write_text(text)

    def summary(self) -> str:
        """What was recorded, skipped and failed."""
        kinds = Counter((line["op"], line["kernel"]) for line in self.lines)
        out = [f"{n:6d} {op} {kernel}" for (op, kernel), n in sorted(kinds.items())]
        unstable = [line for line in self.lines if line.get("unstable")]
        out += [f"unstable: {line['file']} {line['expect']}" for line in unstable]
        out += [f"{n} calls skipped: {reason}" for reason, n in self.skipped.items()]
        out += [f"{n} calls failed: {reason}" for reason, n in self.failed.items()]
        return "\n".join([*out, f"{len(self.lines)} cases, {len(unstable)} unstable, {self.bytes / 2**20:.1f} MiB"])


def inputs(args: argparse.Namespace) -> Iterator[Inputs]:
    """The inputs of this run, or of its share of it."""
    share, shares = args.shard
    number = 0
    for seed in args.seeds:
        for i in range(args.inputs):
            for form in args.forms:
                if number % shares == share - 1:
                    yield draw(seed, form, i)
                number += 1


def shard(text: str) -> Tuple[int, int]:
    """I/N, of which I is 1 to N."""
    m = re.fullmatch(r"(\d+)/(\d+)", text)
    if not m or not 1 <= int(m[1]) <= int(m[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: want I/N with I from 1 to N")
    return int(m[1]), int(m[2])


def whole(text: str) -> int:
    """A number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number from 0 on")
    return int(text)


def pattern(text: str) -> "re.Pattern[str]":
    """A regular expression."""
    try:
        return re.compile(text)
    except re.error as err:
        raise argparse.ArgumentTypeError(f"{text!r}: {err}") from None


def arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Reads the command line."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], epilog="example: record.py recordings/field --seeds 101 102")
    p.add_argument("out", nargs="?", help="folder to make, which must not exist")
    p.add_argument("--seeds", type=whole, nargs="+", help="each gives other inputs")
    p.add_argument("--inputs", type=whole, default=20, help="how many of a form for each seed (default 20)")
    p.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="which forms of inputs (default all)")
    p.add_argument("--only", type=pattern, default=pattern(""), metavar="REGEX", help="only rows of the table whose name matches")
    p.add_argument("--calls", type=whole, default=0, metavar="N", help="so many calls of an input, drawn (default all)")
    p.add_argument("--mib", type=whole, default=0, metavar="N", help="begin no input once the set has N MiB (default no bound)")
    p.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="only the I-th of N parts of the inputs")
    p.add_argument("--list", action="store_true", help="print the table's rows, and record nothing")
    args = p.parse_args(argv)
    if not args.list and not (args.out and args.seeds):
        p.error("OUT and --seeds are needed")
    args.rows = tuple(r for r in TABLE if args.only.search(r.name))
    if not args.rows:
        p.error(f"--only {args.only.pattern!r} matches none of the table's rows (--list)")
    return args


def run(args: argparse.Namespace, gpu: Any) -> int:
    """Records into a folder beside OUT, which takes its name at the end."""
    out = Path(args.out)
    if out.exists():
        raise Skip(f"{out} exists")
    rows, missing = available(gpu, args.rows)
    for name, reason in missing.items():
        print(f"skipped {name}: {reason}", flush=True)
    if not rows:
        raise Skip("none of the kernels can run here")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        recorder = Recorder(gpu, rows, folder, args.calls)
        start = time.monotonic()
        for x in inputs(args):
            if args.mib and recorder.bytes >= args.mib << 20:
                print(f"{args.mib} MiB are reached: {x.name} and the inputs after it are left out", flush=True)
                break
            recorder.record(x)
        if not recorder.lines:
            raise Skip("no call was recorded\n" + recorder.summary())
        recorder.finish()
        folder.chmod(0o755)  # mkdtemp's is for nobody else
        os.rename(folder, out)
        print(f"{recorder.summary()}, {time.monotonic() - start:.1f} s: {out}", flush=True)
        return 1 if recorder.failed else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    args = arguments(argv)
    if args.list:
        print("\n".join(r.name for r in args.rows))
        return 0
    try:
        gpu = Gpu()
        print(f"{gpu.metadata()['device']} ({gpu.arch}); {gpu.metadata()['kernels']}", flush=True)
        return run(args, gpu)
    except (Skip, ImportError, OSError) as err:
        print(f"record.py: {err}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
