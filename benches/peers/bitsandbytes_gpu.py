"""bitsandbytes' CUDA library and PyTorch beside this one, in one process on one GPU, on the same memory.

    cargo build --release
    python3 benches/peers/bitsandbytes_gpu.py target/release/libqlora_kernels.so

Needs numpy and PyTorch with a CUDA GPU. bitsandbytes' library is that of --bitsandbytes (a .so or a wheel), else of the installed package, else of
a wheel in target/peers, else it is got from PyPI. It is used by ctypes, with the steps that its Python package takes: its
fused product, or dequantization and cuBLAS, whichever is faster; backward always the latter. It ends the process on an error
of CUDA. Products are replayed from a CUDA graph, over as many copies of the weight as pass the cache; what streams is timed
call by call, since bitsandbytes quantizes on the default stream.
"""

import argparse
import ctypes as c
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import time
import zipfile

from ours import BLOCK, CODEBOOKS, CONSTANT_BLOCK, DYNAMIC, PLAIN, Ours, Weight, qlk

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = "0.50.2"
NF4 = 2  # bitsandbytes' number for it
NULL = None  # the legacy default stream; PyTorch's own default
SHAPES = [(4096, 4096), (28672, 8192), (11008, 4096), (4096, 11008)]  # N, K
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 8192]  # M
CACHE = 4 * 50e6  # bytes that leave nothing of what was there before
FUSED = 1536  # bitsandbytes' fused product takes no more rows


def goals(kind, m):
    """How many times faster than bitsandbytes and than cuBLAS on the 16-bit weight."""
    theirs = 1.3 if m <= 64 else 1.2 if m <= 512 else 1.05
    dense = 3.2 if m <= 4 else 3.0 if m <= 16 else 2.0 if m <= 64 else 1.0 if m <= 512 else 0.9
    return 1.1 if kind == "backward" else theirs, dense


def arguments():
    parser = argparse.ArgumentParser(description="bitsandbytes, PyTorch and qlora-kernels side by side on a GPU")
    parser.add_argument("library", help="libqlora_kernels.so")
    parser.add_argument("--bitsandbytes", metavar="PATH", type=pathlib.Path,
                        help=f"libbitsandbytes_cuda*.so, or a wheel of {VERSION}")
    parser.add_argument("--elements", metavar="N", type=int, default=2**28, help="a multiple of 4096 (2^28)")
    parser.add_argument("--quick", action="store_true", help="one shape and five numbers of rows")
    parser.add_argument("--only", metavar="PATTERN", default="", help="only rows whose name holds this")
    parser.add_argument("--budget", metavar="SECONDS", type=float, default=300, help="start nothing more after that (300)")
    parser.add_argument("--json", metavar="PATH", type=pathlib.Path, help="where the figures go, too")
    options = parser.parse_args()
    if options.elements <= 0 or options.elements % 4096 or options.elements >= 2**31:
        parser.error("--elements: a multiple of 4096 below 2^31, which is as far as bitsandbytes counts")
    options.end = time.monotonic() + options.budget
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
    torch.cuda.init()
    torch.zeros(1, device="cuda")  # PyTorch loads CUDA's libraries: the peer needs them
    path = bitsandbytes(options.bitsandbytes, torch.version.cuda)
    bench = Bench(torch, Ours(options.library), c.CDLL(str(path)), options)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {pathlib.Path(path).name}", flush=True)
    try:
        bench.products()
        bench.streams()
        bench.optimizer()
    finally:
        if options.json:
            options.json.write_text(json.dumps(bench.rows, indent=1) + "\n")
    bench.ours.close()
    wrong = [row["name"] for row in bench.rows if row.get("wrong")]
    if wrong:
        sys.exit(f"WRONG: {', '.join(wrong)}")


