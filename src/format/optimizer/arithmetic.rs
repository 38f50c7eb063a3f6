//! The arithmetic that optimizers are written in: f32, every operation rounded to nearest even by itself, nothing fused.
//! What is written once in terms of it is executed on numbers by the CPU and written out as instructions for GPUs, and has
//! the same bits on both.

/// Operations on values of some kind.
pub trait Arithmetic {
    /// A number, or a register that will hold one.
    type Value: Copy;
    /// A truth value, or a predicate.
    type Truth: Copy;

    /// A number.
    fn number(&self, value: f32) -> Self::Value;
    /// `a + b`
    fn add(&self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a - b`
    fn sub(&self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a · b`
    fn mul(&self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a / b`
    fn div(&self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `√a`
    fn sqrt(&self, a: Self::Value) -> Self::Value;
    /// `a > b`; false with a NaN.
    fn greater(&self, a: Self::Value, b: Self::Value) -> Self::Truth;
    /// Neither infinite nor NaN.
    fn is_finite(&self, a: Self::Value) -> Self::Truth;
    /// Whether both are so.
    fn both(&self, a: Self::Truth, b: Self::Truth) -> Self::Truth;
    /// `a` if so, else `b`.
    fn select(&self, which: Self::Truth, a: Self::Value, b: Self::Value) -> Self::Value;

    /// `a · x + b · y`: three roundings.
    #[inline(always)]
    fn weighted(&self, a: Self::Value, x: Self::Value, b: Self::Value, y: Self::Value) -> Self::Value {
        self.add(self.mul(a, x), self.mul(b, y))
    }

    /// -1, 0 or 1; 0 for a NaN.
    #[inline(always)]
    fn sign(&self, a: Self::Value) -> Self::Value {
        let (zero, one) = (self.number(0.0), self.number(1.0));
        let up = self.select(self.greater(a, zero), one, zero);
        self.select(self.greater(zero, a), self.number(-1.0), up)
    }
}

/// On numbers.
pub struct Numbers;

impl Arithmetic for Numbers {
    type Value = f32;
    type Truth = bool;

    #[inline(always)]
    fn number(&self, value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn add(&self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(&self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(&self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(&self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn sqrt(&self, a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    fn greater(&self, a: f32, b: f32) -> bool {
        a > b
    }
    #[inline(always)]
    fn is_finite(&self, a: f32) -> bool {
        a.is_finite()
    }
    #[inline(always)]
    fn both(&self, a: bool, b: bool) -> bool {
        a & b
    }
    #[inline(always)]
    fn select(&self, which: bool, a: f32, b: f32) -> f32 {
        if which { a } else { b }
    }
}
