//! What instructions read: registers, immediates, vectors.

use crate::class::{B16, B32, B64, Class, Constant, F32, Pred};
use crate::kernel::Kernel;
use crate::register::Reg;
use std::fmt::Write;
use std::marker::PhantomData;

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

/// What the operands of a [`Form`](crate::Form)'s sample are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operands {
    /// Registers, without values.
    Registers,
    /// Constants, where the form takes them.
    Constants,
}

/// What an operand of a kind may be: `In<B32>` is an [`Operand<B32>`], `In<[F32; 4]>` is `[Reg<F32>; 4]`.
pub type In<K> = <K as Inputs>::Operand;

/// A kind of operand, as the lists of instructions name it.
pub trait Inputs {
    /// What the caller gives.
    type Operand: Print;

    /// Any operand that the assembler takes, for the list of all forms.
    fn sample(k: &Kernel, operands: Operands) -> Self::Operand;
}

/// A register or a constant.
impl<T: Class> Inputs for T {
    type Operand = Operand<T>;

    fn sample(k: &Kernel, operands: Operands) -> Operand<T> {
        match (operands, T::CONSTANT) {
            (Operands::Constants, Some(Constant::Int)) => Operand(Source::Int(1)),
            (Operands::Constants, Some(Constant::Single)) => Operand(Source::Single(1.0)),
            _ => k.reg::<T>().into(),
        }
    }
}

/// A vector or fragment: registers only.
impl<T: Class, const N: usize> Inputs for [T; N] {
    type Operand = [Reg<T>; N];

    fn sample(k: &Kernel, _: Operands) -> Self::Operand {
        k.regs()
    }
}

/// A constant only.
impl<const SAMPLE: u32> Inputs for Imm<SAMPLE> {
    type Operand = Self;

    fn sample(_: &Kernel, _: Operands) -> Self {
        SAMPLE.into()
    }
}

/// The kind of an operand that cannot be a constant.
pub struct Register<T>(PhantomData<T>);

impl<T: Class> Inputs for Register<T> {
    type Operand = Reg<T>;

    fn sample(k: &Kernel, _: Operands) -> Reg<T> {
        k.reg()
    }
}

/// The kind of an operand that has to be a multiple of `N`.
pub struct Multiple<const N: u32>;

impl<const N: u32> Inputs for Multiple<N> {
    type Operand = Operand<B32>;

    fn sample(k: &Kernel, operands: Operands) -> Operand<B32> {
        match operands {
            Operands::Registers => k.reg().into(),
            Operands::Constants => N.into(),
        }
    }
}
