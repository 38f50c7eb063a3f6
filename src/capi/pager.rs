//! Paged memory.

use super::convert::*;
use super::guard::guard;
use super::types::*;
use crate::error::{Error, Result, ensure};
use crate::ops::{Advice, Pager, PagerKind, PagerOptions};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

/// Makes a pager for a context's device, and writes it to `*pager`. It may outlive the context.
///
/// A pager gives memory for the states of optimizers that may be larger than the memory that they are used in. It is ordinary
/// memory of the host with an address, which every function takes; what the budget does is done by qlk_optimizer_step_paged,
/// window by window. QLK_PAGER_STREAMED takes the whole budget of the GPU's memory now; QLK_PAGER_FILE makes its file, which has
/// no name and is freed with the process, however that ends.
///
/// Errors: QLK_STATUS_INVALID_ARGUMENT for an unknown kind or one of the other device, a budget below 256 KiB, a folder where
/// no file can be made, or one that is not used; QLK_STATUS_OUT_OF_RESOURCES where the memory is not there;
/// QLK_STATUS_UNSUPPORTED for QLK_PAGER_MANAGED on a GPU without it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_create(
    context: *const qlk_context,
    options: *const qlk_pager_options,
    pager: *mut *mut qlk_pager,
) -> qlk_status {
    guard(|| unsafe {
        let (context, options) = (super::convert::context(context)?, read(options, "options")?);
        let pager = out(pager, "pager")?;
        let options = PagerOptions {
            kind: kind(options.kind)?,
            budget: options.budget,
            folder: folder(options.folder)?,
        };
        *pager = Box::into_raw(Box::new(qlk_pager { inner: Pager::new(context, &options)? }));
        Ok(())
    })
}

/// Frees a pager and all memory that it gave, when work that was enqueued on it is done; null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_destroy(pager: *mut qlk_pager) -> qlk_status {
    guard(|| {
        if !pager.is_null() {
            check_pointer(pager, "pager")?;
            // SAFETY: from qlk_pager_create, and used no more.
            drop(unsafe { Box::from_raw(pager) });
        }
        Ok(())
    })
}

/// Writes the address of `bytes` bytes, all zero, aligned to at least 256, to `*ptr`. Allocations take whole pages of the system's:
/// one for all states is better than one for each. What follows each other there without gaps, in the order in which a step takes
/// the parameters, is moved as one: thousands of small states then cost what one large state does.
///
/// Errors: QLK_STATUS_OUT_OF_RESOURCES where there is no such memory, or no such room on disk; everything is as before then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_alloc(
    pager: *mut qlk_pager,
    bytes: u64,
    ptr: *mut *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (pager, ptr) = (self::pager(pager)?, out(ptr, "ptr")?);
        *ptr = std::ptr::with_exposed_provenance_mut(pager.alloc(bytes)?);
        Ok(())
    })
}

/// Frees what qlk_pager_alloc gave, when work that was enqueued on it is done; null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_free(pager: *mut qlk_pager, ptr: *mut c_void) -> qlk_status {
    guard(|| unsafe {
        let pager = self::pager(pager)?;
        if ptr.is_null() { Ok(()) } else { pager.free(ptr.expose_provenance()) }
    })
}

/// Brings memory nearer before a step needs it, on the stream: unified memory to the GPU; what stays on the GPU and was evicted back
/// there; a file's memory from disk. A hint, which takes no part of the budget by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_prefetch(
    context: *const qlk_context,
    pager: *mut qlk_pager,
    ptr: *const c_void,
    bytes: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        self::pager(pager)?.prefetch(&context_on_stream(context, stream)?, ptr.expose_provenance(), bytes)
    })
}

/// Sends memory away from where it is used, on the stream: to the host, where it is as new as anywhere when the stream has passed;
/// a file's memory to disk, at once. Memory of QLK_PAGER_STREAMED that a step has written must be evicted before somebody else
/// reads or writes it.
///
/// Errors: QLK_STATUS_OUT_OF_RESOURCES where the disk refuses it; the memory stays as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_evict(
    context: *const qlk_context,
    pager: *mut qlk_pager,
    ptr: *const c_void,
    bytes: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        self::pager(pager)?.evict(&context_on_stream(context, stream)?, ptr.expose_provenance(), bytes)
    })
}

/// Says where a part of an allocation wants to be, QLK_ADVICE_*, from the next step on. A parameter follows the advice at the starts
/// of its states; if they differ, QLK_ADVICE_PASS counts before QLK_ADVICE_STAY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_advise(
    pager: *mut qlk_pager,
    ptr: *const c_void,
    bytes: u64,
    advice: qlk_advice,
) -> qlk_status {
    guard(|| unsafe {
        let advice = match advice {
            QLK_ADVICE_NORMAL => Advice::Normal,
            QLK_ADVICE_STAY => Advice::Stay,
            QLK_ADVICE_PASS => Advice::Pass,
            other => {
                let message = format!("advice is {other}; it must be a QLK_ADVICE_* value, 0 to 2");
                return Err(Error::invalid(message));
            }
        };
        self::pager(pager)?.advise(ptr.expose_provenance(), bytes, advice)
    })
}

/// Writes what a pager has done so far to `*statistics`, whose struct_size the caller has set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_pager_get_statistics(
    pager: *const qlk_pager,
    statistics: *mut qlk_pager_statistics,
) -> qlk_status {
    guard(|| unsafe {
        let (pager, out) = (self::pager(pager)?, out_struct(statistics, "statistics")?);
        let is = pager.statistics();
        *out = qlk_pager_statistics {
            struct_size: out.struct_size,
            kind: pager.kind() as qlk_pager_kind,
            budget: is.budget,
            allocations: is.allocations,
            allocated_bytes: is.allocated_bytes,
            staying_bytes: is.staying_bytes,
            windows: is.windows,
            bytes_in: is.bytes_in,
            bytes_out: is.bytes_out,
            steps: is.steps,
        };
        Ok(())
    })
}

/// # Safety
/// `ptr` is null or from qlk_pager_create, and not destroyed.
pub unsafe fn pager<'a>(ptr: *const qlk_pager) -> Result<&'a Pager> {
    check_pointer(ptr, "pager")?;
    Ok(&unsafe { &*ptr }.inner)
}

fn kind(value: qlk_pager_kind) -> Result<PagerKind> {
    Ok(match value {
        QLK_PAGER_AUTO => PagerKind::Auto,
        QLK_PAGER_MANAGED => PagerKind::Managed,
        QLK_PAGER_STREAMED => PagerKind::Streamed,
        QLK_PAGER_FILE => PagerKind::File,
        other => {
            return Err(Error::invalid(format!(
                "options.kind is {other}; it must be a QLK_PAGER_* value, 0 to 3"
            )));
        }
    })
}

/// # Safety
/// `path` is null or zero-terminated.
unsafe fn folder(path: *const c_char) -> Result<Option<PathBuf>> {
    if path.is_null() {
        return Ok(None);
    }
    // SAFETY: as promised by the caller.
    let path = unsafe { CStr::from_ptr(path) };
    ensure!(!path.is_empty(), "options.folder is empty; it must be a folder, or null");
    #[cfg(unix)]
    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path.to_bytes());
    #[cfg(not(unix))]
    let path = path.to_str().map_err(|_| Error::invalid("options.folder is not UTF-8"))?;
    Ok(Some(path.into()))
}
