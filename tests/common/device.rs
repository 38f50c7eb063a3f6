//! A CUDA device for tests: the simulator, or the machine's own with `QLK_REAL_CUDA=1`; and its memory, through cudarc.

use super::products::{Adapter, Allowance, Case, Products};
use super::*;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use ptx_sim::{Installed, counters, reset_counters};
use qlora_kernels::format::blockwise8;
use qlora_kernels::view::{Buffer, BufferMut, ConstantsMut, ConstantsView};
use qlora_kernels::{Context, Lora, Quantized, QuantizedMatrix, QuantizedMut, ops};
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

/// On device memory: operands go up, results come back.
impl Products for Gpu {
    /// Tensor cores multiply 16-bit operands: W's values are rounded to X's type, and T, and B if it is of another type.
    /// What they add they may truncate (PTX ISA §9.7.14.5 leaves it open): up to two of f32's unit roundoffs an addition.
    /// `wgmma` takes values times constants: in f16, those below 2⁻¹⁴ are rounded as subnormals are.
    fn forward_allowance(&self, case: &Case) -> Allowance {
        let [x, _, _, a, b] = case.dtypes;
        let base_floor = if x == DType::F16 && case.m >= 128 { 2f64.powi(-14) } else { 0.0 };
        let allowance = after(if case.is_long(0) { parts(x, a) } else { 0.0 }, rounded_to(x, b));
        let allowance = Allowance { base_floor, ..allowance };
        if case.tensor_cores() { allowance } else { Allowance::NONE }
    }

    /// W's values and U are rounded to dY's type, likewise, and A if it is of another type. In f16, W is divided by a power
    /// of two no larger than the largest constant, and rounded: below 2⁻¹⁴ as subnormals are. Constants are 1 at most, or
    /// 17/16 when they are rounded to FP8 themselves.
    fn backward_allowance(&self, case: &Case) -> Allowance {
        let [_, dy, _, a, b] = case.dtypes;
        let base_floor = if dy == DType::F16 { 17.0 / 16.0 * 2f64.powi(-14) } else { 0.0 };
        let allowance = after(if case.is_long(1) { parts(dy, b) } else { 0.0 }, rounded_to(dy, a));
        let mut allowance = Allowance { base_floor, ..allowance };
        if dy == DType::Bf16 && case.m <= 64 {
            // The kernel for few rows rounds dY times constant, too: (1 + u)² - 1.
            allowance.base *= 2.0 + allowance.base;
        }
        if case.tensor_cores_backward() { allowance } else { Allowance::NONE }
    }

    /// U is multiplied by X, T by dY, and both are f32.
    fn gradient_allowance(&self, case: &Case) -> [Allowance; 2] {
        let [x, dy, _, a, b] = case.dtypes;
        let gradient = |long: usize, low: usize, narrow| {
            let dtypes = [x, dy];
            let before = if case.is_long(low) { parts(dtypes[low], narrow) } else { 0.0 };
            let rounded =
                Allowance { adapter: parts(dtypes[long], DType::F32), additions: 2, ..Allowance::NONE };
            if case.is_long(long) { after(before, rounded) } else { Allowance::NONE }
        };
        [gradient(0, 1, b), gradient(1, 0, a)]
    }

    fn forward(
        &self,
        x: &Matrix,
        w: &QuantizedMatrix,
        bias: &Matrix,
        adapter: Option<Adapter<'_>>,
        y: &mut Matrix,
    ) {
        let call = Call::new(self, [x.rows, w.rows(), w.cols()], adapter);
        let (weight, [x_up, bias_up, y_up]) =
            (DeviceQuantized::of(self, w), [x, bias, y].map(|m| self.matrix(m, 0)));
        let (x, bias) = (x_up.tensor(self, x), bias_up.tensor(self, bias));
        let (out, workspace) = (y_up.tensor_mut(self, y), call.workspace.buffer_mut::<u8>(self));
        let lora = call.lora(self);
        ops::gemm_forward(&self.context, x, weight.view(self), Some(bias), lora, out, workspace).unwrap();
        y.bytes_mut().copy_from_slice(&self.download::<u8>(&y_up));
    }

