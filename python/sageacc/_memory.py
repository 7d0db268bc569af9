"""Files in memory, to hand tensors to the program and to take them back.

On Linux they are memfds: never on a disk, gone with the processes that have them
open, however these end. Elsewhere they are temporary files.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Dict, List, Mapping, Optional, Sequence, Tuple, Type

import numpy as np

from . import _safetensors
from ._binary import SageaccError, run_command
from ._safetensors import Raw

__all__ = ["Workspace", "load"]

# /proc is what gives a memfd a name that another program can open.
_MEMFD = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


class Workspace:
    """The files of one run of the program, removed at the end of a `with` block."""

    def __init__(self) -> None:
        self._folder: Optional[Path] = None
        self._files: List[BinaryIO] = []
        # File descriptors that the program must inherit.
        self._inherit: Tuple[int, ...] = ()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for f in self._files:
            f.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def folder(self) -> Path:
        """A temporary folder on the disk."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="sageacc-"))
        return self._folder

    def dump(self, tensors: Mapping[str, Raw], metadata: Mapping[str, str], name: str = "call") -> str:
        """A file of these tensors, by the name under which the program can read it."""
        path = self.folder() / f"{name}.safetensors"
        if _MEMFD:
            f = os.fdopen(os.memfd_create(path.name), "wb")
            self._files.append(f)
            self._inherit += (f.fileno(),)
            # The link has the ending by which the program knows the format; in the program
            # it leads to its own copy of the descriptor.
            path.symlink_to(f"/proc/self/fd/{f.fileno()}")
            _safetensors.write(f, tensors, metadata)
            f.flush()
        else:
            with path.open("wb") as f:
                _safetensors.write(f, tensors, metadata)
        return str(path)

    def run(self, args: Sequence[str], stdout: Optional[BinaryIO] = None) -> bytes:
        """Runs the program with the files at hand and returns what it prints, if that does
        not go to stdout.

        Raises:
            SageaccError: it could not; the names of temporary files are left out.
        """
        keep: Dict[str, Any] = {"pass_fds": self._inherit} if self._inherit else {}
        if stdout is not None:
            keep["stdout"] = stdout
        folder = "" if self._folder is None else str(self._folder) + os.sep
        try:
            out = run_command(args, **keep).stdout
        except SageaccError as e:
            # A layer is a file here, so that the tensor's name says enough.
            raise SageaccError(re.sub(re.escape(folder) + r"[^:, ]*[:,] ", "", str(e)) if folder else str(e)) from None
        if stdout is not None:
            return b""
        return re.sub(re.escape(folder.encode()) + rb"([^:, /\\]*)\.safetensors", rb"\1", out) if folder else out

    def output(self) -> BinaryIO:
        """An empty file for the program's standard output."""
        f: Any
        if _MEMFD:
            f = os.fdopen(os.memfd_create("sageacc-output"), "w+b")
        else:
            f = tempfile.TemporaryFile(prefix="sageacc-")
        self._files.append(f)
        return f  # type: ignore[no-any-return]


def load(f: BinaryIO) -> Tuple[Dict[str, Raw], Dict[str, str]]:
    """The tensors that the program wrote to f. They outlive f."""
    size = os.fstat(f.fileno()).st_size
    # A private map: arrays over it can be written to, as any other array.
    data = np.frombuffer(mmap.mmap(f.fileno(), size, access=mmap.ACCESS_COPY), np.uint8) if size else np.empty(0, np.uint8)
    return _safetensors.read(data)
