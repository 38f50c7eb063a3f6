//! A warp's registers, and functions of one lane applied to all 32.
//!
//! Registers lie lane by lane (`[u32; 32]`), so the loops below vectorize. Constants and special registers have registers
//! of their own, filled before the warp runs: every operand is a register, and an instruction need not ask what kind.

/// Lanes of a warp.
pub const WARP: usize = 32;

/// The register files of one warp. 8- and 16-bit registers live in the low bits of `b32`.
#[derive(Clone, Default)]
pub struct Registers {
    pub b32: Vec<[u32; WARP]>,
    pub b64: Vec<[u64; WARP]>,
    pub b128: Vec<[u128; WARP]>,
    /// Predicates: one bit a lane.
    pub pred: Vec<u32>,
}

/// Which file a register is in, and how wide it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
}

impl Class {
    /// Bytes; a predicate counts as 0.
    pub const fn size(self) -> usize {
        match self {
            Self::Pred => 0,
            Self::B8 => 1,
            Self::B16 => 2,
            Self::B32 => 4,
            Self::B64 => 8,
            Self::B128 => 16,
        }
    }
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    pub class: Class,
    pub index: u16,
}

/// Register indices of an instruction, and one constant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Args {
    pub d: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    /// A second destination (`setp p|q`, carry).
    pub e: u16,
    pub imm: u32,
}

/// What an arithmetic instruction does: registers, operands, mask of executing lanes.
pub type AluFn = fn(&mut Registers, &Args, u32);

/// A value that a register holds a lane of.
pub trait Lane: Copy {
    const CLASS: Class;
    /// Whether constants must be written as floats.
    const FLOAT: bool = false;
    fn load(r: &Registers, index: u16) -> [Self; WARP];
    fn store(r: &mut Registers, index: u16, mask: u32, values: &[Self; WARP]);
}

fn select<T: Copy>(into: &mut [T; WARP], mask: u32, value: impl Fn(usize) -> T) {
    if mask == u32::MAX {
        for (lane, into) in into.iter_mut().enumerate() {
            *into = value(lane);
        }
    } else {
        for (lane, into) in into.iter_mut().enumerate() {
            *into = if mask >> lane & 1 != 0 { value(lane) } else { *into };
        }
    }
}

macro_rules! lane {
    ($($ty:ty, $class:ident, $file:ident, $float:literal, $from:expr, $to:expr;)*) => {$(
        impl Lane for $ty {
            const CLASS: Class = Class::$class;
            const FLOAT: bool = $float;
            #[inline(always)]
            fn load(r: &Registers, index: u16) -> [Self; WARP] {
                let from = &r.$file[usize::from(index)];
                std::array::from_fn(|lane| $from(from[lane]))
            }
            #[inline(always)]
            fn store(r: &mut Registers, index: u16, mask: u32, values: &[Self; WARP]) {
                select(&mut r.$file[usize::from(index)], mask, |lane| $to(values[lane]));
            }
        }
    )*};
}

lane! {
    u8, B8, b32, false, |v: u32| v as u8, u32::from;
    i8, B8, b32, false, |v: u32| v as i8, |v: i8| v as u32;
    u16, B16, b32, false, |v: u32| v as u16, u32::from;
    i16, B16, b32, false, |v: u32| v as i16, |v: i16| v as u32;
    u32, B32, b32, false, |v: u32| v, |v: u32| v;
    i32, B32, b32, false, |v: u32| v as i32, |v: i32| v as u32;
    f32, B32, b32, true, f32::from_bits, f32::to_bits;
    u64, B64, b64, false, |v: u64| v, |v: u64| v;
    i64, B64, b64, false, |v: u64| v as i64, |v: i64| v as u64;
    f64, B64, b64, true, f64::from_bits, f64::to_bits;
    u128, B128, b128, false, |v: u128| v, |v: u128| v;
}

impl Lane for bool {
    const CLASS: Class = Class::Pred;
    #[inline(always)]
    fn load(r: &Registers, index: u16) -> [Self; WARP] {
        let mask = r.pred[usize::from(index)];
        std::array::from_fn(|lane| mask >> lane & 1 != 0)
    }
    #[inline(always)]
    fn store(r: &mut Registers, index: u16, mask: u32, values: &[Self; WARP]) {
        let bits = (0..WARP).fold(0, |bits, lane| bits | u32::from(values[lane]) << lane);
        let old = &mut r.pred[usize::from(index)];
        *old = *old & !mask | bits & mask;
    }
}

/// A function without captures; made from nothing when it is called.
const fn conjure<F: Copy>() -> F {
    assert!(size_of::<F>() == 0, "lane functions capture nothing");
    // SAFETY: a type of size zero has one value, and a value of this one existed: it was passed to `mapN`.
    unsafe { std::mem::transmute_copy(&()) }
}

/// `d = f(a)` for each lane.
pub fn map1<D: Lane, A: Lane, F: Fn(A) -> D + Copy>(_: F) -> AluFn {
    |r, x, mask| {
        let a = A::load(r, x.a);
        let d = std::array::from_fn(|i| conjure::<F>()(a[i]));
        D::store(r, x.d, mask, &d);
    }
}

/// `d = f(a, b)` for each lane.
pub fn map2<D: Lane, A: Lane, B: Lane, F: Fn(A, B) -> D + Copy>(_: F) -> AluFn {
    |r, x, mask| {
        let (a, b) = (A::load(r, x.a), B::load(r, x.b));
        let d = std::array::from_fn(|i| conjure::<F>()(a[i], b[i]));
        D::store(r, x.d, mask, &d);
    }
}

/// `d = f(a, b, c)` for each lane.
pub fn map3<D: Lane, A: Lane, B: Lane, C: Lane, F: Fn(A, B, C) -> D + Copy>(_: F) -> AluFn {
    |r, x, mask| {
        let (a, b, c) = (A::load(r, x.a), B::load(r, x.b), C::load(r, x.c));
        let d = std::array::from_fn(|i| conjure::<F>()(a[i], b[i], c[i]));
        D::store(r, x.d, mask, &d);
    }
}

/// `d = f(a, imm)` for each lane.
pub fn map1_imm<D: Lane, A: Lane, F: Fn(A, u32) -> D + Copy>(_: F) -> AluFn {
    |r, x, mask| {
        let a = A::load(r, x.a);
        let d = std::array::from_fn(|i| conjure::<F>()(a[i], x.imm));
        D::store(r, x.d, mask, &d);
    }
}

/// `d = f(a, b, c, imm)` for each lane.
pub fn map3_imm<D: Lane, A: Lane, B: Lane, C: Lane, F: Fn(A, B, C, u32) -> D + Copy>(_: F) -> AluFn {
    |r, x, mask| {
        let (a, b, c) = (A::load(r, x.a), B::load(r, x.b), C::load(r, x.c));
        let d = std::array::from_fn(|i| conjure::<F>()(a[i], b[i], c[i], x.imm));
        D::store(r, x.d, mask, &d);
    }
}

/// `d = f(a, b, imm)` for each lane.
pub fn map2_imm<D: Lane, A: Lane, B: Lane, F: Fn(A, B, u32) -> D + Copy>(_: F) -> AluFn {
    |r, x, mask| {
        let (a, b) = (A::load(r, x.a), B::load(r, x.b));
        let d = std::array::from_fn(|i| conjure::<F>()(a[i], b[i], x.imm));
        D::store(r, x.d, mask, &d);
    }
}
