//! Host memory of products.

use super::super::Result;
use super::super::data::{Bytes, Noise};
use super::super::reference::{Problem, by_cpu};
use super::Product;
use qlora_kernels::DType;

/// Of a product, and of every one with fewer rows of X.
pub struct Operands {
    /// Codes and constants in; values out.
    pub weight: Problem,
    /// X, dY, A, B.
    pub matrices: [Bytes; 4],
}

impl Operands {
    pub fn new(product: &Product) -> Result<Self> {
        let case = product.weight(DType::F32);
        let weight = Problem::new(&case, product.weight_shape(), Noise::Weights, &by_cpu)?;
        let matrix = |which: usize| {
            let [rows, cols] = product.inputs()[which];
            Noise::Weights.rows(product.dtype, which + 1, rows, cols)
        };
        Ok(Self { weight, matrices: std::array::from_fn(matrix) })
    }
}
