//! The instruction set: a file a family, a line a form. A method's name is its opcode with underscores for dots, less
//! the parts that never change (`.sync`, `.aligned`).

pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod integer;
pub(crate) mod logic;
pub(crate) mod memory;
pub(crate) mod shuffle;
pub(crate) mod special;
pub(crate) mod sync;

use crate::forms::Form;

/// The lists of the families.
pub(crate) const FAMILIES: &[fn() -> Vec<Form>] = &[
    integer::forms,
    logic::forms,
    float::forms,
    compare::forms,
    convert::forms,
    special::forms,
    memory::forms,
    shuffle::forms,
    sync::forms,
];
