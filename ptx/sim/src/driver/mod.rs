//! The stand-in libcuda: the driver API as exported C functions, over one [`Driver`] behind one lock.
//!
//! Work put into streams waits in queues ([`stream`]) and is done by the thread that waits for it; see
//! [`StreamOrder`](crate::config::StreamOrder). Functions that cudarc or cust bind and that are not here answer
//! NOT_SUPPORTED ([`symbols`]).

mod context;
pub mod control;
mod copy;
mod device;
mod event;
mod execute;
mod function;
mod graph;
mod launch;
mod managed;
mod memory;
mod module;
mod paging;
mod state;
mod status;
mod stream;
mod symbols;
mod tensor_map;

pub(crate) use state::{Driver, put};
pub(crate) use status::Status;

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock};

/// An opaque handle: a number, never followed.
pub(crate) type Handle = *mut c_void;

/// The result of a driver function.
pub(crate) type Outcome<T = ()> = Result<T, Status>;

/// Takes the driver's lock.
pub(crate) fn lock() -> MutexGuard<'static, Driver> {
    static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();
    DRIVER.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner())
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a driver function: counts it, takes the lock, keeps panics from crossing into C.
pub(crate) fn call(name: &'static str, f: impl FnOnce(&mut Driver) -> Outcome) -> u32 {
    if INSIDE.replace(true) {
        return Status::NOT_PERMITTED.0; // from a host function of a stream
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut driver = lock();
        driver.count_call(name);
        f(&mut driver)
    }));
    INSIDE.set(false);
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.0,
        Err(_) => Status::UNKNOWN.0,
    }
}

/// Defines exported driver functions. Each body gets the driver and the C arguments.
macro_rules! api {
    ($(fn $name:ident($driver:ident $(, $arg:ident: $ty:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            $crate::driver::call(stringify!($name), |$driver| -> $crate::driver::Outcome {
                // SAFETY: what the arguments point to is the caller's promise, as with the real driver.
                #[allow(unused_unsafe)]
                unsafe { $body }
            })
        }
    )*};
}
pub(crate) use api;
