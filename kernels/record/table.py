"""The table of kernels that record.py records, and how each is called.

A row is a kernel of `sageacc kernels` with fixed options; what a call of it asks for
beside them (a mask, smoothing, a window) follows from the input. Both together are the
fields of the line that `sageacc conform` reads. Libraries are imported when a row is
asked whether it can run.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from cases import BF16, E4M3, F16, Inputs, window_hides

Fields = Dict[str, Any]
# Names of tensors beside the output: what the kernel's own quantisers made, and its log-sum-exp.
QUANTISED = ("q_int8", "q_scale", "k_int8", "k_scale", "v_fp8", "v_scale", "v_mean")


@dataclass(frozen=True)
class Row:
    """A kernel with its options.

    missing says why it cannot run here, or nothing. calls lists what to ask of it for an
    input, as fields of the lines. run takes all fields of a line, and may add what depends on
    the GPU; it returns host arrays: "o", perhaps "lse" (natural, float32 [batch, heads,
    queries]), and the QUANTISED tensors where there are some.
    """

    kernel: str
    options: Tuple[Tuple[str, Any], ...]
    missing: Callable[[Any], str]
    calls: Callable[[Inputs], List[Fields]]
    run: Callable[[Any, Inputs, Fields], Dict[str, np.ndarray]]

    @property
    def name(self) -> str:
        """The kernel and its options, as they are named in the set."""
        return "/".join([self.kernel] + [k.replace("_", "-") if v is True else str(v) for k, v in self.options if v is not False])

    def fields(self, call: Fields) -> Fields:
        """The fields of a call's line."""
        return {"kernel": self.kernel, **dict(self.options), **call}


# --- SageAttention (thu-ml/SageAttention, package sageattention)

FP16 = (F16, BF16)


def sage_missing(module: str, least: int, most: int = 999) -> Callable[[Any], str]:
    """Whether the package has a module that the GPU runs; capabilities as 10 * major + minor."""

    def missing(gpu: Any) -> str:
        if not least <= gpu.capability <= most:
            return f"it needs sm_{least}" + (" or later" if most > least else "") + f", this is {gpu.arch}"
        try:
            core = gpu.sage()
        except Exception as err:  # whatever goes wrong in someone else's import
            return f"import sageattention.core: {type(err).__name__}: {err}"
        return "" if not module or hasattr(core, module) else f"sageattention was built without {module}"

    return missing


def sage_takes(x: Inputs) -> bool:
    """Dense or masked FP16 and BF16."""
    return x.dtype in FP16 and x.head_dim <= 128


def causals(x: Inputs, unequal: bool) -> Tuple[bool, ...]:
    """With a causal mask too; unequal: also where queries and keys differ in number."""
    return (False, True) if unequal or x.queries == x.keys else (False,)


def sage_call(x: Inputs, causal: bool, **more: Any) -> Fields:
    """The fields that a call of SageAttention has."""
    return {"causal": causal, "smooth_k": x.smooth_k, "sm_scale": x.sm_scale, **more}


def sage_dense(unequal: bool) -> Callable[[Inputs], List[Fields]]:
    """Calls of a kernel without masks."""
    return lambda x: [sage_call(x, c) for c in causals(x, unequal)] if x.form == "plain" and sage_takes(x) else []


def triton_calls(x: Inputs) -> List[Fields]:
    """The Triton kernel takes a mask where it is not causal."""
    if x.form == "masked" and sage_takes(x):
        return [sage_call(x, False, mask=m) for m in x.masks]
    return sage_dense(False)(x)


def varlen_calls(x: Inputs) -> List[Fields]:
    """Packed sequences; each causal from its own first query and key."""
    return [sage_call(x, c) for c in (False, True)] if x.form == "packed" and sage_takes(x) else []


def sage_result(gpu: Any, function: str, x: Inputs, f: Fields, **options: Any) -> Dict[str, np.ndarray]:
    """Calls a function of sageattention.core in its HND layout."""
    q, k, v = (gpu.tensor(x.tensors[n]) for n in "qkv")
    gpu.captured.clear()
    o = getattr(gpu.sage(), function)(
        q, k, v, tensor_layout="HND", is_causal=f["causal"], sm_scale=f["sm_scale"], smooth_k=f["smooth_k"], return_lse=x.lse, **options
    )
    out = {"o": gpu.array(o[0] if x.lse else o)}
    if x.lse:
        out["lse"] = gpu.array(o[1])
    out.update({n: gpu.array(t) for n, t in gpu.captured.items()})
    return out


