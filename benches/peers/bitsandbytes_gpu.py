"""bitsandbytes' CUDA library beside this one, in one process on one GPU: the same values, and the time of each.

    cargo build --release
    python3 benches/peers/bitsandbytes_gpu.py target/release/libqlora_kernels.so

Needs numpy and PyTorch with a CUDA GPU. bitsandbytes' library is that of --bitsandbytes (a .so or a wheel), else of the
installed package, else of a wheel in target/peers, else it is got from PyPI. It is used by ctypes, with the steps that its
Python package takes for double quantization. It ends the process on an error of CUDA.
"""

import argparse
import ctypes as c
import importlib.util
import pathlib
import re
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = "0.50.2"
BLOCK, CONSTANT_BLOCK = 64, 256
CODEBOOKS = {"nf4": 0, "fp4": 3}  # QLK_CODEBOOK_NF4, QLK_CODEBOOK_FP4_BNB
PLAIN, DYNAMIC = 0, 2  # QLK_CONSTANTS_F32, QLK_CONSTANTS_MAP: the signed dynamic map
CUDA = 1  # QLK_DEVICE_CUDA
NULL = None  # the legacy default stream; PyTorch's own default


def arguments():
    parser = argparse.ArgumentParser(description="bitsandbytes and qlora-kernels side by side on a GPU")
    parser.add_argument("library", help="libqlora_kernels.so")
    parser.add_argument("--bitsandbytes", metavar="PATH", type=pathlib.Path,
                        help=f"libbitsandbytes_cuda*.so, or a wheel of {VERSION}")
    parser.add_argument("--elements", metavar="N", type=int, default=2**28, help="a multiple of 4096 (2^28)")
    options = parser.parse_args()
    if options.elements <= 0 or options.elements % 4096 or options.elements >= 2**31:
        parser.error("--elements: a multiple of 4096 below 2^31, which is as far as bitsandbytes counts")
    return options


def nearest(names, version):
    """Of libraries for several CUDA versions the one for `version`, "12.8": the same major one, the nearest minor one."""
    major, minor = map(int, version.split("."))
    found = [(abs(int(m[2]) - minor), name) for name in names
             if (m := re.search(r"libbitsandbytes_cuda(\d\d)(\d+)\.so$", str(name))) and int(m[1]) == major]
    return min(found)[1] if found else sys.exit(f"bitsandbytes has no library for CUDA {version}")


def bitsandbytes(path, version):
    """The path of its library for a CUDA version."""
    cache = ROOT / "target" / "peers"
    package = importlib.util.find_spec("bitsandbytes")
    if path is None and package:
        return nearest(pathlib.Path(package.origin).parent.glob("libbitsandbytes_cuda*.so"), version)
    if path is None:
        if not list(cache.glob(f"bitsandbytes-{VERSION}*.whl")):
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", cache,
                            f"bitsandbytes=={VERSION}"], check=True)
        path = next(cache.glob(f"bitsandbytes-{VERSION}*.whl"))
    if path.suffix != ".whl":
        return path
    wheel = zipfile.ZipFile(path)
    return wheel.extract(nearest(wheel.namelist(), version), cache)


def main():
    options = arguments()
    try:
        import torch
    except ImportError:
        sys.exit("this comparison needs PyTorch: it is not installed")
    if not torch.cuda.is_available():
        sys.exit("this comparison needs a CUDA GPU: PyTorch finds none")
    compare(torch, options)


