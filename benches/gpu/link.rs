//! The roofline of paged states: the rate of the link between page-locked memory of the host and the device's, each way alone and
//! both ways at once.

use super::Result;
use super::data::{Bytes, Noise};
use super::device::{Gpu, Memory};
use super::timing;
use cudarc::driver::{CudaStream, result, sys};
use qlora_kernels::DType;
use serde::Serialize;
use std::ffi::c_void;
use std::sync::Arc;

/// The most bytes of a copy; they take milliseconds.
const MOST: usize = 256 << 20;

/// Bytes a second of one direction, by the medians.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Link {
    /// Of a copy.
    pub bytes: usize,
    /// To the device, and from it, alone.
    pub into: f64,
    pub out: f64,
    /// Each way, both ways at once.
    pub both: f64,
}

/// Measures copies of as many bytes, or [`MOST`], and checks what arrives.
pub fn rates(gpu: &Gpu, bytes: usize, repetitions: usize) -> Result<Link> {
    let bytes = bytes.min(MOST);
    let copies = Copies::new(gpu, bytes)?;
    let rate = |run: &dyn Fn() -> Result<()>| -> Result<f64> {
        let seconds = timing::spans(gpu, repetitions, run)?[repetitions / 2];
        Ok(bytes as f64 / seconds)
    };
    let stream = &gpu.stream;
    let into = rate(&|| copies.copy_in(gpu, stream))?;
    let out = rate(&|| copies.copy_out(gpu, stream))?;
    let both = rate(&|| {
        copies.other.join(stream)?;
        copies.copy_out(gpu, &copies.other)?;
        copies.copy_in(gpu, stream)?;
        Ok(stream.join(&copies.other)?)
    })?;
    copies.check(gpu)?;
    Ok(Link { bytes, into, out, both })
}

/// Memory to copy between, and a second stream.
struct Copies {
    bytes: Bytes,
    /// What is copied to the device, and what is copied from it.
    host: [Pinned; 2],
    device: [Memory; 2],
    other: Arc<CudaStream>,
}

impl Copies {
    fn new(gpu: &Gpu, len: usize) -> Result<Self> {
        let bytes = Noise::Weights.matrix(DType::F32, 1, len / 4, len / 4);
        let host = [Pinned::new(&bytes)?, Pinned::new(&Bytes::new(bytes.len()))?];
        let device = [gpu.allocate(bytes.len())?, gpu.upload(&bytes)?];
        Ok(Self { bytes, host, device, other: gpu.cuda.new_stream()? })
    }

    fn address(&self, gpu: &Gpu, memory: usize) -> u64 {
        self.device[memory].address(gpu).addr() as u64
    }

    fn copy_in(&self, gpu: &Gpu, stream: &CudaStream) -> Result<()> {
        let (to, from, len) = (self.address(gpu, 0), self.host[0].0, self.bytes.len());
        // SAFETY: both are of that length; `spans` waits before either is freed.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, len, stream.cu_stream()).result()? };
        Ok(())
    }

    fn copy_out(&self, gpu: &Gpu, stream: &CudaStream) -> Result<()> {
        let (to, from, len) = (self.host[1].0, self.address(gpu, 1), self.bytes.len());
        // SAFETY: as above.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, len, stream.cu_stream()).result()? };
        Ok(())
    }

    /// After all copies: both have arrived.
    fn check(&self, gpu: &Gpu) -> Result<()> {
        let there = gpu.download(&self.device[0])?;
        // SAFETY: as long as was allocated; nothing writes to it any more.
        let here = unsafe { std::slice::from_raw_parts(self.host[1].0.cast::<u8>(), self.bytes.len()) };
        match there[..] == self.bytes[..] && here == &self.bytes[..] {
            true => Ok(()),
            false => Err("a copy over the link is wrong".into()),
        }
    }
}

/// Page-locked memory, as pagers allocate it.
struct Pinned(*mut c_void);

impl Pinned {
    fn new(bytes: &[u8]) -> Result<Self> {
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the context is current on the thread that opened the GPU; the memory has as many bytes.
        unsafe {
            let memory = Self(result::malloc_host(bytes.len(), flags)?);
            memory.0.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Ok(memory)
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated above; copies are done.
        let _ = unsafe { result::free_host(self.0) };
    }
}