def run_fp16_cuda(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """sageattn_qk_int8_pv_fp16_cuda."""
    gran = f["qk_granularity"].replace("-", "_")
    return sage_result(
        gpu, "sageattn_qk_int8_pv_fp16_cuda", x, f, qk_quant_gran=gran, pv_accum_dtype=f["pv_accum"], smooth_v=f["smooth_v"]
    )


def run_fp16_triton(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """sageattn_qk_int8_pv_fp16_triton."""
    mask = gpu.tensor(x.tensors[f["mask"]]) if "mask" in f else None
    return sage_result(gpu, "sageattn_qk_int8_pv_fp16_triton", x, f, quantization_backend=f["quant_backend"], attn_mask=mask)


def run_fp8(function: str) -> Callable[[Any, Inputs, Fields], Dict[str, np.ndarray]]:
    """The FP8 kernels, sm_89's and sm_90's."""

    def run(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
        options = {"qk_quant_gran": f["qk_granularity"].replace("-", "_"), "pv_accum_dtype": f["pv_accum"]}
        if "smooth_v" in f:
            options["smooth_v"] = f["smooth_v"]
        return sage_result(gpu, function, x, f, **options)

    return run


def run_varlen(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """sageattn_varlen."""
    q, k, v, cq, ck = (gpu.tensor(x.tensors[n]) for n in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k"))
    longest = [int(np.diff(x.tensors[n]).max()) for n in ("cu_seqlens_q", "cu_seqlens_k")]
    o = gpu.sage().sageattn_varlen(q, k, v, cq, ck, *longest, is_causal=f["causal"], sm_scale=f["sm_scale"], smooth_k=f["smooth_k"])
    return {"o": gpu.array(o)}


# --- PyTorch's own attention


def torch_missing(gpu: Any) -> str:
    """PyTorch's kernels come with it."""
    return "" if gpu.capability >= 80 else f"it needs sm_80 or later, this is {gpu.arch}"


def positive(x: Inputs) -> float:
    """A softmax scale above 0: the others were made for SageAttention."""
    return x.sm_scale if x.sm_scale > 0 else x.head_dim**-0.5


def aligned(x: Inputs) -> Fields:
    """Fields of a call with a scale that is masked at the bottom right."""
    return {"causal_align": "bottom-right", "sm_scale": positive(x)}


def fa2_calls(x: Inputs) -> List[Fields]:
    """Dense, causal at the bottom right, and with a window."""
    if x.form != "plain" or x.head_dim % 8:
        return []
    calls = [{"causal": c, **aligned(x)} for c in (False, True)]
    if (w := window_hides(x)) and x.kind == "gauss":
        calls.append({"causal": False, "window": list(w), **aligned(x)})
    return calls


def tokens_first(gpu: Any, x: Inputs) -> List[Any]:
    """q, k and v as [batch, tokens, heads, head_dim]."""
    return [gpu.tensor(np.ascontiguousarray(x.tensors[n].swapaxes(1, 2))) for n in "qkv"]


def heads_first(gpu: Any, o: Any) -> np.ndarray:
    """An output of [batch, tokens, heads, head_dim] as the set has it."""
    return gpu.array(o).swapaxes(1, 2)


def run_fa2(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """The operator below SDPBackend.FLASH_ATTENTION, which returns the log-sum-exp too."""
    window = {"window_size_left": f["window"][0], "window_size_right": f["window"][1]} if "window" in f else {}
    q, k, v = tokens_first(gpu, x)
    r = gpu.torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, f["causal"], False, scale=f["sm_scale"], **window
    )
    f["sms"] = gpu.multiprocessors  # the number of parts of the keys depends on it
    return {"o": heads_first(gpu, r[0]), "lse": gpu.array(r[1])}


def efficient_calls(x: Inputs) -> List[Fields]:
    """Causal at either corner, and masks as they are added; query and kv heads as many."""
    if x.form not in ("plain", "masked") or x.head_dim % 8 or x.tensors["q"].shape[1] != x.tensors["k"].shape[1]:
        return []
    call = {"causal": False, "causal_align": "top-left", "sm_scale": positive(x)}
    if x.form == "masked":
        return [{**call, "mask": m} for m in x.masks if x.tensors[m].dtype == x.dtype]
    # The offset of a diagonal that begins in front of the first key is kept unsigned.
    corner = "bottom-right" if x.queries <= x.keys else "bottom-right-unsigned"
    return [call, {**call, "causal": True}, {**call, "causal": True, "causal_align": corner}]


def run_efficient(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """The operator below SDPBackend.EFFICIENT_ATTENTION, which returns the log-sum-exp too."""
    q, k, v = tokens_first(gpu, x)
    bias = None
    if "mask" in f:
        m = x.tensors[f["mask"]]
        # The kernel loads aligned rows.
        padded = np.zeros((q.shape[0], q.shape[2], x.queries, -(-x.keys // 16) * 16), m.dtype)
        padded[..., : x.keys] = m
        bias = gpu.tensor(padded)[..., : x.keys]
    kind = {False: 0, True: 1 if f["causal_align"] == "top-left" else 2}[f["causal"]]
    r = gpu.torch.ops.aten._efficient_attention_forward(q, k, v, bias, None, None, None, None, 0.0, kind, True, scale=f["sm_scale"])
    return {"o": heads_first(gpu, r[0]), "lse": gpu.array(r[1][:, :, : x.queries])}


# --- FlashAttention-3 (Dao-AILab/flash-attention or vllm-project/flash-attention, hopper/)


def fa3_missing(vllm: bool) -> Callable[[Any], str]:
    """Both forks install flash_attn_interface; vLLM's has parameters for context parallelism."""

    def missing(gpu: Any) -> str:
        if gpu.capability != 90:
            return f"it needs sm_90, this is {gpu.arch}"
        try:
            function = importlib.import_module("flash_attn_interface").flash_attn_func
        except Exception as err:  # whatever goes wrong in someone else's import
            return f"import flash_attn_interface: {type(err).__name__}: {err}"
        if vllm == ("cp_world_size" in inspect.signature(function).parameters):
            return ""
        return "flash_attn_interface is not vLLM's" if vllm else "flash_attn_interface is vLLM's, which has other tiles"

    return missing


def fa3_calls(x: Inputs) -> List[Fields]:
    """FP16 and BF16: dense, causal, with a window, a soft cap, and the keys in parts."""
    if x.form != "plain" or x.head_dim % 8:
        return []
    calls = [{"causal": c, **aligned(x)} for c in (False, True)]
    if (w := window_hides(x)) and x.kind == "gauss":
        calls.append({"causal": False, "window": list(w), **aligned(x)})
    if x.softcap and x.head_dim <= 64 and x.dtype == F16:
        calls.append({"causal": False, "softcap": x.softcap, **aligned(x)})
    if x.splits > 1 and x.keys >= 256:
        calls.append({"causal": False, "num_splits": x.splits, **aligned(x)})
    return calls


def fa3_fp8_calls(x: Inputs) -> List[Fields]:
    """E4M3 with scales."""
    return [{"causal": c, **aligned(x)} for c in (False, True)] if x.form == "fp8" and x.dtype == E4M3 and x.head_dim % 16 == 0 else []


def run_fa3(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """flash_attn_func."""
    function = importlib.import_module("flash_attn_interface").flash_attn_func
    options: Fields = {n: gpu.tensor(x.tensors[n]) for n in ("q_descale", "k_descale", "v_descale") if n in x.tensors}
    options.update(window_size=tuple(f.get("window", (-1, -1))), softcap=f.get("softcap", 0.0), num_splits=f.get("num_splits", 1))
    if "return_attn_probs" in inspect.signature(function).parameters:
        options["return_attn_probs"] = True
    r = function(*tokens_first(gpu, x), softmax_scale=f["sm_scale"], causal=f["causal"], **options)
    o, lse = r[:2] if isinstance(r, (tuple, list)) else (r, None)
    out = {"o": heads_first(gpu, o)}
    return out if lse is None else {**out, "lse": gpu.array(lse)}


# --- FlashInfer (flashinfer-ai/flashinfer, package flashinfer)


def flashinfer_missing(gpu: Any) -> str:
    """Its FP8 kernels are for sm_90 alone."""
    if gpu.capability != 90:
        return f"it needs sm_90, this is {gpu.arch}"
    try:
        importlib.import_module("flashinfer")
    except Exception as err:  # whatever goes wrong in someone else's import
        return f"import flashinfer: {type(err).__name__}: {err}"
    return ""


def flashinfer_calls(x: Inputs) -> List[Fields]:
    """Dense and causal, with an output of FP16, and with a bound of the keys before the query."""
    if x.form != "fp8-head":
        return []
    calls: List[Fields] = [{"causal": c, **aligned(x)} for c in (False, True)]
    calls.append({"causal": x.lse, "set": ["operands.output=fp16"], **aligned(x)})
    # With more queries than keys a window may leave a tile of queries no tile of keys: by its source the paged kernel
    # then loads one that nothing takes, and may wait forever.
    if x.queries <= x.keys and x.window[0] < x.keys - 1:
        calls += [{"causal": c, "window": [x.window[0], -1], **aligned(x)} for c in (False, True)]
    return calls


PAGE = 16


def flashinfer_single(gpu: Any, q: Any, k: Any, v: Any, scales: List[Any], f: Fields, dtype: Any) -> Any:
    """A call without a window, of one request."""
    call = importlib.import_module("flashinfer").single_prefill_with_kv_cache
    return call(q, k, v, *scales, o_dtype=dtype, causal=f["causal"], sm_scale=f["sm_scale"], backend="fa3", return_lse=True)


def flashinfer_batch(gpu: Any, q: Any, k: Any, v: Any, scales: List[Any], f: Fields, dtype: Any, paged: bool) -> Any:
    """A batch of one request, with its keys in a row or in pages, in the reverse order."""
    module, (nq, nk) = importlib.import_module("flashinfer"), (q.shape[0], k.shape[0])

    def integers(*x: int) -> Any:
        return gpu.tensor(np.array(x, np.int32))

    workspace = gpu.torch.zeros(128 << 20, dtype=gpu.torch.uint8, device="cuda")
    options = {"causal": f["causal"], "sm_scale": f["sm_scale"], "window_left": f.get("window", [-1])[0]}
    options.update(q_data_type=q.dtype, kv_data_type=k.dtype, o_data_type=dtype)
    heads = (q.shape[1], k.shape[1], q.shape[2])
    if not paged:
        wrapper = module.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend="fa3")
        wrapper.plan(integers(0, nq), integers(0, nk), *heads, heads[2], **options)
        return wrapper.run(q, k, v, *scales, return_lse=True)
    wrapper = module.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend="fa3")
    pages = -(-nk // PAGE)
    wrapper.plan(
        integers(0, nq), integers(0, pages), integers(*reversed(range(pages))), integers((nk - 1) % PAGE + 1), *heads, PAGE, **options
    )
    caches = []
    for x in (k, v):
        rows = np.zeros((pages * PAGE, *heads[1:]), E4M3)
        rows[:nk] = gpu.array(x)
        caches.append(gpu.tensor(rows.reshape(pages, PAGE, *heads[1:])[::-1].copy()))
    return wrapper.run(q, tuple(caches), *scales, return_lse=True)


def run_flashinfer(paged: bool) -> Callable[[Any, Inputs, Fields], Dict[str, np.ndarray]]:
    """FP8 prefill, a batch entry at a time. The log-sum-exp is in base 2, as FlashInfer returns it."""

    def run(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
        dtype = gpu.torch.float16 if "set" in f else gpu.torch.bfloat16
        outputs, sums = [], []
        for b in range(x.tensors["q"].shape[0]):
            q, k, v = (gpu.tensor(np.ascontiguousarray(x.tensors[n][b].swapaxes(0, 1))) for n in "qkv")
            scales = [gpu.tensor(x.tensors[n + "_descale"][b]) for n in "qkv"]
            if paged or "window" in f:
                o, lse = flashinfer_batch(gpu, q, k, v, scales, f, dtype, paged)
            else:
                o, lse = flashinfer_single(gpu, q, k, v, scales, f, dtype)
            outputs.append(gpu.array(o).swapaxes(0, 1))
            if lse is not None:
                sums.append(gpu.array(lse).swapaxes(0, 1))
        out = {"o": np.stack(outputs)}
        return {**out, "lse": np.stack(sums)} if sums else out

    return run


# --- comfy-kitchen (Comfy-Org/comfy-kitchen, package comfy_kitchen)


def comfy_missing(gpu: Any) -> str:
    """Whether the package's INT8 attention runs here."""
    try:
        available = importlib.import_module("comfy_kitchen.sage_attention").is_available()
    except Exception as err:  # whatever goes wrong in someone else's import
        return f"import comfy_kitchen.sage_attention: {type(err).__name__}: {err}"
    return "" if available else "comfy_kitchen was built without its INT8 attention, or not for this GPU"


def comfy_calls(x: Inputs) -> List[Fields]:
    """Any head_dim up to 256 and FP32 too; a mask is the only mask."""
    if x.form not in ("plain", "masked", "wide"):
        return []
    call = {"causal": False, "sm_scale": x.sm_scale}
    return [{**call, "mask": m} for m in x.masks] or [call]


def run_comfy(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """int8_attention."""
    q, k, v = (gpu.tensor(x.tensors[n]) for n in "qkv")
    mask = gpu.tensor(x.tensors[f["mask"]]) if "mask" in f else None
    o = importlib.import_module("comfy_kitchen.sage_attention").int8_attention(q, k, v, scale=f["sm_scale"], attn_mask=mask)
    return {"o": gpu.array(o)}


# --- SpargeAttn (thu-ml/SpargeAttn, package spas_sage_attn)


def sparge_missing(gpu: Any) -> str:
    """Whether the package runs here, with the tiles that the block maps of these inputs have."""
    if gpu.capability != 90:
        return f"it needs sm_90, this is {gpu.arch}"
    try:
        gpu.sparge()
    except Exception as err:  # whatever goes wrong in someone else's import
        return f"import spas_sage_attn.core: {type(err).__name__}: {err}"
    return ""


def sparge_calls(x: Inputs) -> List[Fields]:
    """Each block map, also with another threshold."""
    if x.form != "blocks":
        return []
    calls: List[Fields] = [{"causal": False, "block_map": m, "sm_scale": x.sm_scale} for m in x.maps]
    return calls if x.threshold == 50 else calls + [{**c, "set": [f"pv.threshold={x.threshold:g}"]} for c in calls]


def run_sparge(gpu: Any, x: Inputs, f: Fields) -> Dict[str, np.ndarray]:
    """block_sparse_sage2_attn_cuda."""
    q, k, v, m = (gpu.tensor(x.tensors[n]) for n in ("q", "k", "v", f["block_map"]))
    gpu.captured.clear()
    options = {"pvthreshd": x.threshold} if "set" in f else {}
    o = gpu.sparge().block_sparse_sage2_attn_cuda(q, k, v, mask_id=m, scale=f["sm_scale"], tensor_layout="HND", **options)
    return {"o": gpu.array(o), **{n: gpu.array(t) for n, t in gpu.captured.items()}}


GRANULARITIES = ("per-thread", "per-warp")


def _options(**options: Any) -> Tuple[Tuple[str, Any], ...]:
    return tuple(options.items())


TABLE: Tuple[Row, ...] = (
    *(
        Row(
            "sage-fp16-cuda",
            _options(qk_granularity=g, pv_accum=a, smooth_v=v),
            sage_missing("sm80_compile", 80),
            sage_dense(True),
            run_fp16_cuda,
        )
        for g in GRANULARITIES
        for a, v in (("fp32", False), ("fp16", False), ("fp16+fp32", False), ("fp16", True))
    ),
    *(
        Row("sage-fp16-triton", _options(quant_backend=b), sage_missing("", 80), triton_calls, run_fp16_triton)
        for b in ("triton", "cuda")
    ),
    Row("sage-fp16-triton-varlen", _options(quant_backend="triton"), sage_missing("", 80), varlen_calls, run_varlen),
    *(
        Row(
            "sage2-8b-sm89",
            _options(qk_granularity=g, pv_accum=a, smooth_v=v),
            sage_missing("sm89_compile", 89),
            sage_dense(False),
            run_fp8("sageattn_qk_int8_pv_fp8_cuda"),
        )
        for g in GRANULARITIES
        for a, v in (("fp32", False), ("fp32+fp32", False), ("fp32+fp16", False), ("fp32", True))
    ),
    *(
        Row(
            "sage2-8b-sm90",
            _options(qk_granularity=g, pv_accum="fp32+fp32"),
            sage_missing("sm90_compile", 90, 90),
            sage_dense(False),
            run_fp8("sageattn_qk_int8_pv_fp8_cuda_sm90"),
        )
        for g in GRANULARITIES
    ),
    Row("fa2", (), torch_missing, fa2_calls, run_fa2),
    Row("sdpa-efficient", (), torch_missing, efficient_calls, run_efficient),
    Row("fa3", (), fa3_missing(vllm=False), fa3_calls, run_fa3),
    Row("fa3-fp8", (), fa3_missing(vllm=False), fa3_fp8_calls, run_fa3),
    Row("fa3-fp8-2level", (), fa3_missing(vllm=True), fa3_fp8_calls, run_fa3),
    Row("flashinfer-fp8", (), flashinfer_missing, flashinfer_calls, run_flashinfer(paged=False)),
    Row("flashinfer-fp8-paged", (), flashinfer_missing, flashinfer_calls, run_flashinfer(paged=True)),
    Row("comfy-int8", (), comfy_missing, comfy_calls, run_comfy),
    Row("sparge-sm90", (), sparge_missing, sparge_calls, run_sparge),
)


def available(gpu: Any, rows: Tuple[Row, ...]) -> Tuple[List[Row], Dict[str, str]]:
    """The rows that can run, and why each other cannot."""
    skipped = {r.name: reason for r in rows if (reason := r.missing(gpu))}
    return [r for r in rows if r.name not in skipped], skipped
