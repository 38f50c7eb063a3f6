"""AdamW on the CPU: this library, PyTorch's fused step and bitsandbytes' 8-bit one in one run, turn by turn.

    cargo build --release
    python3 benches/peers/optimizer_cpu.py target/release/libqlora_kernels.so

Needs numpy, PyTorch 2.9.1 and bitsandbytes 0.50.2. Parameters and gradients are f32; the best of as many turns as fit a minute for
each number of parameters, at least five, since other work on the machine only ever adds time.
"""

import sys
import time

import bitsandbytes
import numpy as np
import torch

from ours import Ours, qlk

CPU = 0  # QLK_DEVICE_CPU
MILLIONS, SECONDS, TURNS = (16, 64), 60, 5


def ours(library, param, grad, states, absmax=()):
    """A step of this library on addresses."""
    adamw = qlk.optimizer(qlk.ADAMW, lr=1e-3, weight_decay=0.01, step=7)
    absmax = [qlk.pointer(scales).value for scales in absmax]
    parameter = qlk.parameter(qlk.tensor(param), qlk.tensor(grad), [qlk.pointer(state).value for state in states], absmax)
    return lambda: library.step(adamw, parameter, (None, 0), None)


def theirs(optimizer, param, grad):
    """A step of an optimizer of PyTorch's kind, on this memory."""
    param = torch.nn.Parameter(torch.from_numpy(param))
    param.grad = torch.from_numpy(grad)
    return optimizer([param]).step


def main():
    torch.set_num_threads(2)
    library = Ours(sys.argv[1], CPU)
    print("| parameters | step | ms | times PyTorch's fused | times bitsandbytes' 8-bit |")
    print("|---|---|---|---|---|")
    for millions in MILLIONS:
        count, rng = millions << 20, np.random.default_rng(0)
        param, grad = (rng.random((1, count), np.float32) * 2 - 1 for _ in "pg")
        states = [np.zeros(count, np.float32) for _ in "mv"]
        # The codes of zero of the signed map and of the unsigned one.
        codes = [np.full(count, zero, np.uint8) for zero in (127, 0)]
        absmax = [np.zeros(count // 256, np.float32) for _ in "mv"]
        fused = "PyTorch 2.9.1 fused, f32 states"
        blockwise = "bitsandbytes 0.50.2, 8-bit states"
        steps = {
            "ours, f32 states": ours(library, param, grad, states),
            "ours, 8-bit states": ours(library, param, grad, codes, absmax),
            fused: theirs(lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01, fused=True), param, grad),
            blockwise: theirs(lambda params: bitsandbytes.optim.AdamW8bit(params, lr=1e-3, weight_decay=0.01), param, grad),
        }
        best = dict.fromkeys(steps, float("inf"))
        for step in steps.values():
            step()
        start, turns = time.perf_counter(), 0
        while turns < TURNS or time.perf_counter() - start < SECONDS:
            for name, step in steps.items():
                begun = time.perf_counter()
                step()
                best[name] = min(best[name], time.perf_counter() - begun)
            turns += 1
        for name, seconds in best.items():
            print(f"| {millions} Mi | {name} | {seconds * 1e3:.2f} | {best[fused] / seconds:.2f} | {best[blockwise] / seconds:.1f} |",
                  flush=True)


main()
