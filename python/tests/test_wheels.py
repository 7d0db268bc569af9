"""What build_wheels.py checks of a wheel can fail."""

import base64
import hashlib
import struct
import sys
import zipfile

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "python"))
import build_wheels as b

ELF = bytearray(b"\x7fELF\x02\x01\x01" + bytes(57)) + bytearray(56)
struct.pack_into("<HHIQQ", ELF, 16, 2, 183, 1, 0, 64)
struct.pack_into("<HH", ELF, 54, 56, 1)


def wheel(path, changes=None, program=bytes(ELF), mode=0o755, lie=False):
    info = "sageacc-1.dist-info"
    files = {
        "sageacc/__init__.py": b"",
        "sageacc/py.typed": b"",
        "sageacc/bin/sageacc": program,
        f"{info}/entry_points.txt": b"",
        f"{info}/WHEEL": b"Root-Is-Purelib: false\nTag: py3-none-manylinux_2_17_aarch64\nTag: py3-none-musllinux_1_1_aarch64\n",
        **(changes or {}),
    }
    files = {n: c for n, c in files.items() if c is not None}
    record = ""
    for n, c in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(b"x" if lie and n.endswith("sageacc") else c).digest()).rstrip(b"=").decode()
        record += f"{n},sha256={digest},{len(c)}\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    name = path / "sageacc-1-py3-none-manylinux_2_17_aarch64.musllinux_1_1_aarch64.whl"
    with zipfile.ZipFile(name, "w") as z:
        for n, c in files.items():
            i = zipfile.ZipInfo(n)
            i.external_attr = mode << 16
            z.writestr(i, c)
    return name


def patched(at, value):
    x = bytearray(ELF)
    struct.pack_into("<H", x, at, value)
    return bytes(x)


@pytest.mark.parametrize(
    "text, kwargs",
    [
        ("", {}),
        ("processor", {"program": patched(18, 62)}),
        ("not static", {"program": patched(64, 3)}),
        ("not an executable", {"program": b"#!/bin/sh"}),
        ("is not executable", {"mode": 0o644}),
        ("is not as RECORD says", {"lie": True}),
        ("programs are", {"changes": {"sageacc/bin/sageacc": None, "sageacc/bin/sageacc.exe": b""}}),
        ("programs are", {"changes": {"sageacc/bin/other": b""}}),
        ("lacks sageacc/py.typed", {"changes": {"sageacc/py.typed": None}}),
        ("no tag", {"changes": {"sageacc-1.dist-info/WHEEL": b"Root-Is-Purelib: false\nTag: py3-none-any\n"}}),
        ("same on all machines", {"changes": {"sageacc-1.dist-info/WHEEL": b"Root-Is-Purelib: true\n"}}),
    ],
)
def test_check_wheel(tmp_path, monkeypatch, text, kwargs):
    monkeypatch.setattr(b, "this_machine", lambda: "")  # the program is nothing to run
    path = wheel(tmp_path, **kwargs)
    if not text:
        b.check_wheel(path, "linux/arm64")
        return
    with pytest.raises(ValueError, match=text):
        b.check_wheel(path, "linux/arm64")


def test_processors():
    mach = b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x0100000C) + bytes(8)
    assert b.processor(mach) == ("mach-o", 0x0100000C, False)
    pe = bytearray(b"MZ" + bytes(198))
    struct.pack_into("<I", pe, 0x3C, 128)
    pe[128:134] = b"PE\0\0" + struct.pack("<H", 0x8664)
    assert b.processor(bytes(pe)) == ("pe", 0x8664, False)
