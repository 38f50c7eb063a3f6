//! A device and what belongs to it.

use crate::cpu::Cpu;
use crate::cpu::simd::Simd;
use crate::cpu::threads;
use crate::cuda::launch::Stream;
use crate::cuda::{Cuda, driver};
use crate::error::{Result, ensure};
use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

/// The most threads that a context can be given.
const MAX_THREADS: usize = 4096;

/// The kinds of device; the numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// The processor: threads and SIMD.
    Cpu = 0,
    /// An NVIDIA GPU, through its driver.
    Cuda = 1,
}

impl DeviceKind {
    /// How many devices of the kind there are: 0 for CUDA where there is no driver or one older than CUDA 12.0.
    pub fn count(self) -> u32 {
        match self {
            DeviceKind::Cpu => 1,
            DeviceKind::Cuda => driver::device_count(),
        }
    }
}

/// A device to run operations on, and the stream that they are enqueued on. It may be shared between threads; clones are
/// cheap and share the device.
#[derive(Clone)]
pub struct Context {
    pub(crate) device: Device,
    pub(crate) stream: Stream,
    /// What keeps the stream alive, where that is not the caller's promise.
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

#[derive(Clone)]
pub(crate) enum Device {
    Cpu(Arc<Cpu>),
    Cuda(Arc<Cuda>),
}

impl Context {
    /// The processor, with its widest instruction set and one thread a core. A child of `fork` may go on using it, with threads of
    /// its own, if no other thread of the parent was in a call of this library when it forked.
    pub fn cpu() -> Self {
        Self::of(Device::Cpu(Arc::new(Cpu::new())))
    }

    /// CUDA device number `ordinal`, on the legacy default stream. The driver is looked up now.
    ///
    /// The context is the device's primary one: pointers and streams of the CUDA runtime, PyTorch, cudarc and cust are
    /// valid in it. Operations take device, managed or pinned memory, enqueue their work and return; an error of the work
    /// itself shows in a later call. Kernels are compiled on first use, one set for all contexts of the device (and one for
    /// each user table); with the last context they are freed.
    ///
    /// Fails with [`NoDevice`](crate::Status::NoDevice) where there is no driver, one older than CUDA 12.0 (r525), or no
    /// device; with [`Unsupported`](crate::Status::Unsupported) for a GPU older than Turing.
    pub fn cuda(ordinal: u32) -> Result<Self> {
        Ok(Self::of(Device::Cuda(Cuda::of(ordinal)?)))
    }

    /// The same device, with operations enqueued on another stream. A CPU context has no streams and ignores it.
    ///
    /// # Safety
    /// `stream` is a `CUstream` or `cudaStream_t` of the device's primary context, or null for the legacy default stream,
    /// and lives as long as it is used.
    pub unsafe fn on_stream(&self, stream: *mut c_void) -> Self {
        // SAFETY: as promised by the caller.
        Self { device: self.device.clone(), stream: unsafe { Stream::from_raw(stream) }, _owner: None }
    }

    /// The same device, with operations enqueued on a stream that `owner` keeps alive.
    #[cfg(any(feature = "cudarc", feature = "cust"))]
    pub(crate) fn on_stream_of(&self, owner: Arc<dyn Any + Send + Sync>, stream: Stream) -> Self {
        Self { device: self.device.clone(), stream, _owner: Some(owner) }
    }

    fn of(device: Device) -> Self {
        Self { device, stream: Stream::LEGACY_DEFAULT, _owner: None }
    }

    /// The processor, once for each instruction set that this library has code for and the machine has, the widest
    /// first. All give the same codes, constants and values; this is for tests and comparisons.
    pub fn cpu_variants() -> Vec<Self> {
        Simd::available()
            .into_iter()
            .map(|simd| Self::of(Device::Cpu(Arc::new(Cpu::with_simd(simd)))))
            .collect()
    }

    /// What the device is.
    pub fn device_kind(&self) -> DeviceKind {
        match self.device {
            Device::Cpu(_) => DeviceKind::Cpu,
            Device::Cuda(_) => DeviceKind::Cuda,
        }
    }

    /// The code path in use: `portable`, `avx2`, `avx512` or `avx512_bf16`, or the target of the kernels, such as `sm_80`.
    pub fn instruction_set(&self) -> &'static str {
        match &self.device {
            Device::Cpu(cpu) => cpu.simd().name,
            Device::Cuda(cuda) => cuda.target().name(),
        }
    }

    /// `CPU`, or the GPU's name as its driver has it.
    pub fn name(&self) -> &str {
        match &self.device {
            Device::Cpu(_) => "CPU",
            Device::Cuda(cuda) => &cuda.name,
        }
    }

    /// Cores that this process may use; the streaming multiprocessors of a GPU.
    pub fn cores(&self) -> usize {
        match &self.device {
            Device::Cpu(_) => threads::cores(),
            Device::Cuda(cuda) => cuda.processors as usize,
        }
    }

    /// Threads that an operation may use; 1 on a GPU.
    pub fn threads(&self) -> usize {
        match &self.device {
            Device::Cpu(cpu) => cpu.threads().count(),
            Device::Cuda(_) => 1,
        }
    }

    /// Uses `count` threads from the next operation on. Workspace sizes depend on it: ask for them again. A GPU ignores
    /// it.
    pub fn set_threads(&self, count: usize) -> Result<()> {
        ensure!((1..=MAX_THREADS).contains(&count), "threads is {count}; it must be from 1 to {MAX_THREADS}");
        match &self.device {
            Device::Cpu(cpu) => cpu.set_threads(count),
            Device::Cuda(_) => {}
        }
        Ok(())
    }
}
