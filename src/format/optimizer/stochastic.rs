//! Stochastic rounding of bf16 parameters: up with the probability of the part that is cut off, so that updates far below
//! half a unit of the parameter move it in the mean (Gupta et al., arXiv 1502.02551).
//!
//! The random bits are those of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a
//! function of the seed, the step, the parameter and the element, and of nothing else: any backend and any number of
//! threads rounds the same way.

/// What a parameter's random bits depend on, but for the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The caller's seed: the generator's key.
    pub seed: u64,
    /// The number of the step; its low 32 bits count.
    pub step: u64,
    /// Which parameter of the call, from 0 on; its low 32 bits count.
    pub parameter: u64,
}

/// Rounds of the generator.
pub const ROUNDS: usize = 10;
/// What it multiplies with.
pub const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What is added to its key after each round.
pub const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Philox4x32-10.
#[inline(always)]
pub fn philox([mut c0, mut c1, mut c2, mut c3]: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let products = [u64::from(c0) * u64::from(MULTIPLIERS[0]), u64::from(c2) * u64::from(MULTIPLIERS[1])];
        let [[low0, high0], [low1, high1]] = products.map(|p| [p as u32, (p >> 32) as u32]);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ key[0], low1, high0 ^ c3 ^ key[1], low0);
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    [c0, c1, c2, c3]
}

/// Elements that one call of the generator serves.
pub const GROUP: usize = 4;

impl Key {
    /// The random words of the elements `GROUP · group ..`, one each: the counter is the group (low word, high word), the
    /// parameter, and the step.
    #[inline(always)]
    pub fn words(&self, group: u64) -> [u32; GROUP] {
        let counter = [group as u32, (group >> 32) as u32, self.parameter as u32, self.step as u32];
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// `x` as a number of bf16: away from zero if its low 16 bits and the upper 16 of the random word, added, carry. What is not
/// finite stays.
#[inline(always)]
pub fn round(x: f32, word: u32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(word >> 16) & 0xffff_0000;
    if bits & 0x7f80_0000 == 0x7f80_0000 { x } else { f32::from_bits(rounded) }
}

/// Rounds the elements of a parameter from element `first` on, a multiple of [`GROUP`].
#[inline(always)]
pub fn round_all(key: &Key, first: usize, values: &mut [f32]) {
    debug_assert!(first.is_multiple_of(GROUP));
    for (group, values) in values.chunks_mut(GROUP).enumerate() {
        let words = key.words((first / GROUP + group) as u64);
        for (value, word) in values.iter_mut().zip(words) {
            *value = round(*value, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' own test, `kat_vectors` of Random123.
    #[test]
    fn the_generator_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn the_mean_is_the_number() {
        // 1 + 2⁻¹⁰: bf16 has 1 and 1 + 2⁻⁷ beside it; one in eight goes up. n draws have a deviation of √(n·1/8·7/8).
        let (n, x) = (100_000, 1.0 + 2f32.powi(-10));
        let mut values = vec![x; n];
        round_all(&Key { seed: 7, step: 3, parameter: 1 }, 0, &mut values);
        let up = values.iter().filter(|&&v| v == 1.0 + 2f32.powi(-7)).count();
        assert_eq!(up + values.iter().filter(|&&v| v == 1.0).count(), n);
        let deviation = (n as f64 * 7.0 / 64.0).sqrt();
        assert!((up as f64 - n as f64 / 8.0).abs() < 5.0 * deviation, "{up}");
    }

    #[test]
    fn numbers_of_bf16_and_what_is_not_finite_stay() {
        for x in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f7f_0000)] {
            assert_eq!(round(x, u32::MAX).to_bits(), x.to_bits());
        }
        assert!(round(f32::from_bits(0x7f80_0001), u32::MAX).is_nan());
    }
}
