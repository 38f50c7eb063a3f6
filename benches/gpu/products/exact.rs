//! Results in f64, and how far others may be off.
//!
//! A sum of n terms in f32 is off by at most γ(n) times the sum of its terms' magnitudes (Higham, "Accuracy and Stability of
//! Numerical Algorithms", 2nd ed., section 3.1). Tensor cores may truncate what they add, which doubles γ, and take 16-bit
//! operands: the weight's values and the low-rank factor are rounded to the input's type first.

use super::super::data::Bytes;
use super::operands::Operands;
use super::{Kind, Product, SCALE};
use half::{bf16, f16};
use qlora_kernels::DType;
use rayon::prelude::*;

/// Rows and columns of a result that are looked at, at most: f64 is slow.
const SAMPLES: usize = 48;

/// A sum and the sum of its terms' magnitudes.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    pub exact: f64,
    pub magnitude: f64,
}

impl Sum {
    fn of(products: impl Iterator<Item = [Sum; 2]>) -> Self {
        products.fold(Sum { exact: 0.0, magnitude: 0.0 }, |sum, [a, b]| Sum {
            exact: sum.exact + a.exact * b.exact,
            magnitude: sum.magnitude + a.magnitude * b.magnitude,
        })
    }

    fn scaled(self, factor: f32) -> Self {
        let factor = f64::from(factor);
        Sum { exact: self.exact * factor, magnitude: self.magnitude * factor }
    }
}

/// An element of a result.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub row: usize,
    pub col: usize,
    pub sum: Sum,
}

/// A row-major matrix of any type.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    dtype: DType,
    bytes: &'a [u8],
    cols: usize,
}

impl Matrix<'_> {
    fn at(&self, row: usize, col: usize) -> Sum {
        let exact = f64::from(number(self.dtype, self.bytes, row * self.cols + col));
        Sum { exact, magnitude: exact.abs() }
    }
}

/// A product in f64.
pub struct Exact<'a> {
    product: &'a Product,
    w: Matrix<'a>,
    /// X, dY, A, B.
    matrices: [Matrix<'a>; 4],
}

impl<'a> Exact<'a> {
    pub fn new(product: &'a Product, operands: &'a Operands) -> Self {
        let matrix = |dtype, bytes: &'a Bytes, cols| Matrix { dtype, bytes, cols };
        let w = matrix(DType::F32, &operands.weight.expected[0], product.k);
        let cols = product.inputs().map(|[_, cols]| cols);
        let matrices = std::array::from_fn(|i| matrix(product.dtype, &operands.matrices[i], cols[i]));
        Self { product, w, matrices }
    }

    /// Some elements of each result.
    pub fn all_samples(&self) -> Vec<Vec<Sample>> {
        (0..self.product.outputs().len()).map(|output| self.samples(output)).collect()
    }

