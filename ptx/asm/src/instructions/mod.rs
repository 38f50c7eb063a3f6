//! The instruction set: a file a family, a line a form.
//!
//! A line gives a method of [`Kernel`](crate::Kernel), the opcode that it prints, the operands with their kinds, the
//! kind of the destination, and, where that is not every target, what the form needs:
//!
//! ```text
//! fma_rn_f32 "fma.rn.f32" (a: F32, b: F32, c: F32) -> F32;
//! cvt_rn_bf16x2_f32 "cvt.rn.bf16x2.f32" (high: F32, low: F32) -> Bf16x2, sm(80);
//! ```
//!
//! The method's name is the opcode with underscores for dots, less what never changes (`.sync`, `.aligned`). An
//! operand's kind is a class (a register or a constant), an array of one (a vector or fragment), an address or pointer
//! with its space, or a constant. Everything else follows from the line: `family!` makes of it the method, the same
//! method under [`Kernel::to`](crate::Kernel::to) or [`Kernel::when`](crate::Kernel::when), its documentation, the
//! check of the target, and an entry of [`forms`](crate::forms()), through which the tests assemble it for every target.

pub mod async_copy;
pub mod atomic;
pub mod cluster;
pub mod compare;
pub mod convert;
pub mod float;
pub mod half;
pub mod integer;
pub mod logic;
pub mod matrix;
pub mod mbarrier;
pub mod memory;
pub mod shuffle;
pub mod special;
pub mod sync;
pub mod tma;
pub mod wgmma;

use crate::forms::Form;

/// The lists of the families.
pub(crate) const FAMILIES: &[fn() -> Vec<Form>] = &[
    integer::forms,
    logic::forms,
    float::forms,
    half::forms,
    compare::forms,
    convert::forms,
    special::forms,
    memory::forms,
    shuffle::forms,
    sync::forms,
    atomic::forms,
    matrix::forms,
    async_copy::forms,
    mbarrier::forms,
    tma::forms,
    cluster::forms,
    wgmma::forms,
];
