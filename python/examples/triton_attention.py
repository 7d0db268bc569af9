"""An attention kernel in Triton, to be tested: INT8 Q K^T, FP16 P V, smoothed K.

`attention` computes what it should. `forgets_to_rescale` has the most common fault of an
online softmax: when a row's maximum grows, it rescales the denominator and forgets what
has been summed up of P V.

On a machine without a GPU both return what they returned when they were recorded
(recorded/*.safetensors; SAGEACC_RECORD=1 pytest records anew).
"""

from pathlib import Path

import sageacc

try:
    import torch
    import triton
    import triton.language as tl
except ImportError:
    torch = None

# What `attention` computes, in sageacc's words: a kernel on mma.sync with one scale for a
# block of Q and of K, P and V in FP16, summed in FP32.
KERNEL = sageacc.Kernel("sage2-8b-sm89", arch="ideal", qk_granularity="per-block", pv_dtype="fp16", pv_accum="fp32")

ROWS, KEYS = 128, 64

if torch is not None:

    @triton.jit
    def _kernel(
        q, k, v, o, q_scale, k_scale,
        heads, group, queries, keys, scale,
        causal: tl.constexpr, rescale: tl.constexpr, dim: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """One block of rows of one head; tensors are contiguous [batch * heads, tokens, dim]."""
        tile, head = tl.program_id(0), tl.program_id(1)
        kv_head = head // heads * (heads // group) + head % heads // group
        row = tile * rows + tl.arange(0, rows)
        channel = tl.arange(0, dim)
        at = head.to(tl.int64) * queries * dim + row[:, None] * dim + channel[None, :]
        codes = tl.load(q + at, mask=row[:, None] < queries, other=0)
        step = tl.load(q_scale + head * tl.cdiv(queries, rows) + tile) * scale
        m = tl.full([rows], float("-inf"), tl.float32)
        d = tl.zeros([rows], tl.float32)
        acc = tl.zeros([rows, dim], tl.float32)
        end = tl.minimum(keys, (tile + 1) * rows) if causal else keys
        base = kv_head.to(tl.int64) * keys * dim
        for lo in range(0, end, block):
            key = lo + tl.arange(0, block)
            seen = key < keys
            kt = tl.load(k + base + key[None, :] * dim + channel[:, None], mask=seen[None, :], other=0)
            s = tl.dot(codes, kt).to(tl.float32) * (step * tl.load(k_scale + kv_head * tl.cdiv(keys, block) + lo // block))
            s = tl.where(seen[None, :] & (row[:, None] >= key[None, :] if causal else True), s, float("-inf"))
            m_new = tl.maximum(m, tl.max(s, 1))
            alpha = tl.exp2(m - m_new)
            p = tl.exp2(s - m_new[:, None])
            d = d * alpha + tl.sum(p, 1)
            if rescale:
                acc = acc * alpha[:, None]
            vt = tl.load(v + base + key[:, None] * dim + channel[None, :], mask=seen[:, None], other=0.0)
            acc += tl.dot(p.to(tl.float16), vt)
            m = m_new
        tl.store(o + at, (acc / d[:, None]).to(o.dtype.element_ty), mask=row[:, None] < queries)

    def _quantise(x, block):
        """INT8 codes and one scale for each block of tokens of each head."""
        n = x.size(-2)
        pad = torch.nn.functional.pad(x.float(), (0, 0, 0, -n % block)).unflatten(-2, (-1, block))
        scale = pad.abs().amax((-1, -2)).clamp(min=1e-7) / 127
        codes = (pad / scale[..., None, None]).round().clamp(-127, 127).to(torch.int8)
        return codes.flatten(-3, -2)[..., :n, :].contiguous(), scale.contiguous()

    def _run(q, k, v, is_causal, rescale):
        k = k.float() - k.float().mean(-2, keepdim=True)
        (codes_q, scale_q), (codes_k, scale_k) = _quantise(q, ROWS), _quantise(k, KEYS)
        o = torch.empty_like(q)
        batch, heads, queries, dim = q.shape
        _kernel[(triton.cdiv(queries, ROWS), batch * heads)](
            codes_q, codes_k, v.half().contiguous(), o, scale_q, scale_k,
            heads, heads // k.size(1), queries, k.size(2), dim**-0.5 * 1.4426950408889634,
            causal=is_causal, rescale=rescale, dim=dim, rows=ROWS, block=KEYS,
        )  # fmt: skip
        return o


def _live(q, k, v, is_causal=False):
    return _run(q, k, v, is_causal, True)


def _live_broken(q, k, v, is_causal=False):
    return _run(q, k, v, is_causal, False)


RECORDED = Path(__file__).parent / "recorded"
attention = sageacc.recorded(RECORDED / "attention.safetensors", _live)
forgets_to_rescale = sageacc.recorded(RECORDED / "forgets_to_rescale.safetensors", _live_broken)
