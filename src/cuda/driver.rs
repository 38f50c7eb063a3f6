//! Finding the driver. cudarc binds the driver's functions one by one on first use and panics where there is no driver or
//! not that function, so nothing of it is called before [`find`] has said yes.

use crate::error::{Error, Result, Status};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

/// The least driver: that of CUDA 12.0 (r525), the version of the functions bound and of the kernels' PTX.
const LEAST: i32 = 12_000;

/// The names under which drivers are installed, of those that cudarc tries, in its order: the first that opens is the one
/// that it uses, too.
const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

/// Looks for a driver that is new enough and starts it. Asked once a process, until there is one.
pub fn find() -> Result<()> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_some() {
        return Ok(());
    }
    let version = version().ok_or_else(|| {
        Error::new(
            Status::NoDevice,
            format!("there is no NVIDIA driver on this machine ({} is not found)", NAMES[0]),
        )
    })?;
    if version < LEAST {
        let found = format!("{}.{}", version / 1000, version % 1000 / 10);
        let message = format!(
            "the NVIDIA driver serves CUDA {found}; 12.0 (r525) is the least that this library needs"
        );
        return Err(Error::new(Status::NoDevice, message));
    }
    // SAFETY: the driver is there, as just seen.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => return Err(no_device()),
        other => return check(other, "cuInit").map_err(|e| Error::new(Status::NoDevice, e.message())),
    }
    let _ = FOUND.set(());
    Ok(())
}

/// `cuDriverGetVersion` of the library that cudarc will use; `None` where there is none.
pub fn version() -> Option<i32> {
    // SAFETY: the signature is the driver API's.
    let get: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { symbol("cuDriverGetVersion")? };
    let mut version = 0;
    // SAFETY: the pointer is valid.
    (unsafe { get(&mut version) } == 0).then_some(version)
}

/// A function of the library that cudarc will use.
///
/// # Safety
/// `F` is the function's type.
pub unsafe fn symbol<F: Copy>(name: &str) -> Option<F> {
    // SAFETY: loading the driver runs its initializers, as every CUDA program does; the type is the caller's promise. The library
    // stays loaded: unloading a driver is not supported.
    unsafe {
        let library = NAMES.iter().find_map(|name| libloading::Library::new(*name).ok())?;
        let library = std::mem::ManuallyDrop::new(library);
        library.get(name.as_bytes()).ok().map(|function| *function)
    }
}

/// There is a driver and nothing else.
pub fn no_device() -> Error {
    Error::new(Status::NoDevice, "the NVIDIA driver finds no device")
}

/// How many devices there are; 0 without a driver.
pub fn device_count() -> u32 {
    if find().is_err() {
        return 0;
    }
    let mut count = 0;
    // SAFETY: the driver is there; the pointer is valid.
    let result = unsafe { sys::cuDeviceGetCount(&mut count) };
    if result == CUresult::CUDA_SUCCESS { count.max(0) as u32 } else { 0 }
}

/// The result of driver function `what` as an error of status [`Status::Device`].
pub fn check(result: CUresult, what: &str) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: the pointer is valid; the text is static.
        unsafe {
            get(result, &mut text);
            if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy() }
        }
    };
    let (name, meaning) = (text(sys::cuGetErrorName), text(sys::cuGetErrorString));
    Err(Error::new(Status::Device, format!("{what}: {name} ({}): {meaning}", result as u32)))
}