class Bench:
    """What is compared, and the rows that come of it."""

    def __init__(self, torch, ours, peer, options):
        self.torch, self.ours, self.peer, self.options, self.rows = torch, ours, peer, options, []
        self.numbers = {torch.float32: (0, "fp32"), torch.float16: (1, "fp16"), torch.bfloat16: (2, "bf16")}
        self.code = self.map(1)

    def map(self, signed):
        values = (c.c_float * 256)()
        qlk.call("qlk_dynamic_map", signed, values)
        return self.tensor(list(values))

    def tensor(self, values):
        return self.torch.tensor(values, device="cuda")

    def empty(self, *shape, dtype):
        return self.torch.empty(*shape, dtype=dtype, device="cuda")

    def view(self, t):
        rows, cols = t.shape
        return qlk.Tensor(c.sizeof(qlk.Tensor), self.numbers[t.dtype][0], t.data_ptr(), rows, cols, t.stride(0))

    def workspace(self, size):
        self.room = self.empty(max(size, 1), dtype=self.torch.uint8)
        return self.room.data_ptr(), size

    def stream(self):
        return c.c_void_p(self.torch.cuda.current_stream().cuda_stream)

    def wants(self, name):
        return self.options.only in name and time.monotonic() < self.options.end

    def row(self, cells, **figures):
        self.rows.append(figures)
        print(f"| {' | '.join([figures['name'], *cells])} |", flush=True)

    def spans(self, run, count=20):
        """The median of some runs' seconds, by events."""
        event = lambda: self.torch.cuda.Event(enable_timing=True)  # noqa: E731
        events = [(event(), event()) for _ in range(count)]
        for start, end in events:
            start.record()
            run()
            end.record()
        self.torch.cuda.synchronize()
        return sorted(start.elapsed_time(end) / 1e3 for start, end in events)[count // 2]

    def called(self, run):
        """Seconds of a run whose data is far larger than the cache."""
        for _ in range(3):
            run()
        return self.spans(run)

    def replayed(self, run, sets):
        """Seconds of `run(set)`, replayed from a graph, the sets of buffers one after the other."""
        torch = self.torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # modules are loaded, cuBLAS has its workspace
                seconds = self.spans(lambda: run(0), 3)
        calls = sets * max(1, min(256 // sets, int(2e-3 / (seconds * sets) + 1)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in range(calls):
                run(call % sets)
        begun = time.monotonic()
        while time.monotonic() - begun < 0.1:  # clocks rise
            graph.replay()
            torch.cuda.synchronize()
        return self.spans(graph.replay, 10 if self.options.quick else 20) / calls

    # Products.

    def products(self):
        print("\n| product | ours, ms | bitsandbytes, ms | times faster (goal) | cuBLAS, ms | times faster (goal) | error, "
              "theirs |\n|---|---|---|---|---|---|---|", flush=True)
        shapes, rows = (SHAPES[:1], [1, 16, 64, 512, 2048]) if self.options.quick else (SHAPES, ROWS)
        for n, k in shapes:
            names = {(kind, m): f"{kind} M {m} N {n} K {k}" for m in rows for kind in ("forward", "backward")}
            if any(map(self.wants, names.values())):
                product = Product(self, n, k, rows)
                for (kind, m), name in names.items():
                    if self.wants(name):
                        product.compare(kind, m, name)

    # What streams.

    def streams(self):
        torch, n = self.torch, self.options.elements
        kinds = [(dtype, name, constants) for dtype in self.numbers for name in CODEBOOKS for constants in (PLAIN, DYNAMIC)]
        kinds = [kind for kind in kinds if any(map(self.wants, self.stream_names(*kind)))]
        if not kinds:
            return
        x = torch.randn(n // 4096, 4096, device="cuda") * 0.03
        source = x.bfloat16()
        target = torch.empty_like(source)
        self.copy_rate = 4 * n / self.called(lambda: target.copy_(source))
        print(f"\nA device copy: {self.copy_rate / 1e9:.0f} GB/s.\n\n| {n} elements | ours, ms | bitsandbytes, ms | times "
              "faster | ours, share of copy | the same |\n|---|---|---|---|---|---|", flush=True)
        for dtype, name, constants in kinds:
            self.stream_rows(x.to(dtype), name, constants, self.stream_names(dtype, name, constants))

    def stream_names(self, dtype, name, constants):
        label = f"{name}{', double-quantized' if constants == DYNAMIC else ''}"
        return f"quantize {label} from {self.numbers[dtype][1]}", f"dequantize {label} to {self.numbers[dtype][1]}"

    def stream_rows(self, x, name, constants, names):
        torch, peer, nested = self.torch, self.peer, constants == DYNAMIC
        n, suffix = x.numel(), self.numbers[x.dtype][1]
        blocks, nested_blocks = n // BLOCK, -(-n // BLOCK // CONSTANT_BLOCK)
        kinds = ((n // 2, torch.uint8), (blocks, torch.float32), (blocks, torch.uint8), (nested_blocks, torch.float32))
        codes, absmax, absmax_codes, scales = ([self.empty(count, dtype=dtype) for _ in "ab"] for count, dtype in kinds)
        offset, outs = self.empty(1, dtype=torch.float32), [torch.empty_like(x) for _ in "ab"]
        parts = (absmax_codes[0], scales[0], offset) if nested else (absmax[0],)
        weight = Weight(CODEBOOKS[name], constants, *x.shape, *(part.data_ptr() for part in (codes[0], *parts)))
        workspace = self.workspace(self.ours.quantize_workspace(weight))
        moved = x.nbytes + n // 2 + (blocks + 4 * nested_blocks + 4 if nested else 4 * blocks)
        quantize = getattr(peer, f"cquantize_blockwise_{suffix}_{name}")
        dequantize = getattr(peer, f"cdequantize_blockwise_{suffix}_{name}")

        def theirs_quantize():
            quantize(NULL, at(x), at(absmax[1]), at(codes[1]), c.c_int(BLOCK), c.c_int(n))
            if nested:
                differences = absmax[1] - absmax[1].mean()
                peer.cquantize_blockwise_fp32(at(self.code), at(differences), at(scales[1]), at(absmax_codes[1]),
                                              c.c_int(CONSTANT_BLOCK), c.c_int(blocks))

        def theirs_dequantize():  # of our codes and constants
            if nested:
                self.constants(absmax_codes[0], scales[0], offset, absmax[1], NULL)
            dequantize(NULL, at(codes[0]), at(absmax[int(nested)]), at(outs[1]), c.c_int(BLOCK), c.c_int(n), NULL)

        def row(what, ours, theirs, same):
            share = moved / ours / self.copy_rate
            self.row([f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", f"{share:.2f}", same], name=what,
                     ours=ours, bitsandbytes=theirs, share_of_copy=share, same=same)

        self.ours.quantize(self.view(x), weight, workspace, NULL)
        if self.wants(names[0]):
            ours = self.called(lambda: self.ours.quantize(self.view(x), weight, workspace, NULL))
            theirs = self.called(theirs_quantize)
            equal = sum(((codes[0] ^ codes[1]) & nibble == 0).sum().item() for nibble in (15, 240)) / n
            constants_equal = (absmax_codes[0] == absmax_codes[1]).float().mean().item() if nested else 0
            also = f"{constants_equal:.2%} of constants" if nested else f"absmax {torch.equal(*absmax)}"
            row(names[0], ours, theirs, f"{equal:.4%} of codes, {also}")
        if self.wants(names[1]):
            for out in outs:
                out.fill_(float("nan"))  # so that what is not written shows
            ours = self.called(lambda: self.ours.dequantize(weight, self.view(outs[0]), NULL))
            row(names[1], ours, self.called(theirs_dequantize), str(torch.equal(*outs)))

    def constants(self, absmax_codes, scales, offset, absmax, stream):
        """bitsandbytes' way of an absmax: two kernels, its own and PyTorch's."""
        self.peer.cdequantize_blockwise_fp32(at(self.code), at(absmax_codes), at(scales), at(absmax),
                                             c.c_int(CONSTANT_BLOCK), c.c_int(absmax.numel()), stream)
        absmax.add_(offset)

    # AdamW with states in 32 and in 8 bits.

    def optimizer(self):
        torch, n = self.torch, self.options.elements // 4
        print(f"\n| {n} parameters | ours, ms | bitsandbytes, ms | times faster | PyTorch, fused, ms | times faster |\n"
              "|---|---|---|---|---|---|", flush=True)
        for dtype in (torch.float32, torch.bfloat16):
            name = f"adamw {self.numbers[dtype][1]}"
            if not self.wants(name):
                continue
            p, g = ((torch.randn(1, n, device="cuda") * 0.03).to(dtype) for _ in "pg")
            m, v = (torch.zeros(n, device="cuda") for _ in "mv")
            adamw = qlk.optimizer(qlk.ADAMW, step=7)
            parameter = qlk.parameter(self.view(p), self.view(g), [m.data_ptr(), v.data_ptr()])
            workspace = self.workspace(self.ours.step_workspace(adamw, parameter))
            step = getattr(self.peer, f"cadam32bit_grad_{self.numbers[dtype][1]}")
            f = c.c_float
            ours = self.called(lambda: self.ours.step(adamw, parameter, workspace, NULL))
            theirs = self.called(lambda: step(
                at(g), at(p), at(m), at(v), NULL, f(0), f(0), f(0.9), f(0.999), f(0), f(0), f(1e-8), f(0.01), c.c_int32(7),
                f(1e-3), f(1), c.c_bool(False), c.c_int32(n)))
            dense, cells = None, ["-", "-"]
            if dtype == torch.float32:  # its states are of the parameter's type
                param = torch.nn.Parameter(p)
                param.grad = g
                fused = torch.optim.AdamW([param], lr=1e-3, weight_decay=0.01, fused=True)
                dense = self.called(fused.step)
                cells = [f"{dense * 1e3:.3f}", f"{dense / ours:.2f}"]
            self.row([f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", *cells], name=name, ours=ours,
                     bitsandbytes=theirs, torch=dense)
            self.optimizer_8bit(name.replace("adamw", "adamw8bit"), p, g)

    def optimizer_8bit(self, name, p, g):
        """The same states for both, from zero on, in blocks of 256 with bitsandbytes' maps."""
        torch, n = self.torch, p.numel()
        codes = [torch.zeros(n, dtype=torch.uint8, device="cuda") for _ in "mv"]
        absmax = [torch.zeros(-(-n // 256), device="cuda") for _ in "mv"]
        maps = [self.map(signed) for signed in (1, 0)]
        adamw = qlk.optimizer(qlk.ADAMW, step=7)
        parameter = qlk.parameter(self.view(p), self.view(g), [x.data_ptr() for x in codes], [x.data_ptr() for x in absmax])
        workspace = self.workspace(self.ours.step_workspace(adamw, parameter))
        step = getattr(self.peer, f"cadam_8bit_blockwise_grad_{self.numbers[p.dtype][1]}")
        f = c.c_float
        ours = self.called(lambda: self.ours.step(adamw, parameter, workspace, NULL))
        theirs = self.called(lambda: step(
            at(p), at(g), at(codes[0]), at(codes[1]), f(0.9), f(0.999), f(0), f(0), f(1e-8), c.c_int32(7), f(1e-3), at(maps[0]),
            at(maps[1]), at(absmax[0]), at(absmax[1]), f(0.01), f(1), c.c_bool(False), c.c_int32(n)))
        self.row([f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", "-", "-"], name=name, ours=ours,
                 bitsandbytes=theirs)


def at(tensor):
    return c.c_void_p(tensor.data_ptr())


class Product:
    """A weight, its copies and what it is multiplied with."""

    def __init__(self, bench, n, k, rows):
        torch = bench.torch
        self.bench, self.n, self.k = bench, n, k
        bf16, x = torch.bfloat16, torch.randn(n, k, device="cuda") * 0.03
        blocks, u8, f32 = n * k // BLOCK, torch.uint8, torch.float32
        kinds = ((n * k // 2, u8), (blocks, u8), (-(-blocks // CONSTANT_BLOCK), f32), (1, f32))
        parts = [bench.empty(count, dtype=dtype) for count, dtype in kinds]

        def weight(parts):
            return Weight(CODEBOOKS["nf4"], DYNAMIC, n, k, *(part.data_ptr() for part in parts))

        first = weight(parts)
        bench.ours.quantize(bench.view(x), first, bench.workspace(bench.ours.quantize_workspace(first)), NULL)
        copies = copies_of(parts[0].nbytes)
        self.parts = [parts] + [[part.clone() for part in parts] for _ in range(copies - 1)]
        self.weights = [weight(parts) for parts in self.parts]
        self.exact = bench.empty(n, k, dtype=f32)
        bench.ours.dequantize(first, bench.view(self.exact), NULL)
        self.dense = [self.exact.to(bf16) for _ in range(copies_of(2 * n * k))]
        self.decoded = bench.empty(n, k, dtype=bf16)
        self.absmax = bench.empty(blocks, dtype=f32)
        self.x, self.dy = (torch.randn(max(rows), size, device="cuda").to(bf16) for size in (k, n))
        self.workspace = bench.workspace(max(bench.ours.product_workspace(m, n, k) for m in rows))
        torch.cuda.synchronize()

    def compare(self, kind, m, name):
        torch, bench, ours, peer = self.bench.torch, self.bench, self.bench.ours, self.bench.peer
        forward, (n, k) = kind == "forward", (self.n, self.k)
        left = (self.x if forward else self.dy)[:m]
        outs = [bench.empty(m, n if forward else k, dtype=torch.bfloat16).fill_(float("nan")) for _ in "abc"]
        of = (lambda w: w.t()) if forward else (lambda w: w)
        call = ours.forward if forward else ours.backward

        def ours_product(i):
            call(bench.view(left), self.weights[i], bench.view(outs[0]), self.workspace, bench.stream())

        def fused(i):
            codes, absmax_codes, scales, offset = map(at, self.parts[i])
            peer.cgemm_4bit_bf16(at(left), codes, scales, absmax_codes, at(bench.code), offset, at(outs[1]), NULL,
                                 *map(c.c_int, (m, n, k, BLOCK, NF4)), bench.stream())

        def decoded(i):
            codes, *constants = self.parts[i]
            bench.constants(*constants, self.absmax, bench.stream())
            peer.cdequantize_blockwise_bf16_nf4(NULL, at(codes), at(self.absmax), at(self.decoded), c.c_int(BLOCK),
                                                c.c_int(n * k), bench.stream())
            torch.mm(left, of(self.decoded), out=outs[1])

        def dense(i):
            torch.mm(left, of(self.dense[i]), out=outs[2])

        ways = [decoded] + [fused] * (forward and m <= FUSED)
        mine = bench.replayed(ours_product, len(self.weights))
        theirs, errors = [], []
        sampled = torch.linspace(0, m - 1, min(m, 16), device="cuda").long()
        truth = left[sampled].float() @ of(self.exact)  # PyTorch's default is true f32
        off = lambda out: ((out[sampled] - truth).norm() / truth.norm()).item()  # noqa: E731
        for way in ways:
            theirs.append(bench.replayed(way, len(self.weights)))
            errors.append(off(outs[1]))
            outs[1].fill_(float("nan"))
        cublas, error = bench.replayed(dense, len(self.dense)), off(outs[0])
        faster, goal = (min(theirs) / mine, cublas / mine), goals(kind, m)
        # bf16 operands and results: about 2^-9. A NaN is not small.
        wrong = not all(e < 2**-6 for e in (error, off(outs[2])))
        bench.row([f"{mine * 1e3:.4f}", " / ".join(f"{t * 1e3:.4f}" for t in theirs), f"{faster[0]:.2f} ({goal[0]})",
                   f"{cublas * 1e3:.4f}", f"{faster[1]:.2f} ({goal[1]})",
                   f"{error:.1e}, {' / '.join(f'{e:.1e}' for e in errors)}{' WRONG' * wrong}"],
                  name=name, ours=mine, bitsandbytes=dict(zip((way.__name__ for way in ways), theirs)), cublas=cublas,
                  error=error, errors=errors, goals=goal, met=[a >= b for a, b in zip(faster, goal)], wrong=wrong)


def copies_of(size):
    """So many that nothing of the first is in the cache when all have been used."""
    return max(1, min(32, int(-(-CACHE // size))))


if __name__ == "__main__":
    main()
