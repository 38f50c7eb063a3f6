//! A device and its primary context.

use super::driver::{self, check};
use super::launch::Stream;
use super::module::Modules;
use crate::error::{Error, Result, Status};
use crate::kernels::target_of;
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute_enum as Attribute};
use ptx_asm::Target;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, Weak};

/// The least driver whose graphs have edges for launches that overlap: that of CUDA 12.3.
const OVERLAPS: i32 = 12_030;

/// What plans are made by.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Streaming multiprocessors.
    pub processors: u64,
    /// Bytes of shared memory that a block may have.
    pub shared_per_block: u32,
}

/// A GPU. It may be shared between threads.
pub struct Cuda {
    pub(super) device: CUdevice,
    context: CUcontext,
    /// As the driver has it.
    pub name: String,
    /// Compute capability, major · 10 + minor.
    capability: u32,
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Bytes of shared memory that a block may have, dynamic ones included.
    shared_per_block: u32,
    /// Whether kernels may read and write any host memory (Grace, or HMM).
    pub(super) reads_host_memory: bool,
    /// Whether a kernel can be launched before the one ahead of it has ended, in a graph, too.
    overlaps: bool,
    pub(super) modules: Modules,
}

// SAFETY: driver contexts may be used by any thread.
unsafe impl Send for Cuda {}
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Device `ordinal`, one for all who ask as long as somebody has it, so that its kernels are compiled once. Fails
    /// without a driver, or for a GPU that is older than Turing.
    pub fn of(ordinal: u32) -> Result<Arc<Self>> {
        static DEVICES: Mutex<BTreeMap<u32, Weak<Cuda>>> = Mutex::new(BTreeMap::new());
        let mut devices = DEVICES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(device) = devices.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(device);
        }
        let device = Arc::new(Self::new(ordinal)?);
        devices.insert(ordinal, Arc::downgrade(&device));
        Ok(device)
    }

    fn new(ordinal: u32) -> Result<Self> {
        driver::find()?;
        let count = driver::device_count();
        if count == 0 {
            return Err(driver::no_device());
        }
        if ordinal >= count {
            let valid = if count == 1 {
                "there is one CUDA device, 0".into()
            } else {
                format!("there are {count} CUDA devices")
            };
            return Err(Error::invalid(format!("ordinal is {ordinal}; {valid}")));
        }
        let mut device = 0;
        let mut context = std::ptr::null_mut();
        // SAFETY: the driver is there; pointers are valid.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal as i32), "cuDeviceGet")?;
            let attribute = |which| {
                let mut value = 0;
                check(sys::cuDeviceGetAttribute(&mut value, which, device), "cuDeviceGetAttribute")?;
                Ok::<u32, Error>(value.max(0) as u32)
            };
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let capability = 10 * major + minor;
            let name = device_name(device)?;
            if capability < Target::Sm75.sm() {
                let message = format!(
                    "ordinal is {ordinal}: {name} has compute capability {major}.{minor}; 7.5 (Turing) is the least"
                );
                return Err(Error::new(Status::Unsupported, message));
            }
            let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1);
            let shared_per_block =
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
            let pageable = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS)?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "cuDevicePrimaryCtxRetain")?;
            Ok(Self {
                device,
                context,
                name,
                capability,
                processors,
                shared_per_block,
                reads_host_memory: pageable != 0,
                overlaps: capability == Target::Sm90a.sm() && driver::version() >= Some(OVERLAPS),
                modules: Modules::default(),
            })
        }
    }

    /// What plans are made by.
    pub fn capacity(&self) -> Capacity {
        Capacity { processors: self.processors.into(), shared_per_block: self.shared_per_block }
    }

    /// What its kernels are written for.
    pub fn target(&self) -> Target {
        target_of(self.capability)
    }

    /// Whether it has the instructions of [`Target::Sm90a`]: compute capability 9.0, nothing older or newer.
    pub fn is_hopper(&self) -> bool {
        self.capability == Target::Sm90a.sm()
    }

    /// An attribute of the device.
    pub fn attribute(&self, which: Attribute) -> Result<i32> {
        let mut value = 0;
        // SAFETY: the pointer is valid.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, self.device) }, "cuDeviceGetAttribute")?;
        Ok(value)
    }

    /// Refuses what belongs to another context than the one that operations run in.
    #[cfg(any(feature = "cudarc", feature = "cust"))]
    pub fn check_owner(&self, what: &str, context: CUcontext) -> Result<()> {
        crate::error::ensure!(
            context == self.context,
            "{what} belongs to another CUDA context than the primary one of device {}, {}",
            self.device,
            self.name
        );
        Ok(())
    }

    /// The context that a stream belongs to.
    #[cfg(feature = "cust")]
    pub fn owner_of(&self, stream: super::launch::Stream) -> Result<CUcontext> {
        let _queue = self.queue(stream)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the pointer is valid.
        check(unsafe { sys::cuStreamGetCtx(stream.handle(), &mut context) }, "cuStreamGetCtx")?;
        Ok(context)
    }

    /// Refuses memory of another device.
    #[cfg(feature = "cust")]
    pub fn check_device(&self, what: &str, address: u64) -> Result<()> {
        use sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL as ORDINAL;
        let mut ordinal = 0i32;
        // SAFETY: the attribute is a 32-bit number.
        let result = unsafe { sys::cuPointerGetAttribute((&raw mut ordinal).cast(), ORDINAL, address) };
        check(result, "cuPointerGetAttribute")?;
        crate::error::ensure!(
            ordinal == self.device,
            "{what} is of CUDA device {ordinal}; the context's is device {}, {}",
            self.device,
            self.name
        );
        Ok(())
    }

    /// Makes the device's context current on this thread, for work to be put on a stream, until the queue is dropped.
    pub fn queue(&self, stream: Stream) -> Result<Queue<'_>> {
        // SAFETY: the context is retained.
        check(unsafe { sys::cuCtxPushCurrent_v2(self.context) }, "cuCtxPushCurrent")?;
        Ok(Queue { cuda: self, stream, this_thread: PhantomData })
    }
}

