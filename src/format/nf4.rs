//! 4-bit NormalFloat: the data type whose values are expected to be used equally often by normally
//! distributed weights (QLoRA, arXiv 2305.14314, section 3 and appendix E).
//!
//! The values are quantiles of the standard normal distribution, scaled into [-1, 1]: eight for the positive
//! half, seven for the negative half, and an exact zero between them, which makes the type asymmetric.

use super::linspace;

/// The published values. [`construct`] gives the same bits; the table itself is normative, because a
/// logarithm may differ in its last bit from one platform's libm to another's.
pub const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The outermost quantile. The paper gives it as the mean of the two tail midpoints, 1 - (1/32 + 1/30)/2; the
/// published table was made with this rounding of it.
pub const OFFSET: f32 = 0.967_708_3;

/// The paper's construction: 8 positive quantiles `Φ⁻¹(p)` with `p` evenly spaced from `offset` down to, but
/// without, 1/2; 7 negative ones likewise; zero; all divided by the largest.
pub fn construct(offset: f32) -> [f32; 16] {
    let quantiles = |points: usize| {
        let p = linspace(offset, 0.5, points + 1).into_iter().take(points);
        p.map(|p| inverse_normal_cdf(f64::from(p)))
    };
    let mut values: Vec<f64> =
        quantiles(8).chain(std::iter::once(0.0)).chain(quantiles(7).map(|q| -q)).collect();
    values.sort_by(f64::total_cmp);
    let largest = values[15];
    // The reference construction holds its quantiles in f32 before it divides (torch.Tensor of the list).
    std::array::from_fn(|i| values[i] as f32 / largest as f32)
}

/// `Φ⁻¹(p)` for `p` in (0, 1) to about 1e-16: algorithm AS 241 (PPND16), M. J. Wichura, Applied Statistics 37
/// (1988), 477-484.
#[allow(clippy::excessive_precision)] // the coefficients as published
pub fn inverse_normal_cdf(p: f64) -> f64 {
    const A: [f64; 8] = [
        3.387_132_872_796_366_5,
        133.141_667_891_784_38,
        1_971.590_950_306_551_4,
        13_731.693_765_509_461,
        45_921.953_931_549_87,
        67_265.770_927_008_7,
        33_430.575_583_588_13,
        2_509.080_928_730_122_7,
    ];
    const B: [f64; 8] = [
        1.0,
        42.313_330_701_600_91,
        687.187_007_492_057_9,
        5_394.196_021_424_751,
        21_213.794_301_586_597,
        39_307.895_800_092_71,
        28_729.085_735_721_943,
        5_226.495_278_852_854,
    ];
    const C: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        0.241_780_725_177_450_6,
        0.022_723_844_989_269_184,
        7.745_450_142_783_414e-4,
    ];
    const D: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        0.689_767_334_985_1,
        0.148_103_976_427_480_08,
        0.015_198_666_563_616_457,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    const E: [f64; 8] = [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        0.296_560_571_828_504_87,
        0.026_532_189_526_576_124,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ];
    const F: [f64; 8] = [
        1.0,
        0.599_832_206_555_888,
        0.136_929_880_922_735_8,
        0.014_875_361_290_850_615,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_445_9e-7,
        2.044_263_103_389_939_8e-15,
    ];
    let ratio = |num: &[f64; 8], den: &[f64; 8], r: f64| {
        let horner = |c: &[f64; 8]| c.iter().rev().fold(0.0, |acc, &c| acc * r + c);
        horner(num) / horner(den)
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&A, &B, 0.180_625 - q * q);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let tail = if r <= 5.0 { ratio(&C, &D, r - 1.6) } else { ratio(&E, &F, r - 5.0) };
    tail.copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published bits (bitsandbytes' tables on every backend).
    const PUBLISHED: [u32; 16] = [
        0xbf80_0000,
        0xbf32_39b1,
        0xbf06_6b30,
        0xbeca_32a0,
        0xbe91_a24d,
        0xbe3d_353f,
        0xbdba_7871,
        0x0000_0000,
        0x3da2_faff,
        0x3e24_cae3,
        0x3e7c_04dd,
        0x3ead_033a,
        0x3ee1_a4b8,
        0x3f10_07ab,
        0x3f39_13b3,
        0x3f80_0000,
    ];

    #[test]
    fn the_table_has_the_published_bits() {
        assert_eq!(VALUES.map(f32::to_bits), PUBLISHED);
    }

    #[test]
    fn the_construction_gives_the_table() {
        assert_eq!(construct(OFFSET).map(f32::to_bits), PUBLISHED);
    }

    #[test]
    fn quantiles_match_tabulated_values() {
        // Abramowitz and Stegun, table 26.5, and R's qnorm for the far tail.
        for (p, z) in
            [(0.975, 1.959_963_984_540_054), (0.9, 1.281_551_565_544_600_4), (1e-20, -9.262_340_089_798_408)]
        {
            assert!(
                (inverse_normal_cdf(p) - z).abs() < 1e-14 * z.abs() * 4.0,
                "{p}: {}",
                inverse_normal_cdf(p)
            );
        }
    }
}
