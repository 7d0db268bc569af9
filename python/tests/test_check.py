"""check: what passes, what fails, and what it says."""

import numpy as np
import pytest

import sageacc
from sageacc import Kernel

SHAPES = ["1x2/1x333x333x64"]


def emulated(**changes):
    """A kernel that computes what the emulator does, with some changes."""

    def attention(q, k, v, is_causal=False, sm_scale=None):
        return sageacc.emulate(q, k, v, kernel=Kernel(**changes), causal=is_causal, sm_scale=sm_scale)

    return attention


def test_right_kernel_passes():
    report = sageacc.check(emulated(), framework="numpy", sm_scales=(None, 0.3), shapes=[*SHAPES, (1, 1, 17, 128)])
    assert report.ok and len(report.results) == 2 * 2 * 2 * 3 * 2 and str(report) == "48 cases pass against sage2-8b-sm90 (bitwise)"


@pytest.mark.parametrize("mode", ["bitwise", "budget"])
@pytest.mark.parametrize("fault", ["rescale-o=none", "rescale-d=none", "causal-shift=1", "causal-shift=-1"])
def test_broken_kernels_fail_and_are_named(mode, fault):
    mask = "causal" if "causal" in fault else "full"
    with pytest.raises(sageacc.CheckFailed) as e:
        sageacc.check(emulated(variant=fault), mode=mode, framework="numpy", shapes=SHAPES, masks=[mask], dtypes=["float16"])
    text = str(e.value)
    assert f"3 of 3 cases fail against sage2-8b-sm90 ({mode})" in text and f"333x64-float16-{mask}-gauss" in text
    assert f"the actual output is, bit for bit, that of --variant {fault}" in text
    assert isinstance(e.value, AssertionError) and len(e.value.report.failures) == 3


