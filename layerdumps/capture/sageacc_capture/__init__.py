"""Dumps Q, K, V and O of attention layers as safetensors, for sageacc.

    with Capture("dump", model=model, layers=r"attn$", heads=4):
        model(inputs)

wraps torch.nn.functional.scaled_dot_product_attention for the time of the block.
"""

from ._capture import Adapter, Call, Capture, CaptureWarning

__all__ = ["Adapter", "Call", "Capture", "CaptureWarning"]
