//! Other crates' device memory and streams as views and contexts: nothing is copied.
//!
//! | feature | memory | stream |
//! |---|---|---|
//! | `cudarc` | `CudaSlice`, `CudaView`, `CudaViewMut` | `CudaStream` |
//! | `cust` | `DeviceBuffer`, `DeviceSlice` | `Stream` |
//!
//! Both make a `StreamContext` out of a [`Context`] and a stream. It is a context, whose operations
//! are enqueued on the stream, and lends memory to them: `read` gives a [`Buffer`](crate::view::Buffer), `write` a
//! [`BufferMut`](crate::view::BufferMut), and [`Tensor::from_buffer`](crate::Tensor::from_buffer) makes a matrix of one.
//!
//! ```no_run
//! # #[cfg(feature = "cudarc")] {
//! use ::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
//! use qlora_kernels::view::ConstantsMut;
//! use qlora_kernels::{Context, QuantSpec, QuantizedMut, Tensor, ops};
//!
//! let stream = CudaContext::new(0)?.new_stream()?;
//! let (rows, cols, spec) = (64, 64, QuantSpec::default().with_constants(qlora_kernels::Constants::F32));
//! let weight = stream.clone_htod(&vec![0.5f32; rows * cols])?;
//! let mut codes = stream.alloc_zeros::<u8>(rows * cols / 2)?;
//! let mut absmax = stream.alloc_zeros::<f32>(rows * cols / 64)?;
//!
//! let context = Context::cuda(0)?.on_cudarc_stream(&stream)?;
//! // SAFETY: the views are used with this context only.
//! unsafe {
//!     let weight = context.read(&weight)?;
//!     let (mut codes, mut absmax) = (context.write(&mut codes)?, context.write(&mut absmax)?);
//!     let out = QuantizedMut::new(&spec, rows, cols, codes.buffer(), ConstantsMut::F32(absmax.buffer()))?;
//!     ops::quantize(&context, Tensor::from_buffer(weight.buffer(), rows, cols, cols)?, out, &mut vec![])?;
//! }
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "cudarc")]
pub mod cudarc;
#[cfg(feature = "cust")]
pub mod cust;

use crate::cuda::Cuda;
use crate::error::{Error, Result};
use crate::ops::{Context, Device};

/// The device of a context that is to use a CUDA stream.
fn cuda(context: &Context) -> Result<&Cuda> {
    match &context.device {
        Device::Cuda(cuda) => Ok(cuda),
        Device::Cpu(_) => {
            Err(Error::invalid("the context is the processor's; a CUDA stream needs Context::cuda"))
        }
    }
}