WRONG = {
    "nan": lambda o: np.full_like(o, np.nan),
    "one nan": lambda o: np.where(np.arange(o.size).reshape(o.shape) == 5000, np.float16(np.nan), o),
    "infinity": lambda o: np.where(np.arange(o.size).reshape(o.shape) == 5000, np.float16(np.inf), o),
    "noise": lambda o: np.random.RandomState(0).standard_normal(o.shape).astype(o.dtype),
    "zeros": np.zeros_like,
    "transposed": lambda o: np.ascontiguousarray(o.transpose(0, 2, 1, 3)).reshape(o.shape),
    "shifted": lambda o: np.roll(o, 1, 2),
    "other heads": lambda o: o[:, ::-1],
    "one row": lambda o: np.concatenate([o[:, :, :-1], 0 * o[:, :, -1:]], 2),
    "half a tile": lambda o: np.concatenate([o[:, :, :-16], o[:, :, -32:-16]], 2),
    "doubled": lambda o: o * 2,
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("mode", ["bitwise", "budget"])
def test_no_broken_output_passes(wrong, mode):
    def attention(q, k, v, causal=False):
        return WRONG[wrong](sageacc.emulate(q, k, v, causal=causal))

    with pytest.raises(sageacc.CheckFailed) as e:
        sageacc.check(attention, mode=mode, framework="numpy", shapes=SHAPES, dtypes=["float16"], explain=False)
    # A few rows can hide in the error of peaky inputs, from a budget.
    few = mode == "budget" and wrong in ("one row", "half a tile")
    assert len(e.value.report.results) == 6 and len(e.value.report.failures) >= (2 if few else 6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_budget_takes_other_orders_of_the_same_numerics(dtype):
    other = emulated(name="sage2-8b-sm89", pv_accum="fp32+fp16")
    shapes = ["1x2/2x256x256x64", *SHAPES, "1x2/1x1x520x64", "1x1/1x200x333x128"]
    kwargs = {"framework": "numpy", "shapes": shapes, "dtypes": [dtype], "distributions": ["gauss", "outliers", "peaky", "huge", "tiny"]}
    sageacc.check(other, mode="budget", **kwargs)
    with pytest.raises(sageacc.CheckFailed):
        sageacc.check(other, explain=False, **kwargs)
    # FP32 attention costs less than any budget; INT4 more than INT8's.
    exact = lambda q, k, v, causal=False: sageacc.reference(q, k, v, causal=causal).astype(q.dtype)
    sageacc.check(exact, mode="budget", **kwargs)
    with pytest.raises(sageacc.CheckFailed, match="times the kernel's own"):
        sageacc.check(emulated(qk_bits=4), mode="budget", explain=False, **kwargs)


def test_parameters_by_any_name():
    seen = []

    def flash_attn_like(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        seen.append((q.shape, softmax_scale, causal))
        return sageacc.emulate(q, k, v, causal=causal, sm_scale=softmax_scale, layout="nhd"), "lse"

    kwargs = {"framework": "numpy", "shapes": SHAPES, "dtypes": ["float16"], "masks": ["causal"], "distributions": ["gauss"]}
    sageacc.check(flash_attn_like, layout="nhd", sm_scales=[0.5], **kwargs)
    assert seen == [((1, 333, 2, 64), 0.5, True)]

    def sage_like(q, k, v, tensor_layout="HND", is_causal=False, **kwargs):
        assert tensor_layout == "NHD" and set(kwargs) == {"sm_scale"}
        return sageacc.emulate(q, k, v, layout=tensor_layout, causal=is_causal, sm_scale=kwargs["sm_scale"])

    sageacc.check(sage_like, layout="nhd", sm_scales=[0.5], **kwargs)
    with pytest.raises(TypeError, match="has no parameter called is_causal or causal"):
        sageacc.check(lambda q, k, v: q, **kwargs)
    with pytest.raises(TypeError, match="returned a str"):
        sageacc.check(lambda q, k, v, causal: "x", **kwargs)


def test_inputs_changed_in_place_are_noticed():
    def rude(q, k, v, causal=False):
        o = sageacc.emulate(q, k, v, causal=causal)
        k -= 1
        return o

    report = sageacc.check(rude, framework="numpy", shapes=SHAPES, dtypes=["float16"])
    assert "changed its k in place" in report.results[0].text


def test_bad_arguments():
    for kwargs, text in (
        ({"mode": "exact"}, "mode is 'exact'"),
        ({"factor": 0.5}, "factor is 0.5"),
        ({"dtypes": ["int8"]}, "dtype is 'int8'"),
        ({"masks": ["hole"]}, "mask is 'hole'"),
        ({"distributions": ["x"]}, "distribution is 'x'"),
        ({"shapes": ["1x2x3"]}, "want BATCHxHEADS"),
        ({"shapes": [(1, 3, 2, 8, 8, 16)]}, "divide"),
        ({"shapes": [(1, 3)]}, "want 4 lengths"),
        ({"only": []}, "no case"),
        ({"framework": "jax"}, "framework is 'jax'"),
    ):
        with pytest.raises(ValueError, match=text):
            sageacc.check(emulated(), **{"framework": "numpy", **kwargs})


def test_inputs_are_the_same_everywhere():
    """Digests of inputs: a change would make recordings worthless."""
    import hashlib

    got = []
    for d in sageacc.DISTRIBUTIONS:
        (case,) = sageacc.cases(["1x2/1x20x30x16"], ["float16"], ["full"], [d])
        got.append(hashlib.sha256(b"".join(x.tobytes() for x in case.inputs())).hexdigest()[:8])
    assert dict(zip(sageacc.DISTRIBUTIONS, got)) == DIGESTS
    torch = pytest.importorskip("torch")
    for dtype in ("float16", "bfloat16", "float32"):
        for case in sageacc.cases(["1x2/1x20x30x16"], [dtype], ["full"]):
            for a, b in zip(case.inputs(), case.inputs("torch")):
                assert np.array_equal(a.view(np.uint8), b.view(torch.uint8).numpy()), case


DIGESTS = {
    "gauss": "f5d8d46b",
    "outliers": "12ddb0a9",
    "peaky": "937f0c97",
    "bias-v": "cac30ccc",
    "tiny": "03868919",
    "huge": "b9ca22b5",
    "holes": "f2867330",
}


def test_distributions_are_what_they_say():
    def of(name):
        (case,) = sageacc.cases(["1x8/8x400x400x64"], ["float32"], ["full"], [name])
        return case.inputs()

    q, k, v = of("gauss")
    assert abs(q.mean()) < 0.01 and abs(q.std() - 1) < 0.01
    assert np.abs(of("outliers")[1].mean(2)).max() > 7 and np.abs(of("bias-v")[2].mean(2)).max() > 7
    assert of("huge")[2].max() == 3e4 and np.abs(of("tiny")[0]).max() < 1e-3 and of("peaky")[0].std() > 5
    q, k, v = of("holes")
    assert (q == 0).all(-1).mean() > 0.2 and (v == 0).all(2).sum() == 8 and (k == np.rint(k)).all()


def test_recorded(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "o.safetensors"
    cases = sageacc.cases(SHAPES, ["float16"], distributions=["gauss"])
    monkeypatch.setenv("SAGEACC_RECORD", "1")
    live = sageacc.recorded(path, emulated(), live=True)
    sageacc.check(live, framework="numpy", only=cases)
    monkeypatch.delenv("SAGEACC_RECORD")
    replay = sageacc.recorded(path, emulated(variant="rescale-o=none"))  # not called: there is no GPU
    if not sageacc._record._gpu():
        sageacc.check(replay, framework="numpy", only=cases)
    replay = sageacc.recorded(path, emulated(), live=False)
    with pytest.raises(LookupError, match="record it on a machine with a GPU"):
        sageacc.check(replay, framework="numpy", only=sageacc.cases(SHAPES, ["float16"], distributions=["peaky"]))
    with pytest.raises(ValueError, match="needs a function"):
        sageacc.recorded(path, live=True)


def test_builtin_without_signature():
    torch = pytest.importorskip("torch")
    sdpa = torch.nn.functional.scaled_dot_product_attention
    report = sageacc.check(sdpa, mode="budget", device="cpu", shapes=SHAPES, dtypes=["float32"])
    assert report.ok
    with pytest.raises(sageacc.CheckFailed):
        sageacc.check(sdpa, device="cpu", shapes=SHAPES, dtypes=["float32"], explain=False)