    /// Some elements of a result: of the first rows and columns, of the last, which tiles cut, and some between.
    fn samples(&self, output: usize) -> Vec<Sample> {
        let (Product { m, n, k, rank, .. }, w, [x, dy, a, b]) = (self.product, self.w, self.matrices);
        let [rows, cols] = self.product.outputs()[output].map(sample);
        let (every_row, every_rank): (Vec<usize>, Vec<usize>) = ((0..*m).collect(), (0..*rank).collect());
        // s·X·Aᵀ and s·dY·B at these rows and ranks.
        let down = |rows: &[usize], ranks: &[usize]| {
            grid(rows, ranks, |_, i, _, r| Sum::of((0..*k).map(|l| [x.at(i, l), a.at(r, l)])).scaled(SCALE))
        };
        let up = |rows: &[usize], ranks: &[usize]| {
            grid(rows, ranks, |_, i, _, r| Sum::of((0..*n).map(|l| [dy.at(i, l), b.at(l, r)])).scaled(SCALE))
        };
        let sums = match (self.product.kind, output) {
            (Kind::Forward, _) => {
                let t = down(&rows, &every_rank);
                grid(&rows, &cols, |p, i, _, j| {
                    let low = (0..*rank).map(|r| [t[p * rank + r], b.at(j, r)]);
                    Sum::of((0..*k).map(|l| [x.at(i, l), w.at(j, l)]).chain(low))
                })
            }
            (Kind::Backward, _) => {
                let u = up(&rows, &every_rank);
                grid(&rows, &cols, |p, i, _, j| {
                    let low = (0..*rank).map(|r| [u[p * rank + r], a.at(r, j)]);
                    Sum::of((0..*n).map(|l| [dy.at(i, l), w.at(l, j)]).chain(low))
                })
            }
            (Kind::Gradients, 0) => {
                let u = up(&every_row, &rows);
                grid(&rows, &cols, |p, _, _, j| Sum::of((0..*m).map(|l| [u[l * rows.len() + p], x.at(l, j)])))
            }
            (Kind::Gradients, _) => {
                let t = down(&every_row, &cols);
                grid(&rows, &cols, |_, i, q, _| {
                    Sum::of((0..*m).map(|l| [dy.at(l, i), t[l * cols.len() + q]]))
                })
            }
        };
        let places = rows.iter().flat_map(|&row| cols.iter().map(move |&col| (row, col)));
        places.zip(sums).map(|((row, col), sum)| Sample { row, col, sum }).collect()
    }
}

/// At every row and column, given with its place among them; row after row.
fn grid(rows: &[usize], cols: &[usize], at: impl Fn(usize, usize, usize, usize) -> Sum + Sync) -> Vec<Sum> {
    let cells = (0..rows.len() * cols.len()).into_par_iter();
    cells
        .map(|cell| {
            let (p, q) = (cell / cols.len(), cell % cols.len());
            at(p, rows[p], q, cols[q])
        })
        .collect()
}

/// At most so many of 0..len.
fn sample(len: usize) -> Vec<usize> {
    let count = len.min(SAMPLES);
    (0..count).map(|i| if count < 2 { 0 } else { i * (len - 1) / (count - 1) }).collect()
}

/// The `index`th number.
pub fn number(dtype: DType, bytes: &[u8], index: usize) -> f32 {
    let element = &bytes[index * dtype.size()..][..dtype.size()];
    match dtype {
        DType::F32 => bytemuck::pod_read_unaligned(element),
        DType::F16 => bytemuck::pod_read_unaligned::<f16>(element).to_f32(),
        DType::Bf16 => bytemuck::pod_read_unaligned::<bf16>(element).to_f32(),
    }
}

/// Holds an element to the exact sum.
pub fn hold(product: &Product, found: f32, Sum { exact, magnitude }: Sum) -> Result<(), String> {
    let low = if product.rank > 0 { product.n.max(product.k) + product.rank } else { 0 };
    let terms = low
        + 4
        + match product.kind {
            Kind::Forward => product.k,
            Kind::Backward => product.n,
            Kind::Gradients => product.m,
        };
    // Unit roundoff of the type, half its least subnormal; of the operands; f32's roundoffs an addition.
    let (roundoff, tiny, operands, additions) = match product.dtype {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-150), 0.0, 1),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25), 2f64.powi(-11), 2),
        DType::Bf16 => (2f64.powi(-8), 2f64.powi(-134), 2f64.powi(-8), 2),
    };
    let nu = (additions * terms) as f64 * 2f64.powi(-24);
    let gamma = nu / (1.0 - nu);
    let arithmetic = (gamma * (1.0 + operands) + operands) * magnitude;
    let bound = arithmetic + roundoff * (exact.abs() + arithmetic) + tiny;
    let error = (f64::from(found) - exact).abs();
    if error <= bound {
        return Ok(());
    }
    Err(format!("{found} for {exact}, off by {error:e}; {bound:e} is allowed"))
}
