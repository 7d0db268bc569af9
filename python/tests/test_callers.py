"""Capture of attention as libraries and models really call it. Libraries that need a GPU are
stood in for by modules with their functions' names, signatures and layouts, which emulate."""

import importlib.machinery
import inspect
import sys
import types
import warnings

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

import sageacc
from sageacc import Capture, CaptureWarning

SM89 = sageacc.Kernel("sage2-8b-sm89", pv_accum="fp32+fp16")


def read(capture):
    tensors, meta = {}, {}
    for path in capture.written:
        with safe_open(path, "pt") as f:
            for name in f.keys():  # noqa: SIM118
                tensors[name], meta[name] = f.get_tensor(name), f.metadata()
    return tensors, meta


def module(monkeypatch, name, **functions):
    m = types.ModuleType(name)
    m.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for n, f in functions.items():
        f.__module__, f.__name__ = name, n
        setattr(m, n, f)
    monkeypatch.setitem(sys.modules, name, m)
    return m


@pytest.fixture
def sage(monkeypatch):
    """sageattention, of which sageattn chooses the sm_89 function."""

    def sageattn_qk_int8_pv_fp8_cuda(
        q, k, v, tensor_layout="HND", is_causal=False, qk_quant_gran="per_thread", sm_scale=None, pv_accum_dtype="fp32+fp16",
        smooth_k=True, smooth_v=False, return_lse=False, **kwargs,
    ):  # fmt: skip
        return sageacc.emulate(q, k, v, kernel=SM89, causal=is_causal, sm_scale=sm_scale, layout=tensor_layout)

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
        return m.sageattn_qk_int8_pv_fp8_cuda(q, k, v, tensor_layout=tensor_layout, is_causal=is_causal, sm_scale=sm_scale)

    m = module(monkeypatch, "sageattention", sageattn=sageattn, sageattn_qk_int8_pv_fp8_cuda=sageattn_qk_int8_pv_fp8_cuda)
    return m


def qkv(heads=4, kv=None, n=40, d=64, layout="hnd", dtype=torch.float16):
    g = torch.Generator().manual_seed(0)
    shape = lambda h: (1, h, n, d) if layout == "hnd" else (1, n, h, d)
    return [torch.randn(shape(h), generator=g).to(dtype) for h in (heads, kv or heads, kv or heads)]


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("how", ["keywords", "positions", "as sdpa", "by name"])
def test_sageattn(tmp_path, sage, monkeypatch, layout, how):
    q, k, v = qkv(kv=2, layout=layout.lower())
    mine = types.ModuleType("mine")  # `from sageattention import sageattn`
    mine.sageattn = sage.sageattn
    monkeypatch.setitem(sys.modules, "mine", mine)
    monkeypatch.setattr(F, "scaled_dot_product_attention", sage.sageattn)
    before = sage.sageattn
    with Capture(tmp_path) as c, warnings.catch_warnings():
        warnings.simplefilter("error")
        if how == "keywords":
            o = sage.sageattn(q=q, k=k, v=v, tensor_layout=layout, is_causal=True, sm_scale=0.2)
        elif how == "positions":
            o = sage.sageattn(q, k, v, layout, True, 0.2)
        elif how == "as sdpa":
            o = F.scaled_dot_product_attention(q, k, v, tensor_layout=layout, is_causal=True, sm_scale=0.2)
        else:
            o = mine.sageattn(q, k, v, layout, is_causal=True, sm_scale=0.2)
    assert sage.sageattn is before and mine.sageattn is before
    t, meta = read(c)
    assert set(t) == {f"attn.0.{r}" for r in "qkvo"}
    order = (lambda x: x.transpose(1, 2)) if layout == "NHD" else (lambda x: x)
    for r, x in zip("qkvo", (q, k, v, o)):
        assert torch.equal(t[f"attn.0.{r}"], order(x)), r
    m = meta["attn.0.q"]
    assert m["causal"] == "true" and m["sm_scale"] == "0.2" and m["layout"] == "HND"
    # What sageattn chose is what the dump names.
    assert m["kernel"] == "sage2-8b-sm89 --qk-granularity per-thread --smooth k --pv-accum fp32+fp16"
    assert m["call"].startswith("sageattn(") and m["call"].endswith("-> sageattn_qk_int8_pv_fp8_cuda")
    assert sageacc.compare(*(t[f"attn.0.{r}"] for r in "qkv"), actual=t["attn.0.o"], kernel=SM89, causal=True, sm_scale=0.2).exact


