//! The instruction set: a file a family, a line a form. A method's name is its opcode with underscores for dots, less
//! the parts that never change (`.sync`, `.aligned`).

pub(crate) mod async_copy;
pub(crate) mod atomic;
pub(crate) mod cluster;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod integer;
pub(crate) mod logic;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod shuffle;
pub(crate) mod special;
pub(crate) mod sync;
pub(crate) mod tma;
pub(crate) mod wgmma;

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
