"""Times scaled_dot_product_attention in FP32, once for each line it reads."""
import sys
import time

import torch

threads, heads, tokens, dim = map(int, sys.argv[1:])
torch.set_num_threads(threads)
q, k, v = (torch.randn(1, heads, tokens, dim) for _ in range(3))
attention = torch.nn.functional.scaled_dot_product_attention
attention(q, k, v)
for _ in sys.stdin:
    start = time.perf_counter()
    attention(q, k, v)
    print(time.perf_counter() - start, flush=True)
