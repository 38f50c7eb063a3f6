"""This library by ctypes as the comparisons use it: weights in bitsandbytes' format, calls on addresses.

    python3 benches/peers/ours.py target/release/libqlora_kernels.so

checks these calls against numpy on device 0, a GPU or the simulator's; it needs no PyTorch.
"""

import ctypes as c
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))
import qlk  # noqa: E402

BLOCK, CONSTANT_BLOCK = 64, 256
CODEBOOKS = {"nf4": 0, "fp4": 3}  # QLK_CODEBOOK_NF4, QLK_CODEBOOK_FP4_BNB
PLAIN, DYNAMIC = 0, 2  # QLK_CONSTANTS_F32, QLK_CONSTANTS_MAP: the signed dynamic map
CUDA = 1  # QLK_DEVICE_CUDA
BUDGET_LEAST = 256 << 10  # of a pager


class Weight:
    """A quantized matrix [n, k] at these addresses: codes, then absmax, or its codes, scales and offset."""

    def __init__(self, codebook, constants, n, k, codes, *parts):
        self.spec = qlk.Spec(c.sizeof(qlk.Spec), codebook, BLOCK, constants, None, None)
        parts = parts + (None,) * 3 if constants == PLAIN else (None,) + parts
        self.q = qlk.Quantized(c.sizeof(qlk.Quantized), 0, c.pointer(self.spec), n, k, codes, *parts)


class Ours:
    """This library's calls. Matrices are qlk.Tensor, workspaces an address and a size, streams an address."""

    def __init__(self, library, kind=CUDA):
        qlk.load(library)
        self.context = c.c_void_p()
        qlk.call("qlk_context_create", kind, 0, c.byref(self.context))

    def close(self):
        qlk.call("qlk_context_destroy", self.context)

    def size(self, name, *args):
        size = c.c_uint64()
        args = [c.c_uint64(arg) if isinstance(arg, int) else arg for arg in args]
        qlk.call(name, self.context, *args, c.byref(size))
        return size.value

    def quantize_workspace(self, weight):
        return self.size("qlk_quantize_workspace_size", c.byref(weight.spec), weight.q.rows, weight.q.cols)

    def quantize(self, x, weight, workspace, stream):
        qlk.call("qlk_quantize", self.context, c.byref(x), c.byref(weight.q), *sized(workspace), stream)

    def dequantize(self, weight, out, stream):
        qlk.call("qlk_dequantize", self.context, c.byref(weight.q), c.byref(out), stream)

    def product_workspace(self, m, n, k):
        return self.size("qlk_gemm_workspace_size", m, n, k, 0)

    def forward(self, x, weight, y, workspace, stream):
        qlk.call("qlk_gemm_forward", self.context, c.byref(x), c.byref(weight.q), None, None, c.byref(y), *sized(workspace),
                 stream)

    def backward(self, dy, weight, dx, workspace, stream):
        qlk.call("qlk_gemm_backward", self.context, c.byref(dy), c.byref(weight.q), None, c.byref(dx), 0, *sized(workspace),
                 stream)

    def pager(self, budget):
        return Pager(self, budget)

    def step_workspace(self, optimizer, parameter):
        return self.size("qlk_optimizer_workspace_size", c.byref(optimizer), c.byref(parameter), 1)

    def step(self, optimizer, parameter, workspace, stream):
        qlk.call("qlk_optimizer_step", self.context, c.byref(optimizer), c.byref(parameter), c.c_uint64(1), None,
                 *sized(workspace), stream)


class Pager:
    """Memory for states that goes through the GPU, within a budget of its bytes."""

    def __init__(self, ours, budget):
        self.ours, self.pager = ours, c.c_void_p()
        options = qlk.PagerOptions(c.sizeof(qlk.PagerOptions), 0, budget, None)
        qlk.call("qlk_pager_create", ours.context, c.byref(options), c.byref(self.pager))

    def close(self):
        qlk.call("qlk_pager_destroy", self.pager)

    def alloc(self, size):
        """An address of the host's, of zeros."""
        address = c.c_void_p()
        qlk.call("qlk_pager_alloc", self.pager, c.c_uint64(size), c.byref(address))
        return address.value

    def evict(self, address, size, stream):
        qlk.call("qlk_pager_evict", self.ours.context, self.pager, c.c_void_p(address), c.c_uint64(size), stream)

    def statistics(self):
        statistics = qlk.PagerStatistics(c.sizeof(qlk.PagerStatistics))
        qlk.call("qlk_pager_get_statistics", self.pager, c.byref(statistics))
        return statistics

    def step_workspace(self, optimizer, parameter):
        return self.ours.size("qlk_optimizer_workspace_size", c.byref(optimizer), c.byref(parameter), 1)

    def step(self, optimizer, parameter, workspace, stream):
        qlk.call("qlk_optimizer_step_paged", self.ours.context, self.pager, c.byref(optimizer), c.byref(parameter), c.c_uint64(1),
                 None, *sized(workspace), stream)


