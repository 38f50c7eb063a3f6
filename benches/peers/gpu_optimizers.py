"""AdamW with states in 32 and in 8 bits, on the GPU and paged: ours, bitsandbytes' and PyTorch's fused one."""

import ctypes as c

from device import Cuda
from gpu_bench import NULL, at
from ours import BUDGET_LEAST, qlk

TENSORS = 16  # of a paged step: bitsandbytes brings and steps one after the other


def optimizers(bench):
    """All of them."""
    torch, n = bench.torch, bench.options.elements // 4
    print(f"\n| {n} parameters | ours, ms | bitsandbytes, ms | times faster | PyTorch, fused, ms | times faster |\n"
          "|---|---|---|---|---|---|", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        name = f"adamw {bench.numbers[dtype][1]}"
        if not bench.wants(name):
            continue
        p, g = ((torch.randn(1, n, device="cuda") * 0.03).to(dtype) for _ in "pg")
        m, v = (torch.zeros(n, device="cuda") for _ in "mv")
        adamw = qlk.optimizer(qlk.ADAMW, step=7)
        parameter = qlk.parameter(bench.view(p), bench.view(g), [m.data_ptr(), v.data_ptr()])
        workspace = bench.workspace(bench.ours.step_workspace(adamw, parameter))
        step = getattr(bench.peer, f"cadam32bit_grad_{bench.numbers[dtype][1]}")
        f = c.c_float
        ours = bench.called(lambda: bench.ours.step(adamw, parameter, workspace, NULL))
        theirs = bench.called(lambda: step(
            at(g), at(p), at(m), at(v), NULL, f(0), f(0), f(0.9), f(0.999), f(0), f(0), f(1e-8), f(0.01), c.c_int32(7),
            f(1e-3), f(1), c.c_bool(False), c.c_int32(n)))
        dense, cells = None, ["-", "-"]
        if dtype == torch.float32:  # its states are of the parameter's type
            param = torch.nn.Parameter(p)
            param.grad = g
            fused = torch.optim.AdamW([param], lr=1e-3, weight_decay=0.01, fused=True)
            dense = bench.called(fused.step)
            cells = [f"{dense * 1e3:.3f}", f"{dense / ours:.2f}"]
        bench.row([f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", *cells], name=name, ours=ours,
                 bitsandbytes=theirs, torch=dense)
        eight_bits(bench, name.replace("adamw", "adamw8bit"), p, g)


def eight_bits(bench, name, p, g):
    """The same states for both, from zero on, in blocks of 256 with bitsandbytes' maps."""
    torch, n = bench.torch, p.numel()
    codes = [torch.zeros(n, dtype=torch.uint8, device="cuda") for _ in "mv"]
    absmax = [torch.zeros(-(-n // 256), device="cuda") for _ in "mv"]
    maps = [bench.map(signed) for signed in (1, 0)]
    adamw = qlk.optimizer(qlk.ADAMW, step=7)
    parameter = qlk.parameter(bench.view(p), bench.view(g), [x.data_ptr() for x in codes], [x.data_ptr() for x in absmax])
    workspace = bench.workspace(bench.ours.step_workspace(adamw, parameter))
    step = getattr(bench.peer, f"cadam_8bit_blockwise_grad_{bench.numbers[p.dtype][1]}")
    f = c.c_float
    ours = bench.called(lambda: bench.ours.step(adamw, parameter, workspace, NULL))
    theirs = bench.called(lambda: step(
        at(p), at(g), at(codes[0]), at(codes[1]), f(0.9), f(0.999), f(0), f(0), f(1e-8), c.c_int32(7), f(1e-3), at(maps[0]),
        at(maps[1]), at(absmax[0]), at(absmax[1]), f(0.01), f(1), c.c_bool(False), c.c_int32(n)))
    bench.row([f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", "-", "-"], name=name, ours=ours,
             bitsandbytes=theirs)


def paged(bench):
    """States in host memory, where they are before a step and after it, but for a quarter of ours that may stay on the GPU.

    bitsandbytes' are in unified memory, which it never frees: no more than half of what is free. They would stay on the GPU until
    something else wants the room; so they are sent away after each step, as that would do."""
    torch, elements = bench.torch, bench.options.elements
    print("\n| paged, bf16 | parameters | ours, ms | bitsandbytes, ms | times faster | ours, GB/s each way |\n|---|---|---|---|---|---|",
          flush=True)
    for name, n, each in (("adamw", elements // 4, 8), ("adamw8bit", elements // 2, 2)):
        name = f"paged {name} bf16"
        if not bench.wants(name):
            continue
        if n * each > torch.cuda.mem_get_info()[0] // 2:
            print(f"{name} is left out: {n * each} bytes are more than half of the free memory", flush=True)
            continue
        p, g = ((torch.randn(1, n, device="cuda") * 0.03).bfloat16() for _ in "pg")
        ours, rate = paged_ours(bench, p, g, each)
        theirs = paged_theirs(bench, p, g, each)
        bench.row([f"{n}", f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", f"{rate / 1e9:.1f}"], name=name,
                  ours=ours, bitsandbytes=theirs, rate=rate)


def paged_ours(bench, p, g, each):
    """Seconds, and bytes a second in one direction."""
    n, blocks = p.numel(), -(-p.numel() // 256) if each == 2 else 0
    size = each * n + 8 * blocks
    pager = bench.ours.pager(max(size // 4, BUDGET_LEAST))
    start = pager.alloc(size)
    states = [start, start + each // 2 * n]
    absmax = [start + each * n + 4 * blocks * i for i in (0, 1)] if blocks else ()
    adamw = qlk.optimizer(qlk.ADAMW, step=7)
    parameter = qlk.parameter(bench.view(p), bench.view(g), states, absmax)
    workspace = bench.workspace(pager.step_workspace(adamw, parameter))
    step = lambda: pager.step(adamw, parameter, workspace, NULL)  # noqa: E731
    step()
    before = pager.statistics().bytes_out
    step()
    moved = pager.statistics().bytes_out - before
    seconds = bench.called(step)
    pager.close()
    return seconds, moved / seconds


def paged_theirs(bench, p, g, each):
    torch, peer, f = bench.torch, bench.peer, c.c_float
    driver, device, m = Cuda(), torch.cuda.current_device(), p.numel() // TENSORS
    peer.cget_managed_ptr.restype = c.c_void_p
    maps = [bench.map(signed) for signed in (1, 0)]
    size = each // 2 * m
    tensors = []
    for part in range(TENSORS):
        states = [peer.cget_managed_ptr(c.c_size_t(size)) for _ in "mv"]
        for state in states:
            c.memset(state, 0, size)
        absmax = [torch.zeros(-(-m // 256), device="cuda") for _ in "mv"]
        tensors.append(([t[:, part * m:(part + 1) * m] for t in (p, g)], states, absmax))

    def step():
        for (p, g), states, absmax in tensors:
            m1, v1 = map(c.c_void_p, states)
            for state in (m1, v1):
                peer.cprefetch(state, c.c_size_t(size), c.c_int(device))
            if each == 8:
                peer.cadam32bit_grad_bf16(at(g), at(p), m1, v1, NULL, f(0), f(0), f(0.9), f(0.999), f(0), f(0), f(1e-8),
                                          f(0.01), c.c_int32(7), f(1e-3), f(1), c.c_bool(False), c.c_int32(m))
            else:
                peer.cadam_8bit_blockwise_grad_bf16(
                    at(p), at(g), m1, v1, f(0.9), f(0.999), f(0), f(0), f(1e-8), c.c_int32(7), f(1e-3), at(maps[0]),
                    at(maps[1]), at(absmax[0]), at(absmax[1]), f(0.01), f(1), c.c_bool(False), c.c_int32(m))
        for _, states, _ in tensors:
            for state in states:
                driver.call("cuMemPrefetchAsync", c.c_uint64(state), c.c_size_t(size), c.c_int(-1), NULL)

    return bench.called(step)
