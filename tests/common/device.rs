//! A CUDA device for tests: the simulator, or the machine's own with `QLK_REAL_CUDA=1`; and its memory, through cudarc.

use super::*;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use qlora_kernels::view::{Buffer, BufferMut, ConstantsMut, ConstantsView};
use qlora_kernels::{Context, Quantized, QuantizedMut};
use std::sync::Arc;

pub struct Gpu {
    pub stream: Arc<CudaStream>,
    pub context: Context,
}

impl Gpu {
    /// Device 0 and a stream of its own.
    pub fn new() -> Self {
        ptx_sim::install();
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        // SAFETY: the stream is of the primary context and lives as long as the Gpu.
        let context = unsafe { Context::cuda(0).unwrap().on_stream(stream.cu_stream().cast()) };
        Self { stream, context }
    }

    /// Memory with these bytes, `offset` bytes away from an aligned address.
    pub fn upload_at(&self, bytes: &[u8], offset: usize) -> Memory {
        let mut padded = vec![0xa5; offset];
        padded.extend_from_slice(bytes);
        padded.push(0xa5); // never empty; and a guard
        let slice = self.stream.clone_htod(&padded).unwrap();
        Memory { slice, offset, len: bytes.len() }
    }

    pub fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> Memory {
        self.upload_at(bytemuck::cast_slice(values), 0)
    }

    /// Memory to be written, filled with a guard pattern.
    pub fn allocate(&self, bytes: usize, offset: usize) -> Memory {
        self.upload_at(&vec![0x5a; bytes], offset)
    }

    /// Waits for the stream and reads; checks that the guards still stand.
    pub fn download<T: bytemuck::AnyBitPattern>(&self, memory: &Memory) -> Vec<T> {
        let bytes = self.stream.clone_dtoh(&memory.slice).unwrap();
        let (before, rest) = bytes.split_at(memory.offset);
        assert!(before.iter().all(|&b| b == 0xa5) && rest[memory.len] == 0xa5, "a guard was written to");
        rest[..memory.len].chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// A matrix in device memory.
    pub fn matrix(&self, matrix: &Matrix, offset: usize) -> Memory {
        self.upload_at(matrix.bytes(), offset)
    }
}

/// Device memory.
pub struct Memory {
    slice: CudaSlice<u8>,
    offset: usize,
    len: usize,
}

impl Memory {
    pub fn ptr(&self, gpu: &Gpu) -> *mut u8 {
        let (address, _guard) = self.slice.device_ptr(&gpu.stream);
        std::ptr::without_provenance_mut(address as usize + self.offset)
    }

    pub fn tensor(&self, gpu: &Gpu, like: &Matrix) -> Tensor<'_> {
        let dtype = like.view().dtype();
        // SAFETY: the memory was made for such a matrix.
        unsafe { Tensor::from_raw(self.ptr(gpu), dtype, like.rows, like.cols, like.stride()).unwrap() }
    }

    pub fn tensor_mut(&self, gpu: &Gpu, like: &Matrix) -> TensorMut<'_> {
        let dtype = like.view().dtype();
        // SAFETY: as above; tests use one view at a time.
        unsafe { TensorMut::from_raw(self.ptr(gpu), dtype, like.rows, like.cols, like.stride()).unwrap() }
    }

    pub fn buffer<T>(&self, gpu: &Gpu) -> Buffer<'_, T> {
        // SAFETY: as long as the memory.
        unsafe { Buffer::from_raw(self.ptr(gpu).cast(), self.len / size_of::<T>()) }
    }

    pub fn buffer_mut<T>(&self, gpu: &Gpu) -> BufferMut<'_, T> {
        // SAFETY: as long as the memory; tests use one view at a time.
        unsafe { BufferMut::from_raw(self.ptr(gpu).cast(), self.len / size_of::<T>()) }
    }
}

/// A quantized matrix in device memory.
pub struct DeviceQuantized {
    pub spec: QuantSpec,
    pub rows: usize,
    pub cols: usize,
    pub codes: Memory,
    pub absmax: Memory,
    pub nested: [Memory; 3],
}

impl DeviceQuantized {
    /// Room for one; the codes `offset` bytes away from an aligned address.
    pub fn new(gpu: &Gpu, spec: &QuantSpec, rows: usize, cols: usize, offset: usize) -> Self {
        let sizes = spec.sizes(rows as u64, cols as u64).unwrap();
        let nested = usize::from(spec.is_double_quantized());
        Self {
            spec: spec.clone(),
            rows,
            cols,
            codes: gpu.allocate(sizes.code_bytes as usize, offset),
            absmax: gpu.allocate(4 * sizes.absmax_len as usize, 0),
            nested: [
                gpu.allocate(sizes.absmax_codes_len as usize, 0),
                gpu.allocate(4 * sizes.absmax_scales_len as usize, 0),
                gpu.allocate(4 * nested, 0),
            ],
        }
    }

    pub fn view(&self, gpu: &Gpu) -> Quantized<'_> {
        let [codes, scales, offset] = &self.nested;
        let constants = match self.spec.is_double_quantized() {
            false => ConstantsView::F32(self.absmax.buffer(gpu)),
            true => ConstantsView::Nested {
                codes: codes.buffer(gpu),
                scales: scales.buffer(gpu),
                offset: offset.buffer(gpu),
            },
        };
        Quantized::new(&self.spec, self.rows, self.cols, self.codes.buffer(gpu), constants).unwrap()
    }

    pub fn view_mut(&self, gpu: &Gpu) -> QuantizedMut<'_> {
        let [codes, scales, offset] = &self.nested;
        let constants = match self.spec.is_double_quantized() {
            false => ConstantsMut::F32(self.absmax.buffer_mut(gpu)),
            true => ConstantsMut::Nested {
                codes: codes.buffer_mut(gpu),
                scales: scales.buffer_mut(gpu),
                offset: offset.buffer_mut(gpu),
            },
        };
        QuantizedMut::new(&self.spec, self.rows, self.cols, self.codes.buffer_mut(gpu), constants).unwrap()
    }
}
