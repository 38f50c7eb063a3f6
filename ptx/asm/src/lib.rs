//! A typed builder of PTX, NVIDIA's virtual instruction set.
//!
//! Kernels are Rust functions that write PTX text when they run: no nvcc, no CUDA toolkit, no build step; the driver
//! compiles the text. This crate knows PTX and nothing of what it is used for.
//!
//! * **Ill-typed instructions do not compile.** A register carries its class ([`Reg<F32>`](Reg), `Reg<B32>`,
//!   `Reg<Pred>` …), an address its state space, a matrix fragment is an array of registers.
//! * **`.version` is computed**: the least that has everything the module uses. An instruction that the target lacks
//!   is an [`Error`] that names both. What each form needs was measured with ptxas.
//! * **Control flow is structured**: conditions and loops are closures; an unrolled loop is a Rust loop.
//!
//! # A kernel
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
//!
//! assert_eq!(
//!     module.to_ptx().unwrap(),
//!     "\
//! .version 7.0
//! .target sm_80
//! .address_size 64
//!
//! .visible .entry scale(
//!     .param .u64 x,
//!     .param .u64 y,
//!     .param .f32 factor,
//!     .param .u32 n
//! )
//! .maxntid 256, 1, 1
//! {
//!     .reg .pred %p<1>;
//!     .reg .b32 %r<5>;
//!     .reg .b64 %rd<6>;
//!     .reg .f32 %f<3>;
//!
//!     ld.param.u64 %rd0, [x];
//!     cvta.to.global.u64 %rd1, %rd0;
//!     ld.param.u64 %rd2, [y];
//!     cvta.to.global.u64 %rd3, %rd2;
//!     ld.param.f32 %f0, [factor];
//!     ld.param.u32 %r0, [n];
//!
//!     // ---- one element a thread ----
//!     mov.u32 %r1, %ctaid.x;
//!     mov.u32 %r2, %ntid.x;
//!     mov.u32 %r3, %tid.x;
//!     mad.lo.u32 %r4, %r1, %r2, %r3;
//!     setp.lt.u32 %p0, %r4, %r0;
//!     @!%p0 bra $endif_1;
//!         mad.wide.u32 %rd4, %r4, 4, %rd1;
//!         ld.global.nc.f32 %f1, [%rd4];
//!         mad.wide.u32 %rd5, %r4, 4, %rd3;
//!         mul.rn.f32 %f2, %f1, %f0;
//!         st.global.f32 [%rd5], %f2;
//! $endif_1:
//!     ret;
//! }
//! "
//! );
//! ```
//!
//! # How instructions are written
//!
//! A method's name is its opcode with underscores for dots. All methods take `&self`: instructions nest like
//! expressions, closures capture the kernel, and what Rust evaluates first is emitted first.
//!
//! ```
//! # use ptx_asm::*;
//! # Module::new(Target::Sm80).kernel("k", |k| {
//! # let (n, x) = (k.param_u32("n"), k.param_ptr("x"));
//! // An instruction returns new registers.
//! let a = k.add_u32(n, 1);
//! // After `to` it writes existing ones: what a loop carries.
//! let sum = k.var_f32(0.0);
//! k.for_range(k.tid_x(), n, 32, |i| {
//!     k.to(sum).add_rn_f32(sum, k.ld_global::<F32>(k.element(x, i, 4)));
//! });
//! // Vectors and fragments are arrays, and loads say what lies in memory.
//! let [b, c] = k.ld_global::<[U8; 2]>(x.at(16));
//! // After `when` one instruction is guarded. One with a result then needs `to`, for the result may not be written.
//! let first = k.setp_eq_u32(k.tid_x(), 0);
//! k.when(first).st_global::<B32>(x, k.add_u32(b, c));
//! k.to(a).when(!first).mov(0);
//! // Registers of one size are reinterpreted for nothing; f32 and b32 live apart in PTX, and take a `mov`.
//! let one = k.mov::<B32>(0x3C00_3C00).as_f16x2();
//! let bits = k.f32_to_bits(sum);
//! # let _ = (one, bits);
//! # });
//! ```
//!
//! Constants stand wherever PTX takes them; an unsuffixed integer literal is an `i32`, so write `0xFFFF_0000u32`.
//!
//! # Where things are
//!
//! | | |
//! |---|---|
//! | [`Module`], [`Kernel`] | the text; parameters, launch directives, sections and comments |
//! | [`Target`], [`Version`], [`Needs`] | what there is, and what an instruction takes |
//! | [`Reg`], [`Operand`], [`Guard`] | registers, operands, conditions |
//! | [`Ptr`], [`Addr`], [`Mem`], [`Load`], [`Store`] | addresses by state space, types in memory, ordering and cache hints |
//! | [`Array`], [`DynamicShared`] | shared memory laid out by type |
//! | [`TensorMap`], [`Descriptor`] | operands of tensor copies and of `wgmma` |
//! | [`instructions`] | the instruction set, a file a family, a line a form |
//! | [`forms()`] | the list of all forms, for tests of assemblers and parsers |
//!
//! Methods of [`Kernel`] that emit more than one instruction are few: `if_then`, `if_else`, `while_`, `do_while`,
//! `loop_`, `for_range`; `param_ptr` and `param_tensor_map`; `splat`; `mbarrier_wait_parity`; `matrix_descriptor`.

#![warn(missing_docs)]

mod address;
mod class;
mod constant;
mod control;
mod emit;
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
pub use emit::{To, When};
pub use error::{Error, MAX_STATIC_SHARED, Problem};
pub use forms::{Form, Sample, forms};
pub use hints::{Evict, Load, Prefetch, Scope, Store};
pub use instructions::logic::lut;
pub use instructions::wgmma::{Descriptor, Reading, Swizzle};
pub use kernel::Kernel;
pub use mem::{Mem, MemIn, S8, S16, U8, U16};
pub use module::Module;
pub use operand::{Imm, In, Inputs, Multiple, Operand, Operands, Print, Register};
pub use register::{Destination, Guard, Out, Outputs, Reg};
pub use shared::{Array, DynamicShared};
pub use target::{Needs, Target, Version};
pub use tensor_map::{TensorMap, Tile};
