//! Compiled kernels: written as PTX and handed to the driver's compiler the first time they are needed.

use super::device::Queue;
use super::driver::check;
use crate::error::{Error, Result, Status};
use crate::kernels::{KernelSpec, Spec, Written};
use cudarc::driver::sys::{
    self, CUfunction, CUjit_option_enum as Jit, CUmodule, CUresult, CUstreamCaptureMode,
};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A kernel, ready to be launched.
pub struct Function {
    pub(super) handle: CUfunction,
    /// Threads a block.
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory a block.
    pub(super) shared: u32,
    /// Blocks that an SM holds at once.
    pub(super) blocks_per_processor: u32,
    module: CUmodule,
    launched: AtomicBool,
}

// SAFETY: handles of the driver, which may be used by any thread.
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

impl Function {
    /// True once.
    pub(super) fn first_launch(&self) -> bool {
        !self.launched.load(Ordering::Relaxed) && !self.launched.swap(true, Ordering::Relaxed)
    }
}

/// A kernel that may be compiled already. Its lock is held while it is; other kernels can be launched meanwhile.
type Slot = Arc<Mutex<Option<Arc<Function>>>>;

/// The kernels of a device.
#[derive(Default)]
pub struct Modules(Mutex<HashMap<KernelSpec, Slot>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Modules {
    /// Frees all kernels; the context must be current and idle.
    pub fn unload(&self) {
        for (_, slot) in lock(&self.0).drain() {
            if let Some(function) = lock(&slot).take() {
                // SAFETY: loaded by `load`, and nothing uses the device any more.
                let _ = unsafe { sys::cuModuleUnload(function.module) };
            }
        }
    }
}

impl Queue<'_> {
    /// The kernel of a spec. Compiles it on first use.
    pub(super) fn function(&self, spec: KernelSpec) -> Result<Arc<Function>> {
        let slot = lock(&self.cuda.modules.0).entry(spec.clone()).or_default().clone();
        let mut slot = lock(&slot);
        if let Some(function) = &*slot {
            return Ok(function.clone());
        }
        let written = spec.write(spec.target(self.target()));
        let written = written.map_err(|error| Error::new(Status::Internal, format!("{spec:?}: {error}")))?;
        let function = Arc::new(load(&written, &self.cuda.name)?);
        *slot = Some(function.clone());
        Ok(function)
    }
}

/// Compiles a module for the current context. The compiler's log becomes part of the message of an error.
fn load(written: &Written, device: &str) -> Result<Function> {
    // Loading may happen while a stream of this thread is being captured, and does nothing that a graph must know of.
    let _relaxed = Relaxed::enter();
    let image = CString::new(written.ptx.as_str()).expect("PTX has no zero byte");
    let mut log = [0u8; 4096];
    let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut module = std::ptr::null_mut();
    let mut handle = std::ptr::null_mut();
    // SAFETY: as many options as values, in the order and of the kinds that the driver's manual gives (§6.10); the log
    // outlives the call.
    unsafe {
        let image = image.as_ptr().cast();
        let result =
            sys::cuModuleLoadDataEx(&mut module, image, 2, options.as_mut_ptr(), values.as_mut_ptr());
        check(result, &format!("compiling kernel {} for {device}", written.name))
            .map_err(|error| with_log(&error, &log))?;
        let entry = CString::new(written.name).expect("names have no zero byte");
        let result = sys::cuModuleGetFunction(&mut handle, module, entry.as_ptr());
        if result != CUresult::CUDA_SUCCESS {
            sys::cuModuleUnload(module);
        }
        check(result, "cuModuleGetFunction")?;
    }
    if let Err(error) = allow_shared(handle, written.shared) {
        // SAFETY: loaded above, and nothing uses it.
        let _ = unsafe { sys::cuModuleUnload(module) };
        return Err(error);
    }
    Ok(Function {
        handle,
        threads: written.threads,
        shared: written.shared,
        blocks_per_processor: occupancy(handle, written),
        module,
        launched: AtomicBool::new(false),
    })
}

/// Lets a kernel have its dynamic shared memory: beyond 48 KB, static memory included, it needs leave; and an SM is to make as
/// much of its memory shared as it can, so that a second block may fit.
fn allow_shared(function: CUfunction, bytes: u32) -> Result<()> {
    use sys::CUfunction_attribute_enum::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST,
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as CARVEOUT_PERCENT,
    };
    if bytes == 0 {
        return Ok(());
    }
    for (attribute, value) in [(MOST, bytes as i32), (CARVEOUT_PERCENT, 100)] {
        // SAFETY: the function is loaded.
        check(unsafe { sys::cuFuncSetAttribute(function, attribute, value) }, "cuFuncSetAttribute")?;
    }
    Ok(())
}

/// Blocks that an SM holds at once.
fn occupancy(function: CUfunction, written: &Written) -> u32 {
    let (mut blocks, threads, shared) = (0, written.threads as i32, written.shared as usize);
    // SAFETY: the function is loaded, the pointer valid.
    let result =
        unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared) };
    // What no answer is worth failing for: a guess that most GPUs hold.
    if result == CUresult::CUDA_SUCCESS && blocks > 0 { blocks as u32 } else { 4 }
}

/// The error with what the driver's compiler has written, a zero-terminated text, on one line.
fn with_log(error: &Error, log: &[u8]) -> Error {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]).trim().replace('\n', "; ");
    let log = if log.is_empty() { log } else { format!(": {log}") };
    Error::new(error.status(), format!("{}{log}", error.message()))
}

/// While it lives, this thread may make calls that a capture in global mode would forbid.
pub(super) struct Relaxed(Option<CUstreamCaptureMode>);

impl Relaxed {
    pub(super) fn enter() -> Self {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: exchanges the mode with the thread's own.
        let result = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
        Self((result == CUresult::CUDA_SUCCESS).then_some(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        if let Some(mode) = &mut self.0 {
            // SAFETY: as in `enter`.
            let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(mode) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_log_is_kept() {
        let error = Error::new(Status::Device, "compiling kernel k: CUDA_ERROR_INVALID_PTX (218)");
        let log = b"ptxas application ptx input, line 3; fatal: syntax error\nsecond line\n\0rubbish";
        let message = "compiling kernel k: CUDA_ERROR_INVALID_PTX (218): ptxas application ptx input, line 3; fatal: syntax error; second line";
        assert_eq!(with_log(&error, log), Error::new(Status::Device, message));
        assert_eq!(with_log(&error, b"\0"), error);
    }
}