def compare(torch, options):
    sys.path.insert(0, str(ROOT / "tests" / "python"))
    import qlk

    path = bitsandbytes(options.bitsandbytes, torch.version.cuda)
    torch.cuda.init()
    x = torch.randn(options.elements // 4096, 4096, device="cuda") * 0.03  # PyTorch loads CUDA's libraries: peer needs them
    qlk.load(options.library)
    peer, context = c.CDLL(str(path)), c.c_void_p()
    qlk.call("qlk_context_create", CUDA, 0, c.byref(context))
    n, dtypes = x.numel(), {torch.float32: (0, "fp32"), torch.float16: (1, "fp16"), torch.bfloat16: (2, "bf16")}
    blocks, nested_blocks = n // BLOCK, -(-n // BLOCK // CONSTANT_BLOCK)

    def empty(count, dtype):
        return torch.empty(count, dtype=dtype, device="cuda")

    def at(tensor):
        return c.c_void_p(tensor.data_ptr())

    def seconds(run):
        """The median of 20 runs, by events. The data is far larger than the cache."""
        for _ in range(3):
            run()
        events = [[torch.cuda.Event(enable_timing=True) for _ in "ab"] for _ in range(20)]
        for start, end in events:
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return sorted(start.elapsed_time(end) / 1e3 for start, end in events)[10]

    def equal_codes(a, b):
        same = ((a ^ b) & 15 == 0).sum() + ((a ^ b) >> 4 == 0).sum()
        return same.item() / (2 * a.numel())

    def row(name, moved, ours, theirs, same):
        print(f"| {name} | {ours * 1e3:.3f} | {theirs * 1e3:.3f} | {theirs / ours:.2f} | {moved / ours / copy_rate:.2f} "
              f"| {same} |", flush=True)

    source = x.bfloat16()
    target = torch.empty_like(source)
    copy_rate = 4 * n / seconds(lambda: target.copy_(source))
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {pathlib.Path(path).name}; "
          f"a device copy: {copy_rate / 1e9:.0f} GB/s\n")
    print(f"| {n} elements | ours, ms | bitsandbytes {VERSION}, ms | times faster | ours, share of copy | the same |")
    print("|---|---|---|---|---|---|")

    dynamic = (c.c_float * 256)()
    qlk.call("qlk_dynamic_map", 1, dynamic)
    code = torch.tensor(list(dynamic), device="cuda")
    codes = [empty(n // 2, torch.uint8) for _ in "ab"]
    absmax = [empty(blocks, torch.float32) for _ in "ab"]
    absmax_codes = [empty(blocks, torch.uint8) for _ in "ab"]
    scales = [empty(nested_blocks, torch.float32) for _ in "ab"]
    offset = empty(1, torch.float32)

    for dtype, (number, suffix) in dtypes.items():
        x_typed, outs = x.to(dtype), [torch.empty_like(x, dtype=dtype) for _ in "ab"]

        def tensor(t):
            return c.byref(qlk.Tensor(c.sizeof(qlk.Tensor), number, t.data_ptr(), *x.shape, x.shape[1]))

        for name, codebook in CODEBOOKS.items():
            quantize = getattr(peer, f"cquantize_blockwise_{suffix}_{name}")
            dequantize = getattr(peer, f"cdequantize_blockwise_{suffix}_{name}")
            for constants in (PLAIN, DYNAMIC):
                spec = qlk.Spec(c.sizeof(qlk.Spec), codebook, BLOCK, constants, None, None)
                nested = constants == DYNAMIC
                q = qlk.Quantized(c.sizeof(qlk.Quantized), 0, c.pointer(spec), *x.shape, codes[0].data_ptr(),
                                  *((None, absmax_codes[0].data_ptr(), scales[0].data_ptr(), offset.data_ptr()) if nested
                                    else (absmax[0].data_ptr(), None, None, None)))
                size = c.c_uint64()
                qlk.call("qlk_quantize_workspace_size", context, c.byref(spec), *map(c.c_uint64, x.shape), c.byref(size))
                workspace = empty(max(size.value, 1), torch.uint8)
                moved = n * x_typed.element_size() + n // 2 + (blocks + 4 * nested_blocks + 4 if nested else 4 * blocks)

                def ours_quantize():
                    qlk.call("qlk_quantize", context, tensor(x_typed), c.byref(q), at(workspace), size, NULL)

                def theirs_quantize():
                    quantize(NULL, at(x_typed), at(absmax[1]), at(codes[1]), c.c_int(BLOCK), c.c_int(n))
                    if nested:
                        differences = absmax[1] - absmax[1].mean()
                        peer.cquantize_blockwise_fp32(at(code), at(differences), at(scales[1]), at(absmax_codes[1]),
                                                      c.c_int(CONSTANT_BLOCK), c.c_int(blocks))

                def ours_dequantize():
                    qlk.call("qlk_dequantize", context, c.byref(q), tensor(outs[0]), NULL)

                def theirs_dequantize():  # of our codes and constants
                    if nested:
                        peer.cdequantize_blockwise_fp32(at(code), at(absmax_codes[0]), at(scales[0]), at(absmax[1]),
                                                        c.c_int(CONSTANT_BLOCK), c.c_int(blocks), NULL)
                        absmax[1].add_(offset)
                    dequantize(NULL, at(codes[0]), at(absmax[int(nested)]), at(outs[1]), c.c_int(BLOCK), c.c_int(n), NULL)

                label = f"{name}{', double-quantized' if nested else ''}"
                a, b = seconds(ours_quantize), seconds(theirs_quantize)
                same = f"{equal_codes(*codes) * 100:.4f} % of codes"
                if nested:
                    same += f", {(absmax_codes[0] == absmax_codes[1]).float().mean().item() * 100:.2f} % of constants"
                else:
                    same += f", absmax {torch.equal(*absmax)}"
                row(f"quantize {label} from {suffix}", moved, a, b, same)
                for out in outs:
                    out.fill_(float("nan"))  # so that what is not written shows
                a, b = seconds(ours_dequantize), seconds(theirs_dequantize)
                row(f"dequantize {label} to {suffix}", moved, a, b, torch.equal(*outs))
    qlk.call("qlk_context_destroy", context)


main()
