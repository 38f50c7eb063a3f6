//! Values where the operations run.

use std::borrow::Cow;

use candle_core::{Error, Result};
use cudarc::driver::{CudaSlice, DeviceRepr};
use qlora_kernels::interop::cudarc::{Reading, StreamContext, Writing};
use qlora_kernels::view::{Buffer, BufferMut};
use qlora_kernels::{self as qk, Tensor, TensorMut};

/// Main memory, borrowed or owned, or device memory and the context whose operations may use it. Nothing at all is
/// [`Memory::Host`] everywhere: devices have no allocation of no bytes.
pub enum Memory<'a, T: Clone> {
    Host(Cow<'a, [T]>),
    Device(CudaSlice<T>, StreamContext),
}

impl<T: Clone> Default for Memory<'_, T> {
    fn default() -> Self {
        Self::Host(Cow::Borrowed(&[]))
    }
}

impl<'a, T: Clone> Memory<'a, T> {
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(values, _) => values.len(),
        }
    }

    /// Lends the values to operations that read them.
    pub fn read(&self) -> qk::Result<Read<'_, T>> {
        match self {
            Self::Host(values) => Ok(Read::Host(values)),
            // SAFETY: the context is the one that all operations on this memory are called with.
            Self::Device(values, context) => Ok(Read::Device(unsafe { context.read(values)? })),
        }
    }

    /// Lends the memory to operations that write it.
    pub fn write(&mut self) -> qk::Result<Write<'_, T>> {
        match self {
            Self::Host(values) => Ok(Write::Host(values.to_mut())),
            // SAFETY: as above.
            Self::Device(values, context) => Ok(Write::Device(unsafe { context.write(values)? })),
        }
    }

    /// Device memory, which borrows nothing; `None` for main memory.
    pub fn on_device(self) -> Option<Memory<'static, T>> {
        match self {
            Self::Host(_) => None,
            Self::Device(values, context) => Some(Memory::Device(values, context)),
        }
    }

    /// The values, when all that was enqueued before is done.
    pub fn into_vec(self) -> Result<Vec<T>>
    where
        T: DeviceRepr,
    {
        match self {
            Self::Host(values) => Ok(values.into_owned()),
            Self::Device(values, _) => {
                let stream = values.stream();
                let copy = stream.clone_dtoh(&values).map_err(Error::wrap)?;
                stream.synchronize().map_err(Error::wrap)?;
                Ok(copy)
            }
        }
    }
}

/// Memory lent for reading. Keep it until the operation has been called.
pub enum Read<'a, T> {
    Host(&'a [T]),
    Device(Reading<'a, T>),
}

impl<T> Read<'_, T> {
    pub fn buffer(&self) -> Buffer<'_, T> {
        match self {
            Self::Host(values) => Buffer::from(*values),
            Self::Device(values) => values.buffer(),
        }
    }
}

impl Read<'_, f32> {
    pub fn matrix(&self, rows: usize, columns: usize) -> qk::Result<Tensor<'_>> {
        Tensor::from_buffer(self.buffer(), rows, columns, columns)
    }
}

/// Memory lent for writing. Keep it until the operation has been called.
pub enum Write<'a, T> {
    Host(&'a mut [T]),
    Device(Writing<'a, T>),
}

impl<T> Write<'_, T> {
    pub fn buffer(&mut self) -> BufferMut<'_, T> {
        match self {
            Self::Host(values) => BufferMut::from(&mut **values),
            Self::Device(values) => values.buffer(),
        }
    }
}

impl Write<'_, f32> {
    pub fn matrix(&mut self, rows: usize, columns: usize) -> qk::Result<TensorMut<'_>> {
        TensorMut::from_buffer(self.buffer(), rows, columns, columns)
    }
}
