"""Builds the program that the package runs, with Go, into sageacc/bin.

SAGEACC_TARGET, as in linux/arm64, builds for another machine than this one
(`build_wheels.py` does so for all).
SAGEACC_PROGRAM takes a program that is built already instead.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# The Go module: inside a source distribution, or around this folder in a checkout.
MODULE = HERE / "go" if (HERE / "go" / "go.mod").exists() else HERE.parent

# A static program needs no C library, so one wheel serves glibc and musl. macOS 12 is what
# Go's own runtime asks for.
TAGS = {
    "linux/amd64": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
    "linux/arm64": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
    "darwin/amd64": "macosx_12_0_x86_64",
    "darwin/arm64": "macosx_12_0_arm64",
    "windows/amd64": "win_amd64",
}


def target() -> str:
    """GOOS/GOARCH of the program."""
    if given := os.environ.get("SAGEACC_TARGET"):
        if given not in TAGS:
            sys.exit(f"SAGEACC_TARGET is {given!r}: want one of {', '.join(TAGS)}")
        return given
    system = {"linux": "linux", "darwin": "darwin", "win32": "windows"}.get(sys.platform, sys.platform)
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    return f"{system}/{machine}"


def build_program(folder: Path) -> None:
    """Puts the program into folder."""
    goos, _, goarch = target().partition("/")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()  # of another target
    out = folder / ("sageacc.exe" if goos == "windows" else "sageacc")
    if ready := os.environ.get("SAGEACC_PROGRAM"):
        shutil.copyfile(ready, out)
    else:
        env = {**os.environ, "CGO_ENABLED": "0", "GOOS": goos, "GOARCH": goarch, "GOFLAGS": "-mod=readonly"}
        command = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(out), "./cmd/sageacc"]
        if not (MODULE / ".git").exists():
            command.insert(2, "-buildvcs=false")
        try:
            subprocess.run(command, cwd=MODULE, env=env, check=True)
        except FileNotFoundError:
            sys.exit("sageacc: there is no wheel for this machine, and building needs Go (https://go.dev), which is not on the PATH")
        except subprocess.CalledProcessError as e:
            sys.exit(f"sageacc: {' '.join(command)} failed with status {e.returncode}; it needs Go 1.26 or later")
    out.chmod(0o755)


class BuildPy(build_py):
    """Builds the program with the package."""

    def run(self) -> None:  # noqa: D102
        super().run()
        folder = HERE / "sageacc" / "bin" if self.editable_mode else Path(self.build_lib) / "sageacc" / "bin"
        build_program(folder)


class Platform(Distribution):
    """A package whose files differ from machine to machine."""

    def has_ext_modules(self) -> bool:  # noqa: D102
        return True


class BdistWheel(bdist_wheel):
    """A wheel for any Python on one kind of machine."""

    def get_tag(self) -> tuple[str, str, str]:  # noqa: D102
        tag = TAGS.get(target())
        return "py3", "none", tag or super().get_tag()[2]


class Sdist(sdist):
    """A source distribution with the Go sources that the program needs."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:  # noqa: D102
        super().make_release_tree(base_dir, files)
        text = subprocess.run(
            ["go", "list", "-deps", "-json", "./cmd/sageacc"], cwd=MODULE, check=True, capture_output=True, text=True
        ).stdout
        decoder, at = json.JSONDecoder(), 0
        copies = ["go.mod", "go.sum", "LICENSE"]
        while at < len(text.rstrip()):
            package, at = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
            if not package.get("Module", {}).get("Main"):
                continue
            folder = Path(package["Dir"]).relative_to(MODULE)
            # What other machines build is left out by a build constraint here.
            for kind in ("GoFiles", "IgnoredGoFiles", "SFiles", "HFiles", "IgnoredOtherFiles", "EmbedFiles"):
                copies += [str(folder / name) for name in package.get(kind, ()) if not name.endswith("_test.go")]
        for name in copies:
            to = Path(base_dir) / "go" / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(MODULE / name, to)


setup(distclass=Platform, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel, "sdist": Sdist})
