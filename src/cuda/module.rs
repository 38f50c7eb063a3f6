//! Compiled kernels: written as PTX and handed to the driver's compiler the first time they are needed.

use super::device::Cuda;
use super::driver::check;
use crate::error::{Error, Result, Status};
use crate::kernels::{KernelSpec, Spec, Written};
use cudarc::driver::sys::{
    self, CUfunction, CUjit_option_enum as Jit, CUmodule, CUresult, CUstreamCaptureMode,
};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard};

/// A kernel, ready to be launched.
#[derive(Clone, Copy)]
pub struct Function {
    pub(super) handle: CUfunction,
    pub(super) threads: u32,
    module: CUmodule,
}

// SAFETY: handles of the driver, which may be used by any thread.
unsafe impl Send for Function {}

/// The kernels of a device.
#[derive(Default)]
pub struct Modules(Mutex<HashMap<KernelSpec, Function>>);

impl Modules {
    fn lock(&self) -> MutexGuard<'_, HashMap<KernelSpec, Function>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Frees all kernels; the context must be current.
    pub fn unload(&self) {
        for (_, function) in self.lock().drain() {
            // SAFETY: loaded by `load`, and nothing uses the device any more.
            let _ = unsafe { sys::cuModuleUnload(function.module) };
        }
    }
}

impl Cuda {
    /// The kernel of a spec; the context must be current. Compiles it on first use.
    pub(super) fn function(&self, spec: KernelSpec) -> Result<Function> {
        let mut modules = self.modules.lock();
        if let Some(function) = modules.get(&spec) {
            return Ok(*function);
        }
        let written = spec.write(self.target());
        let written = written.map_err(|error| Error::new(Status::Internal, format!("{spec:?}: {error}")))?;
        let function = load(&written, &self.name)?;
        modules.insert(spec, function);
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
        check(result, &format!("compiling kernel {} for {device}", written.name)).map_err(|error| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]).trim().replace('\n', "; ");
            let log = if log.is_empty() { log } else { format!(": {log}") };
            Error::new(Status::Device, format!("{}{log}", error.message()))
        })?;
        let entry = CString::new(written.name).expect("names have no zero byte");
        let result = sys::cuModuleGetFunction(&mut handle, module, entry.as_ptr());
        if result != CUresult::CUDA_SUCCESS {
            sys::cuModuleUnload(module);
        }
        check(result, "cuModuleGetFunction")?;
    }
    Ok(Function { handle, threads: written.threads, module })
}

/// While it lives, this thread may make calls that a capture in global mode would forbid.
struct Relaxed(Option<CUstreamCaptureMode>);

impl Relaxed {
    fn enter() -> Self {
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
