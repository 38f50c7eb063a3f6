//! A typed builder of PTX.
//!
//! ```
//! use ptx_asm::{F32, Module, Target};
//!
//! let mut module = Module::new(Target::Sm80);
//! module.kernel("scale", |k| {
//!     k.maxntid([256, 1, 1]);
//!     let (x, y) = (k.param_ptr("x"), k.param_ptr("y"));
//!     let (factor, n) = (k.param_f32("factor"), k.param_u32("n"));
//!
//!     k.section("one element a thread");
//!     let i = k.mad_lo_u32(k.ctaid_x(), k.ntid_x(), k.tid_x());
//!     k.if_then(k.setp_lt_u32(i, n), || {
//!         let value = k.ld_global_nc::<F32>(k.element(x, i, 4));
//!         k.st_global::<F32>(k.element(y, i, 4), k.mul_rn_f32(value, factor));
//!     });
//! });
//! let ptx = module.to_ptx().unwrap();
//! assert!(ptx.starts_with(".version 7.0\n.target sm_80\n"));
//! ```
#![warn(missing_docs)]

mod address;
mod class;
mod constant;
mod control;
mod error;
mod forms;
mod hints;
pub mod instructions;
mod kernel;
mod mem;
mod module;
mod operand;
mod param;
mod register;
mod shared;
mod target;
mod tensor_map;

pub use address::{Addr, Const, Generic, Global, Param, Ptr, Shared, SharedCluster, Space};
pub use class::{B16, B32, B64, Bf16, Bf16x2, Class, F16, F16x2, F32, Pred};
pub use control::Loop;
pub use error::{Error, MAX_STATIC_SHARED, Problem};
pub use forms::{Form, forms};
pub use hints::{Evict, Load, Prefetch, Scope, Store};
pub use instructions::logic::lut;
pub use instructions::wgmma::{Descriptor, Reading, Swizzle};
pub use kernel::{Kernel, To, When};
pub use mem::{Mem, MemIn, S8, S16, U8, U16};
pub use module::Module;
pub use operand::{Imm, In, Operand};
pub use register::{Destination, Guard, Out, Reg};
pub use shared::{Array, DynamicShared};
pub use target::{Needs, Target, Version};
pub use tensor_map::{TensorMap, Tile};
