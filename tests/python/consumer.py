"""A Python user: the library by ctypes, arrays by numpy. Usage: consumer.py PATH_OF_LIBRARY [cpu | cuda]"""

import ctypes as c
import os
import signal
import sys
import warnings

import numpy as np

import qlk
from device import Cpu, Cuda, pointer
from qlk import (ADAMW, FP8, LION, NF4, Lora, Optimizer, PagerOptions, PagerStatistics, Parameter, Quantized, Sizes, Spec, call,
                 tensor)

lib = qlk.load(sys.argv[1])
device = Cuda() if sys.argv[2:] == ["cuda"] else Cpu()
upload, download, stream = device.upload, device.download, device.stream


class Nf4:
    """An NF4 matrix with double quantization."""

    def __init__(self, context, x):
        self.context = context
        self.spec = Spec(c.sizeof(Spec), NF4, 64, FP8, None, None)
        sizes = Sizes(c.sizeof(Sizes))
        rows, cols = (c.c_uint64(n) for n in x.shape)
        call("qlk_quantized_sizes", c.byref(self.spec), rows, cols, c.byref(sizes))
        self.codes = upload(np.zeros(sizes.code_bytes, np.uint8))
        self.absmax_codes = upload(np.zeros(sizes.absmax_codes_bytes, np.uint8))
        self.scales = upload(np.zeros(sizes.absmax_scales_bytes // 4, np.float32))
        self.offset = upload(np.zeros(1, np.float32))
        self.bytes = sizes.total_bytes
        self.q = Quantized(c.sizeof(Quantized), 0, c.pointer(self.spec), *x.shape, pointer(self.codes), None,
                           pointer(self.absmax_codes), pointer(self.scales), pointer(self.offset))
        size = c.c_uint64()
        call("qlk_quantize_workspace_size", context, c.byref(self.spec), rows, cols, c.byref(size))
        workspace, x = upload(np.zeros(size.value, np.uint8)), upload(x)
        call("qlk_quantize", context, c.byref(tensor(x)), c.byref(self.q), pointer(workspace), size, stream)

    def dequantize(self, dtype=np.float32):
        out = upload(np.zeros((self.q.rows, self.q.cols), dtype))
        call("qlk_dequantize", self.context, c.byref(self.q), c.byref(tensor(out)), stream)
        return download(out)

    def constants(self):
        """The absmax of each block, read back; and they survive their quantization."""
        blocks = c.c_uint64(self.absmax_codes.size)
        absmax, size = upload(np.zeros(blocks.value, np.float32)), c.c_uint64()
        call("qlk_double_dequantize", self.context, c.byref(self.q), pointer(absmax), stream)
        values = download(absmax).copy()
        call("qlk_double_quantize_workspace_size", self.context, blocks, c.byref(size))
        workspace = upload(np.zeros(size.value, np.uint8))
        call("qlk_double_quantize", self.context, pointer(absmax), c.byref(self.q), pointer(workspace), size, stream)
        call("qlk_double_dequantize", self.context, c.byref(self.q), pointer(absmax), stream)
        np.testing.assert_allclose(download(absmax), values, atol=0.1)
        return values


def reference(x, block=64):
    """NF4 blocks and FP8 double quantization in numpy, from the paper's description."""
    spec, values = Spec(c.sizeof(Spec), NF4, 64, 0, None, None), np.zeros(16, np.float32)
    call("qlk_codebook_values", c.byref(spec), pointer(values))
    flat = x.astype(np.float32).ravel()
    padded = np.pad(flat, (0, -flat.size % block)).reshape(-1, block)
    absmax = np.abs(padded).max(axis=1)
    scaled = padded * (np.float32(1) / absmax)[:, None]
    midpoints = (values[1:] + values[:-1]) / np.float32(2)
    codes = np.searchsorted(midpoints, scaled.ravel(), side="left").astype(np.uint8)[: flat.size]
    if codes.size % 2:
        codes = np.append(codes, np.uint8(7))
    return codes[0::2] << 4 | codes[1::2], absmax


def gemm_close(y, x, w, extra=0.0):
    exact = x.astype(np.float64) @ w.astype(np.float64).T + extra
    # A few hundred f32 roundings, and one to f16.
    np.testing.assert_allclose(y.astype(np.float64), exact, rtol=2e-3 if y.dtype == np.float16 else 1e-4, atol=2e-3)


def products(context, w, dense, rng, m, n, k, r):
    """Forward, backward and adapter gradients, in two types."""
    size = c.c_uint64()
    call("qlk_gemm_workspace_size", context, *(c.c_uint64(d) for d in (m, n, k, r)), c.byref(size))
    workspace = upload(np.zeros(size.value, np.uint8))
    for dtype in (np.float32, np.float16):
        x = rng.standard_normal((m, k)).astype(dtype)
        a, b = (0.1 * rng.standard_normal(s).astype(np.float32) for s in ((r, k), (n, r)))
        on_device = [upload(array) for array in (x, a, b, np.zeros((m, n), dtype))]
        xt, at, bt, yt = (tensor(array) for array in on_device)
        lora = Lora(c.sizeof(Lora), 2.0, c.pointer(at), c.pointer(bt))
        call("qlk_gemm_forward", context, c.byref(xt), c.byref(w.q), None, c.byref(lora), c.byref(yt), pointer(workspace),
             size, stream)
        y = download(on_device[3])
        gemm_close(y, x, dense, 2.0 * (x.astype(np.float64) @ a.T) @ b.T)
        dx, da, db = (upload(np.zeros(s, np.float32)) for s in ((m, k), (r, k), (n, r)))
        call("qlk_gemm_backward", context, c.byref(yt), c.byref(w.q), None, c.byref(tensor(dx)), 0, pointer(workspace), size,
             stream)
        y64, x64 = y.astype(np.float64), x.astype(np.float64)
        np.testing.assert_allclose(download(dx), y64 @ dense, rtol=1e-4, atol=1e-2)
        call("qlk_lora_gradients", context, c.byref(xt), c.byref(yt), c.byref(lora), c.byref(tensor(da)),
             c.byref(tensor(db)), 0, pointer(workspace), size, stream)
        np.testing.assert_allclose(download(da), 2.0 * (y64 @ b).T @ x64, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(download(db), 2.0 * y64.T @ (x64 @ a.T), rtol=1e-4, atol=1e-2)


def strides(context, w, dense, rng, m, n, k):
    """Column ranges of wider arrays are used where they lie."""
    if device.kind != Cpu.kind:
        return
    size = c.c_uint64()
    call("qlk_gemm_workspace_size", context, *(c.c_uint64(d) for d in (m, n, k, 0)), c.byref(size))
    workspace = np.zeros(size.value, np.uint8)
    x, y = rng.standard_normal((m, k + 5)).astype(np.float32)[:, 2:k + 2], np.zeros((m, n + 3), np.float32)[:, :n]
    call("qlk_gemm_forward", context, c.byref(tensor(x)), c.byref(w.q), None, None, c.byref(tensor(y)), pointer(workspace),
         size, None)
    gemm_close(y, x, dense)


def optimizer(context, rng):
    """Steps of AdamW and Lion on two parameters, with states in 32 and in 8 bits, one gradient of which is no number."""
    for rule, states in ((ADAMW, 2), (LION, 1)):
        optimizer = qlk.optimizer(rule, lr=1e-2, weight_decay=0.1)
        assert (optimizer.step, optimizer.max_norm) == (1, 0)
        numbers = [[rng.standard_normal((7, 9)).astype(np.float32) for _ in "pg"] for _ in range(2)]
        numbers[1][1][2, 3] = np.nan
        arrays = [[upload(array.copy()) for array in pair] for pair in numbers]
        values = [upload(np.zeros(63, np.float32)) for _ in range(states)]
        codes = [upload(np.zeros(63, np.uint8)) for _ in range(states)]
        absmax = [upload(np.zeros(1, np.float32)) for _ in range(states)]

        def addresses(arrays):
            return [pointer(array).value for array in arrays]

        parameters = (Parameter * 2)(qlk.parameter(*map(tensor, arrays[0]), addresses(values)),
                                     qlk.parameter(*map(tensor, arrays[1]), addresses(codes), addresses(absmax)))
        size, kept = c.c_uint64(), upload(np.zeros(1, np.uint64))
        call("qlk_optimizer_workspace_size", context, c.byref(optimizer), parameters, c.c_uint64(2), c.byref(size))
        workspace = upload(np.zeros(max(size.value, 1), np.uint8))
        call("qlk_optimizer_step", context, c.byref(optimizer), parameters, c.c_uint64(2), pointer(kept), pointer(workspace),
             size, stream)
        assert download(kept)[0] == 1
        for (p, g), (param, _) in zip(numbers, arrays):
            step = np.sign(g) if rule == LION else g / (np.abs(g) + 1e-8)
            expected = np.where(np.isnan(g), p, p * (1 - 1e-3) - 1e-2 * step)
            np.testing.assert_allclose(download(param), expected, rtol=1e-5, atol=1e-6)
    assert c.sizeof(Optimizer) == 72 and c.sizeof(Parameter) == 72


def paged(context, rng):
    """A step of AdamW with states that do not fit their pager's budget: the bits of the step with states in memory."""
    elements, pager, memory = 50_000, c.c_void_p(), c.c_void_p()
    options = PagerOptions(c.sizeof(PagerOptions), 0, 256 << 10, None)
    call("qlk_pager_create", context, c.byref(options), c.byref(pager))
    call("qlk_pager_alloc", pager, c.c_uint64(8 * elements), c.byref(memory))
    optimizer = qlk.optimizer(ADAMW, lr=1e-2)
    param, grad = (rng.standard_normal((1, elements)).astype(np.float32) for _ in "pg")
    states = upload(np.zeros(2 * elements, np.float32))
    results = []
    for start, pagers in ((pointer(states).value, ()), (memory.value, (pager,))):
        arrays = [upload(array.copy()) for array in (param, grad)]
        parameters = (Parameter * 1)(qlk.parameter(*map(tensor, arrays), [start, start + 4 * elements]))
        size, one = c.c_uint64(), c.c_uint64(1)
        call("qlk_optimizer_workspace_size", context, c.byref(optimizer), parameters, one, c.byref(size))
        workspace = upload(np.zeros(max(size.value, 1), np.uint8))
        step = "qlk_optimizer_step_paged" if pagers else "qlk_optimizer_step"
        call(step, context, *pagers, c.byref(optimizer), parameters, one, None, pointer(workspace), size, stream)
        results.append(download(arrays[0]))
    np.testing.assert_array_equal(*results)
    assert np.any(results[0] != param)
    call("qlk_pager_evict", context, pager, memory, c.c_uint64(8 * elements), stream)
    first = download(states)  # which waits for the stream
    np.testing.assert_array_equal(np.ctypeslib.as_array((c.c_float * (2 * elements)).from_address(memory.value)), first)
    statistics = PagerStatistics(c.sizeof(PagerStatistics))
    call("qlk_pager_get_statistics", pager, c.byref(statistics))
    assert (statistics.steps, statistics.allocated_bytes) == (1, 8 * elements) and statistics.windows > 1
    call("qlk_pager_destroy", pager)


def forked(context, w, dense):
    """A child process, as data loaders have them, uses the context that it was born with."""
    if device.kind != Cpu.kind or not hasattr(os, "fork"):
        return
    large = np.tile(dense.ravel(), 2000)[: 1 << 20].reshape(1, -1)
    codes, absmax = np.zeros(large.size, np.uint8), np.zeros(large.size // 256, np.float32)

    def quantize():
        call("qlk_quantize_8bit", context, c.byref(tensor(large)), None, c.c_uint64(256), pointer(codes), pointer(absmax), None)
        return codes.copy()

    call("qlk_context_set_threads", context, 2)
    ours = quantize()  # on threads that the child does not have
    for count in (None, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of threads and forks in general
            child = os.fork()
        if child == 0:
            signal.alarm(60)  # which ends the child if it waits for them
            if count:
                call("qlk_context_set_threads", context, count)
            same = np.array_equal(quantize(), ours) and np.array_equal(w.dequantize(), dense)
            call("qlk_context_destroy", context)
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(quantize(), ours)


def fails(name, args, message):
    try:
        call(name, *args)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"{name} took bad input")


def main():
    context = c.c_void_p()
    call("qlk_context_create", device.kind, 0, c.byref(context))
    rng = np.random.default_rng(0)
    m, n, k, r = 19, 67, 141, 3
    weight = rng.standard_normal((n, k)).astype(np.float32)
    w = Nf4(context, weight)

    codes, absmax = reference(weight)
    np.testing.assert_array_equal(download(w.codes), codes)
    offset = download(w.offset).copy()
    # Half a step of E4M3 around the mean.
    assert np.all(np.abs(w.constants() - absmax) <= np.abs(absmax - offset) / 16 + 1e-3)
    dense = w.dequantize()
    error = np.linalg.norm(dense - weight) / np.linalg.norm(weight)
    assert 0.08 < error < 0.105, error  # NF4 on normal numbers: 0.09
    np.testing.assert_array_equal(w.dequantize(np.float16), dense.astype(np.float16))

    products(context, w, dense, rng, m, n, k, r)
    strides(context, w, dense, rng, m, n, k)
    optimizer(context, rng)
    paged(context, rng)
    forked(context, w, dense)

    for name, args, message in [
        ("qlk_dequantize", (context, None, None, None), "q is null"),
        ("qlk_context_create", (7, 0, c.byref(context)), "kind is 7"),
        ("qlk_quantized_sizes", (c.byref(w.spec), c.c_uint64(2**60), c.c_uint64(2**60), c.byref(Sizes(c.sizeof(Sizes)))),
         "64 bits"),
        ("qlk_quantized_sizes", (c.byref(w.spec), c.c_uint64(1), c.c_uint64(1), c.byref(Sizes(3))), "struct_size is 3"),
    ]:
        fails(name, args, message)
    call("qlk_context_destroy", context)
    print(f"ok: version {lib.qlk_version()}, {w.bytes * 8 / weight.size:.3f} bits a parameter")


main()
