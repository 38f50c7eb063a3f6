//! The types that registers and memory carry: zero-sized, known to the compiler only.

/// How registers of one class are stored: PTX declares them together and lets them be read as any type of that size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bank {
    Pred,
    B16,
    B32,
    B64,
    F32,
}

impl Bank {
    pub(crate) const ALL: [Self; 5] = [Self::Pred, Self::B16, Self::B32, Self::B64, Self::F32];

    /// The type in `.reg`.
    pub(crate) const fn declared(self) -> &'static str {
        match self {
            Self::Pred => ".pred",
            Self::B16 => ".b16",
            Self::B32 => ".b32",
            Self::B64 => ".b64",
            Self::F32 => ".f32",
        }
    }

    /// What the names of its registers begin with.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Pred => "%p",
            Self::B16 => "%h",
            Self::B32 => "%r",
            Self::B64 => "%rd",
            Self::F32 => "%f",
        }
    }
}

/// What the constants of a class are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Constant {
    Int,
    Single,
}

pub(crate) mod sealed {
    use super::{Bank, Constant};

    pub trait Class {
        #[allow(private_interfaces)]
        const BANK: Bank;
        #[allow(private_interfaces)]
        const CONSTANT: Option<Constant>;
    }
}

/// What a register holds. Signedness is the operation's, as in PTX.
pub trait Class: sealed::Class + Copy + 'static {
    /// The type in the opcode of a move: `b32`, `f32`, `pred`.
    const MOV: &'static str;
}

macro_rules! constant {
    () => {
        None
    };
    ($constant:ident) => {
        Some(Constant::$constant)
    };
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident $bank:ident $mov:literal $($constant:ident)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name;
        impl sealed::Class for $name {
            #[allow(private_interfaces)]
            const BANK: Bank = Bank::$bank;
            #[allow(private_interfaces)]
            const CONSTANT: Option<Constant> = constant!($($constant)?);
        }
        impl Class for $name {
            const MOV: &'static str = $mov;
        }
    )*};
}

classes! {
    /// A predicate.
    Pred Pred "pred" Int;
    /// 16 bits: an integer of either sign, or just bits.
    B16 B16 "b16" Int;
    /// An IEEE half.
    F16 B16 "b16";
    /// A bfloat16.
    Bf16 B16 "b16";
    /// 32 bits: an integer of either sign, or just bits.
    B32 B32 "b32" Int;
    /// Two halves, the first in the low half.
    F16x2 B32 "b32";
    /// Two bfloat16, the first in the low half.
    Bf16x2 B32 "b32";
    /// 64 bits: an integer of either sign, or just bits.
    B64 B64 "b64" Int;
    /// A single.
    F32 F32 "f32" Single;
}
