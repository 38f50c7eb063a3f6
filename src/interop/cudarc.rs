//! cudarc's `CudaSlice`, its views, and `CudaStream`.
//!
//! cudarc keeps two events for each allocation, its last read and its last write, and makes every stream wait for those
//! that concern it. Memory lent to this library takes part in that: a stream that writes it later, and the freeing of it,
//! wait for the operation. An event must be recorded on the stream that the work is on, and after the work; so memory is
//! lent by the context of that stream, as a guard that records when it is dropped.

use crate::cuda::launch::Stream;
use crate::error::Result;
use crate::ops::Context;
use crate::view::{Buffer, BufferMut};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use std::ops::Deref;
use std::sync::Arc;

/// A context whose operations are enqueued on a stream of cudarc's.
#[derive(Clone)]
pub struct StreamContext {
    context: Context,
    stream: Arc<CudaStream>,
}

impl Context {
    /// The same device, with operations enqueued on `stream`, which is kept alive.
    ///
    /// Fails if this is no CUDA context, or the stream is not of its device's primary context (`CudaContext::new`).
    pub fn on_cudarc_stream(&self, stream: &Arc<CudaStream>) -> Result<StreamContext> {
        super::cuda(self)?.check_owner("the stream", stream.context().cu_ctx())?;
        // SAFETY: as just checked; its owner lives as long as the context.
        let handle = unsafe { Stream::from_raw(stream.cu_stream().cast()) };
        let context = self.on_stream_of(stream.clone(), handle);
        Ok(StreamContext { context, stream: stream.clone() })
    }
}

impl Deref for StreamContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl StreamContext {
    /// Lends memory to operations that read it; the stream waits for whoever writes it now.
    ///
    /// Fails if the memory is of another device.
    ///
    /// # Safety
    /// The view is used with operations of this context only: others are not ordered with cudarc's work. Where cudarc's
    /// event tracking is off, the caller orders all work on the memory. Tracking is an affair of one `CudaContext` object:
    /// the memory's and the stream's are the same.
    pub unsafe fn read<'a, T>(&'a self, memory: &'a impl DevicePtr<T>) -> Result<Reading<'a, T>> {
        self.check_owner(memory.stream())?;
        let (address, recorded) = memory.device_ptr(&self.stream);
        // SAFETY: the allocation is borrowed, and cudarc orders later uses of it after this one.
        let buffer =
            unsafe { Buffer::from_raw(std::ptr::without_provenance(address as usize), memory.len()) };
        Ok(Reading { buffer, _recorded: recorded })
    }

    /// Lends memory to operations that write it; the stream waits for whoever reads or writes it now.
    ///
    /// Fails if the memory is of another device.
    ///
    /// # Safety
    /// As for [`StreamContext::read`].
    pub unsafe fn write<'a, T>(&'a self, memory: &'a mut impl DevicePtrMut<T>) -> Result<Writing<'a, T>> {
        self.check_owner(memory.stream())?;
        let len = memory.len();
        let (address, recorded) = memory.device_ptr_mut(&self.stream);
        // SAFETY: as in `read`, and borrowed for writing.
        let buffer = unsafe { BufferMut::from_raw(std::ptr::without_provenance_mut(address as usize), len) };
        Ok(Writing { buffer, _recorded: recorded })
    }

    fn check_owner(&self, stream: &CudaStream) -> Result<()> {
        super::cuda(self)?.check_owner("the memory", stream.context().cu_ctx())
    }
}

/// Memory of cudarc's, lent for reading. Drop it after the operation has been called: the read is recorded then.
pub struct Reading<'a, T> {
    buffer: Buffer<'a, T>,
    _recorded: SyncOnDrop<'a>,
}

impl<T> Reading<'_, T> {
    /// The memory.
    pub fn buffer(&self) -> Buffer<'_, T> {
        self.buffer
    }
}

/// Memory of cudarc's, lent for writing. Drop it after the operation has been called: the write is recorded then.
pub struct Writing<'a, T> {
    buffer: BufferMut<'a, T>,
    _recorded: SyncOnDrop<'a>,
}

impl<T> Writing<'_, T> {
    /// The memory.
    pub fn buffer(&mut self) -> BufferMut<'_, T> {
        self.buffer.reborrow()
    }
}
