"""Builds the wheels of all machines, and the source distribution, and checks them.

    python build_wheels.py [--out dist] [--target linux/arm64]... [--no-sdist]

Needs Go and the package `build`. The programs are cross-compiled without a C
compiler. What is checked of every wheel, whatever machine it is for: the names
and tags, that every file is as RECORD says, that it holds one executable program,
of the right format and processor and (on Linux) without an interpreter, that is,
static; and, of the wheel for this machine, that the program runs.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# By target: the program's name, its tags' words, and its processor in its own format.
TARGETS = {
    "linux/amd64": ("sageacc", ("manylinux_2_17_x86_64", "musllinux_1_1_x86_64"), ("elf", 62)),
    "linux/arm64": ("sageacc", ("manylinux_2_17_aarch64", "musllinux_1_1_aarch64"), ("elf", 183)),
    "darwin/amd64": ("sageacc", ("macosx_12_0_x86_64",), ("mach-o", 0x01000007)),
    "darwin/arm64": ("sageacc", ("macosx_12_0_arm64",), ("mach-o", 0x0100000C)),
    "windows/amd64": ("sageacc.exe", ("win_amd64",), ("pe", 0x8664)),
}


def processor(program: bytes) -> tuple[str, int, bool]:
    """An executable's format, its processor in that format, and whether it needs another
    program to be loaded (an ELF interpreter)."""
    if program[:5] == b"\x7fELF\x02":
        (machine,) = struct.unpack_from("<H", program, 18)
        (start,) = struct.unpack_from("<Q", program, 32)
        size, count = struct.unpack_from("<HH", program, 54)
        kinds = [struct.unpack_from("<I", program, start + i * size)[0] for i in range(count)]
        return "elf", machine, 3 in kinds  # PT_INTERP
    if program[:4] == b"\xcf\xfa\xed\xfe":
        return "mach-o", struct.unpack_from("<I", program, 4)[0], False
    if program[:2] == b"MZ":
        (at,) = struct.unpack_from("<I", program, 0x3C)
        if program[at : at + 4] == b"PE\0\0":
            return "pe", struct.unpack_from("<H", program, at + 4)[0], False
    raise ValueError("not an executable of a known format")


def check_wheel(path: Path, target: str) -> None:
    """Raises ValueError with what is wrong with the wheel."""
    name, tags, want = TARGETS[target]
    with zipfile.ZipFile(path) as z:
        files = {i.filename: i for i in z.infolist()}
        (info,) = (f.split("/")[0] for f in files if f.endswith(".dist-info/WHEEL"))
        wheel = z.read(f"{info}/WHEEL").decode()
        if "Root-Is-Purelib: false" not in wheel:
            raise ValueError("it claims to be the same on all machines")
        for tag in tags:
            if f"Tag: py3-none-{tag}" not in wheel.split("\n") or tag not in path.name:
                raise ValueError(f"it has no tag {tag}")
        rows = {r[0]: r[1:] for r in csv.reader(z.read(f"{info}/RECORD").decode().splitlines())}
        if set(rows) != set(files):
            raise ValueError(f"RECORD and the files differ: {sorted(set(rows) ^ set(files))}")
        for f in files:
            if f == f"{info}/RECORD":
                continue
            digest = base64.urlsafe_b64encode(hashlib.sha256(z.read(f)).digest()).rstrip(b"=").decode()
            if rows[f] != [f"sha256={digest}", str(files[f].file_size)]:
                raise ValueError(f"{f} is not as RECORD says")
        programs = [f for f in files if f.startswith("sageacc/bin/")]
        if programs != [f"sageacc/bin/{name}"]:
            raise ValueError(f"its programs are {programs}, not {name} alone")
        if not files[programs[0]].external_attr >> 16 & 0o111:
            raise ValueError("its program is not executable")
        for f in ("sageacc/py.typed", "sageacc/__init__.py", f"{info}/entry_points.txt"):
            if f not in files:
                raise ValueError(f"it lacks {f}")
        program = z.read(programs[0])
    kind, machine, interpreter = processor(program)
    if (kind, machine) != want:
        raise ValueError(f"its program is {kind} for processor {machine:#x}, not {want[0]} for {want[1]:#x}")
    if interpreter:
        raise ValueError("its program is not static: it has an interpreter")
    if target == this_machine():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / name
            run.write_bytes(program)
            run.chmod(0o755)
            subprocess.run([str(run), "version"], check=True, stdout=subprocess.DEVNULL)


def this_machine() -> str:
    """The target of this machine."""
    system = {"linux": "linux", "darwin": "darwin", "win32": "windows"}.get(sys.platform, "")
    return f"{system}/{'arm64' if platform.machine().lower() in ('aarch64', 'arm64') else 'amd64'}"


def main() -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default=str(HERE / "dist"), help="folder for the results")
    p.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this machine (repeatable)")
    p.add_argument("--no-sdist", action="store_true", help="leave the source distribution out")
    p.add_argument("--isolated", action="store_true", help="fetch setuptools for each build, instead of using what is installed")
    args = p.parse_args()
    out = Path(args.out)
    flags = [] if args.isolated else ["--no-isolation"]
    for target in args.target or sorted(TARGETS):
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "SAGEACC_TARGET": target}
            subprocess.run(
                [sys.executable, "-m", "build", "--wheel", *flags, "--outdir", folder, str(HERE)],
                env=env, check=True, stdout=subprocess.DEVNULL,
            )
            (wheel,) = Path(folder).glob("*.whl")
            try:
                check_wheel(wheel, target)
            except ValueError as e:
                print(f"{wheel.name}: {e}", file=sys.stderr)
                return 1
            out.mkdir(parents=True, exist_ok=True)
            shutil.move(str(wheel), str(out / wheel.name))
            print(f"{target:<14} {out / wheel.name} ({(out / wheel.name).stat().st_size / 1e6:.1f} MB)")
    if not args.no_sdist:
        subprocess.run(
            [sys.executable, "-m", "build", "--sdist", *flags, "--outdir", str(out), str(HERE)], check=True, stdout=subprocess.DEVNULL
        )
        print("source        ", *out.glob("*.tar.gz"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
