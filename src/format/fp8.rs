//! FP8 E4M3 (the "FN" variant of arXiv 2209.05433, OCP OFP8): sign, 4 exponent bits with bias 7, 3 mantissa bits;
//! no infinities, 0x7f and 0xff are NaN, the largest finite value is 448.

use super::power_of_two;

/// The largest finite value.
pub const MAX: f32 = 448.0;
/// The code that stands for NaN.
pub const NAN_CODE: u8 = 0x7f;

/// The value of a code. Exact: each is an f32.
pub fn decode(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(code >> 3 & 15);
    let mantissa = f32::from(code & 7);
    match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa * power_of_two(-9), // subnormal: mantissa/8 · 2^-6
        _ => sign * (8.0 + mantissa) * power_of_two(exponent - 10), // (1 + mantissa/8) · 2^(exponent-7)
    }
}

/// The nearest code, ties to the even mantissa; beyond 448, infinities included, saturates; NaN is [`NAN_CODE`].
pub fn encode(x: f32) -> u8 {
    if x.is_nan() {
        return NAN_CODE;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs().min(MAX);
    // The spacing of codes around `magnitude`: 2^(e-3), but never under the subnormals' 2^-9.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (magnitude * power_of_two(3 - exponent)).round_ties_even() as u8; // exact scaling, one rounding
    // 8..=16 steps: 16 carries into the next exponent, which the addition does by itself; below 8 is subnormal.
    sign | ((((exponent + 6) as u8) << 3) + steps)
}

/// All 256 values.
pub fn values() -> [f32; 256] {
    std::array::from_fn(|code| decode(code as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        for code in 0..=255u8 {
            let value = decode(code);
            if code & 0x7f == 0x7f {
                assert!(value.is_nan());
            } else {
                assert_eq!(encode(value), code, "{value}");
            }
        }
    }

    #[test]
    fn known_values() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x7e, 448.0),
        ] {
            assert_eq!(decode(code), value);
            assert_eq!(decode(code | 0x80), -value);
        }
    }

    #[test]
    fn rounding_is_nearest_even_and_saturating() {
        for code in 0..0x7eu8 {
            let (low, high) = (decode(code), decode(code + 1));
            let tie = (low + high) / 2.0;
            let even = if code & 1 == 0 { code } else { code + 1 };
            assert_eq!(encode(tie), even);
            assert_eq!(encode(tie.next_down()), code);
            assert_eq!(encode(tie.next_up()), code + 1);
            assert_eq!(encode(-tie.next_up()), (code + 1) | 0x80);
        }
        for big in [448.1, 464.0, 1e30, f32::INFINITY] {
            assert_eq!(encode(big), 0x7e);
            assert_eq!(encode(-big), 0xfe);
        }
        assert_eq!(encode(f32::NAN), NAN_CODE);
        assert_eq!(encode(f32::from_bits(1)), 0);
    }
}
