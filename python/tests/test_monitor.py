"""Monitor and find_nonfinite on models that run on the CPU, with kernels that the emulator stands in for."""

import warnings

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import nn

import sageacc
from sageacc import CaptureWarning, Kernel, Monitor, find_nonfinite

SM90 = Kernel("sage2-8b-sm90")
# An FP16 accumulator, and V that is not scaled to fit it.
HALF = Kernel("sage2-8b-sm89", pv_dtype="fp16", pv_accum="fp32+fp16")


class Library:
    """An attention function that the model's code finds here at every call."""

    kernel = SM90

    @classmethod
    def attend(cls, query, key, value, is_causal=False, scale=None):
        return sageacc.emulate(query, key, value, kernel=cls.kernel, causal=is_causal, sm_scale=scale)


class Block(nn.Module):
    def __init__(self, gain=1.0, causal=False):
        super().__init__()
        self.qkv, self.out, self.gain, self.causal = nn.Linear(64, 192), nn.Linear(64, 64), gain, causal

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        o = Library.attend(q, k, (v + 0.5) * self.gain, is_causal=self.causal)
        return x + self.out(o.transpose(1, 2).flatten(2) / self.gain)


FUNCTIONS = [(Library, "attend")]


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(1, 700, 64).half()


def test_monitor(x, tmp_path, monkeypatch):
    model = nn.Sequential(Block(), Block(causal=True)).half()
    with torch.no_grad(), Monitor(model, kernel=SM90, heads=2, functions=FUNCTIONS) as m:
        want = model(x)
        model(x)
    assert m.exact and len(m.samples) == 8 and {s.layer for s in m.samples} == {"0", "1"} and {s.step for s in m.samples} == {0, 1}
    # Other heads and other blocks, with time.
    assert len({(s.head, s.rows) for s in m.samples}) > 4 and all(s.rows[0] % 256 == 0 for s in m.samples)
    assert "0 of 4096" in m.table() and m.table() == str(m)
    (page,) = m.report(tmp_path / "r.html")
    assert "step1.1 [0," in page.read_text()
    # One fault in one layer: it is the first in the table, and the model runs as ever.
    with torch.no_grad():
        assert torch.equal(model(x), want)
    right = Library.attend
    monkeypatch.setattr(
        Library, "attend", lambda q, k, v, is_causal: sageacc.emulate(q, k, v, kernel=Kernel(variant="causal-shift=1"), causal=is_causal)
    )
    with torch.no_grad(), Monitor(model, kernel=SM90, functions=FUNCTIONS) as m:
        model(x)
    assert not m.exact and m.table().splitlines()[2].startswith("1 ") and right is not Library.attend
    worst = next(s for s in m.samples if s.layer == "1")
    assert worst.difference.mismatched > 0 and worst.actual_vs_reference.rel_l1 > worst.emulated_vs_reference.rel_l1


def test_monitor_is_of_the_whole_layer(x):
    """A sampled block's figures are those of the block in the whole layer, also under a causal mask."""
    q, k, v = (torch.randn(1, 1, 700, 16, generator=torch.Generator().manual_seed(i)).half() for i in range(3))
    o = sageacc.emulate(q, k, v, causal=True)
    with torch.no_grad(), Monitor(kernel=SM90, functions=FUNCTIONS) as m:
        Library.attend(q, k, v, is_causal=True)
    (s,) = m.samples
    ref = sageacc.reference(q, k, v, causal=True)
    rows = slice(*s.rows)
    rmse = ((o[:, :, rows].double() - ref[:, :, rows].double()) ** 2).mean().sqrt()
    assert s.rows != (0, 256) and abs(float(rmse) - s.actual_vs_reference.rmse) < 1e-8


def test_monitor_of_what_nobody_emulates(x):
    """PyTorch's attention on a CPU is no kernel that is known: the reference is."""
    model = nn.Module()
    q, k, v = (torch.randn(1, 2, 300, 32) for _ in range(3))
    model.forward = lambda: F.scaled_dot_product_attention(q, k, v)
    with torch.no_grad(), Monitor(model) as m:
        model()
    (s,) = m.samples
    assert s.kernel is None and s.difference is None and s.actual_vs_reference.rel_l1 < 1e-5 and "unknown" in m.table() and not m.exact


