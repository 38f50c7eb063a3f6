//! Number formats and correctly rounded conversion between them.

/// Rounding modes (§6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// `.rn`: nearest, ties to even.
    Nearest,
    /// `.rna`: nearest, ties away from zero.
    NearestAway,
    /// `.rz`
    Zero,
    /// `.rp`
    Up,
    /// `.rm`
    Down,
}

/// A binary floating-point format of at most 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// Infinities and NaNs as in IEEE 754; without, only the code of all ones is a NaN (e4m3).
    ieee: bool,
    /// The canonical NaN.
    nan: u32,
}

pub const F16: Format = Format { exponent_bits: 5, mantissa_bits: 10, ieee: true, nan: 0x7FFF };
pub const BF16: Format = Format { exponent_bits: 8, mantissa_bits: 7, ieee: true, nan: 0x7FFF };
pub const TF32: Format = Format { exponent_bits: 8, mantissa_bits: 10, ieee: true, nan: 0x3FFFF };
pub const F32: Format = Format { exponent_bits: 8, mantissa_bits: 23, ieee: true, nan: F32_NAN };
pub const E4M3: Format = Format { exponent_bits: 4, mantissa_bits: 3, ieee: false, nan: 0x7F };
pub const E5M2: Format = Format { exponent_bits: 5, mantissa_bits: 2, ieee: true, nan: 0x7F };

/// What f32 arithmetic returns instead of any NaN.
pub const F32_NAN: u32 = 0x7FFF_FFFF;

/// Canonical NaN.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    // On the bits: of floats the compiler may take any NaN for as good as any other, and leave out the choice.
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7FFF_FFFF > 0x7F80_0000 { F32_NAN } else { bits })
}

/// `.ftz`: subnormals to zero of the same sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// `.sat`: into [0, 1], NaN to +0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    // Not `clamp`, which keeps NaN and −0.
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

impl Format {
    const fn max_biased(self) -> i64 {
        (1 << self.exponent_bits) - 1
    }

    const fn bias(self) -> i64 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// The largest finite magnitude.
    const fn max_finite(self) -> u32 {
        if self.ieee {
            ((self.max_biased() as u32) << self.mantissa_bits) - 1
        } else {
            (1 << (self.exponent_bits + self.mantissa_bits)) - 2
        }
    }

    /// `value` rounded once. With `satfinite` overflow gives the largest finite number; formats without infinity overflow to NaN
    /// otherwise.
    pub fn encode(self, value: f64, round: Round, satfinite: bool) -> u32 {
        let sign_bit = u32::from(value.is_sign_negative()) << (self.exponent_bits + self.mantissa_bits);
        if value.is_nan() {
            return self.nan;
        }
        let overflow = if satfinite {
            self.max_finite()
        } else if self.ieee {
            self.max_finite() + 1
        } else {
            self.nan
        };
        if value.is_infinite() {
            return sign_bit | overflow;
        }
        let bits = value.to_bits();
        let biased = (bits >> 52 & 0x7FF) as i64;
        let fraction = bits & ((1 << 52) - 1);
        // |value| = significand · 2^exponent
        let (significand, exponent) =
            if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
        if significand == 0 {
            return sign_bit;
        }
        // The unit in the last place of the result: that of the normal numbers of this size, not below the subnormals'.
        let top = exponent + 63 - i64::from(significand.leading_zeros());
        let unit = (top - i64::from(self.mantissa_bits)).max(1 - self.bias() - i64::from(self.mantissa_bits));
        let shift = unit - exponent;
        let (quotient, rest, half) = match shift {
            ..=0 => (significand << -shift, 0, 1),
            1..=63 => (significand >> shift, significand & ((1 << shift) - 1), 1 << (shift - 1)),
            _ => (0, 1, 2), // less than half a unit
        };
        let up = match round {
            Round::Nearest => rest > half || rest == half && quotient & 1 != 0 && rest != 0,
            Round::NearestAway => rest >= half && rest != 0,
            Round::Zero => false,
            Round::Up => rest != 0 && sign_bit == 0,
            Round::Down => rest != 0 && sign_bit != 0,
        };
        let quotient = quotient + u64::from(up);
        // Adding the biased exponent lets a carry out of the mantissa raise it; a subnormal that grows to 2^mantissa_bits
        // becomes the first normal number.
        let normal = quotient >> self.mantissa_bits != 0;
        let code = if normal {
            let exponent_field = unit + i64::from(self.mantissa_bits) + self.bias();
            ((exponent_field - 1) << self.mantissa_bits) as u64 + quotient
        } else {
            quotient
        };
        if code > u64::from(self.max_finite()) {
            let toward_zero = match round {
                Round::Zero => true,
                Round::Up => sign_bit != 0,
                Round::Down => sign_bit == 0,
                _ => false,
            };
            return sign_bit | if toward_zero { self.max_finite() } else { overflow };
        }
        sign_bit | code as u32
    }

    /// The value of a code.
    pub fn decode(self, code: u32) -> f64 {
        let magnitude = code & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1);
        let negative = code >> (self.exponent_bits + self.mantissa_bits) & 1 != 0;
        let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
        let field = i64::from(magnitude >> self.mantissa_bits);
        let value = if self.ieee && field == self.max_biased() {
            if mantissa == 0 { f64::INFINITY } else { f64::NAN }
        } else if !self.ieee && magnitude == self.nan {
            f64::NAN
        } else {
            let (significand, exponent) =
                if field == 0 { (mantissa, 1) } else { (mantissa | 1 << self.mantissa_bits, field) };
            f64::from(significand) * power_of_two(exponent - self.bias() - i64::from(self.mantissa_bits))
        };
        if negative { -value } else { value }
    }
}

/// 2^n for n in the range of normal f64 numbers.
fn power_of_two(n: i64) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// `a + b`, rounded to odd where it is inexact: a later rounding to fewer bits is then as if done once
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
pub fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    // Knuth's exact error of the sum.
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    to_odd(sum, error)
}

fn to_odd(value: f64, error: f64) -> f64 {
    if error == 0.0 || value.to_bits() & 1 == 1 {
        return value;
    }
    // The exact value lies between `value` and its neighbour on the error's side; one of them is odd, and `value` is not.
    let away = (error > 0.0) == (value > 0.0);
    f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 })
}

/// f16 to f32, exact.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7FFF) << 13;
    // 2^112 moves f16's exponent bias to f32's and makes subnormals normal.
    let value = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let bits = if magnitude >= 0x0F80_0000 { magnitude | 0x7F80_0000 } else { value.to_bits() };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

/// bf16 to f32, exact.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// f32 to bf16, nearest even; NaN to 0x7fff.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { 0x7FFF } else { rounded }
}

/// f32 to f16, nearest even; NaN to 0x7fff.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let bits = x.to_bits() & 0x7FFF_FFFF;
    let magnitude = if bits >= 0x4780_0000 {
        // 65536 and more, infinity, NaN
        if bits > 0x7F80_0000 { return 0x7FFF } else { 0x7C00 }
    } else if bits < 0x3880_0000 {
        // Below 2^-14: adding 0.5 leaves the subnormal's code, rounded, in the low bits.
        (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits()) as u16
    } else {
        // Rounding may carry into the exponent, up to infinity.
        let rebiased = bits - (112 << 23);
        ((rebiased + 0xFFF + (rebiased >> 13 & 1)) >> 13) as u16
    };
    sign | magnitude
}
