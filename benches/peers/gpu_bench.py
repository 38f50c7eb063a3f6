"""What the comparisons on a GPU have in common: memory by PyTorch, seconds by events, rows of tables."""

import ctypes as c
import time

from ours import CONSTANT_BLOCK, qlk

NULL = None  # the legacy default stream; PyTorch's own default


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

    def constants(self, absmax_codes, scales, offset, absmax, stream):
        """bitsandbytes' way of an absmax: two kernels, its own and PyTorch's."""
        self.peer.cdequantize_blockwise_fp32(at(self.code), at(absmax_codes), at(scales), at(absmax),
                                             c.c_int(CONSTANT_BLOCK), c.c_int(absmax.numel()), stream)
        absmax.add_(offset)


def at(tensor):
    return c.c_void_p(tensor.data_ptr())
