"""sageacc doctor."""

import json
import os
import sys

import pytest

import sageacc._doctor as d


def test_all_is_well(capsys):
    assert d.main(["--quick", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert found[0]["name"] == "program" and found[0]["ok"]
    golden = [f for f in found if f["name"].startswith("emulator")]
    assert len(golden) == 4 and all(f["ok"] and "NVIDIA H200" in f["text"] for f in golden)
    if not _gpu():
        assert found[-1]["ok"] is None and "not checked" in found[-1]["text"]


def test_a_program_that_computes_something_else(tmp_path, program, monkeypatch, capsys):
    if os.name == "nt":
        pytest.skip("a script stands for the program")
    wrong = tmp_path / "sageacc"
    wrong.write_text(f'#!{sys.executable}\nimport os, sys\na = sys.argv[1:]\nos.execv({program!r}, ["sageacc", *a, *(["--variant", "p-round=zero"] if a[0] == "emulate" else [])])\n')
    wrong.chmod(0o755)
    monkeypatch.setenv("SAGEACC_BIN", str(wrong))
    assert d.main([]) == 1
    assert "FAIL  emulator" in capsys.readouterr().out


def test_no_program(monkeypatch, capsys):
    monkeypatch.setenv("SAGEACC_BIN", "/nothing")
    assert d.main([]) == 2
    assert capsys.readouterr().out.startswith("FAIL  program: cannot run /nothing")


def test_functions_are_told_apart():
    """A function that is what it says, one that is not, one that nothing emulates, one that fails."""
    torch = pytest.importorskip("torch")
    import sageacc
    from sageacc import Kernel

    def run(call, *kernels):
        subject = d.Subject("f", call, list(kernels))
        return d._examine(subject, d._known(), True)

    real = sageacc.Case.inputs
    kernel = Kernel("sage2-8b-sm90")
    call = lambda q, k, v, c: sageacc.emulate(q, k, v, kernel=kernel, causal=c)
    mp = pytest.MonkeyPatch()
    mp.setattr(sageacc.Case, "inputs", lambda self, framework, device: real(self, "torch"))
    try:
        right = run(call, Kernel("sage2-8b-sm89"), kernel)
        assert right.ok is True and "it is sage2-8b-sm90, bit for bit: 4 cases" in right.text
        wrong = run(call, Kernel("sage2-8b-sm89"))
        assert wrong.ok is False and "it is not sage2-8b-sm89" in wrong.text
        assert run(call, Kernel("nobody's")).ok is None
        failing = run(lambda q, k, v, c: 1 / 0, kernel)
        assert failing.ok is None and "ZeroDivisionError" in failing.text
    finally:
        mp.undo()
    assert torch is not None


def _gpu():
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
