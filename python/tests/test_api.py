"""emulate, reference and compare against recorded outputs of a GPU, in NumPy and PyTorch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import PATH, ROOT

import sageacc
from sageacc import _kernel, _safetensors

FRAMEWORKS = ["numpy", "torch"]


@pytest.fixture(scope="module")
def sample():
    """q, k, v and what the released kernel returned for them on an H200."""
    data = np.fromfile(ROOT / "layerdumps/testdata/byte-lm-sample.safetensors", np.uint8)
    tensors, meta = _safetensors.read(data)
    assert meta["causal"] == "true"
    return {r: (t := tensors[f"layers.0.attn.{r}"]).data.view(np.float16).reshape(t.shape) for r in "qkvo"}


def to(framework, x):
    return pytest.importorskip("torch").from_numpy(x.copy()) if framework == "torch" else x


def bits(x):
    x = x if isinstance(x, np.ndarray) else x.numpy()
    return np.ascontiguousarray(x).view({2: np.uint16, 4: np.uint32, 8: np.uint64}[x.itemsize])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("layout", ["hnd", "nhd"])
def test_emulate_is_what_the_gpu_returned(sample, framework, layout):
    order = (lambda x: x) if layout == "hnd" else (lambda x: np.ascontiguousarray(x.transpose(0, 2, 1, 3)))
    q, k, v, o = (to(framework, order(sample[r])) for r in "qkvo")
    got, lse = sageacc.emulate(q, k, v, causal=True, layout=layout, return_lse=True)
    assert type(got) is type(q) and got.dtype == q.dtype and got.shape == q.shape
    assert np.array_equal(bits(got), bits(o))
    assert tuple(lse.shape) == sample["q"].shape[:3]
    other = sageacc.emulate(q, k, v, causal=True, layout=layout, kernel=sageacc.Kernel(pv_accum="fp32"))
    assert not np.array_equal(bits(other), bits(o))


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_reference(sample, precision):
    q, k, v = (sample[r].astype(np.float64) for r in "qkv")
    s = q @ k.transpose(0, 1, 3, 2) * 0.3
    s = np.where(np.tri(s.shape[-1], dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    want, want_lse = (p / p.sum(-1, keepdims=True)) @ v, np.log(p.sum(-1)) + s.max(-1)
    got, lse = sageacc.reference(*(sample[r] for r in "qkv"), causal=True, sm_scale=0.3, precision=precision, return_lse=True)
    assert got.dtype == (np.float32 if precision == "fp32" else np.float64)
    near = 1e-5 if precision == "fp32" else 1e-13
    assert np.abs(got - want).max() < near and np.abs(lse - want_lse).max() < near * 10
    assert np.abs(sageacc.reference(*(sample[r] for r in "qkv"), causal=True) - want).max() > 1e-3  # another scale


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_compare(sample, framework, tmp_path):
    q, k, v, o = (to(framework, sample[r]) for r in "qkvo")
    c = sageacc.compare(q, k, v, actual=o, causal=True)
    assert c.exact and c.difference.mismatched == 0 and c.difference.elements == 131072
    assert c.verdict() == "every bit of 131072 elements is that of sage2-8b-sm90" and c.explain() == ""
    assert c.emulated_vs_reference == c.actual_vs_reference and 0.03 < c.actual_vs_reference.rel_l1 < 0.04
    assert [(h.batch, h.head, h.difference.mismatched) for h in c.heads] == [(0, 0, 0), (0, 1, 0)]
    assert type(c.reference) is type(q) and "actual vs emulated" in str(c) and "of MSE" in c.attribute()
    assert c.attribution()["steps"] and "Denominator" in c.trace(1, 200, 0, "--format=json") or "1/d" in c.trace(1, 200)

    wrong = sageacc.compare(q, k, v, actual=o, causal=True, kernel=sageacc.Kernel(pv_accum="fp32"))
    assert not wrong.exact and wrong.difference.mismatched == 58782 and wrong.difference.first == (0, 0, 128, 11)
    assert "58782 of 131072 elements differ" in repr(wrong) and "bit for bit, that of --pv-accum fp32+fp32" in wrong.explain()
    assert "58782 of 131072" in wrong._repr_html_() and "#cf222e" in wrong._repr_html_() and "#1a7f37" in c._repr_html_()
    page = wrong.to_html(tmp_path / "x.html", explain=True)
    assert page == (tmp_path / "x.html").read_text() and page.startswith("<!")
    assert json.loads(wrong.to_json())["layers"][0]["actual_vs_emulated"]["mismatched"] == 58782

    wrong.save_dump(tmp_path / "dump.safetensors", "mine")
    run = subprocess.run([sageacc.binary(), "compare", str(tmp_path / "dump.safetensors"), "--expect-bit-exact"], capture_output=True, text=True)
    assert run.returncode == 0 and "mine" in run.stdout
    alone = sageacc.compare(q, k, v, causal=True)
    assert alone.difference is None and not alone.exact and "against fp32" in alone.verdict()
    with pytest.raises(ValueError, match="no actual output"):
        alone.explain()


def test_broken_outputs_are_seen(sample):
    q, k, v, o = (sample[r] for r in "qkvo")
    one = o.copy()
    one[0, 1, 500, 3] = np.nan
    for name, bad in {
        "nan": np.full_like(o, np.nan),
        "one nan": one,
        "zeros": np.zeros_like(o),
        "shifted": np.roll(o, 1, 2),
        "heads": o[:, ::-1],
        "one ulp": (o.view(np.uint16) ^ (np.arange(o.size).reshape(o.shape) == 77).astype(np.uint16)).view(np.float16),
    }.items():
        c = sageacc.compare(q, k, v, actual=bad, causal=True)
        assert not c.exact and c.difference.mismatched > 0, name


def test_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    r = np.random.RandomState(0)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        q, k, v = (r.standard_normal((1, 2, 70, 64)).astype(dtype) for _ in range(3))
        o = sageacc.emulate(q, k, v)
        assert o.dtype == dtype
        ref = sageacc.reference(q, k, v)
        assert np.abs(o.astype(np.float32) - ref).max() < 0.1
    with pytest.raises(sageacc.SageaccError, match='tensor "call.q": dtype I64 is not FP16'):
        sageacc.emulate(*(np.zeros((1, 1, 8, 16), np.int64),) * 3)
    with pytest.raises(TypeError, match="q has dtype complex64"):
        sageacc.emulate(*(np.zeros((1, 1, 8, 16), np.complex64),) * 3)
    with pytest.raises(TypeError, match="q is a list"):
        sageacc.emulate([1.0], k, v)
    swapped = q.astype(">f4")
    assert np.array_equal(sageacc.emulate(swapped, k, v), o)


def test_gqa_cross_and_strides():
    r = np.random.RandomState(1)
    q = r.standard_normal((2, 4, 33, 64)).astype(np.float16)
    k, v = (r.standard_normal((2, 2, 90, 64)).astype(np.float16) for _ in range(2))
    o = sageacc.emulate(q, k, v)
    for b in range(2):
        for h in range(4):
            one = sageacc.emulate(q[b : b + 1, h : h + 1], k[b : b + 1, h // 2 : h // 2 + 1], v[b : b + 1, h // 2 : h // 2 + 1])
            assert np.array_equal(bits(one[0, 0]), bits(o[b, h]))


def test_masks(sample):
    q, k, v = (sample[r][:, :, :200] for r in "qkv")
    full, causal = sageacc.emulate(q, k, v), sageacc.emulate(q, k, v, causal=True)
    low = np.tri(200, dtype=bool)
    added = np.where(low, 0, -np.inf).astype(np.float16)
    for mask, want in ((np.ones((1, 1, 200, 200), bool), full), (np.zeros((200, 200), np.float16), full), (low, causal), (added, causal)):
        assert np.array_equal(bits(sageacc.emulate(q, k, v, mask=mask)), bits(want))
    window = low & ~np.tri(200, k=-8, dtype=bool)
    # A mask that the kernel has not is never left out in silence.
    with pytest.raises(sageacc.SageaccError, match="takes no boolean mask"):
        sageacc.emulate(q, k, v, mask=window)
    o = sageacc.emulate(q, k, v, mask=window, kernel="sage-fp16-triton")
    r = sageacc.reference(q, k, v, mask=window)
    assert sageacc.compare(q, k, v, mask=window, kernel="sage-fp16-triton", actual=o).exact
    assert np.abs(o.astype(np.float32) - r).max() < 0.05 * np.abs(r).max()
    # The reference takes any mask of any type, and any head_dim that a kernel has.
    bias = np.where(window, 0.5, -np.inf)
    assert np.array_equal(sageacc.reference(q, k, v, mask=bias.astype(np.float32)), sageacc.reference(q, k, v, mask=bias.astype(np.float16)))
    assert np.abs(sageacc.reference(q, k, v, mask=bias.astype(np.float32)) - r).max() < 1e-4 * np.abs(r).max()
    wide = [np.concatenate([x, x, x, x], -1)[:, :, :20] for x in (q, k, v)]
    assert sageacc.reference(*wide).shape == wide[0].shape and sageacc.emulate(*wide, kernel="fa3").shape == wide[0].shape


def test_bad_arguments(sample):
    q, k, v = (sample[r][:, :, :16] for r in "qkv")
    for kwargs, error, text in (
        ({"kernel": "sage9"}, sageacc.SageaccError, 'unknown kernel "sage9"'),
        ({"kernel": sageacc.Kernel(qk_bits=5)}, sageacc.SageaccError, "qk-bits"),
        ({"kernel": "auto"}, ValueError, "these are on none"),
        ({"layout": "hdn"}, ValueError, "want 'hnd' or 'nhd'"),
        ({"sm_scale": -1.0}, ValueError, "positive"),
    ):
        with pytest.raises(error, match=text) as e:
            sageacc.emulate(q, k, v, **kwargs)
        assert "\n" not in str(e.value) and "tmp" not in str(e.value)
    with pytest.raises(ValueError, match="want \\[batch, heads, tokens, head_dim\\]"):
        sageacc.emulate(q[0], k[0], v[0])
    with pytest.raises(sageacc.SageaccError, match='tensor "call.k": its 2 heads do not divide'):
        sageacc.emulate(np.concatenate([q, q[:, :1]], 1), k, v)
    with pytest.raises(ValueError, match="actual has shape"):
        sageacc.compare(q, k, v, actual=q[:, :1])


def test_nothing_is_left_behind(sample, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    q, k, v = (sample[r][:, :, :16] for r in "qkv")
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    out = sageacc.emulate(q, k, v)
    with pytest.raises(sageacc.SageaccError):
        sageacc.emulate(q, k, v, kernel="nope")
    assert not list(tmp_path.iterdir())
    out[0, 0, 0, 0] = 1  # the result is the caller's own
    del out
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) <= before | {str(max(map(int, before)) + 1)}


def test_without_memfd(sample, monkeypatch):
    monkeypatch.setattr("sageacc._memory._MEMFD", False)
    q, k, v, o = (sample[r] for r in "qkvo")
    assert sageacc.compare(q, k, v, actual=o, causal=True).exact


def test_command_line(program):
    env = {**os.environ, "PYTHONPATH": PATH, "SAGEACC_BIN": program}

    def run(*args):
        return subprocess.run([sys.executable, "-m", "sageacc", *args], capture_output=True, text=True, env=env)

    assert "sageacc compare DUMP..." in run("compare", "--help").stdout
    done = run("compare", "nothing.safetensors")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    env["SAGEACC_BIN"] = "/nothing/sageacc"
    done = run("version")
    assert done.returncode == 2 and done.stderr == "sageacc: cannot run /nothing/sageacc: No such file or directory\n"


def test_imports_are_lazy():
    code = "import sys, sageacc; assert 'numpy' not in sys.modules; sageacc.emulate; assert 'torch' not in sys.modules; print(len(sageacc.__all__))"
    env = {**os.environ, "PYTHONPATH": PATH}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'emulat'"):
        sageacc.emulat  # noqa: B018


def test_safetensors_agree_with_the_package(tmp_path):
    """Our files are read by the package of that name, and its by us."""
    st = pytest.importorskip("safetensors.numpy")
    x = {"a.q": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b": np.array([True, False]), "c": np.float64(3)[None]}
    from sageacc._arrays import raw_of

    with (tmp_path / "x").open("wb") as f:
        _safetensors.write(f, {n: raw_of(v, n) for n, v in x.items()}, {"name": "ä"})
    back = st.load_file(tmp_path / "x")
    assert all(np.array_equal(back[n], x[n]) and back[n].dtype == x[n].dtype for n in x)
    tensors, meta = _safetensors.read(np.frombuffer(st.save(x, metadata={"k": "v"}), np.uint8))
    assert meta == {"k": "v"} and tensors["a.q"].data.tobytes() == x["a.q"].tobytes() and tensors["a.q"].shape == (2, 3, 4)
    with pytest.raises(ValueError, match="takes 8 bytes"):
        _safetensors.write((tmp_path / "y").open("wb"), {"a": _safetensors.Raw("F32", (2,), np.zeros(4, np.uint8))})
    for bad in (b"", b"\xff" * 16, b"\x40\0\0\0\0\0\0\0{}"):
        with pytest.raises(ValueError):
            _safetensors.read(np.frombuffer(bad, np.uint8))


SAGE_FUNCTIONS = ("sage2-8b-sm90", "sage2-8b-sm89", "sage-fp16-cuda", "sage-fp16-triton")


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0), (12, 1)])
def test_the_program_takes_what_a_dump_names(sample, tmp_path, capability):
    """Metadata as Capture writes it, which --kernel auto reads: both sides agree."""
    tensors = {f"l.{r}": _safetensors.Raw("F16", (1, 1, 40, 64), np.ascontiguousarray(sample[r][:, :1, :40]).view(np.uint8).ravel()) for r in "qkv"}
    arch = "sm_%d%d" % capability

    def chosen(meta):
        path = tmp_path / "l.safetensors"
        with open(path, "wb") as f:
            _safetensors.write(f, tensors, {"layout": "HND", "causal": "true", **meta})
        done = subprocess.run(
            [sageacc._binary.binary(), "compare", str(path), "--kernel", "auto", "--format", "json"], capture_output=True, text=True, check=True
        )  # fmt: skip
        return json.loads(done.stdout)["kernel"]

    by_gpu = chosen({"device": "a GPU", "arch": arch})
    by_call = chosen({"device": "a GPU", "arch": arch, "call": "sageattn(q)", "kernel": str(_kernel.sageattn(capability))})
    assert by_gpu["description"] == by_call["description"] and by_gpu["arch"] == arch
    assert f"sageattn@{arch}" in by_gpu["chosen"] and "the recorded call, sageattn()" in by_call["chosen"]
    for preset in SAGE_FUNCTIONS:
        if preset == "sage2-8b-sm90" and capability != (9, 0) or preset == "sage2-8b-sm89" and capability < (8, 9):
            continue  # it does not run there
        k = chosen({"device": "a GPU", "arch": arch, "kernel": str(_kernel.sage_function(preset, capability))})
        assert (k["name"], k["arch"]) == (preset, arch)
