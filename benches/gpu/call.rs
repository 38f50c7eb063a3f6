//! A case as a call of the library. The same function serves the GPU and the CPU backend: only the pointers differ.

use super::Result;
use super::cases::{BLOCK_8BIT, Case, Operation, Part, Shape};
use super::device::{Gpu, Memory};
use qlora_kernels::format::Map256;
use qlora_kernels::view::{Buffer, BufferMut, ConstantsMut, ConstantsView};
use qlora_kernels::{Constants, Context, Quantized, QuantizedMut, Tensor, TensorMut, ops};

/// Where the parts of a call lie, in the order of the case's lists.
pub struct Pointers {
    pub inputs: Vec<*mut u8>,
    pub outputs: Vec<*mut u8>,
    pub workspace: *mut u8,
}

/// A part and its address.
pub type Placed<'a> = (&'a Part, &'a *mut u8);

impl Case {
    /// Enqueues the operation.
    ///
    /// # Safety
    /// The pointers are to memory of the context's device, of the parts' sizes, and nothing else uses it meanwhile.
    pub unsafe fn enqueue(
        &self,
        context: &Context,
        shape: Shape,
        pointers: &Pointers,
    ) -> qlora_kernels::Result<()> {
        let Shape { rows, cols } = shape;
        let (inputs, outputs) = (self.inputs(shape), self.outputs(shape));
        let from: Vec<Placed> = inputs.iter().zip(&pointers.inputs).collect();
        let to: Vec<Placed> = outputs.iter().zip(&pointers.outputs).collect();
        let stride = self.row_stride(shape);
        // SAFETY: as promised by the caller.
        unsafe {
            let workspace = || -> qlora_kernels::Result<_> {
                Ok(BufferMut::<u8>::from_raw(pointers.workspace, self.workspace(context, shape)?))
            };
            let x = || Tensor::from_raw(*from[0].1, self.dtype, rows, cols, stride);
            let out = || TensorMut::from_raw(*to[0].1, self.dtype, rows, cols, stride);
            match &self.operation {
                Operation::Quantize(spec) => {
                    let (codes, constants) = (buffer_mut(to[0]), constants_mut(&spec.constants, &to[1..]));
                    let q = QuantizedMut::new(spec, rows, cols, codes, constants)?;
                    ops::quantize(context, x()?, q, workspace()?)
                }
                Operation::Dequantize(spec) => {
                    let (codes, constants) = (buffer(from[0]), constants_view(&spec.constants, &from[1..]));
                    ops::dequantize(context, Quantized::new(spec, rows, cols, codes, constants)?, out()?)
                }
                Operation::DoubleQuantize(constants) => {
                    let nested = constants_mut(constants, &to);
                    ops::double_quantize(context, buffer(from[0]), constants, nested, workspace()?)
                }
                Operation::DoubleDequantize(constants) => {
                    let nested = constants_view(constants, &from);
                    ops::double_dequantize(context, nested, constants, buffer_mut(to[0]))
                }
                Operation::Quantize8 => {
                    let map = Map256::dynamic_signed();
                    let (codes, absmax) = (buffer_mut(to[0]), buffer_mut(to[1]));
                    ops::quantize_8bit(context, x()?, &map, BLOCK_8BIT, codes, absmax)
                }
                Operation::Dequantize8 => {
                    let map = Map256::dynamic_signed();
                    ops::dequantize_8bit(context, buffer(from[0]), buffer(from[1]), &map, BLOCK_8BIT, out()?)
                }
            }
        }
    }
}

/// # Safety
/// The memory is of the part's size and its type's alignment, and of the context's device.
pub unsafe fn buffer<'a, T>((part, pointer): Placed) -> Buffer<'a, T> {
    unsafe { Buffer::from_raw(pointer.cast(), part.bytes / size_of::<T>()) }
}

unsafe fn buffer_mut<'a, T>((part, pointer): Placed) -> BufferMut<'a, T> {
    unsafe { BufferMut::from_raw(pointer.cast(), part.bytes / size_of::<T>()) }
}

/// # Safety
/// As for [`buffer`].
pub unsafe fn constants_view<'a>(constants: &Constants, parts: &[Placed]) -> ConstantsView<'a> {
    unsafe {
        match constants {
            Constants::F32 => ConstantsView::F32(buffer(parts[0])),
            _ => ConstantsView::Nested {
                codes: buffer(parts[0]),
                scales: buffer(parts[1]),
                offset: buffer(parts[2]),
            },
        }
    }
}

unsafe fn constants_mut<'a>(constants: &Constants, parts: &[Placed]) -> ConstantsMut<'a> {
    unsafe {
        match constants {
            Constants::F32 => ConstantsMut::F32(buffer_mut(parts[0])),
            _ => ConstantsMut::Nested {
                codes: buffer_mut(parts[0]),
                scales: buffer_mut(parts[1]),
                offset: buffer_mut(parts[2]),
            },
        }
    }
}

/// A call on the GPU with memory of its own.
pub struct Call<'a> {
    gpu: &'a Gpu,
    case: &'a Case,
    shape: Shape,
    pointers: Pointers,
    _inputs: Vec<Memory>,
    pub outputs: Vec<Memory>,
    _workspace: Memory,
}

impl<'a> Call<'a> {
    /// Brings the inputs to the device and makes room for the outputs, filled with the guard pattern.
    pub fn new<B: AsRef<[u8]>>(gpu: &'a Gpu, case: &'a Case, shape: Shape, inputs: &[B]) -> Result<Self> {
        let inputs: Vec<Memory> = inputs.iter().map(|b| gpu.upload(b.as_ref())).collect::<Result<_>>()?;
        let outputs: Vec<Memory> =
            case.outputs(shape).iter().map(|part| gpu.allocate(part.bytes)).collect::<Result<_>>()?;
        let workspace = gpu.allocate(case.workspace(&gpu.context, shape)?)?;
        let addresses = |parts: &[Memory]| parts.iter().map(|memory| memory.address(gpu)).collect();
        let pointers = Pointers {
            inputs: addresses(&inputs),
            outputs: addresses(&outputs),
            workspace: workspace.address(gpu),
        };
        Ok(Self { gpu, case, shape, pointers, _inputs: inputs, outputs, _workspace: workspace })
    }

    /// Enqueues it on the GPU's stream.
    pub fn enqueue(&self) -> Result<()> {
        // SAFETY: the memory is the call's own, and the device's only stream orders its uses.
        unsafe { self.case.enqueue(&self.gpu.context, self.shape, &self.pointers)? };
        Ok(())
    }
}
