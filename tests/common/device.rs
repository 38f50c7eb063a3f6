//! A CUDA device for tests: the simulator, or the machine's own with `QLK_REAL_CUDA=1`; and its memory, through cudarc.

use super::*;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use qlora_kernels::format::blockwise8;
use qlora_kernels::view::{Buffer, BufferMut, ConstantsMut, ConstantsView};
use qlora_kernels::{Context, Quantized, QuantizedMatrix, QuantizedMut, ops};
use std::sync::Arc;

pub struct Gpu {
    pub stream: Arc<CudaStream>,
    pub context: Context,
}

impl Gpu {
    /// Device 0 and a stream of its own.
    pub fn new() -> Self {
        Self::on(0)
    }

    /// A device and a stream of its own.
    pub fn on(ordinal: usize) -> Self {
        ptx_sim::install();
        let stream = CudaContext::new(ordinal).unwrap().new_stream().unwrap();
        Self::with(stream, &Context::cuda(ordinal as u32).unwrap())
    }

    /// The same context on another stream.
    pub fn with_new_stream(&self) -> Self {
        Self::with(self.stream.context().new_stream().unwrap(), &self.context)
    }

    /// Device 0 and its legacy default stream.
    pub fn on_default_stream() -> Self {
        ptx_sim::install();
        let stream = CudaContext::new(0).unwrap().default_stream();
        Self { stream, context: Context::cuda(0).unwrap() }
    }

    fn with(stream: Arc<CudaStream>, context: &Context) -> Self {
        // SAFETY: the stream is of the primary context and lives as long as the Gpu.
        let context = unsafe { context.on_stream(stream.cu_stream().cast()) };
        Self { stream, context }
    }

    /// Other bytes for the same memory.
    pub fn overwrite(&self, memory: &mut Memory, bytes: &[u8]) {
        assert_eq!(bytes.len(), memory.len);
        let mut part = memory.slice.slice_mut(memory.offset..memory.offset + memory.len);
        self.stream.memcpy_htod(bytes, &mut part).unwrap();
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

    /// Memory with nothing in it, at an odd address: reading it before writing it is a fault on the simulator.
    pub fn workspace(&self, bytes: usize) -> Memory {
        // SAFETY: nothing here reads it.
        let slice = unsafe { self.stream.alloc(bytes + 4).unwrap() };
        Memory { slice, offset: 3, len: bytes }
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

    /// A copy of one in host memory.
    pub fn of(gpu: &Gpu, q: &QuantizedMatrix) -> Self {
        let (codes, scales, offset) = q.nested();
        Self {
            spec: q.spec().clone(),
            rows: q.rows(),
            cols: q.cols(),
            codes: gpu.upload(q.codes()),
            absmax: gpu.upload(q.absmax()),
            nested: [gpu.upload(codes), gpu.upload(scales), gpu.upload(offset)],
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

/// Where things lie: gaps between the rows of input and output (elements), and how far codes and tensors are from an
/// aligned address (bytes, and elements).
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub gaps: [usize; 2],
    pub codes: usize,
    pub tensors: usize,
}

pub const ALIGNED: Placement = Placement { gaps: [0, 0], codes: 0, tensors: 0 };

/// Quantizes and dequantizes on the device; everything must have the reference's bits.
pub fn check(
    gpu: &Gpu,
    x: &Matrix,
    spec: &QuantSpec,
    out_dtype: DType,
    at: Placement,
) -> Result<(), TestCaseError> {
    let expected = reference(&x.values(), spec);
    let rounded: Vec<f32> = expected.values.iter().map(|&v| round_to(out_dtype, v)).collect();
    let same = |what: &str, a: &[f32], b: &[f32]| {
        same_bits(a, b).map_err(|e| TestCaseError::fail(format!("{what}: {e}")))
    };

    let q = DeviceQuantized::new(gpu, spec, x.rows, x.cols, at.codes);
    let input = gpu.matrix(x, at.tensors * x.view().dtype().size());
    let size = ops::quantize_workspace_size(&gpu.context, spec, x.rows, x.cols).unwrap();
    let workspace = gpu.workspace(size);
    ops::quantize(&gpu.context, input.tensor(gpu, x), q.view_mut(gpu), workspace.buffer_mut::<u8>(gpu))
        .unwrap();
    let codes: Vec<u8> = gpu.download(&q.codes);
    if let Some(i) = (0..codes.len()).find(|&i| codes[i] != expected.codes[i]) {
        return Err(TestCaseError::fail(format!("byte {i}: {:02x} for {:02x}", codes[i], expected.codes[i])));
    }
    // Constants have the very bits, NaNs too.
    let exact = |what: &str, a: Vec<f32>, b: &[f32]| match a
        .iter()
        .zip(b)
        .find(|(a, b)| a.to_bits() != b.to_bits())
    {
        None if a.len() == b.len() => Ok(()),
        other => Err(TestCaseError::fail(format!("{what}: {other:?}"))),
    };
    exact("absmax", gpu.download(&q.absmax), &expected.absmax)?;
    prop_assert_eq!(gpu.download::<u8>(&q.nested[0]), expected.nested.0);
    exact("absmax scales", gpu.download(&q.nested[1]), &expected.nested.1)?;
    exact("absmax offset", gpu.download(&q.nested[2]), &expected.nested.2)?;

    let mut out = Matrix::zeros(out_dtype, x.rows, x.cols, at.gaps[1]);
    let output = gpu.matrix(&out, at.tensors * out_dtype.size());
    ops::dequantize(&gpu.context, q.view(gpu), output.tensor_mut(gpu, &out)).unwrap();
    out.bytes_mut().copy_from_slice(&gpu.download::<u8>(&output));
    same("values", &out.values(), &rounded)
}

/// To 8 bits and back on the device; everything must have the reference's bits.
pub fn check_8bit(
    gpu: &Gpu,
    x: &Matrix,
    map: &Map256,
    block_size: u32,
    out_dtype: DType,
    at: Placement,
) -> Result<(), TestCaseError> {
    let (codes, absmax) = blockwise8::quantize(&x.values(), map, block_size as usize);
    let input = gpu.matrix(x, at.tensors * x.view().dtype().size());
    let (c, a) = (gpu.allocate(codes.len(), at.codes), gpu.allocate(4 * absmax.len(), 0));
    let (codes_out, absmax_out) = (c.buffer_mut(gpu), a.buffer_mut(gpu));
    ops::quantize_8bit(&gpu.context, input.tensor(gpu, x), map, block_size, codes_out, absmax_out).unwrap();
    prop_assert_eq!(gpu.download::<u8>(&c), codes.clone());
    prop_assert_eq!(same_bits(&gpu.download::<f32>(&a), &absmax), Ok(()));

    let values = blockwise8::dequantize(&codes, &absmax, map, block_size as usize);
    let rounded: Vec<f32> = values.into_iter().map(|v| round_to(out_dtype, v)).collect();
    let mut out = Matrix::zeros(out_dtype, x.rows, x.cols, at.gaps[1]);
    let output = gpu.matrix(&out, at.tensors * out_dtype.size());
    let out_view = output.tensor_mut(gpu, &out);
    ops::dequantize_8bit(&gpu.context, c.buffer(gpu), a.buffer(gpu), map, block_size, out_view).unwrap();
    out.bytes_mut().copy_from_slice(&gpu.download::<u8>(&output));
    prop_assert_eq!(same_bits(&out.values(), &rounded), Ok(()));
    Ok(())
}
