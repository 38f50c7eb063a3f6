//! The one order in which block constants are summed, so that the mean has the same bits on every backend.

/// Width of one level of the tree.
pub const FAN_IN: usize = 256;

/// The sum of `values` by a fixed tree of f32 additions.
///
/// One level cuts the vector into runs of 256, pads the last with zeros, and halves each run eight times:
/// `s[i] += s[i + h]` for `i < h`, with `h` = 128, 64, … 1. The run's sum is `s[0]`. Levels repeat on the vector of
/// sums until one value is left, at least one level. The empty sum is 0.
///
/// Additions within one halving are independent, so any SIMD width, warp or block gives the same bits; the error is
/// at most `8·⌈log₂₅₆ n⌉` roundings deep.
pub fn tree_sum(values: &[f32]) -> f32 {
    let runs = |level: &[f32]| level.chunks(FAN_IN).map(run_sum).collect::<Vec<_>>();
    let mut level = runs(values);
    while level.len() > 1 {
        level = runs(&level);
    }
    level.first().copied().unwrap_or(0.0)
}

/// The sum of one run of at most 256 values.
pub fn run_sum(run: &[f32]) -> f32 {
    let mut s = [0f32; FAN_IN];
    s[..run.len()].copy_from_slice(run);
    let mut half = FAN_IN / 2;
    while half > 0 {
        for i in 0..half {
            s[i] += s[i + half];
        }
        half /= 2;
    }
    s[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_whole_numbers_exactly() {
        for n in [0usize, 1, 2, 255, 256, 257, 1000, 65_536, 65_537] {
            let values: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            assert_eq!(tree_sum(&values), values.iter().sum::<f32>(), "{n}");
        }
    }

    #[test]
    fn the_order_is_the_documented_one() {
        // s[0] + s[128] is the first addition: 1e8 and -1e8 cancel before the 1 is met.
        let mut values = vec![0f32; 256];
        (values[0], values[128], values[64]) = (1e8, -1e8, 1.0);
        assert_eq!(tree_sum(&values), 1.0);
        // ... and here the 1 is lost first.
        (values[128], values[64], values[32]) = (1.0, -1e8, 0.0);
        assert_eq!(tree_sum(&values), 0.0);
    }
}