def sized(workspace):
    address, size = workspace
    return c.c_void_p(address), c.c_uint64(size)


def main():
    import numpy as np
    from device import Cuda, pointer

    device, ours, rng = Cuda(), Ours(sys.argv[1]), np.random.default_rng(0)
    stream, (m, n, k) = device.stream, (5, 128, 192)

    def memory(count, dtype):
        return device.upload(np.zeros(count, dtype))

    def close(found, exact):
        error = np.linalg.norm(device.download(found) - exact) / np.linalg.norm(exact)
        assert error < 2**-6, error

    dense, blocks = rng.standard_normal((n, k)).astype(np.float32), n * k // BLOCK
    parts = [memory(n * k // 2, np.uint8), memory(blocks, np.uint8), memory(-(-blocks // CONSTANT_BLOCK), np.float32),
             memory(1, np.float32)]
    weight = Weight(CODEBOOKS["nf4"], DYNAMIC, n, k, *map(pointer, parts))
    x, out, size = device.upload(dense), memory((n, k), np.float32), ours.quantize_workspace(weight)
    space = memory(size, np.uint8)
    ours.quantize(qlk.tensor(x), weight, (pointer(space).value, size), stream)
    ours.dequantize(weight, qlk.tensor(out), stream)
    w = device.download(out)
    assert 0.08 < np.linalg.norm(w - dense) / np.linalg.norm(dense) < 0.105  # NF4 on normal numbers: 0.09
    size = ours.product_workspace(m, n, k)
    space = memory(max(size, 1), np.uint8)
    for call, inner, exact in ((ours.forward, k, w.T), (ours.backward, n, w)):
        left = rng.standard_normal((m, inner)).astype(np.float16)
        from_, to = device.upload(left), memory((m, exact.shape[1]), np.float16)
        call(qlk.tensor(from_), weight, qlk.tensor(to), (pointer(space).value, size), stream)
        close(to, left.astype(np.float64) @ exact)
    p, g = (rng.standard_normal((1, 99)).astype(np.float32) for _ in "pg")
    adamw = qlk.optimizer(qlk.ADAMW, lr=1e-2, weight_decay=0.1)
    param, grad, states = device.upload(p), device.upload(g), [memory(99, np.float32) for _ in "mv"]
    parameter = qlk.parameter(qlk.tensor(param), qlk.tensor(grad), [pointer(state).value for state in states])
    size = ours.step_workspace(adamw, parameter)
    space = memory(max(size, 1), np.uint8)
    ours.step(adamw, parameter, (pointer(space).value, size), stream)
    close(param, p * (1 - 1e-3) - 1e-2 * g / (np.abs(g) + 1e-8))
    check_paged(device, ours, rng)
    ours.close()
    print("ok")


def check_paged(device, ours, rng):
    """A first step with states of more than the budget: they are what it makes of zeros, and each has moved once each way."""
    import numpy as np
    from device import pointer

    n, adamw = 50_000, qlk.optimizer(qlk.ADAMW, lr=1e-2, weight_decay=0.1)
    p, g = (rng.standard_normal((1, n)).astype(np.float32) for _ in "pg")
    param, grad, pager = device.upload(p), device.upload(g), ours.pager(BUDGET_LEAST)
    start = pager.alloc(8 * n)
    parameter = qlk.parameter(qlk.tensor(param), qlk.tensor(grad), [start, start + 4 * n])
    size = pager.step_workspace(adamw, parameter)
    space = device.upload(np.zeros(max(size, 1), np.uint8))
    pager.step(adamw, parameter, (pointer(space).value, size), device.stream)
    pager.evict(start, 8 * n, device.stream)
    found = device.download(param)
    np.testing.assert_allclose(found, p * (1 - 1e-3) - 1e-2 * g / (np.abs(g) + 1e-8), rtol=1e-5, atol=1e-6)
    m, v = np.ctypeslib.as_array(c.cast(start, c.POINTER(c.c_float)), (2, n))
    np.testing.assert_allclose(m, 0.1 * g[0], rtol=1e-5)
    np.testing.assert_allclose(v, 1e-3 * g[0] ** 2, rtol=1e-4)
    statistics = pager.statistics()
    assert statistics.budget == BUDGET_LEAST and statistics.windows > 1
    assert statistics.bytes_in == statistics.bytes_out == 8 * n  # what stayed was evicted
    pager.close()


if __name__ == "__main__":
    main()