def test_flash_attention(tmp_path, monkeypatch):
    def base(q, k, v, causal, scale):
        return sageacc.reference(q, k, v, causal=causal, sm_scale=scale, layout="nhd").half()

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, return_attn_probs=False):
        o = base(q, k, v, causal, softmax_scale)
        return (o, None, None) if return_attn_probs else o

    def flash_attn_qkvpacked_func(qkv, dropout_p=0.0, softmax_scale=None, causal=False):
        return base(*qkv.unbind(2), causal, softmax_scale)

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False):
        parts = [
            base(q[a:b][None], k[c:d][None], v[c:d][None], causal, softmax_scale)[0]
            for a, b, c, d in zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:])
            if b > a
        ]
        return torch.cat(parts)

    fa = module(
        monkeypatch, "flash_attn", flash_attn_func=flash_attn_func, flash_attn_qkvpacked_func=flash_attn_qkvpacked_func,
        flash_attn_varlen_func=flash_attn_varlen_func,
    )  # fmt: skip
    q, k, v = qkv(kv=2, layout="nhd")
    cu = torch.tensor([0, 13, 13, 40], dtype=torch.int32)
    with Capture(tmp_path) as c, warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        o0 = fa.flash_attn_func(q, k, v, causal=True, softmax_scale=0.3)
        o1 = fa.flash_attn_func(q, k, v, return_attn_probs=True)[0]
        o2 = fa.flash_attn_qkvpacked_func(torch.stack([k, k, v], 2))
        o3 = fa.flash_attn_varlen_func(q[0], k[0], v[0], cu, cu, 27, 27, causal=True)
        fa.flash_attn_func(q, k, v, window_size=(8, 0), softcap=30.0)
        o5 = fa.flash_attn_func(q[:, -1:], k, v, causal=True)  # decoding: the query sees all keys
        fa.flash_attn_func(q[:, -3:], k, v, causal=True)
        fa.flash_attn_func(q, k, v, alibi_slopes=torch.ones(4))
    t, meta = read(c)
    swap = lambda x: x.transpose(1, 2)
    assert torch.equal(t["attn.0.o"], swap(o0)) and meta["attn.0.q"]["causal"] == "true" and meta["attn.0.q"]["sm_scale"] == "0.3"
    assert meta["attn.0.q"]["kernel"] == "fa2"
    assert torch.equal(t["attn.1.o"], swap(o1)) and torch.equal(t["attn.1.k"], swap(k)) and meta["attn.1.q"]["causal"] == "false"
    assert torch.equal(t["attn.2.q"], swap(k)) and torch.equal(t["attn.2.o"], swap(o2))
    # Packed sequences are layers each; the empty one is none.
    assert torch.equal(t["attn.3.seq0.q"], swap(q[:, :13])) and torch.equal(t["attn.3.seq2.o"][0], o3[13:].transpose(0, 1))
    assert "attn.3.seq1.q" not in t and "attn.7.q" not in t
    # Windows, soft caps and the alignment with the last key are a dump's metadata.
    assert (meta["attn.4.q"]["window"], meta["attn.4.q"]["softcap"], meta["attn.4.q"]["causal_align"]) == ("8,0", "30.0", "bottom-right")
    assert meta["attn.6.q"]["causal"] == "true" and meta["attn.6.q"]["causal_align"] == "bottom-right" and "attn.6.mask" not in t
    assert "window" not in meta["attn.0.q"] and "causal_align" not in meta["attn.0.q"]
    assert torch.equal(t["attn.5.o"], swap(o5)) and meta["attn.5.q"]["causal"] == "false"
    text = " ".join(str(x.message) for x in w)
    assert "attn.7 is not captured: it has alibi_slopes" in text


def test_flash_attention_3(tmp_path, monkeypatch):
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, q_descale=None, k_descale=None, v_descale=None):
        return torch.zeros_like(q, dtype=torch.bfloat16), None

    fa3 = module(monkeypatch, "flash_attn_interface", flash_attn_func=flash_attn_func)
    q, k, v = qkv(layout="nhd", dtype=torch.bfloat16)
    with Capture(tmp_path / "a") as c:
        fa3.flash_attn_func(q, k, v)
    assert read(c)[1]["attn.0.q"]["kernel"] == "fa3"
    fp8 = [x.to(torch.float8_e4m3fn) for x in (q, k, v)]
    scale = torch.full((1, 4), 0.5)
    with Capture(tmp_path / "b") as c:
        fa3.flash_attn_func(*fp8, q_descale=scale, k_descale=scale, v_descale=scale)
    t, meta = read(c)
    assert meta["attn.0.q"]["kernel"] == "fa3-fp8" and torch.equal(t["attn.0.v_descale"], scale)
    assert torch.equal(t["attn.0.k"].view(torch.uint8), fp8[1].transpose(1, 2).contiguous().view(torch.uint8)) and t["attn.0.o"].dtype == torch.bfloat16


