"""Where the program is that does the arithmetic, and how it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List, NoReturn, Optional, Sequence

__all__ = ["SageaccError", "binary", "run_command", "main"]


class SageaccError(RuntimeError):
    """The program could not do what was asked of it; the text is its one line."""


def binary() -> str:
    """The path of the program.

    The environment variable SAGEACC_BIN names another one than the wheel's, a build
    for CUDA say.

    Raises:
        SageaccError: there is none.
    """
    if path := os.environ.get("SAGEACC_BIN"):
        return path
    path = str(Path(__file__).with_name("bin") / ("sageacc.exe" if os.name == "nt" else "sageacc"))
    if not os.path.exists(path):
        raise SageaccError(
            f"this installation of sageacc has no program ({path}): install a wheel, or the source distribution where "
            "there is Go, or set SAGEACC_BIN to a program built with `go build ./cmd/sageacc`"
        )
    return path


def run_command(args: Sequence[str], *, stdin: Optional[bytes] = None, **kwargs: Any) -> "subprocess.CompletedProcess[bytes]":
    """Runs a command line and returns it, with standard output and error captured
    unless kwargs direct them elsewhere. Exit status 1, a check that failed, is no error.

    Raises:
        SageaccError: it could not run (exit status 2), or was killed.
    """
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("stderr", subprocess.PIPE)
    try:
        done = subprocess.run([binary(), *args], input=stdin, check=False, **kwargs)
    except OSError as e:
        raise SageaccError(f"cannot run {binary()}: {e.strerror or e}") from e
    if done.returncode not in (0, 1):
        text = (done.stderr or b"").decode(errors="replace").strip()
        last = text.splitlines()[-1] if text else f"exit status {done.returncode}"
        raise SageaccError(last[len("sageacc: ") :] if last.startswith("sageacc: ") else last)
    return done


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """The command line: `sageacc doctor` is Python's own, all else the program's."""
    args = sys.argv[1:] if argv is None else argv
    if args[:1] == ["doctor"]:
        from ._doctor import main as doctor

        sys.exit(doctor(args[1:]))
    try:
        path = binary()
    except SageaccError as e:
        print(f"sageacc: {e}", file=sys.stderr)
        sys.exit(2)
    try:
        if os.name == "nt":
            # There, exec would return to the shell at once and leave the program behind.
            sys.exit(subprocess.call([path, *args]))
        os.execv(path, ["sageacc", *args])
    except OSError as e:
        print(f"sageacc: cannot run {path}: {e.strerror or e}", file=sys.stderr)
        sys.exit(2)
