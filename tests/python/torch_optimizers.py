"""Where torch's optimizers get in 1,000 steps in f32: prints tests/python/torch_optimizers.txt.

tests/optimizer.rs walks the same way: the same start and gradients, from a linear congruential generator.
"""
import numpy as np
import torch

LEN, STEPS = 64, 1000
OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "Sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.01),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.01, nesterov=True),
    "RmsProp": lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, eps=1e-10, weight_decay=0.01),
}


def sequence():
    state = 1
    while True:
        row = np.empty(LEN, np.float32)
        for i in range(LEN):
            state = (state * 1_664_525 + 1_013_904_223) % 2**32
            row[i] = (state >> 15) / 65_536 - 1
        yield torch.from_numpy(row)


def main():
    print(f"# torch {torch.__version__}: rule, then the bits of the {LEN} parameters after {STEPS} steps")
    for name, make in OPTIMIZERS.items():
        rows = sequence()
        param = torch.nn.Parameter(next(rows))
        optimizer = make([param])
        for _ in range(STEPS):
            param.grad = next(rows)
            optimizer.step()
        print(name, *(f"{bits:08x}" for bits in param.detach().numpy().view(np.uint32)))


main()
