"""Makes sageacc/golden.safetensors: what the released SageAttention2 kernels returned on an
H200, from this repository's conformance set, for `sageacc doctor` to hold the program to.

    python make_golden.py
"""

from pathlib import Path

import numpy as np

from sageacc import _safetensors

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "hardware/conformance/testdata/h200"
# Per file, the outputs that are taken: SageAttention's layouts of tiles, units and accumulators.
TAKEN = {
    "cross_17x520_d64_f16": ["o/full/sage2-8b-sm90/per-thread/fp32+fp32", "o/full/sage2-8b-sm89/per-thread/fp32+fp16"],
    "n17_d64_f16": ["o/causal/sage2-8b-sm90/per-thread/fp32+fp32", "o/causal/sage2-8b-sm90/per-warp/fp32+fp32"],
}

tensors = {}
for name, outputs in TAKEN.items():
    found, _ = _safetensors.read(np.fromfile(SOURCE / f"{name}.safetensors", np.uint8))
    for x in ("q", "k", "v", *outputs):
        tensors[f"{name}:{x}"] = found[x]
with (HERE / "sageacc" / "golden.safetensors").open("wb") as f:
    _safetensors.write(f, tensors, {"device": "NVIDIA H200", "kernels": "thu-ml/SageAttention d1a57a5, CUDA 13.0"})
