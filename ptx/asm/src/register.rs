//! Registers, the groups of them that instructions write, and predicates as guards.

use crate::class::{B16, B32, Bank, Bf16, Bf16x2, Class, F16, F16x2, Pred};
use crate::kernel::Kernel;
use crate::operand::Print;
use std::fmt::Write;
use std::marker::PhantomData;
use std::ops::Not;

/// A virtual register of class `T`. It belongs to the kernel that made it.
pub struct Reg<T> {
    index: u32,
    class: PhantomData<T>,
}

impl<T> Clone for Reg<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Reg<T> {}

impl<T: Class> std::fmt::Debug for Reg<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&crate::operand::printed(self))
    }
}

impl<T: Class> Reg<T> {
    pub(crate) fn new(index: u32) -> Self {
        Self { index, class: PhantomData }
    }

    pub(crate) fn bank() -> Bank {
        T::BANK
    }
}

impl<T: Class> Print for Reg<T> {
    fn print(&self, out: &mut String) {
        write!(out, "{}{}", T::BANK.prefix(), self.index).unwrap();
    }
}

/// Reads the same register as another class of its size. Emits nothing.
macro_rules! reinterpretations {
    ($($from:ident => $($name:ident $to:ident),*;)*) => {$(
        impl Reg<$from> {$(
            #[doc = concat!("The same register as `", stringify!($to), "`. Emits nothing.")]
            pub fn $name(self) -> Reg<$to> {
                Reg::new(self.index)
            }
        )*}
    )*};
}

reinterpretations! {
    B16 => as_f16 F16, as_bf16 Bf16;
    F16 => as_b16 B16;
    Bf16 => as_b16 B16;
    B32 => as_f16x2 F16x2, as_bf16x2 Bf16x2;
    F16x2 => as_b32 B32;
    Bf16x2 => as_b32 B32;
}

/// What an instruction writes: one register, an array of them (a vector or a fragment), or a register and a predicate.
pub trait Destination: Copy + Print {
    /// New registers.
    fn fresh(k: &Kernel) -> Self;
}

impl<T: Class> Destination for Reg<T> {
    fn fresh(k: &Kernel) -> Self {
        k.reg()
    }
}

impl<T: Class, const N: usize> Destination for [Reg<T>; N] {
    fn fresh(k: &Kernel) -> Self {
        k.regs()
    }
}

impl<T: Class, U: Class> Destination for (Reg<T>, Reg<U>) {
    fn fresh(k: &Kernel) -> Self {
        (k.reg(), k.reg())
    }
}

impl<T: Class, const N: usize> Print for [Reg<T>; N] {
    fn print(&self, out: &mut String) {
        out.push('{');
        for (i, reg) in self.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            reg.print(out);
        }
        out.push('}');
    }
}

impl<T: Class, U: Class> Print for (Reg<T>, Reg<U>) {
    fn print(&self, out: &mut String) {
        self.0.print(out);
        out.push('|');
        self.1.print(out);
    }
}

/// A predicate or its negation, as the condition of a branch or of one instruction. `!p` negates.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pred: Reg<Pred>,
    negated: bool,
}

impl From<Reg<Pred>> for Guard {
    fn from(pred: Reg<Pred>) -> Self {
        Self { pred, negated: false }
    }
}

impl Not for Guard {
    type Output = Self;

    fn not(self) -> Self {
        Self { negated: !self.negated, ..self }
    }
}

impl Not for Reg<Pred> {
    type Output = Guard;

    fn not(self) -> Guard {
        !Guard::from(self)
    }
}

impl Print for Guard {
    fn print(&self, out: &mut String) {
        out.push_str(if self.negated { "!" } else { "" });
        self.pred.print(out);
    }
}

/// The registers of a kind: `Out<B32>` is `Reg<B32>`, `Out<[F32; 4]>` is `[Reg<F32>; 4]`, `Out<(B32, Pred)>` a pair.
pub type Out<K> = <K as Outputs>::Regs;

/// A kind of destination: a class, an array of one, or a pair.
pub trait Outputs {
    /// The registers.
    type Regs: Destination;
}

impl<T: Class> Outputs for T {
    type Regs = Reg<T>;
}

impl<T: Class, const N: usize> Outputs for [T; N] {
    type Regs = [Reg<T>; N];
}

impl<T: Class, U: Class> Outputs for (T, U) {
    type Regs = (Reg<T>, Reg<U>);
}
