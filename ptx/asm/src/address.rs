//! Pointers that know their state space, and `[pointer + constant]` operands.

use crate::class::{B32, B64, Class};
use crate::kernel::Kernel;
use crate::operand::{Imm, Inputs, Operand, Operands, Print, printed};
use crate::register::Reg;
use crate::target::{ANY, Needs, sm};
use std::fmt::Write;

/// A state space (PTX ISA §5.1) with the width of its addresses.
pub trait Space: Copy + 'static {
    /// The class of its addresses.
    type Word: Class;
    /// The qualifier of loads and stores, with its dot; empty for generic addresses.
    const QUALIFIER: &'static str;
    /// Whether its addresses have 64 bits.
    const WIDE: bool;
    #[doc(hidden)]
    const NEEDS: Needs;
}

macro_rules! spaces {
    ($($(#[$doc:meta])* $name:ident $word:ident $qualifier:literal $needs:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name;
        impl Space for $name {
            type Word = $word;
            const QUALIFIER: &'static str = $qualifier;
            const WIDE: bool = matches!(<$word as crate::class::sealed::Class>::BANK, crate::class::Bank::B64);
            const NEEDS: Needs = $needs;
        }
    )*};
}

spaces! {
    /// Memory that all threads of the grid see.
    Global B64 ".global" ANY;
    /// Memory of the thread block.
    Shared B32 ".shared" ANY;
    /// Shared memory of any block of the cluster.
    SharedCluster B32 ".shared::cluster" sm(90);
    /// Constant memory: tables of the module.
    Const B64 ".const" ANY;
    /// The kernel's parameters.
    Param B64 ".param" ANY;
    /// Any of them, told apart by the address at run time.
    Generic B64 "" ANY;
}

/// A pointer into `S`: a register with an address.
#[derive(Clone, Copy)]
pub struct Ptr<S: Space>(Reg<S::Word>);

impl<S: Space> std::fmt::Debug for Ptr<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", printed(&self.at(0)))
    }
}

impl<S: Space> Ptr<S> {
    /// The pointer in a register: the place where an address computed by hand gets its space.
    pub fn new(reg: Reg<S::Word>) -> Self {
        Self(reg)
    }

    /// The register.
    pub fn reg(self) -> Reg<S::Word> {
        self.0
    }

    /// The address this many bytes on.
    pub fn at(self, bytes: i32) -> Addr<S> {
        Addr { base: self.0, offset: bytes }
    }
}

/// `[pointer + constant]`, the operand of loads, stores and the like.
#[derive(Clone, Copy)]
pub struct Addr<S: Space> {
    base: Reg<S::Word>,
    offset: i32,
}

impl<S: Space> From<Ptr<S>> for Addr<S> {
    fn from(pointer: Ptr<S>) -> Self {
        pointer.at(0)
    }
}

/// A block's own shared memory is part of its cluster's.
impl From<Addr<Shared>> for Addr<SharedCluster> {
    fn from(address: Addr<Shared>) -> Self {
        Self { base: address.base, offset: address.offset }
    }
}

impl From<Ptr<Shared>> for Addr<SharedCluster> {
    fn from(pointer: Ptr<Shared>) -> Self {
        pointer.at(0).into()
    }
}

impl<S: Space> Print for Addr<S> {
    fn print(&self, out: &mut String) {
        out.push('[');
        self.base.print(out);
        if self.offset != 0 {
            // `+-16` for a negative one: the grammar has no `-`.
            write!(out, "+{}", self.offset).unwrap();
        }
        out.push(']');
    }
}

impl<S: Space> Inputs for Addr<S> {
    type Operand = Self;

    fn sample(k: &Kernel, _: Operands) -> Self {
        Ptr::new(k.reg()).at(0)
    }
}

impl Kernel {
    /// `pointer + bytes`, the number of bytes in a register as wide as the address.
    pub fn offset<S: Space>(&self, pointer: Ptr<S>, bytes: impl Into<Operand<S::Word>>) -> Ptr<S> {
        let to: Reg<S::Word> = self.reg();
        let op = if S::WIDE { "add.s64" } else { "add.s32" };
        self.emit(None, op, ANY, Some(&to), &[&pointer.0, &bytes.into()]);
        Ptr(to)
    }

    /// `pointer + index · size`, the index an unsigned 32-bit number, the product as wide as the address.
    pub fn element<S: Space>(&self, pointer: Ptr<S>, index: impl Into<Operand<B32>>, size: u32) -> Ptr<S> {
        let to: Reg<S::Word> = self.reg();
        let op = if S::WIDE { "mad.wide.u32" } else { "mad.lo.u32" };
        self.emit(None, op, ANY, Some(&to), &[&index.into(), &Imm::<0>::from(size), &pointer.0]);
        Ptr(to)
    }

    /// Moves a pointer that a loop carries: `pointer += bytes`. It writes the register, so every copy of `pointer` moves;
    /// begin with `offset(pointer, 0)` where the old one is still wanted.
    pub fn advance<S: Space>(&self, pointer: Ptr<S>, bytes: impl Into<Operand<S::Word>>) {
        let op = if S::WIDE { "add.s64" } else { "add.s32" };
        self.emit(None, op, ANY, Some(&pointer.0), &[&pointer.0, &bytes.into()]);
    }
}
