"""Products with a 4-bit weight: ours, bitsandbytes' and cuBLAS's on the 16-bit weight, replayed from a CUDA graph."""

import ctypes as c

from gpu_bench import NULL, at
from ours import BLOCK, CODEBOOKS, CONSTANT_BLOCK, DYNAMIC, Weight

NF4 = 2  # bitsandbytes' number for it
SHAPES = [(4096, 4096), (28672, 8192), (11008, 4096), (4096, 11008)]  # N, K
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 8192]  # M
CACHE = 4 * 50e6  # bytes that leave nothing of what was there before
FUSED = 1536  # bitsandbytes' fused product takes no more rows


def goals(kind, m):
    """How many times faster than bitsandbytes and than cuBLAS on the 16-bit weight."""
    theirs = 1.3 if m <= 64 else 1.2 if m <= 512 else 1.05
    dense = 3.2 if m <= 4 else 3.0 if m <= 16 else 2.0 if m <= 64 else 1.0 if m <= 512 else 0.9
    return 1.1 if kind == "backward" else theirs, dense


def products(bench):
    """All of them."""
    print("\n| product | ours, ms | bitsandbytes, ms | times faster (goal) | cuBLAS, ms | times faster (goal) | error, "
          "theirs |\n|---|---|---|---|---|---|---|", flush=True)
    shapes, rows = (SHAPES[:1], [1, 16, 64, 512, 2048]) if bench.options.quick else (SHAPES, ROWS)
    for n, k in shapes:
        names = {(kind, m): f"{kind} M {m} N {n} K {k}" for m in rows for kind in ("forward", "backward")}
        if any(map(bench.wants, names.values())):
            product = Product(bench, n, k, rows)
            for (kind, m), name in names.items():
                if bench.wants(name):
                    product.compare(kind, m, name)


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
