"""bitsandbytes' CUDA library and PyTorch beside this one, in one process on one GPU, on the same memory.

    cargo build --release
    python3 benches/peers/bitsandbytes_gpu.py target/release/libqlora_kernels.so

| file | what |
|---|---|
| gpu_bench.py | memory, seconds, rows of tables |
| gpu_products.py, gpu_streams.py, gpu_optimizers.py | what is compared |
| ours.py | this library's calls |

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

from gpu_bench import Bench
from gpu_optimizers import optimizers, paged
from gpu_products import products
from gpu_streams import streams
from ours import Ours

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = "0.50.2"


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
        products(bench)
        streams(bench)
        optimizers(bench)
        paged(bench)
    finally:
        if options.json:
            options.json.write_text(json.dumps(bench.rows, indent=1) + "\n")
    bench.ours.close()
    wrong = [row["name"] for row in bench.rows if row.get("wrong")]
    if wrong:
        sys.exit(f"WRONG: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
