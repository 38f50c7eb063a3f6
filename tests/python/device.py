"""Device memory by ctypes: the host's own, or a GPU's through the driver API; no CUDA toolkit, no other package."""

import ctypes as c

import numpy as np


class Cpu:
    """Host memory: arrays are what the library gets."""

    kind, stream = 0, None

    def upload(self, array):
        return array

    def download(self, array):
        return array


class Cuda:
    """Device 0's primary context, in which the library works, and a stream."""

    kind = 1

    def __init__(self):
        try:
            self.driver = c.CDLL("libcuda.so.1")
        except OSError:
            self.driver = c.CDLL("libcuda.so")
        context, self.stream = c.c_void_p(), c.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", c.byref(context), 0)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", c.byref(self.stream), 1)  # CU_STREAM_NON_BLOCKING

    def call(self, name, *args):
        result = getattr(self.driver, name)(*args)
        if result != 0:
            raise RuntimeError(f"{name}: CUresult {result}")

    def upload(self, array):
        """A copy in device memory, made after the work that the stream has and before what it gets."""
        return DeviceArray(self, np.ascontiguousarray(array))

    def download(self, array):
        """A copy in host memory, when the stream has done its work."""
        host = np.empty(array.shape, array.dtype)
        if host.size:
            self.call("cuMemcpyDtoHAsync_v2", pointer(host), array.memory, c.c_size_t(host.nbytes), self.stream)
            self.call("cuStreamSynchronize", self.stream)
        return host


class DeviceArray:
    """A row-major array in a GPU's memory, freed with the object."""

    def __init__(self, device, array):
        self.device, self.memory = device, c.c_uint64()
        self.dtype, self.shape, self.strides = array.dtype, array.shape, array.strides
        self.size, self.itemsize = array.size, array.itemsize
        if array.size:
            size = c.c_size_t(array.nbytes)
            device.call("cuMemAlloc_v2", c.byref(self.memory), size)
            device.call("cuMemcpyHtoDAsync_v2", self.memory, pointer(array), size, device.stream)

    def __del__(self):
        if self.memory.value:
            self.device.call("cuStreamSynchronize", self.device.stream)
            self.device.call("cuMemFree_v2", self.memory)


def pointer(array):
    """What the library takes for an array, in either memory; null for one without elements."""
    address = array.memory.value if isinstance(array, DeviceArray) else array.ctypes.data
    return c.c_void_p(address if array.size else None)
