"""The table, the inputs and the recorder, without a GPU: the packages that record.py calls
are replaced by the emulator itself, so that what it records must pass, and what a broken
one returns must not.

    python -m pytest kernels/record
"""

import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cases  # noqa: E402
import gpu  # noqa: E402
import record  # noqa: E402
import table  # noqa: E402


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The command: the installed package's, or built by Go."""
    try:
        import sageacc

        return sageacc.binary()
    except (ImportError, RuntimeError):
        pass
    if shutil.which("go") is None:
        pytest.skip("there is neither the package sageacc nor Go to build the command")
    path = tmp_path_factory.mktemp("bin") / "sageacc"
    subprocess.run(["go", "build", "-o", str(path), "./cmd/sageacc"], cwd=HERE.parents[1], check=True, env={**os.environ, "CGO_ENABLED": "0"})
    return str(path)


def read_safetensors(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    dtypes = {name: dtype for dtype, name in record.DTYPES.items()}
    return {
        name: np.frombuffer(data, dtypes[t["dtype"]], count=int(np.prod(t["shape"])), offset=start + t["data_offsets"][0]).reshape(t["shape"])
        for name, t in header.items()
    }


class Emulator:
    """What Gpu is, and the packages on it, of the emulator: the arguments are those that the
    packages take, the results what sageacc emulates; broken are flags that change the kernel."""

    arch, capability, multiprocessors = "sm_90", 90, 132

    def __init__(self, program, folder, broken=()):
        self.program, self.folder, self.broken = program, folder, broken
        self.captured = {}
        aten = types.SimpleNamespace(_flash_attention_forward=self.flash, _efficient_attention_forward=self.efficient)
        self.torch = types.SimpleNamespace(
            ops=types.SimpleNamespace(aten=aten), float16="fp16", bfloat16="bf16", uint8=np.uint8, zeros=lambda n, dtype, device: np.zeros(1, dtype)
        )

    def metadata(self):
        return {"layout": "HND", "device": "emulator", "kernels": "sageacc"}

    def tensor(self, x):
        return x

    array = tensor

    def prepare(self, byte):
        pass

    def finish(self):
        pass

    def means(self, x):
        return {}

    def sage(self):
        return types.SimpleNamespace(
            sm80_compile=None,
            sm89_compile=None,
            sm90_compile=None,
            sageattn_qk_int8_pv_fp16_cuda=self.fp16_cuda,
            sageattn_qk_int8_pv_fp16_triton=self.fp16_triton,
            sageattn_varlen=self.varlen,
            sageattn_qk_int8_pv_fp8_cuda=self.fp8_cuda,
            sageattn_qk_int8_pv_fp8_cuda_sm90=self.fp8_sm90,
        )

    def emulate(self, kernel, tensors, flags=(), lse=True, **metadata):
        """o and the log-sum-exp, [batch, heads, tokens, ...]."""
        dump, out = self.folder / "dump.safetensors", self.folder / "out.safetensors"
        metadata = {"layout": "HND", **{k: str(v) for k, v in metadata.items()}}
        record.write_safetensors(dump, {"x." + n: np.ascontiguousarray(t) for n, t in tensors.items()}, metadata)
        flags = [*flags, *self.broken]
        packed = "cu_seqlens_q" in tensors
        args = [self.program, "emulate", str(dump), "--kernel", kernel, "-o", str(out), *flags, *(() if packed or not lse else ("--lse",))]
        done = subprocess.run(args, capture_output=True, text=True)
        assert done.returncode == 0, (args, done.stderr)
        return read_safetensors(out)

    def attention(self, kernel, tensors, flags=(), **metadata):
        r = self.emulate(kernel, tensors, flags, **metadata)
        return r["x.o"], r["x.lse"]

    def _sage(self, kernel, q, k, v, layout, causal, sm_scale, smooth_k, lse, flags, mask=None, smooth_v=False):
        assert layout == "HND"
        smooth = ",".join(n for n, on in (("k", smooth_k), ("v", smooth_v)) if on) or "none"
        tensors = {"q": q, "k": k, "v": v, **({} if mask is None else {"mask": mask})}
        r = self.attention(kernel, tensors, [*flags, "--arch", self.arch, "--smooth", smooth], causal=str(causal).lower(), sm_scale=sm_scale)
        return r if lse else r[0]

    def fp16_cuda(self, q, k, v, tensor_layout, is_causal, qk_quant_gran, sm_scale, pv_accum_dtype, smooth_k, smooth_v, return_lse):
        flags = ["--qk-granularity", qk_quant_gran.replace("_", "-"), "--pv-accum", pv_accum_dtype]
        return self._sage("sage-fp16-cuda", q, k, v, tensor_layout, is_causal, sm_scale, smooth_k, return_lse, flags, smooth_v=smooth_v)

    def fp8_cuda(self, q, k, v, tensor_layout, is_causal, qk_quant_gran, sm_scale, pv_accum_dtype, smooth_k, smooth_v, return_lse):
        flags = ["--qk-granularity", qk_quant_gran.replace("_", "-"), "--pv-accum", pv_accum_dtype]
        return self._sage("sage2-8b-sm89", q, k, v, tensor_layout, is_causal, sm_scale, smooth_k, return_lse, flags, smooth_v=smooth_v)

    def fp8_sm90(self, q, k, v, tensor_layout, is_causal, qk_quant_gran, sm_scale, pv_accum_dtype, smooth_k, return_lse):
        flags = ["--qk-granularity", qk_quant_gran.replace("_", "-"), "--pv-accum", pv_accum_dtype]
        return self._sage("sage2-8b-sm90", q, k, v, tensor_layout, is_causal, sm_scale, smooth_k, return_lse, flags)

    def fp16_triton(self, q, k, v, tensor_layout, quantization_backend, is_causal, attn_mask, sm_scale, smooth_k, return_lse):
        flags = BACKENDS[quantization_backend]
        return self._sage("sage-fp16-triton", q, k, v, tensor_layout, is_causal, sm_scale, smooth_k, return_lse, flags, mask=attn_mask)

    def varlen(self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, is_causal, sm_scale, smooth_k):
        assert max_seqlen_q == np.diff(cu_seqlens_q).max() and max_seqlen_k == np.diff(cu_seqlens_k).max()
        tensors = {"q": q, "k": k, "v": v, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
        flags = [] if smooth_k else ["--smooth", "none"]
        r = self.emulate("sage-fp16-triton-varlen", tensors, flags, causal=str(is_causal).lower(), sm_scale=sm_scale)
        parts = [r[n] for n in sorted((n for n in r if n.endswith(".o")), key=lambda n: [int(x) for x in n.split(".") if x.isdecimal()] or [0])]
        return np.concatenate([p[0].swapaxes(0, 1) for p in parts])

    def first(self, kernel, q, k, v, flags=(), extra=None, **metadata):
        """For what takes [batch, tokens, heads, head_dim], as it returns."""
        tensors = {n: x.swapaxes(1, 2) for n, x in (("q", q), ("k", k), ("v", v))}
        o, lse = self.attention(kernel, {**tensors, **(extra or {})}, flags, **metadata)
        return o.swapaxes(1, 2), lse

    def flash(self, q, k, v, cq, ck, nq, nk, dropout, causal, debug, scale, window_size_left=None, window_size_right=None):
        assert (cq, ck, nq, nk, dropout, debug) == (None, None, q.shape[1], k.shape[1], 0.0, False)
        window = {} if window_size_left is None else {"window": f"{window_size_left},{window_size_right}"}
        return self.first("fa2", q, k, v, causal=str(causal).lower(), sm_scale=scale, **window)

    def efficient(self, q, k, v, bias, cq, ck, nq, nk, dropout, kind, lse, scale):
        assert (cq, ck, nq, nk, dropout, lse) == (None, None, None, None, 0.0, True)
        extra = {} if bias is None else {"mask": bias}
        corner = "bottom-right" if q.shape[1] <= k.shape[1] else "bottom-right-unsigned"
        flags = ["--set", "mask.causal=" + corner] if kind == 2 else []
        o, sums = self.first("sdpa-efficient", q, k, v, flags, extra, causal=str(kind > 0).lower(), sm_scale=scale)
        return o, np.pad(sums, ((0, 0), (0, 0), (0, -sums.shape[2] % 32)))

    def install_comfy(self, monkeypatch):
        """comfy_kitchen.sage_attention."""

        def int8_attention(q, k, v, *, scale=None, attn_mask=None):
            tensors = {"q": q, "k": k, "v": v, **({} if attn_mask is None else {"mask": attn_mask})}
            return self.emulate("comfy-int8", tensors, lse=False, sm_scale=scale)["x.o"]

        module = types.SimpleNamespace(int8_attention=int8_attention, is_available=lambda: True)
        monkeypatch.setitem(sys.modules, "comfy_kitchen", types.SimpleNamespace(sage_attention=module))
        monkeypatch.setitem(sys.modules, "comfy_kitchen.sage_attention", module)

    def sparge(self):
        """spas_sage_attn.core."""

        def block_sparse(q, k, v, mask_id=None, scale=None, tensor_layout="HND", pvthreshd=50):
            assert tensor_layout == "HND" and mask_id.any(-1).all() and q.shape[2] >= 128
            flags = ["--set", f"pv.threshold={pvthreshd:g}"]
            return self.emulate("sparge-sm90", {"q": q, "k": k, "v": v, "block_map": mask_id}, flags, lse=False, sm_scale=scale)["x.o"]

        return types.SimpleNamespace(block_sparse_sage2_attn_cuda=block_sparse)

    def install_fa3(self, monkeypatch, vllm):
        """flash_attn_interface, Dao's or vLLM's."""

        def dao(q, k, v, softmax_scale, causal, q_descale=None, k_descale=None, v_descale=None, window_size=(-1, -1), attention_chunk=0,
                softcap=0.0, num_splits=1, return_attn_probs=False):  # fmt: skip
            fp8 = q_descale is not None
            extra = {"q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale} if fp8 else {}
            metadata = {} if window_size == (-1, -1) else {"window": "%d,%d" % window_size}
            if softcap:
                metadata["softcap"] = softcap
            flags = ["--set", f"tiles.split={num_splits}"] if num_splits > 1 else []
            kernel = ("fa3-fp8-2level" if vllm else "fa3-fp8") if fp8 else "fa3"
            r = self.first(kernel, q, k, v, flags, extra, causal=str(causal).lower(), sm_scale=softmax_scale, **metadata)
            return r if return_attn_probs else r[0]

        def fork(q, k, v, softmax_scale, causal, q_descale, k_descale, v_descale, window_size, softcap, num_splits, cp_world_size=1):
            return dao(q, k, v, softmax_scale, causal, q_descale, k_descale, v_descale, window_size, 0, softcap, num_splits)

        monkeypatch.setitem(sys.modules, "flash_attn_interface", types.SimpleNamespace(flash_attn_func=fork if vllm else dao))


    def install_flashinfer(self, monkeypatch):
        """flashinfer. Its log-sum-exp is in base 2, and the emulator's of a dump is not: there is none."""
        emulator = self

        def prefill(kernel, q, k, v, scales, causal, sm_scale, o_dtype, window_left=-1):
            extra = {n + "_descale": s for n, s in zip("qkv", scales)}
            window = {} if window_left < 0 else {"window": f"{window_left},-1"}
            flags = ["--set", "operands.output=" + o_dtype]
            o, _ = emulator.first(kernel, q[None], k[None], v[None], flags, extra, causal=str(causal).lower(), sm_scale=sm_scale, **window)
            return o[0], None

        def single(q, k, v, sq, sk, sv, o_dtype, causal, sm_scale, backend, return_lse):
            assert backend == "fa3" and return_lse
            return prefill("flashinfer-fp8", q, k, v, (sq, sk, sv), causal, sm_scale, o_dtype)

        class Wrapper:
            def __init__(self, workspace, layout, backend):
                assert (layout, backend) == ("NHD", "fa3")

            def run(self, q, kv, *scales, return_lse):
                k, v = kv
                o = self.options
                assert return_lse and o["q_data_type"] == o["kv_data_type"] == q.dtype
                return prefill(self.kernel, q, k, v, scales, o["causal"], o["sm_scale"], o["o_data_type"], o["window_left"])

        class Ragged(Wrapper):
            kernel = "flashinfer-fp8"

            def plan(self, qo, kv, heads, kv_heads, dim, dim_v, **options):
                assert qo[0] == kv[0] == 0 and dim == dim_v
                self.options, self.lengths = options, (qo[1], kv[1])

            def run(self, q, k, v, *scales, return_lse):
                assert self.lengths == (len(q), len(k))
                return super().run(q, (k, v), *scales, return_lse=return_lse)

        class Paged(Wrapper):
            kernel = "flashinfer-fp8-paged"

            def plan(self, qo, kv, pages, last, heads, kv_heads, dim, page, **options):
                assert qo[0] == kv[0] == 0 and kv[1] == len(pages)
                self.options, self.pages, self.keys = options, pages, (len(pages) - 1) * page + last[0]

            def run(self, q, caches, *scales, return_lse):
                keys = [c[self.pages].reshape(-1, *c.shape[2:])[: self.keys] for c in caches]
                return super().run(q, keys, *scales, return_lse=return_lse)

        module = types.SimpleNamespace(
            single_prefill_with_kv_cache=single, BatchPrefillWithRaggedKVCacheWrapper=Ragged, BatchPrefillWithPagedKVCacheWrapper=Paged
        )
        monkeypatch.setitem(sys.modules, "flashinfer", module)


BACKENDS = {
    "triton": [],
    "cuda": ["--set", "qk_codes.scale=fused", "--set", "qk_codes.round=even", "--set", "smoothing.k_difference=fp32-ftz"],
}


def small(form, want=3, seed=4):
    """So many inputs of few scores, each of another kind, with a scale that a dump may have."""
    out = {}
    for i in range(400):
        x = cases.draw(seed, form, i)
        if x.queries * x.keys * x.tensors["q"].shape[1] < (60000 if form == "blocks" else 20000) and x.sm_scale > 0 and x.kind not in out and min(x.queries, x.keys) > 1:
            out[x.kind] = x
        if len(out) == want:
            break
    return list(out.values())


def conform(program, folder):
    done = subprocess.run([program, "conform", str(folder), "--format", "json"], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def command(monkeypatch, fake, out, *flags):
    monkeypatch.setattr(record, "Gpu", lambda: fake)
    return record.main([str(out), "--seeds", "4", *flags])


# --- the table


def test_rows_name_known_kernels(program):
    listed = json.loads(subprocess.run([program, "kernels", "--format", "json"], capture_output=True, check=True).stdout)
    known = {k["name"] for k in listed["kernels"]}
    assert {r.kernel for r in table.TABLE} <= known
    assert "sage3" not in known  # that an unknown name would be seen


def test_rows_have_names_of_their_own():
    assert Counter(r.name for r in table.TABLE).most_common(1)[0][1] == 1


@pytest.mark.parametrize("row", table.TABLE, ids=lambda r: r.name)
def test_every_row_has_calls_and_options_that_conform_reads(row, program, tmp_path):
    """The emulator accepts the fields of every row's lines, and refuses wrong ones."""
    x, f = next((x, f) for form in cases.FORMS for i in range(60) for x in [cases.draw(3, form, i)] for f in row.calls(x))
    for wrong in ({}, {"pv_accum": "fp17"}):
        folder = tmp_path / f"wrong{len(wrong)}"
        folder.mkdir()
        rec = record.Recording(x, "sm_90")
        rec.put("o/x", np.zeros(x.tensors["q"].shape, ml_dtypes.bfloat16 if x.form in cases.FP8_FORMS else x.dtype), {"op": "attention", **row.fields(f), **wrong})
        record.write_safetensors(folder / (x.name + ".safetensors"), rec.tensors, {})
        (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rec.lines.values()))
        status, report = conform(program, folder)
        assert status == (2 if wrong else report["failed"]), report
        assert wrong or report["skipped"] == 0, report


# --- the inputs


@pytest.mark.parametrize("form", cases.FORMS)
def test_inputs_are_the_same_each_time(form):
    a, b, other = cases.draw(9, form, 7), cases.draw(9, form, 7), cases.draw(10, form, 7)
    assert a.name == b.name and list(a.tensors) == list(b.tensors)
    assert all(record.same(x, b.tensors[n]) for n, x in a.tensors.items())
    assert other.name != a.name and (other.tensors["q"].shape != a.tensors["q"].shape or not record.same(other.tensors["q"], a.tensors["q"]))


def digest(form):
    h = hashlib.sha256()
    for i in range(5):
        for name, x in cases.draw(1, form, i).tensors.items():
            h.update(f"{name} {x.dtype} {x.shape}".encode() + x.tobytes())
    return h.hexdigest()[:16]


def test_inputs_are_the_same_on_every_machine():
    assert {form: digest(form) for form in cases.FORMS} == DIGESTS


DIGESTS = {"plain": "e380d91e06ce0a4d", "masked": "b75504a5fd2526f3", "packed": "d34006955efb0800", "fp8": "bd0b42975bfa999c", "wide": "ce06f74c07adae56", "fp8-head": "d835f82efe316ad1", "blocks": "0a1053e851982910"}


def test_inputs_cover():
    drawn = {form: [cases.draw(s, form, i) for s in (1, 2) for i in range(300)] for form in cases.FORMS}
    every = [x for xs in drawn.values() for x in xs]
    assert len({x.name for x in every}) == len(every)
    assert {x.head_dim for x in every} == set(cases.HEAD_DIMS + cases.HEAD_DIMS_WIDE)
    assert {x.head_dim for x in every if x.form not in ("wide", "fp8-head")} == set(cases.HEAD_DIMS)
    assert {x.head_dim for x in drawn["fp8-head"]} == {64, 128, 256} and {x.dtype for x in drawn["fp8-head"]} == {cases.E4M3}
    assert any(len(set(x.tensors["q_descale"][0])) > x.tensors["k"].shape[1] for x in drawn["fp8-head"])
    assert {x.dtype for x in drawn["wide"]} == {cases.F16, cases.BF16, cases.F32} and {len(x.masks) for x in drawn["wide"]} == {0, 2}
    assert {x.kind for x in every} == set(cases.KINDS)
    blocks = drawn["blocks"]
    assert {m[4:] for x in blocks for m in x.maps} == set(cases.MAPS) and all(len(x.maps) == 2 for x in blocks)
    assert min(x.queries for x in blocks) == 128 and {x.head_dim for x in blocks} == {64, 128}
    maps = [(m, x.tensors[m]) for x in blocks for m in x.maps]
    assert all(t.any(-1).all() for _, t in maps) and any(not t[..., -1].any() and t.any() for m, t in maps if m == "map/early")
    assert all(x.tensors[m].shape == (*x.tensors["q"].shape[:2], -(-x.queries // 64), -(-x.keys // 128)) for x in blocks for m in x.maps)
    assert {x.threshold for x in blocks} == {50, 6, 2, 0.5, 0.25}
    assert {m[5:] for x in drawn["masked"] for m in x.masks} == set(cases.MASKS)
    assert {x.dtype for x in drawn["plain"]} == {cases.F16, cases.BF16}
    assert {x.dtype for x in drawn["fp8"]} == {cases.E4M3}
    tokens = {n for x in drawn["plain"] for n in (x.queries, x.keys)}
    assert min(tokens) == 1 and max(tokens) > 1000 and max(tokens) <= cases.MAX_TOKENS
    shapes = [x.tensors["q"].shape[:2] + x.tensors["k"].shape[1:2] for x in drawn["plain"]]
    assert {s[0] for s in shapes} == {1, 2} and {s[1] // s[2] for s in shapes} >= {1, 2, 3}
    assert any(x.queries != x.keys for x in drawn["plain"])
    assert {x.tensors["cu_seqlens_q"].dtype.itemsize for x in drawn["packed"]} == {4, 8}
    assert {len(x.tensors["cu_seqlens_q"]) for x in drawn["packed"]} == {2, 3, 4, 5, 6}
    for x in drawn["packed"]:
        assert x.tensors["cu_seqlens_k"][-1] == x.keys and np.diff(x.tensors["cu_seqlens_k"]).min() > 0


def test_no_two_calls_have_one_name():
    for form in cases.FORMS:
        for i in range(40):
            x = cases.draw(2, form, i)
            names = [record.call_name(r, f) for r in table.TABLE for f in r.calls(x)]
            assert len(names) == len(set(names)), names


# --- the recorder


@pytest.mark.parametrize("vllm", [False, True])
def test_what_the_emulator_returns_passes(program, tmp_path, monkeypatch, vllm):
    """Every row that can run, through the package's own arguments, and read back."""
    fake = Emulator(program, tmp_path)
    fake.install_fa3(monkeypatch, vllm)
    fake.install_comfy(monkeypatch)
    fake.install_flashinfer(monkeypatch)
    rows, missing = table.available(fake, table.TABLE)
    assert set(missing) == ({"fa3", "fa3-fp8"} if vllm else {"fa3-fp8-2level"})
    if vllm:
        rows = [r for r in rows if r.kernel == "fa3-fp8-2level"]
    (tmp_path / "set").mkdir()
    recorder = record.Recorder(fake, rows, tmp_path / "set", calls=14)
    for form in ("fp8",) if vllm else cases.FORMS:
        for x in small(form):
            recorder.record(x)
    assert not recorder.failed and not recorder.skipped, recorder.summary()
    recorder.finish()
    assert {line["kernel"] for line in recorder.lines} == {r.kernel for r in rows}
    status, report = conform(program, tmp_path / "set")
    assert status == 0 and report["failed"] == report["skipped"] == 0 and report["passed"] == len(recorder.lines) >= (4 if vllm else 60)


@pytest.mark.parametrize(
    "only,form,broken",
    [
        ("^sage-fp16-cuda/per-thread/fp32$", "plain", ["--pv-accum", "fp16"]),
        ("^sage-fp16-triton/triton$", "masked", BACKENDS["cuda"]),
        ("varlen", "packed", ["--set", "smoothing.k=mean"]),
        ("^sage2-8b-sm90/per-warp", "plain", ["--qk-granularity", "per-thread"]),
        ("^fa2$", "plain", ["--set", "denominator.combine=01+23"]),
        ("^sdpa-efficient$", "masked", ["--set", "denominator.order=sequential"]),
        ("^comfy-int8$", "wide", ["--set", "v_codes.scale=paper"]),
        ("^flashinfer-fp8-paged$", "fp8-head", ["--set", "p.scale=240"]),
        ("^sparge-sm90$", "blocks", ["--set", "exponent.offset=8"]),
    ],
)
def test_what_a_broken_kernel_returns_fails(program, tmp_path, monkeypatch, only, form, broken):
    (tmp_path / "set").mkdir()
    rows = [r for r in table.TABLE if re.search(only, r.name)]
    fake = Emulator(program, tmp_path, broken)
    fake.install_comfy(monkeypatch)
    fake.install_flashinfer(monkeypatch)
    recorder = record.Recorder(fake, rows, tmp_path / "set")
    for x in small(form, 6):
        recorder.record(x)
    recorder.finish()
    assert rows and recorder.lines and not recorder.failed
    status, report = conform(program, tmp_path / "set")
    assert status == 1 and report["failed"] > 0


def fake_row(run, name="sage-fp16-cuda", calls=None):
    options = (("qk_granularity", "per-thread"), ("pv_accum", "fp32"), ("smooth_v", False))
    return table.Row(name, options, lambda gpu: "", calls or table.sage_dense(True), run)


class Idle(Emulator):
    def __init__(self):
        super().__init__(None, None)


def zeros(gpu, x, f):
    return {"o": np.zeros_like(x.tensors["q"])}


def test_a_result_that_varies_is_unstable(program, tmp_path):
    calls = Counter()

    def run(gpu, x, f):
        calls[f["causal"]] += 1
        o = np.zeros_like(x.tensors["q"])
        if f["causal"]:
            o.flat[0] = calls[True]
        return {"o": o}

    recorder = record.Recorder(Idle(), [fake_row(run)], tmp_path)
    recorder.record(cases.draw(1, "plain", 0))
    recorder.finish()
    assert [line.get("unstable", False) for line in recorder.lines] == [False, True]
    _, report = conform(program, tmp_path)
    assert report["skipped"] == 1


def test_unstable_log_sum_exps_are_seen():
    rec = record.Recording(cases.draw(1, "plain", 0), "sm_90")
    row = table.Row("fa2", (), lambda gpu: "", table.fa2_calls, zeros)
    f = {"causal": False}
    o, lse = np.zeros((1, 1, 4, 64), np.float16), np.zeros((1, 1, 4), np.float32)
    rec.call(row, f, {"o": o, "lse": lse})
    rec.call(row, f, {"o": o, "lse": np.copysign(lse, -1)})
    assert [line.get("unstable") for line in rec.lines.values()] == [True]


def test_same_tells_zeros_and_takes_any_nan():
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        a = np.array([0.0, np.nan, 1.0], dtype)
        assert record.same(a, np.array([0.0, -np.nan, 1.0], dtype))
        assert not record.same(a, np.array([-0.0, np.nan, 1.0], dtype))
        assert not record.same(a, a[:2])


def test_a_call_that_fails_is_reported_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    def run(gpu, x, f):
        if f["causal"]:
            raise ValueError("no such thing")
        return zeros(gpu, x, f)

    monkeypatch.setattr(record, "TABLE", (fake_row(run),))
    assert command(monkeypatch, Idle(), tmp_path / "set", "--inputs", "3", "--forms", "plain") == 1
    assert "3 calls failed: sage-fp16-cuda/per-thread/fp32: ValueError: no such thing" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "set/cases.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and not any(line["causal"] for line in lines)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    calls = Counter()

    def run(gpu, x, f):
        calls[0] += 1
        if calls[0] > 5:
            raise KeyboardInterrupt
        return zeros(gpu, x, f)

    monkeypatch.setattr(record, "TABLE", (fake_row(run),))
    with pytest.raises(KeyboardInterrupt):
        command(monkeypatch, Idle(), tmp_path / "a/set", "--inputs", "9", "--forms", "plain")
    assert calls[0] == 6 and list((tmp_path / "a").iterdir()) == []


def test_what_exists_is_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "set").mkdir()
    assert command(monkeypatch, Idle(), tmp_path / "set") == 2
    assert "set exists" in capsys.readouterr().err and list((tmp_path / "set").iterdir()) == []


def test_what_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    fake = Idle()

    def absent():
        raise ImportError("No module named 'sageattention'")

    fake.sage, fake.capability = absent, 86
    monkeypatch.setattr(fake, "arch", "sm_86", raising=False)
    assert command(monkeypatch, fake, tmp_path / "set", "--only", "sage|fa3") == 2
    out, err = capsys.readouterr()
    assert "skipped sage-fp16-triton/cuda: import sageattention.core: ImportError: No module named 'sageattention'" in out
    assert "skipped sage2-8b-sm90/per-warp/fp32+fp32: it needs sm_90, this is sm_86" in out
    assert "skipped fa3: it needs sm_90, this is sm_86" in out
    assert err == "record.py: none of the kernels can run here\n" and not (tmp_path / "set").exists()


def test_a_module_that_was_not_built_is_named():
    fake = Idle()
    fake.sage = lambda: types.SimpleNamespace(sm90_compile=None)
    rows, missing = table.available(fake, table.TABLE)
    assert missing["sage-fp16-cuda/per-warp/fp16"] == "sageattention was built without sm80_compile"
    assert "sage2-8b-sm90" in {r.kernel for r in rows}


def test_shards_share_the_inputs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "TABLE", (fake_row(zeros),))
    names = []
    for part in ("1/3", "2/3", "3/3", "1/1"):
        out = tmp_path / part.replace("/", "of")
        assert command(monkeypatch, Idle(), out, "--inputs", "5", "--forms", "plain", "--shard", part) == 0
        names.append({p.name for p in out.glob("*.safetensors")})
    assert names[0] | names[1] | names[2] == names[3] and sum(map(len, names[:3])) == 5


def test_a_bound_ends_the_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "TABLE", (fake_row(zeros),))
    assert command(monkeypatch, Idle(), tmp_path / "set", "--inputs", "99", "--forms", "plain", "--mib", "1") == 0
    size = sum(p.stat().st_size for p in (tmp_path / "set").glob("*.safetensors"))
    assert 1 << 20 <= size < 3 << 20 and "1 MiB are reached" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv,message",
    [
        ([], "OUT and --seeds are needed"),
        (["x", "--seeds", "-1"], "'-1': want a whole number from 0 on"),
        (["x", "--seeds", "a"], "'a': want a whole number from 0 on"),
        (["x", "--seeds", "1", "--only", "("], "'(': "),
        (["x", "--seeds", "1", "--only", "sage3"], "'sage3' matches none of the table's rows"),
        (["x", "--seeds", "1", "--shard", "3/2"], "'3/2': want I/N with I from 1 to N"),
        (["x", "--seeds", "1", "--forms", "round"], "invalid choice: 'round'"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        record.main(argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err


def test_without_a_device(tmp_path):
    """The command itself, where PyTorch is missing or sees no GPU."""
    done = subprocess.run([sys.executable, str(HERE / "record.py"), str(tmp_path / "set"), "--seeds", "1"], capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("record.py: ") and done.stderr.count("\n") == 1, done.stderr


def test_list(capsys):
    assert record.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [r.name for r in table.TABLE]


# --- with PyTorch, on the CPU


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    g = gpu.Gpu.__new__(gpu.Gpu)
    g.torch = torch
    monkey = pytest.MonkeyPatch()
    monkey.setattr(torch.Tensor, "cuda", lambda t: t)
    try:
        for form in cases.FORMS:
            for name, x in cases.draw(3, form, 1).tensors.items():
                t = g.tensor(x)
                assert t.shape == x.shape and t.dtype is not None
                if x.dtype.kind in "fV" or x.dtype in (cases.BF16, cases.E4M3):
                    assert np.array_equal(t.float().numpy(), x.astype(np.float32), equal_nan=True), name
                    assert record.same(g.array(t), x), name
        codes = torch.tensor([-3, 5], dtype=torch.int8)
        assert g.array(codes).dtype == np.int8 and g.array(codes).tolist() == [-3, 5]
    finally:
        monkey.undo()


def test_operators_of_pytorch_take_these_arguments():
    """What run_fa2 and run_efficient hand over, against the operators' schemas."""
    torch = pytest.importorskip("torch")
    for name, given in (
        ("_flash_attention_forward", ["scale", "window_size_left", "window_size_right"]),
        ("_efficient_attention_forward", ["scale"]),
    ):
        schema = getattr(torch.ops.aten, name).default._schema
        keyword = {a.name for a in schema.arguments if a.kwarg_only}
        positional = [a.name for a in schema.arguments if not a.kwarg_only]
        assert set(given) <= keyword
        wanted = inspect.signature(Emulator.flash if "flash" in name else Emulator.efficient).parameters
        assert len(positional) == len([p for p in wanted if p not in ("self", *given)]), positional
