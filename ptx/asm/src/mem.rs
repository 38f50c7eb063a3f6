//! What lies in memory: the type arguments of loads, stores and shared arrays.

use crate::address::{Global, Space};
use crate::class::{B16, B32, B64, Bf16, Bf16x2, F16, F16x2, F32};
use crate::kernel::Kernel;
use crate::operand::{Inputs, Operand, Operands, Print};
use crate::register::{Destination, Reg};
use crate::target::{ANY, Needs, sm};

/// A type in memory and the registers that hold it.
pub trait Mem {
    /// The registers that a load writes.
    type Regs: Destination;
    /// What a store takes.
    type Value: Print;
    /// The type in the opcode, with its vector size: `v4.b32`.
    const TYPE: &'static str;
    /// The bytes of one.
    const BYTES: usize;
    #[doc(hidden)]
    const NEEDS: Needs = ANY;

    #[doc(hidden)]
    fn sample(k: &Kernel, operands: Operands) -> Self::Value;
}

/// Types that one access can move from or to `S`.
pub trait MemIn<S: Space>: Mem {}

macro_rules! narrow {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name;
    )*};
}

narrow! {
    /// A byte, zero-extended into a `B32`.
    U8
    /// A byte, sign-extended into a `B32`.
    S8
    /// 16 bits, zero-extended into a `B32`.
    U16
    /// 16 bits, sign-extended into a `B32`.
    S16
}

/// One line a type: its class in registers, its bytes, its names alone and in vectors of 2 and 4.
macro_rules! mem {
    ($($name:ident in $class:ident, $bytes:literal, $one:literal $two:literal $($four:literal)?;)*) => {$(
        impl Mem for $name {
            type Regs = Reg<$class>;
            type Value = Operand<$class>;
            const TYPE: &'static str = $one;
            const BYTES: usize = $bytes;

            fn sample(k: &Kernel, operands: Operands) -> Self::Value {
                <$class as Inputs>::sample(k, operands)
            }
        }

        impl<S: Space> MemIn<S> for $name {}

        vector!($name $class 2 $bytes $two ANY);
        impl<S: Space> MemIn<S> for [$name; 2] {}

        $(
            vector!($name $class 4 $bytes $four ANY);
            impl<S: Space> MemIn<S> for [$name; 4] {}
        )?
    )*};
}

macro_rules! vector {
    ($name:ident $class:ident $n:literal $bytes:literal $type:literal $needs:expr) => {
        impl Mem for [$name; $n] {
            type Regs = [Reg<$class>; $n];
            type Value = [Reg<$class>; $n];
            const TYPE: &'static str = $type;
            const BYTES: usize = $n * $bytes;
            const NEEDS: Needs = $needs;

            fn sample(k: &Kernel, operands: Operands) -> Self::Value {
                <[$class; $n] as Inputs>::sample(k, operands)
            }
        }
    };
}

mem! {
    U8 in B32, 1, "u8" "v2.u8" "v4.u8";
    S8 in B32, 1, "s8" "v2.s8" "v4.s8";
    U16 in B32, 2, "u16" "v2.u16" "v4.u16";
    S16 in B32, 2, "s16" "v2.s16" "v4.s16";
    B16 in B16, 2, "b16" "v2.b16" "v4.b16";
    F16 in F16, 2, "b16" "v2.b16" "v4.b16";
    Bf16 in Bf16, 2, "b16" "v2.b16" "v4.b16";
    B32 in B32, 4, "b32" "v2.b32" "v4.b32";
    F16x2 in F16x2, 4, "b32" "v2.b32" "v4.b32";
    Bf16x2 in Bf16x2, 4, "b32" "v2.b32" "v4.b32";
    F32 in F32, 4, "f32" "v2.f32" "v4.f32";
    B64 in B64, 8, "b64" "v2.b64";
}

/// 256 bits at once, from and to global memory only.
macro_rules! wide {
    ($($name:ident $n:literal $bytes:literal $type:literal;)*) => {$(
        vector!($name $name $n $bytes $type sm(100).ptx(8, 8));
        impl MemIn<Global> for [$name; $n] {}
    )*};
}

wide! {
    B32 8 4 "v8.b32";
    F32 8 4 "v8.f32";
    B64 4 8 "v4.b64";
}