def test_xformers(tmp_path, monkeypatch):
    class LowerTriangularMask:
        pass

    class BlockDiagonalMask:
        pass

    def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None):
        causal = isinstance(attn_bias, LowerTriangularMask)
        if query.dim() == 3:
            return sageacc.reference(*(x[:, None] for x in (query, key, value)), causal=causal).half()[:, 0]
        return sageacc.reference(query, key, value, causal=causal, layout="nhd").half()

    x = module(monkeypatch, "xformers.ops", memory_efficient_attention=memory_efficient_attention)
    q, k, v = qkv(layout="nhd")
    with Capture(tmp_path) as c, pytest.warns(CaptureWarning, match="attn.2 is not captured: its bias is a BlockDiagonalMask"):
        o = x.memory_efficient_attention(q, k, v, attn_bias=LowerTriangularMask())
        flat = x.memory_efficient_attention(q[:, :, 0], k[:, :, 0], v[:, :, 0])
        x.memory_efficient_attention(q, k, v, BlockDiagonalMask())
    t, meta = read(c)
    assert torch.equal(t["attn.0.o"], o.transpose(1, 2)) and meta["attn.0.q"]["causal"] == "true"
    assert torch.equal(t["attn.1.o"], flat[:, None]) and t["attn.1.q"].shape == (1, 1, 40, 64)


def test_multihead_attention(tmp_path):
    """PyTorch's own module, also where it would take a path that calls nothing."""
    m = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    x = torch.randn(1, 20, 64)
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), Capture(tmp_path, model=m) as c:
        m(x, x, x, need_weights=False)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert set(read(c)[0]) == {f"model.{r}" for r in "qkvo"}


def test_in_place(tmp_path, monkeypatch):
    def sageattn3_blackwell(q, k, v, attn_mask=None, is_causal=False, per_block_mean=True):
        k -= k.mean(dim=-2, keepdim=True)
        return q.clone()

    s3 = module(monkeypatch, "sageattn3", sageattn3_blackwell=sageattn3_blackwell)
    q, k, v = qkv()
    passed = k.clone()
    with Capture(tmp_path) as c, pytest.warns(CaptureWarning, match="attn.0: the call changed its K in place; the dump has what was passed"):
        s3.sageattn3_blackwell(q, k, v)
    assert torch.equal(read(c)[0]["attn.0.k"], passed) and not torch.equal(k, passed)


def test_never_raises_into_the_model(tmp_path, sage, monkeypatch):
    x = torch.randn(1, 2, 8, 16)

    def broken(*args, **kwargs):
        raise KeyError("query")

    monkeypatch.setattr("sageacc._capture.Part.keep", broken)
    with Capture(tmp_path / "a"), pytest.warns(CaptureWarning, match="attn.0 is not captured: KeyError: 'query'"):
        F.scaled_dot_product_attention(x, x, x)
    monkeypatch.undo()
    with Capture(tmp_path / "b"), pytest.warns(CaptureWarning, match="its k is not to be found among its arguments"):
        with pytest.raises(TypeError):
            F.scaled_dot_product_attention(x)  # the function's own error is the caller's
    def bad(args, kwargs, result):
        raise RuntimeError("mine")

    class Owner:
        def f(self, x):
            return x

    owner = Owner()
    with Capture(tmp_path / "c", functions=[(owner, "f", bad)]), pytest.warns(CaptureWarning, match="RuntimeError: mine"):
        assert torch.equal(owner.f(x), x)
    assert "f" not in vars(owner)


