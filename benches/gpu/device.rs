//! The GPU: its memory, one stream, facts about it.

use super::Result;
use super::data::{Bytes, GUARD};
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, result};
use qlora_kernels::Context;
use serde::Serialize;
use std::sync::Arc;

/// Bytes behind every memory that nobody may write.
const FENCE: usize = 64;

/// A GPU, and the one stream on which everything happens.
pub struct Gpu {
    pub cuda: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    /// The library's, on that stream.
    pub context: Context,
    pub facts: Facts,
}

/// What the driver says of the device.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    pub name: String,
    pub compute_capability: String,
    pub multiprocessors: i32,
    pub memory_bytes: usize,
    pub l2_bytes: usize,
    /// The highest clocks, not those of the run.
    pub sm_clock_khz: i32,
    pub memory_clock_khz: i32,
    pub memory_bus_bits: i32,
    /// The CUDA version that the driver serves.
    pub cuda_version: String,
    /// The driver's own version, where the system tells it.
    pub driver_version: Option<String>,
    /// What the library's kernels are written for.
    pub kernel_target: &'static str,
}

impl Gpu {
    /// Device `ordinal`; an error of status `NoDevice` where there is no driver.
    pub fn open(ordinal: u32) -> Result<Self> {
        let context = Context::cuda(ordinal)?; // looks for the driver; cudarc panics where there is none
        let cuda = CudaContext::new(ordinal as usize)?;
        // SAFETY: there is one stream only, so its order is all that memory needs; events of cudarc's own would be in
        // the way of captures.
        unsafe { cuda.disable_event_tracking() };
        let stream = cuda.new_stream()?;
        // SAFETY: the stream is of the primary context and lives as long as the Gpu.
        let context = unsafe { context.on_stream(stream.cu_stream().cast()) };
        let facts = Facts::of(&cuda, &context)?;
        Ok(Self { cuda, stream, context, facts })
    }

    /// 2^28, or half as often as it takes for a matrix to need at most a quarter of the free memory.
    pub fn default_elements(&self) -> Result<usize> {
        let (free, _) = self.cuda.mem_get_info()?;
        let mut elements = 1 << 28;
        while elements * 8 > free / 4 && elements > 4096 {
            elements /= 2;
        }
        Ok(elements)
    }

    /// Memory filled with the guard pattern.
    pub fn allocate(&self, len: usize) -> Result<Memory> {
        // SAFETY: erased before anything reads it.
        let slice = unsafe { self.stream.alloc::<u8>(len + FENCE)? };
        let memory = Memory { slice, len };
        self.erase(&memory)?;
        Ok(memory)
    }

    /// Fills memory with the guard pattern.
    pub fn erase(&self, memory: &Memory) -> Result<()> {
        let (address, _) = memory.slice.device_ptr(&self.stream);
        // SAFETY: as long as was allocated; the stream orders it among the memory's uses.
        unsafe { result::memset_d8_async(address, GUARD, memory.len + FENCE, self.stream.cu_stream())? };
        Ok(())
    }

    /// Memory with these bytes.
    pub fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        let mut memory = self.allocate(bytes.len())?;
        if !bytes.is_empty() {
            self.stream.memcpy_htod(bytes, &mut memory.slice.slice_mut(..bytes.len()))?;
            self.stream.synchronize()?;
        }
        Ok(memory)
    }

    /// Waits, and reads. Fails if what lies behind the memory has been written to.
    pub fn download(&self, memory: &Memory) -> Result<Bytes> {
        self.check_untouched(memory, memory.len)?;
        self.read(memory, 0, memory.len)
    }

    /// Fails if what comes after the first `len` bytes has been written to.
    pub fn check_untouched(&self, memory: &Memory, len: usize) -> Result<()> {
        match self.read(memory, len, FENCE)?.iter().all(|&byte| byte == GUARD) {
            true => Ok(()),
            false => Err("memory behind an output was written to".into()),
        }
    }

    /// Waits, and reads `len` bytes from `start` on.
    pub fn read(&self, memory: &Memory, start: usize, len: usize) -> Result<Bytes> {
        let mut bytes = Bytes::new(len);
        if len > 0 {
            self.stream.memcpy_dtoh(&memory.slice.slice(start..start + len), &mut bytes[..])?;
            self.stream.synchronize()?;
        }
        Ok(bytes)
    }
}

/// Device memory.
pub struct Memory {
    slice: CudaSlice<u8>,
    pub len: usize,
}

impl Memory {
    pub fn address(&self, gpu: &Gpu) -> *mut u8 {
        let (address, _) = self.slice.device_ptr(&gpu.stream);
        std::ptr::without_provenance_mut(address as usize)
    }
}

impl Facts {
    fn of(cuda: &CudaContext, context: &Context) -> Result<Self> {
        let attribute = |which| cuda.attribute(which);
        // Newer drivers may no longer tell clocks: 0 then.
        let clock = |which| cuda.attribute(which).unwrap_or(0);
        let (major, minor) = cuda.compute_capability()?;
        let version = cuda_version()?;
        Ok(Self {
            name: cuda.name()?,
            compute_capability: format!("{major}.{minor}"),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes: cuda.total_mem()?,
            l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.max(0) as usize,
            sm_clock_khz: clock(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
            memory_clock_khz: clock(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
            memory_bus_bits: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            cuda_version: format!("{}.{}", version / 1000, version % 1000 / 10),
            driver_version: driver_version(),
            kernel_target: context.instruction_set(),
        })
    }
}

fn cuda_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the pointer is valid; the driver is there.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version).result()? };
    Ok(version)
}

/// From the kernel module's own words: the first that looks like a version.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.split_whitespace().find(is_version).map(str::to_owned)
}
