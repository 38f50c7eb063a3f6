//! Where the quantized linear layers run: the processor, or a CUDA device with memory of its own.
//!
//! The layers are written once: they name no device, only the [`Memory`] that their operands lie in. On the
//! processor that is what candle has already, borrowed. On a device it is device memory: quantized weights are
//! put there once, a call's operands when it is made.

mod memory;
mod place;
mod weight;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use candle_core::{Error, Result};
use cudarc::driver::{CudaContext, CudaStream, DeviceRepr, ValidAsZeroBits};
use qlora_kernels::interop::cudarc::StreamContext;
use qlora_kernels::view::BufferMut;
use qlora_kernels::{self as qk, Context, ops};

pub use memory::Memory;
pub use place::Place;
pub use weight::Weight;

/// The library's contexts, and one workspace for all layers.
pub struct Engine {
    /// The processor: for the optimizer, and for the layers too where there is no device.
    pub host: Context,
    gpu: Option<Gpu>,
    /// Where the quantized layers run, for people.
    pub name: String,
    workspace: Mutex<Memory<'static, u8>>,
}

/// A device, and the stream that all copies and operations are enqueued on: they happen in the order of the calls.
struct Gpu {
    context: StreamContext,
    stream: Arc<CudaStream>,
}

impl Gpu {
    fn open(ordinal: u32) -> anyhow::Result<Self> {
        // First, because it reports that there is no driver, where cudarc would panic.
        let context = Context::cuda(ordinal)?;
        // The default stream: it is the only one, so cudarc needs no events to order what is on it.
        let stream = CudaContext::new(ordinal as usize)?.default_stream();
        Ok(Self { context: context.on_cudarc_stream(&stream)?, stream })
    }
}

impl Engine {
    pub fn new(place: Place, threads: usize) -> anyhow::Result<Arc<Self>> {
        let host = Context::cpu();
        host.set_threads(threads)?;
        let (gpu, name) = match place {
            Place::Cpu => (None, "CPU".to_owned()),
            Place::Cuda(ordinal) => (Some(Gpu::open(ordinal)?), format!("CUDA device {ordinal}")),
            Place::Auto => match Gpu::open(0) {
                Ok(gpu) => (Some(gpu), "CUDA device 0".to_owned()),
                Err(why) => (None, format!("CPU: {why}")),
            },
        };
        let name = match &gpu {
            Some(gpu) => {
                format!("{name}, {}, kernels for {}", gpu.context.name(), gpu.context.instruction_set())
            }
            None => name,
        };
        Ok(Arc::new(Self { host, gpu, name, workspace: Mutex::default() }))
    }

    fn context(&self) -> &Context {
        self.gpu.as_ref().map_or(&self.host, |gpu| &gpu.context)
    }

    /// Values as the operations take them: as they are on the processor, a copy on a device.
    pub fn put<'a, T: DeviceRepr + Clone>(&self, values: impl Into<Cow<'a, [T]>>) -> Result<Memory<'a, T>> {
        let values = values.into();
        match &self.gpu {
            Some(gpu) if !values.is_empty() => {
                let copy = gpu.stream.clone_htod(&*values).map_err(Error::wrap)?;
                Ok(Memory::Device(copy, gpu.context.clone()))
            }
            _ => Ok(Memory::Host(values)),
        }
    }

    /// Memory for `len` values, all zero.
    pub fn zeros<T>(&self, len: usize) -> Result<Memory<'static, T>>
    where
        T: DeviceRepr + ValidAsZeroBits + Clone + Default,
    {
        match &self.gpu {
            Some(gpu) if len > 0 => {
                let zeros = gpu.stream.alloc_zeros(len).map_err(Error::wrap)?;
                Ok(Memory::Device(zeros, gpu.context.clone()))
            }
            _ => Ok(Memory::Host(vec![T::default(); len].into())),
        }
    }

    /// Runs operations on X[m, k] and W[n, k] with a workspace that is large enough.
    pub fn run(
        &self,
        [m, n, k, rank]: [usize; 4],
        operations: impl FnOnce(&Context, BufferMut<'_, u8>) -> qk::Result<()>,
    ) -> Result<()> {
        let bytes = ops::gemm_workspace_size(self.context(), m, n, k, rank).map_err(Error::wrap)?;
        let mut workspace = self.workspace.lock().unwrap();
        if workspace.len() < bytes {
            *workspace = self.zeros(bytes)?;
        }
        let run = || operations(self.context(), workspace.write()?.buffer());
        run().map_err(Error::wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        // With a driver or without one.
        assert!(Engine::new(Place::Cuda(99), 1).is_err());
    }
}