def test_monitor_selects_and_warns(x):
    model = nn.Sequential(*(Block() for _ in range(3))).half()
    with torch.no_grad(), Monitor(model, kernel=SM90, layers="^1$", every=2, steps=[0, 1, 2], functions=FUNCTIONS) as m:
        for _ in range(4):
            model(x)
    assert [(s.layer, s.step) for s in m.samples] == [("1", 0), ("1", 2)]
    with pytest.warns(CaptureWarning, match="nothing was compared: no watched function was called"):
        with Monitor(nn.Linear(2, 2)) as m:
            pass
    with pytest.raises(ValueError, match="nothing to report"):
        m.report("x.html")
    with torch.no_grad(), pytest.warns(CaptureWarning, match='layer 0 is not compared: --kernel: unknown kernel "nope"'):
        with Monitor(model, kernel="nope", functions=FUNCTIONS):
            model(x)
    for bad in ({"heads": 0}, {"every": 0}, {"jobs": 0}):
        with pytest.raises(ValueError):
            Monitor(model, **bad)


def find(model, x, tmp_path, **kwargs):
    said = []
    kwargs = {"functions": FUNCTIONS, "path": tmp_path / "n.safetensors", "echo": said.append, **kwargs}
    with torch.no_grad(), find_nonfinite(model, **kwargs) as f:
        for _ in range(2):
            model(x)
        said.append("ran on")
    return f.found, said


def test_an_fp16_accumulator_that_overflows(x, tmp_path, monkeypatch):
    monkeypatch.setattr(Library, "kernel", HALF)
    model = nn.Sequential(Block(), Block(gain=6000.0), Block()).half()
    found, said = find(model, x, tmp_path, kernel=HALF)
    assert (found.step, found.layer, found.attention, found.tile) == (0, "1", True, (0, 63))
    assert "ran on" not in said and said == [str(found)]
    text = str(found)
    assert "step 0, layer 1: attend(" in text and "it begins with the keys 0 to 63" in text
    assert "breaks in the P~V accumulator" in text and "bit for bit" in text
    # The dump is the call.
    run = sageacc._binary.run_command(["compare", str(found.dump), *HALF.flags(), "--format", "json"])
    assert run.returncode in (0, 1) and b'"mismatched": 0' in run.stdout
    # Without the kernel's name the numbers still say what overflowed.
    found, _ = find(model, x, tmp_path)
    assert any("beyond an FP16 accumulator's 65504" in s for s in found.stages)
    # A kernel that stays finite on this input is not what ran.
    found, _ = find(model, x, tmp_path, kernel=SM90)
    assert any("itself returns finite numbers" in s for s in found.stages)


def test_a_channel_of_zeros(x, tmp_path):
    class Zeros(Block):
        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
            v = v.clone()
            v[:, 2, :, 5] = 0
            return Library.attend(q, k, v)

    found, _ = find(nn.Sequential(Zeros()).half(), x, tmp_path, kernel=SM90)
    assert (found.head, found.token, found.channel) == (2, 0, 5)
    assert any("V's codes (a channel of zeros" in s for s in found.stages)


def test_other_modules(tmp_path):
    x = torch.randn(1, 700, 64, generator=torch.Generator().manual_seed(0)).half()
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).half()
    with torch.no_grad():
        model[1].weight.mul_(1e5)
    found, said = find(model, x, tmp_path)
    assert (found.layer, found.function, found.attention, found.dump) == ("1", "Linear", False, None)
    assert "run this module in BF16 or FP32" in str(found) and "ran on" not in said
    found, said = find(model, x, tmp_path, modules=False)
    assert found is None and said == ["ran on"]
    found, said = find(model, x, tmp_path, stop=False)
    assert found.layer == "1" and said[-1] == "ran on" and len(said) == 2


def test_inputs_that_are_not_finite_are_not_the_call_s_fault(tmp_path):
    model = nn.Sequential(nn.Linear(64, 64), Block())
    x = torch.full((1, 20, 64), float("nan"))
    found, said = find(model, x, tmp_path)
    assert found is None and said == ["ran on"]
    found, said = find(model, torch.zeros(1, 20, 64), tmp_path)
    assert said[-1] == "ran on" or found is not None


def test_errors_of_the_block_stay(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ZeroDivisionError), find_nonfinite(model):
        1 / 0
    assert not model[0]._forward_hooks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with find_nonfinite(model):
            model(torch.zeros(1, 4))
