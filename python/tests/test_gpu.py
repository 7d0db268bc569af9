"""The real libraries on a real GPU; skipped without."""

import importlib.util

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

import torch.nn.functional as F
from torch import nn

import sageacc
from sageacc import Kernel, Monitor, find_nonfinite

sage = pytest.mark.skipif(importlib.util.find_spec("sageattention") is None, reason="no sageattention")
hopper = pytest.mark.skipif(torch.cuda.get_device_capability() != (9, 0), reason="not sm_90")
COMBINATIONS = {"shapes": ["1x4/2x333x333x64", "2x2/2x130x130x128", "1x2/2x200x333x64"], "distributions": list(sageacc.DISTRIBUTIONS)}


@sage
@hopper
def test_sageattn_is_what_is_emulated():
    from sageattention import sageattn

    report = sageacc.check(sageattn, kernel="auto", **COMBINATIONS)
    assert str(report.kernel) == "sageattn@sm_90"
    sageacc.check(sageattn, layout="nhd", sm_scales=[0.3], **{**COMBINATIONS, "distributions": ["outliers"]})
    with pytest.raises(sageacc.CheckFailed, match="bit for bit, that of"):
        sageacc.check(sageattn, kernel=Kernel(pv_accum="fp32"), **{**COMBINATIONS, "distributions": ["gauss"]})


@pytest.mark.parametrize("kernel", ["sage2-8b-sm90", "sage2-8b-sm89"])
def test_sdpa_is_within_any_budget(kernel):
    sageacc.check(F.scaled_dot_product_attention, kernel=kernel, mode="budget", **COMBINATIONS)
    with pytest.raises(sageacc.CheckFailed):
        sageacc.check(F.scaled_dot_product_attention, kernel=kernel, explain=False, **{**COMBINATIONS, "distributions": ["gauss"]})


def tiny_cogvideox():
    """A pipeline of random weights: transformer, scheduler and embeddings, no files."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=64, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16, num_layers=2,
        sample_width=16, sample_height=16, sample_frames=9, patch_size=2, max_text_seq_length=16,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    )  # fmt: skip
    pipe = diffusers.CogVideoXPipeline(None, None, vae, transformer, diffusers.CogVideoXDDIMScheduler()).to("cuda", torch.float16)
    pipe.set_progress_bar_config(disable=True)

    def run():
        embeds = torch.randn(1, 16, 16, device="cuda", dtype=torch.float16, generator=torch.Generator("cuda").manual_seed(0))
        return pipe(
            prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds), height=128, width=128, num_frames=9, num_inference_steps=2,
            generator=torch.Generator("cuda").manual_seed(1), output_type="latent",
        ).frames  # fmt: skip

    return pipe, run


@sage
@hopper
def test_diffusers_through_sageattn(tmp_path, monkeypatch):
    """A pipeline whose attention is sageattn, as users put it there: captured and monitored, bit for bit."""
    from sageattention import sageattn

    pipe, run = tiny_cogvideox()
    plain = run()
    monkeypatch.setattr(F, "scaled_dot_product_attention", sageattn)
    fast = run()
    assert not torch.equal(plain, fast)
    with sageacc.Capture(tmp_path / "dump", model=pipe, batch=None, steps=2) as c:
        assert torch.equal(run(), fast)
    done = sageacc._binary.run_command(["compare", str(c.path), "--kernel", "sage2-8b-sm90", "--expect-bit-exact", "--format", "csv"])
    assert done.returncode == 0 and done.stdout.count(b"transformer_blocks.1.attn1") >= 2
    with Monitor(pipe, kernel="auto", heads=2) as m:
        assert torch.equal(run(), fast)
    assert m.exact and len(m.samples) == 2 * 2 * 2, m.table()
    (page,) = m.report(tmp_path / "r.html")
    assert page.exists()


@sage
@hopper
def test_diffusers_dispatch(tmp_path):
    """A model of diffusers that calls its sage backend by itself: keywords, NHD."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=64, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
        num_layers=2, rope_max_seq_len=32,
    ).to("cuda", torch.bfloat16).eval()  # fmt: skip
    model.set_attention_backend("sage")
    x = torch.randn(1, 4, 4, 32, 32, device="cuda", dtype=torch.bfloat16)
    text = torch.randn(1, 20, 16, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad(), Monitor(model, heads=2) as m:
        model(hidden_states=x, encoder_hidden_states=text, timestep=torch.tensor([7], device="cuda"))
    assert m.exact and {s.layer for s in m.samples} == {f"blocks.{i}.attn{j}" for i in (0, 1) for j in (1, 2)}, m.table()


@sage
@hopper
def test_nonfinite_of_a_real_fp16_accumulator(tmp_path):
    """SageAttention's kernel with FP16 accumulators, V large on purpose."""
    from sageattention import sageattn_qk_int8_pv_fp16_cuda as attend

    class Layer(nn.Module):
        def __init__(self, gain):
            super().__init__()
            self.gain = gain

        def forward(self, x):
            import sageattention

            v = (x.abs() + 1) * self.gain
            return sageattention.sageattn_qk_int8_pv_fp16_cuda(x, x, v, pv_accum_dtype="fp16") / self.gain

    assert attend is not None
    model = nn.Sequential(Layer(1.0), Layer(3000.0), Layer(1.0))
    x = torch.randn(1, 2, 500, 64, device="cuda", dtype=torch.float16)
    said = []
    with torch.no_grad(), find_nonfinite(model, path=tmp_path / "n.safetensors", echo=said.append) as f:
        model(x)
        said.append("ran on")
    assert f.found is not None and f.found.layer == "1" and "ran on" not in said and f.found.tile is not None
    assert any("accumulator" in s for s in f.found.stages), said


@pytest.mark.parametrize("name", ["attention", "forgets_to_rescale"])
def test_triton_example(name, monkeypatch):
    from conftest import ROOT

    monkeypatch.syspath_prepend(str(ROOT / "python" / "examples"))
    import triton_attention as t

    cases = {"shapes": ["1x4/2x333x333x64", "1x2/2x1024x1024x128"], "dtypes": ["float16"], "mode": "budget", "kernel": t.KERNEL}
    if name == "attention":
        sageacc.check(t.attention, **cases)
    else:
        with pytest.raises(sageacc.CheckFailed, match="rescale-o=none"):
            sageacc.check(t.forgets_to_rescale, **cases)



def test_doctor():
    from sageacc._doctor import doctor

    found = doctor(quick=True)
    print(*found, sep="\n")
    assert not any(f.ok is False for f in found) and found[0].ok