impl Drop for Cuda {
    /// Waits for the context's work, which may use the kernels. At the end of a process the driver may be gone already:
    /// nothing is left to do then, so errors are let go.
    fn drop(&mut self) {
        if let Ok(_queue) = self.queue(Stream::LEGACY_DEFAULT) {
            // SAFETY: a context is current; its kernels are used by this device's handles only, of which none is left.
            let _ = unsafe { sys::cuCtxSynchronize() };
            self.modules.unload();
        }
        // SAFETY: retained in `new`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A device whose context is current on this thread, and the stream that its work goes to.
pub struct Queue<'a> {
    pub(super) cuda: &'a Cuda,
    pub(super) stream: Stream,
    this_thread: PhantomData<*const ()>,
}

impl Queue<'_> {
    /// What the device's kernels are written for.
    pub fn target(&self) -> Target {
        self.cuda.target()
    }

    /// Whether the device has the instructions of [`Target::Sm90a`]: compute capability 9.0, nothing older or newer.
    pub fn is_hopper(&self) -> bool {
        self.cuda.is_hopper()
    }

    /// What plans are made by.
    pub fn capacity(&self) -> Capacity {
        self.cuda.capacity()
    }

    /// Whether a kernel that is written for it can be launched before the one ahead of it has ended.
    pub fn overlaps(&self) -> bool {
        self.cuda.overlaps
    }

    /// Bytes of shared memory that a block may have.
    pub fn shared_per_block(&self) -> u32 {
        self.cuda.shared_per_block
    }

    /// The device's streaming multiprocessors.
    pub fn processors(&self) -> u64 {
        self.cuda.processors.into()
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pushed by `queue` on this thread.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

fn device_name(device: CUdevice) -> Result<String> {
    let mut name = [0u8; 256];
    // SAFETY: the length is that of the buffer.
    let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device) };
    check(result, "cuDeviceGetName")?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}
