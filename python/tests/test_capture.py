"""Capture on models that call scaled_dot_product_attention; needs torch and safetensors."""

import json
import subprocess
import warnings

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

import sageacc
from sageacc import Call, Capture, CaptureWarning

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def read(capture):
    """Tensors and metadata of all files, by tensor name."""
    tensors, meta = {}, {}
    for path in capture.written:
        with safe_open(path, "pt") as f:
            for name in f.keys():  # noqa: SIM118
                assert name not in tensors
                tensors[name], meta[name] = f.get_tensor(name), f.metadata()
    return tensors, meta


class Block(nn.Module):
    """A diffusers-style attention: projections, heads, one call by module attribute."""

    def __init__(self, dim=64, heads=4, causal=False, kv_heads=None, scale=None):
        super().__init__()
        kv = kv_heads or heads
        self.heads, self.kv_heads, self.causal, self.scale = heads, kv, causal, scale
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim // heads * kv), nn.Linear(dim, dim // heads * kv)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x, context=None):
        y = x if context is None else context
        split = lambda t, h: t.unflatten(-1, (h, -1)).transpose(1, 2)
        q, k, v = split(self.to_q(x), self.heads), split(self.to_k(y), self.kv_heads), split(self.to_v(y), self.kv_heads)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale, enable_gqa=self.kv_heads != self.heads)
        return x + self.to_out(o.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for b in self.blocks:
            x = b(x)
        return x


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layers_are_whole_and_exact(tmp_path, device, dtype):
    model = Model(Block(), Block(causal=True), Block(kv_heads=2), Block(scale=0.5)).to(device, dtype)
    x = torch.randn(2, 20, 64, device=device, dtype=dtype)
    plain = F.scaled_dot_product_attention
    with torch.no_grad(), Capture(tmp_path, model=model, batch=None) as c:
        want = model(x)
    assert F.scaled_dot_product_attention is plain
    with torch.no_grad():
        assert torch.equal(model(x), want)
    t, meta = read(c)
    assert {n.rsplit(".", 1)[0] for n in t} == {f"blocks.{i}" for i in range(4)}
    assert list(t["blocks.0.q"].shape) == [2, 4, 20, 16] and list(t["blocks.2.k"].shape) == [2, 2, 20, 16]
    said = [{k: m[k] for k in m if k not in ("call", "device", "versions", "arch", "kernel")} for m in meta.values()]
    assert said[list(meta).index("blocks.1.q")] == {"causal": "true", "layout": "HND"}
    assert said[list(meta).index("blocks.3.q")] == {"causal": "false", "layout": "HND", "sm_scale": "0.5"}
    assert "is_causal=True" in meta["blocks.1.q"]["call"] and f"torch {torch.__version__}" in meta["blocks.1.q"]["versions"]
    assert meta["blocks.1.q"]["device"] == (torch.cuda.get_device_name() if device == "cuda" else "cpu")
    for i, b in enumerate(model.blocks):
        q, k, v, o = (t[f"blocks.{i}.{p}"] for p in "qkvo")
        assert q.dtype == dtype and not q.requires_grad
        again = plain(q.to(device), k.to(device), v.to(device), is_causal=b.causal, scale=b.scale, enable_gqa=k.size(1) != q.size(1))
        assert torch.equal(again.cpu(), o)
    assert not list(tmp_path.glob("*.tmp"))


def test_bounds(tmp_path):
    model = Model(Block(), Block(kv_heads=2), Block())
    x = torch.randn(3, 10, 64)

    def run(sub, n=3, **kwargs):
        with Capture(tmp_path / sub, model=model, **kwargs) as c:
            for _ in range(n):
                model(x)
        return read(c)[0]

    t = run("names", layers={"blocks.2"})
    assert set(t) == {f"blocks.2.{p}" for p in "qkvo"}
    t = run("pattern", layers=r"\.[01]$")
    assert {n[:8] for n in t} == {"blocks.0", "blocks.1"}
    t = run("steps", layers="2", steps=2)
    assert {n.rsplit(".", 1)[0] for n in t} == {"step0.blocks.2", "step1.blocks.2"}
    t = run("later", layers="2", steps=[2])
    assert {n.rsplit(".", 1)[0] for n in t} == {"blocks.2"}
    t = run("heads", heads=1)
    # Of grouped heads the whole group.
    assert t["blocks.0.q"].shape == (1, 1, 10, 16) and t["blocks.1.q"].shape == (1, 2, 10, 16) and t["blocks.1.k"].shape == (1, 1, 10, 16)
    t = run("outputs", outputs=False)
    assert not [n for n in t if n.endswith(".o")]
    t = run("half", dtype=torch.float16)
    assert t["blocks.0.q"].dtype == torch.float16 and "blocks.0.o" not in t
    layer = 4 * 4 * 10 * 16 * 4
    with pytest.warns(CaptureWarning, match="exceed the bound"):
        t = run("bytes", max_bytes=layer + layer // 2)
    assert {n[:8] for n in t} == {"blocks.0"}
    for bad in ({"heads": 0}, {"batch": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError):
            Capture(tmp_path, **bad)


def test_masks(tmp_path):
    q, k, v = (torch.randn(1, 2, n, 16) for n in (8, 8, 8))
    low = torch.ones(8, 8, dtype=torch.bool).tril()
    added = torch.zeros(8, 8).masked_fill(~low, float("-inf"))
    window = low & torch.ones(8, 8, dtype=torch.bool).triu(-2)
    with Capture(tmp_path) as c, warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        for mask in (torch.ones(1, 1, 8, 8, dtype=torch.bool), torch.zeros(8, 8), low, added, torch.finfo(torch.float32).min * (~low), window, torch.randn(8, 8)):
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    t, meta = read(c)
    causal = {i: meta[f"attn.{i}.q"]["causal"] for i in range(8) if f"attn.{i}.q" in t}
    assert causal == {0: "false", 1: "false", 2: "true", 3: "true", 4: "true", 5: "false", 6: "false", 7: "false"}
    assert torch.equal(t["attn.5.mask"][0, 0], window) and t["attn.6.mask"].dtype == torch.float32 and "attn.4.mask" not in t
    assert "attn.2.o" in t and "attn.7.o" not in t
    text = " ".join(str(x.message) for x in w if issubclass(x.category, CaptureWarning))
    assert "dropout" in text and "not captured" not in text


def test_masks_of_what_is_kept(tmp_path):
    q, k, v = (torch.randn(3, 4, 8, 16) for _ in range(3))
    padded = torch.ones(3, 1, 1, 8, dtype=torch.bool)
    padded[1, ..., 5:] = False  # the second item is shorter
    one_head = torch.zeros(1, 4, 8, 8)
    one_head[:, 3] = torch.randn(8, 8)
    for folder, mask, options, taken in (
        ("first", padded, {"batch": 1}, True),
        ("both", padded, {"batch": 2}, False),
        ("heads", one_head, {"heads": 2}, True),
        ("all heads", one_head, {}, False),
    ):
        with Capture(tmp_path / folder, **options) as c, warnings.catch_warnings(record=True) as w:
            warnings.simplefilter("always")
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        t, meta = read(c) if c.written else ({}, {})
        assert t and not w, folder
        # A mask of what is not kept is none.
        assert ("attn.0.mask" in t) != taken, folder
        if taken:
            assert meta["attn.0.q"]["causal"] == "false"
            n = t["attn.0.o"].shape[1]
            assert torch.equal(t["attn.0.o"], o[:1, :n])


def test_cached_decoding(tmp_path):
    q, k, v = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 9, 16), torch.randn(1, 2, 9, 16)
    end = torch.ones(3, 9, dtype=torch.bool).tril(6)
    with Capture(tmp_path) as c:
        F.scaled_dot_product_attention(q, k, v, attn_mask=end)
        # A single query that sees every key is a layer without a mask.
        F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=torch.ones(1, 9, dtype=torch.bool).tril(8))
    t, meta = read(c)
    assert {n for n in t if n.startswith("attn.1")} == {f"attn.1.{p}" for p in "qkvo"} and meta["attn.1.q"]["causal"] == "false"
    assert torch.equal(t["attn.0.mask"][0, 0], end) and meta["attn.0.q"]["causal"] == "false"


def test_a_write_that_fails(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    x = torch.randn(1, 2, 8, 16)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="layers are not written: No space left on device.*part-000.safetensors") as e:
        with Capture(tmp_path):
            F.scaled_dot_product_attention(x, x, x)
    assert "\n" not in str(e.value) and not list(tmp_path.iterdir())
    # The error of the block is not lost for it.
    with pytest.raises(ZeroDivisionError), pytest.warns(CaptureWarning, match="layers are not written"):
        with Capture(tmp_path):
            F.scaled_dot_product_attention(x, x, x)
            1 / 0


def test_what_cannot_be_a_layer(tmp_path):
    shapes = [((1, 1, 4, 264),) * 3, ((1, 1, 4, 16), (1, 1, 4, 16), (1, 1, 4, 32))]
    with Capture(tmp_path) as c, pytest.warns(CaptureWarning, match="not captured"):
        for s in shapes:
            F.scaled_dot_product_attention(*(torch.randn(x) for x in s))
        F.scaled_dot_product_attention(*(torch.randn(4, 16, dtype=torch.float64) for _ in range(3)))
        F.scaled_dot_product_attention(*(torch.randn(2, 4, 16) for _ in range(3)))
    t, _ = read(c)
    assert set(t) == {f"attn.3.{p}" for p in "qkvo"} and t["attn.3.q"].shape == (1, 2, 4, 16)


def test_errors_leave_everything_as_it_was(tmp_path):
    plain = F.scaled_dot_product_attention
    model = Model(Block(), Block())
    model.blocks[1].to_out.forward = lambda x: 1 / 0
    c = Capture(tmp_path, model=model)
    with pytest.raises(ZeroDivisionError), c:
        model(torch.randn(1, 4, 64))
    assert F.scaled_dot_product_attention is plain
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    # The layers that ran are there, whole; and the Capture can be used again.
    assert set(read(c)[0]) == {f"blocks.{i}.{p}" for i in (0, 1) for p in "qkvo"}
    model.blocks[1].to_out = nn.Identity()
    with pytest.raises(FileExistsError, match="holds a dump already"), c:
        pass
    assert F.scaled_dot_product_attention is plain
    for path in c.written:
        path.unlink()
    with c:
        model(torch.randn(1, 5, 64))
        with pytest.raises(RuntimeError), c:
            pass
    assert read(c)[0]["blocks.0.q"].shape == (1, 4, 5, 16)
    assert F.scaled_dot_product_attention is plain


def test_own_functions_steps_and_nesting(tmp_path):
    class Processor:
        def attend(self, tokens_first, *, weight):
            q, k, v = (x.transpose(1, 2) for x in tokens_first)
            return F.scaled_dot_product_attention(q, k, v, scale=weight)

    def adapter(args, kwargs, result):
        q, k, v = (x.transpose(1, 2) for x in args[-1])
        return Call(q, k, v, result, scale=kwargs["weight"])

    p = Processor()
    qkv = [torch.randn(1, 6, 2, 16) for _ in range(3)]
    with Capture(tmp_path / "a", functions=[(p, "attend", adapter)], steps=2) as a, Capture(tmp_path / "b") as b:
        p.attend(qkv, weight=0.25)
        p.attend(qkv, weight=0.5)
        a.next_step()
        p.attend(qkv, weight=0.25)
        a.next_step()
        p.attend(qkv, weight=0.25)
    assert "attend" not in vars(p)
    t, meta = read(a)
    # The wrapped function calls the other one, and is captured once.
    assert {n.rsplit(".", 1)[0] for n in t} == {"step0.attn.0", "step0.attn.1", "step1.attn.0"}
    assert meta["step0.attn.1.q"]["sm_scale"] == "0.5"
    assert {n.rsplit(".", 1)[0] for n in read(b)[0]} == {f"attn.{i}" for i in range(4)}


@pytest.mark.parametrize("device", DEVICES)
def test_transformers(tmp_path, device):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50
    )
    model = transformers.LlamaModel(config).to(device, torch.float16 if device == "cuda" else torch.float32).eval()
    with torch.no_grad(), Capture(tmp_path, model=model) as c:
        model(torch.arange(12, device=device)[None])
    t, meta = read(c)
    assert {n.rsplit(".", 1)[0] for n in t} == {"layers.0.self_attn", "layers.1.self_attn"}
    assert all(m["causal"] == "true" for m in meta.values())


