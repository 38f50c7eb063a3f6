//! Contexts, and what the library and the device are.

use super::convert::*;
use super::guard::guard;
use super::types::*;
use crate::error::{Error, ensure};
use crate::ops::{Context, DeviceKind};
use std::ffi::c_char;

/// The version of the library: major * 10000 + minor * 100 + patch.
#[unsafe(no_mangle)]
pub extern "C" fn qlk_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (bytes, mut value, mut i) = (text.as_bytes(), 0, 0);
        while i < bytes.len() {
            value = value * 10 + (bytes[i] - b'0') as u32;
            i += 1;
        }
        value
    }
    number(env!("CARGO_PKG_VERSION_MAJOR")) * 10000
        + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
        + number(env!("CARGO_PKG_VERSION_PATCH"))
}

/// How many devices of a kind there are: 1 for QLK_DEVICE_CPU; 0 for QLK_DEVICE_CUDA where there is no NVIDIA driver or
/// one that is older than CUDA 12.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_device_count(kind: qlk_device_kind, count: *mut u32) -> qlk_status {
    guard(|| {
        let count = unsafe { out(count, "count")? };
        *count = match kind {
            QLK_DEVICE_CPU => DeviceKind::Cpu.count(),
            QLK_DEVICE_CUDA => DeviceKind::Cuda.count(),
            _ => return Err(unknown_kind(kind)),
        };
        Ok(())
    })
}

/// Makes a context for device number `ordinal` of a kind, and writes it to `*context`. A CPU context uses all cores. A child of
/// fork() may go on using its parent's CPU contexts, with threads of its own, if no other thread of the parent was in a call of this
/// library when it forked; but neither its CUDA contexts nor its pagers.
///
/// A CUDA context is the device's primary one, current during calls only: pointers and streams of the CUDA runtime and of
/// other libraries are valid in it. Pointers in views, workspaces included, must then be to device, managed or pinned
/// memory; tables in a qlk_quant_spec, and `map`, stay in host memory. A call enqueues its work on its stream and returns;
/// an error of the work itself shows in a later call as QLK_STATUS_DEVICE. All memory of a call, its workspace included, must
/// stay valid and unchanged by others until the stream has passed the work; a workspace serves one stream at a time. Calls
/// can be captured into a graph. Kernels are compiled on first use, for a device's contexts together: a first call may
/// take longer. The contexts of a device share it; with the last one its kernels are freed, so destroy it when its work is
/// done and no captured graph will be launched again.
///
/// Errors: QLK_STATUS_INVALID_ARGUMENT for a null `context`, an unknown kind or an ordinal that is not below
/// qlk_device_count; QLK_STATUS_NO_DEVICE for QLK_DEVICE_CUDA without a driver, with one older than CUDA 12.0, or without
/// a GPU; QLK_STATUS_UNSUPPORTED for a GPU older than Turing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_context_create(
    kind: qlk_device_kind,
    ordinal: u32,
    context: *mut *mut qlk_context,
) -> qlk_status {
    guard(|| {
        let context = unsafe { out(context, "context")? };
        match kind {
            QLK_DEVICE_CPU => {
                ensure!(ordinal == 0, "ordinal is {ordinal}; there is one CPU device, 0");
                *context = Box::into_raw(Box::new(qlk_context { inner: Context::cpu() }));
                Ok(())
            }
            QLK_DEVICE_CUDA => {
                *context = Box::into_raw(Box::new(qlk_context { inner: Context::cuda(ordinal)? }));
                Ok(())
            }
            _ => Err(unknown_kind(kind)),
        }
    })
}

/// Frees a context; null is allowed. No call may use it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_context_destroy(context: *mut qlk_context) -> qlk_status {
    guard(|| {
        if !context.is_null() {
            check_pointer(context, "context")?;
            // SAFETY: from qlk_context_create, and used no more.
            drop(unsafe { Box::from_raw(context) });
        }
        Ok(())
    })
}

/// Uses `count` threads, 1 to 4096, from the next operation on. Workspace sizes depend on it: ask for them again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_context_set_threads(context: *mut qlk_context, count: u32) -> qlk_status {
    guard(|| unsafe { super::convert::context(context)? }.set_threads(count as usize))
}

/// Writes what a context is to `*info`, whose struct_size the caller has set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_context_info(
    context: *const qlk_context,
    info: *mut qlk_device_info,
) -> qlk_status {
    guard(|| {
        let (context, info) = unsafe { (super::convert::context(context)?, out_struct(info, "info")?) };
        info.device_kind = context.device_kind() as qlk_device_kind;
        info.threads = context.threads() as u32;
        info.cores = context.cores() as u32;
        info.instruction_set = text(context.instruction_set());
        info.name = text(context.name());
        Ok(())
    })
}

/// A zero-terminated string, cut to fit.
fn text<const N: usize>(from: &str) -> [c_char; N] {
    let mut to = [0; N];
    for (to, from) in to.iter_mut().zip(from.bytes()).take(N - 1) {
        *to = from as c_char;
    }
    to
}

fn unknown_kind(kind: qlk_device_kind) -> Error {
    Error::invalid(format!("kind is {kind}; it must be a QLK_DEVICE_* value, 0 or 1"))
}
