"""bitsandbytes' CPU library beside this one, in one run: the same bits, and the time of each.

    cargo build --release
    python3 benches/peers/bitsandbytes_cpu.py target/release/libqlora_kernels.so

Needs numpy; gets bitsandbytes' wheel (43 MB) from PyPI and uses its native CPU library by ctypes, so no torch.
"""

import ctypes as c
import pathlib
import subprocess
import sys
import time
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))
import qlk  # noqa: E402
from qlk import call, pointer, tensor  # noqa: E402

VERSION = "0.50.2"
CODEBOOKS = {"nf4": 0, "fp4": 3}
BLOCK = 64


def bitsandbytes():
    cache = ROOT / "target" / "peers"
    library = cache / "bitsandbytes" / "libbitsandbytes_cpu.so"
    if not library.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", cache,
                        f"bitsandbytes=={VERSION}"], check=True)
        wheel = next(cache.glob(f"bitsandbytes-{VERSION}*.whl"))
        zipfile.ZipFile(wheel).extract("bitsandbytes/libbitsandbytes_cpu.so", cache)
    return c.CDLL(str(library))


def best(*runs):
    """Seconds of the fastest call of each, in turns of a tenth of a second for three: other work on the machine slows them
    alike, and OpenMP's threads, which spin after a call, slow only the first calls of the next turn."""
    fastest, start = [float("inf")] * len(runs), time.perf_counter()
    while time.perf_counter() - start < 3:
        for i, run in enumerate(runs):
            turn = time.perf_counter()
            while (begun := time.perf_counter()) - turn < 0.1:
                run()
                fastest[i] = min(fastest[i], time.perf_counter() - begun)
    return fastest


