//! cust's `DeviceBuffer`, `DeviceSlice` and `Stream`.
//!
//! cust tracks nothing: what an operation has been lent stays in use until the stream is synchronized. Its 16-bit numbers
//! are its user's own types or those of half 1; lend their bits, as `u16`, and say what they are by
//! `Buffer::<bf16>::from`.

use crate::cuda::launch::Stream;
use crate::error::Result;
use crate::ops::Context;
use crate::view::{Buffer, BufferMut};
use cust::memory::{DeviceCopy, DeviceSlice};
use std::ops::Deref;
use std::sync::Arc;

/// A context whose operations are enqueued on a stream of cust's.
#[derive(Clone)]
pub struct StreamContext {
    context: Context,
}

impl Context {
    /// The same device, with operations enqueued on `stream`, which is kept alive.
    ///
    /// Fails if this is no CUDA context, or the stream is not of its device's primary context, which is that of
    /// `cust::quick_init` and `cust::context::Context::new`; `cust::context::legacy` makes others.
    pub fn on_cust_stream(&self, stream: &Arc<cust::stream::Stream>) -> Result<StreamContext> {
        // SAFETY: its owner lives as long as the context; that it is the device's is checked next.
        let handle = unsafe { Stream::from_raw(stream.as_inner().cast()) };
        let cuda = super::cuda(self)?;
        cuda.check_owner("the stream", cuda.owner_of(handle)?)?;
        Ok(StreamContext { context: self.on_stream_of(stream.clone(), handle) })
    }
}

impl Deref for StreamContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl StreamContext {
    /// Lends memory to operations that read it.
    ///
    /// Fails if the memory is of another device.
    ///
    /// # Safety
    /// The view is used with operations of this context only. Until its stream has been synchronized, nothing writes to
    /// the memory but work of the same stream, and it is not freed.
    pub unsafe fn read<'a, T: DeviceCopy>(&self, memory: &'a DeviceSlice<T>) -> Result<Buffer<'a, T>> {
        let address = self.address(memory)?;
        // SAFETY: borrowed, and as promised by the caller.
        Ok(unsafe { Buffer::from_raw(std::ptr::without_provenance(address), memory.len()) })
    }

    /// Lends memory to operations that write it.
    ///
    /// Fails if the memory is of another device.
    ///
    /// # Safety
    /// The view is used with operations of this context only. Until its stream has been synchronized, nothing uses the
    /// memory but work of the same stream, and it is not freed.
    pub unsafe fn write<'a, T: DeviceCopy>(
        &self,
        memory: &'a mut DeviceSlice<T>,
    ) -> Result<BufferMut<'a, T>> {
        let address = self.address(memory)?;
        // SAFETY: borrowed for writing, and as promised by the caller.
        Ok(unsafe { BufferMut::from_raw(std::ptr::without_provenance_mut(address), memory.len()) })
    }

    fn address<T: DeviceCopy>(&self, memory: &DeviceSlice<T>) -> Result<usize> {
        let address = memory.as_device_ptr().as_raw();
        if !memory.is_empty() {
            super::cuda(self)?.check_device("the memory", address)?;
        }
        Ok(address as usize)
    }
}
