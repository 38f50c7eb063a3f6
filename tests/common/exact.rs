//! Matrices of f64 to compare with, and the bound that results are held to; see [`super::products`].

use super::*;

/// A matrix of f64, to compute with.
#[derive(Clone)]
pub struct M64 {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl M64 {
    pub fn new(values: &[f32], rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: values.iter().map(|&v| f64::from(v)).collect() }
    }
    pub fn of(m: &Matrix) -> Self {
        Self::new(&m.values(), m.rows, m.cols)
    }
    pub fn t(&self) -> Self {
        let data = (0..self.cols).flat_map(|c| (0..self.rows).map(move |r| self.data[r * self.cols + c]));
        Self { rows: self.cols, cols: self.rows, data: data.collect() }
    }
    pub fn mul(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows);
        let mut data = vec![0.0; self.rows * other.cols];
        for (row, out) in self.data.chunks(self.cols.max(1)).zip(data.chunks_mut(other.cols.max(1))) {
            for (a, b) in row.iter().zip(other.data.chunks(other.cols.max(1))) {
                out.iter_mut().zip(b).for_each(|(o, b)| *o += a * b);
            }
        }
        Self { rows: self.rows, cols: other.cols, data }
    }
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { data: self.data.iter().map(|&v| f(v)).collect(), ..*self }
    }
    pub fn abs(&self) -> Self {
        self.map(f64::abs)
    }
    pub fn add(&self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        Self { data: self.data.iter().zip(&other.data).map(|(a, b)| a + b).collect(), ..*self }
    }
}

fn gamma(n: usize) -> f64 {
    let nu = n as f64 * 2f64.powi(-24);
    nu / (1.0 - nu)
}

/// Holds `actual` to `exact`, where f32 arithmetic of depth `depth` on terms of total `magnitude` is allowed, and the
/// operands' rounding before it. What a NaN or an infinity makes non-finite must be that, one or the other; nothing else.
pub fn within(
    actual: &Matrix,
    exact: &M64,
    magnitude: &M64,
    depth: usize,
    rounding: &M64,
) -> Result<(), TestCaseError> {
    let (roundoff, tiny) = unit_roundoff(actual.view().dtype());
    for (i, &value) in actual.values().iter().enumerate() {
        if !exact.data[i].is_finite() {
            prop_assert!(!value.is_finite(), "element {i}: {value} for {}", exact.data[i]);
            continue;
        }
        let rounding = rounding.data[i];
        let sums = gamma(depth) * (magnitude.data[i] + rounding) + depth as f64 * 2f64.powi(-149);
        let arithmetic = sums + rounding;
        let bound = arithmetic + roundoff * (exact.data[i].abs() + arithmetic) + tiny;
        let error = (f64::from(value) - exact.data[i]).abs();
        prop_assert!(
            error <= bound,
            "element {i}: {value} for {}, off by {error:e} > {bound:e}",
            exact.data[i]
        );
    }
    Ok(())
}

/// T or U, and a bound of its magnitude.
pub fn low_rank(long: &M64, narrow: &M64, scale: f32) -> (M64, M64) {
    let scaled = |m: M64| m.map(|v| v * f64::from(scale));
    (scaled(long.mul(narrow)), scaled(long.abs().mul(&narrow.abs())))
}
