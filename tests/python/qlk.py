"""The C ABI by ctypes: the structs of qlora_kernels.h, and arrays, in host or device memory, as tensors."""

import ctypes as c

import numpy as np

from device import pointer

lib = None


def load(path):
    """Loads the library; everything else here uses it."""
    global lib
    lib = c.CDLL(path)
    lib.qlk_last_error_message.restype = c.c_char_p
    lib.qlk_status_string.restype = c.c_char_p
    lib.qlk_version.restype = c.c_uint32
    return lib


DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}
NF4, FP8 = 0, 1
ADAMW, LION = 1, 3


class Tensor(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("dtype", c.c_uint32), ("data", c.c_void_p), ("rows", c.c_uint64),
                ("cols", c.c_uint64), ("row_stride", c.c_uint64)]


class Spec(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("codebook", c.c_uint32), ("block_size", c.c_uint32),
                ("constants", c.c_uint32), ("codebook_values", c.c_void_p), ("constants_map", c.c_void_p)]


class Quantized(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("reserved", c.c_uint32), ("spec", c.POINTER(Spec)), ("rows", c.c_uint64),
                ("cols", c.c_uint64), ("codes", c.c_void_p), ("absmax", c.c_void_p), ("absmax_codes", c.c_void_p),
                ("absmax_scales", c.c_void_p), ("absmax_offset", c.c_void_p)]


class Sizes(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("reserved", c.c_uint32)] + [
        (name, c.c_uint64) for name in ("elements", "blocks", "code_bytes", "absmax_bytes", "absmax_codes_bytes",
                                        "absmax_scales_bytes", "total_bytes")]


class Lora(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("scale", c.c_float), ("a", c.POINTER(Tensor)), ("b", c.POINTER(Tensor))]


class Optimizer(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("rule", c.c_uint32)] + [
        (name, c.c_float) for name in ("lr", "beta1", "beta2", "beta3", "alpha", "eps", "weight_decay", "trust", "grad_scale",
                                       "max_norm")] + [
        ("stochastic_rounding", c.c_uint32), ("reserved", c.c_uint32), ("seed", c.c_uint64), ("step", c.c_uint64)]


class Parameter(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("state_bits", c.c_uint32), ("param", c.POINTER(Tensor)),
                ("grad", c.POINTER(Tensor)), ("states", c.c_void_p * 3), ("absmax", c.c_void_p * 3)]


class PagerOptions(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("kind", c.c_uint32), ("budget", c.c_uint64), ("folder", c.c_char_p)]


class PagerStatistics(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("kind", c.c_uint32)] + [
        (name, c.c_uint64) for name in ("budget", "allocations", "allocated_bytes", "staying_bytes", "windows", "bytes_in",
                                        "bytes_out", "steps")]


def call(name, *args):
    status = getattr(lib, name)(*args)
    if status != 0:
        raise ValueError(f"{lib.qlk_status_string(status).decode()}: {lib.qlk_last_error_message().decode()}")


def optimizer(rule, **fields):
    """A rule with its defaults, but for these fields."""
    optimizer = Optimizer(c.sizeof(Optimizer))
    call("qlk_optimizer_init", rule, c.byref(optimizer))
    for name, value in fields.items():
        setattr(optimizer, name, value)
    return optimizer


def parameter(param, grad, states, absmax=()):
    """Two tensors and the addresses of states: f32, or codes with absmax."""
    return Parameter(c.sizeof(Parameter), 8 if absmax else 32, c.pointer(param), c.pointer(grad), (c.c_void_p * 3)(*states),
                     (c.c_void_p * 3)(*absmax))


def tensor(array):
    rows, cols = array.shape
    assert array.strides[1] == array.itemsize
    return Tensor(c.sizeof(Tensor), DTYPES[array.dtype], pointer(array), rows, cols, array.strides[0] // array.itemsize)
