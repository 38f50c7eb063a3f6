//! What stands between Rust and C: statuses, the last error's message, and no panic past this point.

use super::types::*;
use crate::error::{Error, Result, Status};
use crate::float_environment::StandardModes;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an ABI function, under the standard floating-point modes: an error or a panic becomes a status, with the
/// message kept for this thread.
pub fn guard(body: impl FnOnce() -> Result<()>) -> qlk_status {
    silence_panics();
    let _modes = StandardModes::set();
    let outer = IN_CALL.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic");
        Err(Error::new(Status::Internal, format!("internal error, please report it: {text}")))
    });
    IN_CALL.set(outer);
    match result {
        Ok(()) => QLK_STATUS_OK,
        Err(error) => {
            let message = CString::new(error.message().replace('\0', " ")).unwrap_or_default();
            LAST_ERROR.set(message);
            error.status() as qlk_status
        }
    }
}

/// The library prints nothing: a panic inside a call, or on one of the library's threads, is reported by its status.
/// Panics of anybody else go to whoever handled them before.
fn silence_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = std::thread::current().name().is_some_and(|name| name.starts_with("qlk-"));
            if !ours && !IN_CALL.get() {
                previous(info);
            }
        }));
    });
}

/// The name of a status, a static string; "unknown status" for a value that is none.
#[unsafe(no_mangle)]
pub extern "C" fn qlk_status_string(status: qlk_status) -> *const c_char {
    let name: &CStr = match status {
        QLK_STATUS_OK => c"ok",
        QLK_STATUS_INVALID_ARGUMENT => c"invalid argument",
        QLK_STATUS_TOO_LARGE => c"too large",
        QLK_STATUS_WORKSPACE_TOO_SMALL => c"workspace too small",
        QLK_STATUS_UNSUPPORTED => c"unsupported",
        QLK_STATUS_OUT_OF_RESOURCES => c"out of resources",
        QLK_STATUS_INTERNAL => c"internal error",
        QLK_STATUS_NO_DEVICE => c"no device",
        QLK_STATUS_DEVICE => c"device error",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// What was wrong with this thread's last call that did not return QLK_STATUS_OK: the argument, its value and what
/// would have been valid. Empty if there was none. Valid until the next such call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn qlk_last_error_message() -> *const c_char {
    LAST_ERROR.with_borrow(|message| message.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::threads::Threads;

    fn last() -> String {
        // SAFETY: the message is a C string of this thread.
        unsafe { CStr::from_ptr(qlk_last_error_message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(guard(|| panic!("boom {}", 1)), QLK_STATUS_INTERNAL);
        assert!(last().ends_with("boom 1"));
        // On a thread of the pool, too.
        let threads = Threads::new(2);
        let body = || {
            threads.for_each(4, |_, task| assert!(task != 2, "task {task} failed"));
            Ok(())
        };
        assert_eq!(guard(body), QLK_STATUS_INTERNAL);
        assert!(last().contains("task 2 failed"), "{}", last());
    }

    #[test]
    fn the_statuses_are_those_of_the_enum() {
        for (status, code) in [
            (Status::InvalidArgument, QLK_STATUS_INVALID_ARGUMENT),
            (Status::TooLarge, QLK_STATUS_TOO_LARGE),
            (Status::WorkspaceTooSmall, QLK_STATUS_WORKSPACE_TOO_SMALL),
            (Status::Unsupported, QLK_STATUS_UNSUPPORTED),
            (Status::OutOfResources, QLK_STATUS_OUT_OF_RESOURCES),
            (Status::Internal, QLK_STATUS_INTERNAL),
            (Status::NoDevice, QLK_STATUS_NO_DEVICE),
            (Status::Device, QLK_STATUS_DEVICE),
        ] {
            assert_eq!(guard(|| Err(Error::new(status, "x"))), code);
        }
    }
}