def test_empty_captures_say_why(tmp_path):
    class Own(nn.Module):
        """Computes attention by itself."""

        def forward(self, x):
            return (x @ x.mT).softmax(-1) @ x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = Own()

        def forward(self, x):
            return self.self_attn(x)

    class Calls(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    x = torch.randn(1, 2, 8, 16)
    with pytest.warns(CaptureWarning, match=r"nothing was captured: no watched function was called \(torch.nn.functional.scaled_dot_product_attention.*attention: self_attn; name the function"):
        with Capture(tmp_path / "a", model=Model()):
            pass
    calls = nn.Sequential(Calls(), Calls())
    with pytest.warns(CaptureWarning, match=r"no layer matches layers='attn'; layers that called attention: 0, 1"):
        with Capture(tmp_path / "b", model=calls, layers="attn"):
            calls(x)
    with pytest.warns(CaptureWarning, match="the layers ran in none of the steps asked for"):
        with Capture(tmp_path / "c", model=calls, steps=[7]):
            calls(x)


def test_rows_and_heads(tmp_path, sage):
    q, k, v = qkv(heads=4, kv=2, n=700)
    for causal in (False, True):
        with Capture(tmp_path / str(causal), rows=200, heads=1) as c:
            sage.sageattn(q, k, v, is_causal=causal)
        t, _ = read(c)
        # Whole tiles of queries, all keys, a whole group of heads: still every bit.
        assert t["attn.0.q"].shape == (1, 2, 256, 64) and t["attn.0.k"].shape == (1, 1, 700, 64)
        assert sageacc.compare(*(t[f"attn.0.{r}"] for r in "qkv"), actual=t["attn.0.o"], kernel=SM89, causal=causal).exact


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(64, 192)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_pipelines(tmp_path):
    class Pipeline:
        def __init__(self):
            self.components = {"text_encoder": Attention(), "transformer": nn.Sequential(Attention()), "scheduler": None}

        def __call__(self, x):
            x = self.components["text_encoder"](x)
            for _ in range(3):
                x = self.components["transformer"](x)

    pipe = Pipeline()
    with torch.no_grad(), Capture(tmp_path, model=pipe, steps=2) as c:
        pipe(torch.randn(1, 9, 64))
    assert {n.rpartition(".")[0] for n in read(c)[0]} == {"step0.text_encoder", "step0.transformer.0", "step1.transformer.0"}
    with pytest.raises(TypeError, match="model is a str"):
        Capture(tmp_path, model="x")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_transformers(tmp_path, attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
        attn_implementation=attention,
    )  # fmt: skip
    model = transformers.LlamaModel(config).eval()
    with torch.no_grad(), Capture(tmp_path, model=model) as c:
        model(torch.arange(12)[None])
    t, meta = read(c)
    assert {n.rpartition(".")[0] for n in t} == {"layers.0.self_attn", "layers.1.self_attn"}
    assert all(m["causal"] == "true" for m in meta.values())
    for i in range(2):
        q, k, v, o = (t[f"layers.{i}.self_attn.{r}"] for r in "qkvo")
        assert (sageacc.reference(q, k, v, causal=True) - o).abs().max() < 1e-5
    with torch.no_grad():
        model(torch.arange(12)[None])  # everything is back


@pytest.fixture
def diffusers_sage(monkeypatch, sage, tmp_path):
    """diffusers with its sage backend, as if sageattention were installed."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models import attention_dispatch as dispatch

    monkeypatch.setattr(dispatch, "sageattn", sage.sageattn, raising=False)
    monkeypatch.setattr(dispatch, "_CAN_USE_SAGE_ATTN", True)
    monkeypatch.setattr(dispatch, "_check_attention_backend_requirements", lambda backend: None)
    registry = dispatch._AttentionBackendRegistry
    monkeypatch.setitem(registry._constraints, dispatch.AttentionBackendName.SAGE, [])
    return diffusers


def test_diffusers(tmp_path, diffusers_sage):
    """A tiny CogVideoX, called through its sage backend as diffusers calls it."""
    torch.manual_seed(0)
    model = diffusers_sage.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=64, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=8, num_layers=2,
        sample_width=8, sample_height=8, sample_frames=5, patch_size=2, max_text_seq_length=8,
    ).half().eval()  # fmt: skip
    kwargs = {
        "hidden_states": torch.randn(1, 2, 4, 8, 8).half(),
        "encoder_hidden_states": torch.randn(1, 8, 8).half(),
        "timestep": torch.tensor([7]),
    }
    with torch.no_grad(), Capture(tmp_path / "sdpa", model=model) as c:
        model(**kwargs)
    assert {n.rpartition(".")[0] for n in read(c)[0]} == {f"transformer_blocks.{i}.attn1" for i in range(2)}
    wan = diffusers_sage.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=64, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
        num_layers=1, rope_max_seq_len=32,
    ).half().eval()  # fmt: skip
    wan.set_attention_backend("sage")
    with torch.no_grad(), Capture(tmp_path / "sage", model=wan) as c:
        wan(hidden_states=torch.randn(1, 4, 2, 8, 8).half(), encoder_hidden_states=torch.randn(1, 8, 16).half(), timestep=torch.tensor([7]))
    t, meta = read(c)
    assert {n.rpartition(".")[0] for n in t} == {"blocks.0.attn1", "blocks.0.attn2"}
    assert "tensor_layout='NHD'" in meta["blocks.0.attn1.q"]["call"] and t["blocks.0.attn1.q"].shape[:2] == (1, 2)
    for n in ("blocks.0.attn1", "blocks.0.attn2"):
        assert sageacc.compare(*(t[f"{n}.{r}"] for r in "qkv"), actual=t[f"{n}.o"], kernel=SM89).exact


def test_functions_have_their_names():
    """Every adapter finds its library's argument names in the signatures that are published."""
    from sageacc._functions import FUNCTIONS

    assert len({str(f) for f in FUNCTIONS}) == len(FUNCTIONS) and inspect.isfunction(FUNCTIONS[0].adapter)
