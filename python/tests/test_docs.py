"""The documentation's code runs as it stands, page by page."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import PATH, ROOT

# What each page needs beyond NumPy.
PAGES = {
    "python/README.md": (),
    "docs/python.md": ("torch",),
    "docs/roles/kernel-author.md": (),
    "docs/roles/model-engineer.md": ("torch",),
    "docs/roles/black-image.md": ("torch",),
    "docs/roles/paper-reviewer.md": (),
}


def blocks(text):
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path, monkeypatch, capsys):
    for module in PAGES[page]:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layerdumps").symlink_to(ROOT / "layerdumps")
    examples = str(ROOT / "python" / "examples")
    monkeypatch.syspath_prepend(examples)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [PATH, examples])), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    space = {"__name__": "__main__"}
    ran = 0
    for kind, code in blocks((ROOT / page).read_text(encoding="utf-8")):
        if kind == "python":
            if first := re.match(r"# (test_\w+\.py)\n", code):
                (tmp_path / first[1]).write_text(code)
                command = [sys.executable, "-m", "pytest", "-q", "-p", "sageacc._pytest", "-p", "no:cacheprovider", first[1], "--sageacc-report=report.html"]
                done = subprocess.run(command, capture_output=True, text=True, env=env)
                assert done.returncode == 0 and (tmp_path / "report.html").exists(), done.stdout + done.stderr
            else:
                exec(compile(code, page, "exec"), space)
            ran += 1
        elif kind == "console":
            for line in code.splitlines():
                words = shlex.split(line[2:])
                assert line.startswith("$ sageacc ")
                done = subprocess.run([sys.executable, "-m", "sageacc", *words[1:]], capture_output=True, text=True, env=env)
                assert done.returncode == 0, line + done.stderr
                ran += 1
    assert ran > 0


def test_what_black_image_prints(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    found = blocks((ROOT / "docs/roles/black-image.md").read_text(encoding="utf-8"))
    exec(next(code for kind, code in found if kind == "python"), {})
    said = next(code for kind, code in found if kind == "text")
    digits = lambda text: re.sub(r"[\d.e+]+", "#", text)  # PyTorch's random numbers are its own
    assert digits(capsys.readouterr().out) == digits(said)


def test_the_readme_s_failure():
    """What the README shows of the broken kernel is what is printed."""
    text = next(code for kind, code in blocks((ROOT / "python/README.md").read_text(encoding="utf-8")) if kind == "text")
    sys.path.insert(0, str(ROOT / "python" / "examples"))
    import triton_attention as t

    import sageacc

    with pytest.raises(sageacc.CheckFailed) as e:
        broken = sageacc.recorded(t.RECORDED / "forgets_to_rescale.safetensors")
        sageacc.check(
            broken, kernel=t.KERNEL, mode="budget", shapes=["1x2/1x333x333x64"], dtypes=["float16"], masks=["full"], distributions=["gauss"],
            framework="numpy",
        )  # fmt: skip
    said = str(e.value).splitlines()
    for line in text.splitlines():
        if line.strip() != "...":
            assert line in said, line


@pytest.mark.parametrize("name, passes", [("attention", True), ("broken", False), ("sageattn", True)])
def test_examples(name, passes):
    env = {**os.environ, "PYTHONPATH": PATH, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sageacc._pytest", "-p", "no:cacheprovider", f"test_{name}.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT / "python" / "examples")
    assert done.returncode == (0 if passes else 1), done.stdout
    if not passes:
        assert "--variant rescale-o=none" in done.stdout


def test_notebook():
    """The notebook's cells run in order."""
    pytest.importorskip("torch")
    import json

    cells = json.loads((ROOT / "python/notebooks/attention.ipynb").read_text(encoding="utf-8"))["cells"]
    space = {}
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert len(code) >= 4 and all(c["outputs"] for c in cells[-1:] if c["cell_type"] == "code")
    for c in code:
        exec(compile(c, "attention.ipynb", "exec"), space)
