//! What instructions read: registers, immediates, vectors.

use crate::class::{B16, B32, B64, Class, F32, Pred};
use crate::kernel::Kernel;
use crate::register::Reg;
use std::fmt::Write;

/// Something that stands in an operand's place.
pub trait Print {
    /// Appends the operand's text.
    fn print(&self, out: &mut String);
}

/// The text of an operand.
pub(crate) fn printed(operand: &dyn Print) -> String {
    let mut out = String::new();
    operand.print(&mut out);
    out
}

/// A register or, where the class has them, an immediate.
#[derive(Clone, Copy, Debug)]
pub struct Operand<T: Class>(Source<T>);

#[derive(Clone, Copy, Debug)]
enum Source<T: Class> {
    Reg(Reg<T>),
    Int(i128),
    Single(f32),
}

impl<T: Class> From<Reg<T>> for Operand<T> {
    fn from(reg: Reg<T>) -> Self {
        Self(Source::Reg(reg))
    }
}

macro_rules! immediates {
    ($($class:ident: $($int:ident)*;)*) => {$($(
        impl From<$int> for Operand<$class> {
            fn from(value: $int) -> Self {
                Self(Source::Int(value.into()))
            }
        }
    )*)*};
}

immediates! {
    B16: u16;
    B32: i32 u32;
    B64: i32 u32 i64 u64;
}

impl From<bool> for Operand<Pred> {
    fn from(value: bool) -> Self {
        Self(Source::Int(value.into()))
    }
}

impl From<f32> for Operand<F32> {
    fn from(value: f32) -> Self {
        Self(Source::Single(value))
    }
}

impl<T: Class> Print for Operand<T> {
    fn print(&self, out: &mut String) {
        match self.0 {
            Source::Reg(reg) => reg.print(out),
            Source::Int(value) => print_int(value, out),
            Source::Single(value) => write!(out, "0f{:08X}", value.to_bits()).unwrap(),
        }
    }
}

/// Small numbers in decimal, masks and other large ones in hexadecimal.
fn print_int(value: i128, out: &mut String) {
    if value < 0x1_0000 { write!(out, "{value}") } else { write!(out, "{value:#x}") }.unwrap()
}

/// A constant of the instruction itself: a count, a size, a number of bits. `SAMPLE` is the value that
/// [`forms`](crate::forms()) uses.
#[derive(Clone, Copy, Debug)]
pub struct Imm<const SAMPLE: u32 = 0>(i128);

impl<const SAMPLE: u32> From<i32> for Imm<SAMPLE> {
    fn from(value: i32) -> Self {
        Self(value.into())
    }
}

impl<const SAMPLE: u32> From<u32> for Imm<SAMPLE> {
    fn from(value: u32) -> Self {
        Self(value.into())
    }
}

impl<const SAMPLE: u32> Print for Imm<SAMPLE> {
    fn print(&self, out: &mut String) {
        print_int(self.0, out);
    }
}

/// What an operand of a kind may be: `In<B32>` is an [`Operand<B32>`], `In<[F32; 4]>` is `[Reg<F32>; 4]`.
pub type In<K> = <K as Inputs>::Operand;

/// A kind of operand.
pub trait Inputs {
    /// What the caller gives.
    type Operand: Print + Sample;
}

impl<T: Class> Inputs for T {
    type Operand = Operand<T>;
}

impl<T: Class, const N: usize> Inputs for [T; N] {
    type Operand = [Reg<T>; N];
}

impl<const SAMPLE: u32> Inputs for Imm<SAMPLE> {
    type Operand = Self;
}

/// Operands for the list of all forms.
pub trait Sample {
    /// Any operand that the assembler takes.
    fn sample(k: &Kernel) -> Self;
}

impl<T: Class> Sample for Operand<T> {
    fn sample(k: &Kernel) -> Self {
        k.reg::<T>().into()
    }
}

impl<T: Class, const N: usize> Sample for [Reg<T>; N] {
    fn sample(k: &Kernel) -> Self {
        k.regs()
    }
}

impl<const SAMPLE: u32> Sample for Imm<SAMPLE> {
    fn sample(_: &Kernel) -> Self {
        SAMPLE.into()
    }
}
