"""What one step of PyTorch's optimizers takes, for comparison with BenchmarkStep of torch/optim.

    python scripts/bench_optim.py [threads]        prints the median of each kind in milliseconds

7.0 million float32 parameters in 200 tensors, past RAdam's first steps, on one thread unless told otherwise.
"""

import statistics
import sys
import time

import torch

O = torch.optim
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
torch.manual_seed(0)
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
for make, kwargs in ((O.SGD, dict(momentum=0.9)), (O.Adam, {}), (O.AdamW, {}), (O.RAdam, {})):
    for kind in ("default", "foreach", "fused"):
        if kind == "fused" and make is O.RAdam:
            continue
        params = [torch.randn(s) for _ in range(50) for s in ((128, 122, 3, 3), (128,), (128,), (128,))]
        for p in params:
            p.requires_grad_()
            p.grad = torch.randn_like(p)
        opt = make(params, **kwargs, **({} if kind == "default" else {kind: True}))
        for _ in range(8):
            opt.step()
        times = []
        for _ in range(40):
            start = time.perf_counter()
            opt.step()
            times.append(time.perf_counter() - start)
        print(f"{make.__name__:6} {kind:8} {statistics.median(times) * 1e3:6.2f} ms")
