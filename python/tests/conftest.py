"""Where the package is not installed the tests run from the checkout, with a program that Go builds."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_found = importlib.util.find_spec("sageacc")
_checkout = _found is None or Path(_found.origin or "").resolve().parents[1] == ROOT / "python"
# What processes that tests start need on their path: nothing where the package is installed.
PATH = str(ROOT / "python") if _checkout else ""
if PATH:
    sys.path.insert(0, PATH)
pytest_plugins = ["pytester"]


@pytest.fixture(scope="session", autouse=True)
def program(tmp_path_factory):
    import sageacc

    try:
        return sageacc.binary()
    except sageacc.SageaccError:
        if shutil.which("go") is None:
            pytest.skip("there is neither a program in the package nor Go to build one")
        path = tmp_path_factory.mktemp("bin") / ("sageacc.exe" if os.name == "nt" else "sageacc")
        subprocess.run(["go", "build", "-o", str(path), "./cmd/sageacc"], cwd=ROOT, check=True, env={**os.environ, "CGO_ENABLED": "0"})
        os.environ["SAGEACC_BIN"] = str(path)
        return str(path)
