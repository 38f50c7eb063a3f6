//! The C ABI: `include/qlora_kernels.h` is generated from this module.
//!
//! Thin by intent: each function converts its arguments, calls [`crate::ops`] and turns the result into a status. The
//! conversion (`types`, `convert`) is where a null, a misaligned pointer, a wrong `struct_size` or an unknown enum value
//! becomes an error message.

#![allow(non_camel_case_types)] // the names are C's
#![allow(clippy::missing_safety_doc)] // the header says for each function what its pointers must be

mod context;
mod convert;
mod gemm;
mod guard;
mod optimizer;
mod pager;
mod quantize;
mod types;

pub use context::*;
pub use gemm::*;
pub use guard::{qlk_last_error_message, qlk_status_string};
pub use optimizer::*;
pub use pager::*;
pub use quantize::*;
pub use types::*;