def bf16(x):
    """The bits of numbers rounded to bf16, to nearest even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def repack(codes, rows, cols):
    """A weight as bitsandbytes' product on CPUs wants it: codes of 32 rows together, first and second half of 64 in a byte."""
    high, low = codes >> 4, codes & 15
    pairs = np.stack([high, low], -1).reshape(rows // 32, 32, cols // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 64)
    return np.ascontiguousarray(pairs[:, 32:] << 4 | pairs[:, :32]).reshape(-1)


def products(peer, context):
    """X in bf16. bitsandbytes repacks the weight beforehand, rounds absmax to bf16, and returns bf16."""
    n, k, longlong = 4096, 4096, c.c_longlong
    rng = np.random.default_rng(1)
    w = rng.standard_normal((n, k)).astype(np.float32)
    spec = qlk.Spec(c.sizeof(qlk.Spec), CODEBOOKS["nf4"], BLOCK, 0, None, None)
    codes, absmax = np.zeros(w.size // 2, np.uint8), np.zeros(w.size // BLOCK, np.float32)
    q = qlk.Quantized(c.sizeof(qlk.Quantized), 0, c.pointer(spec), n, k, pointer(codes), pointer(absmax), None, None, None)
    call("qlk_quantize", context, c.byref(tensor(w)), c.byref(q), None, c.c_uint64(0), None)
    call("qlk_dequantize", context, c.byref(q), c.byref(tensor(w)), None)
    packed, scales = repack(codes, n, k), np.ascontiguousarray(bf16(absmax).reshape(n, k // BLOCK).T)
    print(f"\n| N {n}, K {k}, bf16 | ours, ms | bitsandbytes {VERSION}, ms | times faster | RMS error of both |")
    print("|---|---|---|---|---|")
    for m in (1, 2, 4, 8, 16, 32, 64, 256, 1024):
        x = bf16(rng.standard_normal((m, k)).astype(np.float32))
        ours, theirs = np.zeros((2, m, n), np.uint16)
        view = lambda bits, cols: qlk.Tensor(c.sizeof(qlk.Tensor), 2, pointer(bits), m, cols, 0)  # noqa: E731
        xt, yt, size = view(x, k), view(ours, n), c.c_uint64()
        call("qlk_gemm_workspace_size", context, *map(c.c_uint64, (m, n, k, 0)), c.byref(size))
        workspace = np.zeros(size.value, np.uint8)
        times = best(lambda: call("qlk_gemm_forward", context, c.byref(xt), c.byref(q), None, None, c.byref(yt),
                                  pointer(workspace), size, None),
                     lambda: peer.gemv_4bit_inference_cpu_nf4_bf16(
                         *map(longlong, (m, n, k)), pointer(x), pointer(packed), pointer(scales), pointer(theirs),
                         *map(longlong, (BLOCK, k, n))))
        exact = f32(x).astype(np.float64) @ w.T.astype(np.float64)
        errors = [np.sqrt(np.mean((f32(y) - exact) ** 2) / np.mean(exact ** 2)) for y in (ours, theirs)]
        print(f"| M {m} | {times[0] * 1e3:.3f} | {times[1] * 1e3:.3f} | {times[1] / times[0]:.2f} | "
              f"{errors[0]:.1e}, {errors[1]:.1e} |")


def row(name, ours, theirs, equal):
    print(f"| {name} | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {theirs / ours:.2f} | {equal} |")


def main():
    qlk.load(sys.argv[1])
    peer, context = bitsandbytes(), c.c_void_p()
    call("qlk_context_create", 0, 0, c.byref(context))
    rows, cols = 4096, 4096
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, cols)).astype(np.float32)
    longlong = c.c_longlong
    print(f"| {rows} x {cols} | ours, ms | bitsandbytes {VERSION}, ms | times faster | same values |")
    print("|---|---|---|---|---|")
    for name, codebook in CODEBOOKS.items():
        spec = qlk.Spec(c.sizeof(qlk.Spec), codebook, BLOCK, 0, None, None)
        codes, absmax = np.zeros(x.size // 2, np.uint8), np.zeros(x.size // BLOCK, np.float32)
        q = qlk.Quantized(c.sizeof(qlk.Quantized), 0, c.pointer(spec), rows, cols, pointer(codes), pointer(absmax), None,
                          None, None)
        call("qlk_quantize", context, c.byref(tensor(x)), c.byref(q), None, c.c_uint64(0), None)
        for dtype, suffix in ((np.float32, "fp32"), (np.float16, "fp16")):
            ours, theirs = np.zeros_like(x, dtype), np.zeros_like(x, dtype)
            function = getattr(peer, f"cdequantize_blockwise_cpu_{name}_{suffix}")
            times = best(lambda: call("qlk_dequantize", context, c.byref(q), c.byref(tensor(ours)), None),
                         lambda: function(pointer(codes), pointer(absmax), pointer(theirs), longlong(BLOCK),
                                          longlong(rows), longlong(cols)))
            row(f"dequantize {name} to {suffix}", *times, bool(np.array_equal(ours, theirs)))
    # 8 bits: dequantization has the same bits; bitsandbytes' CPU quantization is an approximation by a table of bins.
    table = np.zeros(256, np.float32)
    call("qlk_dynamic_map", 1, pointer(table))
    codes, absmax = np.zeros((2, x.size), np.uint8), np.zeros((2, x.size // 256), np.float32)
    times = best(lambda: call("qlk_quantize_8bit", context, c.byref(tensor(x)), pointer(table), 256, pointer(codes[0]),
                              pointer(absmax[0]), None),
                 lambda: peer.cquantize_blockwise_cpu_fp32(pointer(table), pointer(x), pointer(absmax[1]),
                                                           pointer(codes[1]), longlong(256), longlong(x.size)))
    same = f"{np.mean(codes[0] == codes[1]) * 100:.2f} % of codes"
    row("quantize 8 bits from fp32", *times, same)
    ours, theirs = np.zeros_like(x), np.zeros_like(x)
    times = best(lambda: call("qlk_dequantize_8bit", context, pointer(codes[0]), pointer(absmax[0]), pointer(table), 256,
                              c.byref(tensor(ours)), None),
                 lambda: peer.cdequantize_blockwise_cpu_fp32(pointer(table), pointer(codes[0]), pointer(absmax[0]),
                                                           pointer(theirs), longlong(256), longlong(x.size)))
    row("dequantize 8 bits to fp32", *times, bool(np.array_equal(ours, theirs)))
    peer.has_avx512bf16_cpu.restype = c.c_bool
    if peer.has_avx512bf16_cpu():
        products(peer, context)


main()