def test_sageacc_reads_it(tmp_path):
    torch.manual_seed(0)
    model = Model(Block(), Block(causal=True), Block(kv_heads=2)).half()
    with torch.no_grad(), Capture(tmp_path / "dump", model=model):
        model(torch.randn(1, 100, 64).half())
    out = subprocess.run([sageacc.binary(), "compare", str(tmp_path / "dump"), "--format", "json"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    layers = {layer["name"]: layer for layer in json.loads(out.stdout)["layers"]}
    assert set(layers) == {f"blocks.{i}" for i in range(3)}
    assert [layers[f"blocks.{i}"]["causal"] for i in range(3)] == [False, True, False]
    for layer in layers.values():
        # PyTorch's output is the reference's but for rounding; the quantised one is near.
        assert layer["actual_vs_reference"]["cos_sim"] > 0.99999
        assert layer["emulated_vs_reference"]["cos_sim"] > 0.99


def test_blocks_that_end_in_another_order(tmp_path):
    plain = F.scaled_dot_product_attention
    q, k, v = (torch.randn(1, 2, 4, 16) for _ in range(3))
    a, b = Capture(tmp_path / "a"), Capture(tmp_path / "b")
    a.__enter__()
    b.__enter__()
    F.scaled_dot_product_attention(q, k, v)
    a.__exit__(None, None, None)
    F.scaled_dot_product_attention(q, k, v)
    b.__exit__(None, None, None)
    F.scaled_dot_product_attention(q, k, v)
    assert {n[:6] for n in read(a)[0]} == {"attn.0"} and {n[:6] for n in read(b)[0]} == {"attn.0"}
    assert not a._parts and not b._parts
    F.scaled_dot_product_attention = plain