    fn backward(
        &self,
        dy: &Matrix,
        w: &QuantizedMatrix,
        adapter: Option<Adapter<'_>>,
        dx: &mut Matrix,
        accumulate: bool,
    ) {
        let call = Call::new(self, [dy.rows, w.rows(), w.cols()], adapter);
        let (weight, [dy_up, dx_up]) = (DeviceQuantized::of(self, w), [dy, dx].map(|m| self.matrix(m, 0)));
        let (out, workspace) = (dx_up.tensor_mut(self, dx), call.workspace.buffer_mut::<u8>(self));
        let (dy, lora) = (dy_up.tensor(self, dy), call.lora(self));
        let weight = weight.view(self);
        ops::gemm_backward(&self.context, dy, weight, lora, out, accumulate, workspace).unwrap();
        dx.bytes_mut().copy_from_slice(&self.download::<u8>(&dx_up));
    }

    fn gradients(
        &self,
        x: &Matrix,
        dy: &Matrix,
        adapter: Adapter<'_>,
        [da, db]: [&mut Matrix; 2],
        accumulate: bool,
    ) {
        let call = Call::new(self, [x.rows, dy.cols, x.cols], Some(adapter));
        let [x_up, dy_up, da_up, db_up] = [x, dy, da, db].map(|m| self.matrix(m, 0));
        let (x, dy) = (x_up.tensor(self, x), dy_up.tensor(self, dy));
        let (a, b) = (da_up.tensor_mut(self, da), db_up.tensor_mut(self, db));
        let (lora, workspace) = (call.lora(self).unwrap(), call.workspace.buffer_mut::<u8>(self));
        ops::lora_gradients(&self.context, x, dy, lora, a, b, accumulate, workspace).unwrap();
        da.bytes_mut().copy_from_slice(&self.download::<u8>(&da_up));
        db.bytes_mut().copy_from_slice(&self.download::<u8>(&db_up));
    }
}

/// W and T are rounded to the type `to`, and the adapter's matrix if it is not of it.
fn rounded_to(to: DType, matrix: DType) -> Allowance {
    let u = unit_roundoff(to).0;
    let adapter_floor = if to == DType::F16 { 2f64.powi(-14) } else { 2f64.powi(-126) };
    let adapter = if matrix == to { u } else { 2.0 * u + u * u };
    Allowance { base: u, base_floor: 0.0, adapter, adapter_floor, additions: 2 }
}

/// What the products of a long matrix and a narrow one leave out, relative to their magnitude.
fn parts(long: DType, narrow: DType) -> f64 {
    let u = unit_roundoff(DType::Bf16).0;
    match (narrow, long) {
        (DType::F32, DType::F16) => u * u + u * u * (1.0 + u),
        (DType::F32, _) => u * u,
        _ => 0.0,
    }
}

/// An allowance for what is computed from a T or U that was off before.
fn after(before: f64, allowance: Allowance) -> Allowance {
    Allowance { adapter: (1.0 + before) * (1.0 + allowance.adapter) - 1.0, ..allowance }
}

/// An adapter in device memory, and a workspace.
struct Call<'a> {
    adapter: Option<(Adapter<'a>, [Memory; 2])>,
    workspace: Memory,
}

impl<'a> Call<'a> {
    fn new(gpu: &Gpu, [m, n, k]: [usize; 3], adapter: Option<Adapter<'a>>) -> Self {
        let rank = adapter.map_or(0, |(a, ..)| a.rows);
        let size = ops::gemm_workspace_size(&gpu.context, m, n, k, rank).unwrap();
        let adapter = adapter.map(|adapter| (adapter, [adapter.0, adapter.1].map(|m| gpu.matrix(m, 0))));
        Self { adapter, workspace: gpu.workspace(size) }
    }

    fn lora(&self, gpu: &Gpu) -> Option<Lora<'_>> {
        let ((a, b, scale), [a_up, b_up]) = self.adapter.as_ref()?;
        Some(Lora { a: a_up.tensor(gpu, a), b: b_up.tensor(gpu, b), scale: *scale })
    }
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

/// Checks a case and, on the simulator, how often a kernel was launched for it.
pub fn check_kernel(gpu: &Gpu, case: &Case, kernel: &str, times: usize) -> Result<(), TestCaseError> {
    reset_counters();
    case.check(gpu)?;
    gpu.stream.synchronize().unwrap();
    if let Installed::Simulator = ptx_sim::install() {
        let used = counters().launches.iter().filter(|launch| launch.kernel == kernel).count();
        prop_assert_eq!(used, times, "launches of {}", kernel);
    }
    Ok(())
}
