"""What streams: quantizing and dequantizing, call by call, since bitsandbytes quantizes on the default stream."""

import ctypes as c

from gpu_bench import NULL, at
from ours import BLOCK, CODEBOOKS, CONSTANT_BLOCK, DYNAMIC, PLAIN, Weight


def streams(bench):
    """All of them."""
    torch, n = bench.torch, bench.options.elements
    kinds = [(dtype, name, constants) for dtype in bench.numbers for name in CODEBOOKS for constants in (PLAIN, DYNAMIC)]
    kinds = [kind for kind in kinds if any(map(bench.wants, names_of(bench, *kind)))]
    if not kinds:
        return
    x = torch.randn(n // 4096, 4096, device="cuda") * 0.03
    source = x.bfloat16()
    target = torch.empty_like(source)
    copy_rate = 4 * n / bench.called(lambda: target.copy_(source))
    print(f"\nA device copy: {copy_rate / 1e9:.0f} GB/s.\n\n| {n} elements | ours, ms | bitsandbytes, ms | times "
          "faster | ours, share of copy | the same |\n|---|---|---|---|---|---|", flush=True)
    for dtype, name, constants in kinds:
        rows(bench, copy_rate, x.to(dtype), name, constants, names_of(bench, dtype, name, constants))


def names_of(bench, dtype, name, constants):
    label = f"{name}{', double-quantized' if constants == DYNAMIC else ''}"
    return f"quantize {label} from {bench.numbers[dtype][1]}", f"dequantize {label} to {bench.numbers[dtype][1]}"


def rows(bench, copy_rate, x, name, constants, names):
    torch, peer, nested = bench.torch, bench.peer, constants == DYNAMIC
    n, suffix = x.numel(), bench.numbers[x.dtype][1]
    blocks, nested_blocks = n // BLOCK, -(-n // BLOCK // CONSTANT_BLOCK)
    kinds = ((n // 2, torch.uint8), (blocks, torch.float32), (blocks, torch.uint8), (nested_blocks, torch.float32))
    codes, absmax, absmax_codes, scales = ([bench.empty(count, dtype=dtype) for _ in "ab"] for count, dtype in kinds)
    offset, outs = bench.empty(1, dtype=torch.float32), [torch.empty_like(x) for _ in "ab"]
    parts = (absmax_codes[0], scales[0], offset) if nested else (absmax[0],)
    weight = Weight(CODEBOOKS[name], constants, *x.shape, *(part.data_ptr() for part in (codes[0], *parts)))
    workspace = bench.workspace(bench.ours.quantize_workspace(weight))
    moved = x.nbytes + n // 2 + (blocks + 4 * nested_blocks + 4 if nested else 4 * blocks)
    quantize = getattr(peer, f"cquantize_blockwise_{suffix}_{name}")
    dequantize = getattr(peer, f"cdequantize_blockwise_{suffix}_{name}")

    def theirs_quantize():
        quantize(NULL, at(x), at(absmax[1]), at(codes[1]), c.c_int(BLOCK), c.c_int(n))
        if nested:
            differences = absmax[1] - absmax[1].mean()
            peer.cquantize_blockwise_fp32(at(bench.code), at(differences), at(scales[1]), at(absmax_codes[1]),
                                          c.c_int(CONSTANT_BLOCK), c.c_int(blocks))

    def theirs_dequantize():  # of our codes and constants
        if nested:
            bench.constants(absmax_codes[0], scales[0], offset, absmax[1], NULL)
        dequantize(NULL, at(codes[0]), at(absmax[int(nested)]), at(outs[1]), c.c_int(BLOCK), c.c_int(n), NULL)

    def row(what, ours, theirs, same):
        share = moved / ours / copy_rate
        bench.row([f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}", f"{share:.2f}", same], name=what,
                 ours=ours, bitsandbytes=theirs, share_of_copy=share, same=same)

    bench.ours.quantize(bench.view(x), weight, workspace, NULL)
    if bench.wants(names[0]):
        ours = bench.called(lambda: bench.ours.quantize(bench.view(x), weight, workspace, NULL))
        theirs = bench.called(theirs_quantize)
        equal = sum(((codes[0] ^ codes[1]) & nibble == 0).sum().item() for nibble in (15, 240)) / n
        constants_equal = (absmax_codes[0] == absmax_codes[1]).float().mean().item() if nested else 0
        also = f"{constants_equal:.2%} of constants" if nested else f"absmax {torch.equal(*absmax)}"
        row(names[0], ours, theirs, f"{equal:.4%} of codes, {also}")
    if bench.wants(names[1]):
        for out in outs:
            out.fill_(float("nan"))  # so that what is not written shows
        ours = bench.called(lambda: bench.ours.dequantize(weight, bench.view(outs[0]), NULL))
        row(names[1], ours, bench.called(theirs_dequantize), str(torch.equal(*outs)))
