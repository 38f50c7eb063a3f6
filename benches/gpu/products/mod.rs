//! The matrix products with a quantized weight: checked against f64, timed as operations a second, beside cuBLAS.
//!
//! | file | what |
//! |---|---|
//! | [`operands`] | host memory |
//! | [`bench`] | device memory, and a product as a call of the library |
//! | [`exact`] | results in f64, and how far others may be off |
//! | [`dense`] | the same product by cuBLAS, on the weight as a 16-bit matrix |

pub mod bench;
pub mod dense;
pub mod exact;
pub mod operands;

use super::Result;
use super::cases::{Case, Operation, Shape};
use super::cublas::Cublas;
use super::device::Gpu;
use super::goals;
use super::predict;
use super::timing::Times;
use bench::Bench;
use operands::Operands;
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};
use serde::Serialize;
use std::fmt;

/// The factor of the low-rank product.
const SCALE: f32 = 0.37;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Y = X·Wᵀ.
    Forward,
    /// dX = dY·W.
    Backward,
    /// dA and dB.
    Gradients,
}

/// What is checked and timed: for `W[n, k]`, `X[m, k]`, `dY[m, n]`, an adapter of rank `rank` (0: none).
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub kind: Kind,
    pub constants: Constants,
    pub dtype: DType,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub rank: usize,
}

/// A timed product.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub name: String,
    pub kind: Kind,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub rank: usize,
    /// Multiplications and additions.
    pub operations: f64,
    /// What is read and written, each once.
    pub bytes: usize,
    pub times: Times,
    /// The same by cuBLAS on the weight as a dense matrix of the activations' type.
    pub cublas: Option<Times>,
    /// How many times faster than cuBLAS it is to be.
    pub goal: Option<f64>,
    /// Seconds that it should take on an H100.
    pub predicted: Option<f64>,
}

impl Figures {
    /// How many times faster than cuBLAS.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.cublas?.median / self.times.median)
    }

    /// Whether the goal is met, if there is one.
    pub fn is_met(&self) -> Option<bool> {
        Some(self.ratio()? >= self.goal?)
    }
}

/// The shapes [m, n, k, rank] of the checks: the least; odd ones; whole chunks of K, in cut and in several tiles.
const SMALL: [[usize; 4]; 5] =
    [[1, 1, 1, 1], [3, 67, 35, 0], [5, 130, 64, 16], [33, 70, 192, 0], [70, 140, 128, 32]];
/// Rank of the timed adapters.
const RANK: usize = 64;

pub fn small(only: Option<&str>) -> Vec<Product> {
    let mut products = Vec::new();
    for kind in [Kind::Forward, Kind::Backward, Kind::Gradients] {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for [m, n, k, rank] in SMALL {
                let constants = if m % 2 == 0 { Constants::Fp8 } else { Constants::F32 };
                products.push(Product { kind, constants, dtype, m, n, k, rank });
            }
        }
    }
    filtered(products, only)
}

/// The goal's shapes and rows; the other types at one shape. Products of the same weight are neighbours.
pub fn large(quick: bool, only: Option<&str>) -> Vec<Product> {
    let mut products = Vec::new();
    let mut add = |dtype, [n, k]: [usize; 2], rows: &[usize]| {
        for &m in rows {
            for (kind, rank) in [
                (Kind::Forward, 0),
                (Kind::Forward, RANK),
                (Kind::Backward, 0),
                (Kind::Backward, RANK),
                (Kind::Gradients, RANK),
            ] {
                products.push(Product { kind, constants: Constants::Fp8, dtype, m, n, k, rank });
            }
        }
    };
    if quick {
        goals::SHAPES_QUICK.into_iter().for_each(|shape| add(DType::Bf16, shape, &goals::ROWS_QUICK));
    } else {
        goals::SHAPES.into_iter().for_each(|shape| add(DType::Bf16, shape, &goals::ROWS));
        [DType::F16, DType::F32].into_iter().for_each(|dtype| add(dtype, goals::SHAPES[0], &[1, 16, 512]));
    }
    filtered(products, only)
}

fn filtered(mut products: Vec<Product>, only: Option<&str>) -> Vec<Product> {
    products.retain(|p| p.kind != Kind::Gradients || p.rank > 0);
    products.retain(|p| only.is_none_or(|pattern| p.to_string().contains(pattern)));
    products
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kind = format!("{:?}", self.kind).to_lowercase();
        let dtype = format!("{:?}", self.dtype).to_lowercase();
        let constants = format!("{:?}", self.constants).to_lowercase();
        write!(f, "product {kind} nf4 64 {constants} {dtype}, M {} N {} K {}", self.m, self.n, self.k)?;
        if self.rank > 0 { write!(f, " rank {}", self.rank) } else { Ok(()) }
    }
}

impl Product {
    fn spec(&self) -> QuantSpec {
        QuantSpec::new(Codebook::Nf4, 64).with_constants(self.constants.clone())
    }

    /// What turns the weight's codes into its values, of this type.
    fn weight(&self, dtype: DType) -> Case {
        Case { operation: Operation::Dequantize(self.spec()), dtype, strided: false }
    }

    fn weight_shape(&self) -> Shape {
        Shape { rows: self.n, cols: self.k }
    }

    /// Rows and columns of X, dY, A and B.
    fn inputs(&self) -> [[usize; 2]; 4] {
        let Self { m, n, k, rank, .. } = *self;
        [[m, k], [m, n], [rank, k], [n, rank]]
    }

    /// Rows and columns of the results.
    fn outputs(&self) -> Vec<[usize; 2]> {
        match self.kind {
            Kind::Forward => vec![[self.m, self.n]],
            Kind::Backward => vec![[self.m, self.k]],
            Kind::Gradients => vec![[self.rank, self.k], [self.n, self.rank]],
        }
    }

    fn operations(&self) -> f64 {
        let [m, n, k, rank] = [self.m, self.n, self.k, self.rank].map(|size| size as f64);
        match self.kind {
            Kind::Gradients => 4.0 * m * rank * (n + k),
            _ => 2.0 * m * n * k + 2.0 * m * rank * (n + k),
        }
    }

    /// Bytes read and written, each once.
    fn traffic(&self) -> usize {
        let used: &[usize] = match self.kind {
            Kind::Forward => &[0, 2, 3],
            Kind::Backward => &[1, 2, 3],
            Kind::Gradients => &[0, 1, 2, 3],
        };
        let inputs = used.iter().map(|&i| self.inputs()[i]);
        let elements: usize = inputs.chain(self.outputs()).map(|[rows, cols]| rows * cols).sum();
        let weight = match self.kind {
            Kind::Gradients => 0,
            _ => self.weight(self.dtype).inputs(self.weight_shape()).iter().map(|part| part.payload).sum(),
        };
        elements * self.dtype.size() + weight
    }

    /// How many times faster than cuBLAS it is to be.
    fn goal(&self) -> Option<f64> {
        (self.dtype == DType::Bf16 && self.kind != Kind::Gradients).then(|| goals::against_cublas(self.m))
    }

    /// Seconds that it should take on an H100.
    fn predicted(&self) -> Option<f64> {
        let is_counted = self.dtype == DType::Bf16 && self.rank == 0;
        let prediction = is_counted.then(|| predict::product(self.kind, [self.m, self.n, self.k]))?;
        prediction.map(|prediction| prediction.seconds)
    }

    /// Whether the two have the same weight, rank aside.
    fn shares_weight(&self, other: &Self) -> bool {
        let of = |p: &Self| (p.constants.clone(), p.dtype, p.n, p.k);
        of(self) == of(other)
    }

    /// Checks it at its own size; the elements compared.
    pub fn check(&self, gpu: &Gpu) -> Result<usize> {
        Bench::new(gpu, self, Operands::new(self)?, None)?.check(self)
    }
}

/// The memory of products of one weight, made when the first of them is asked for.
pub struct Benches<'a> {
    gpu: &'a Gpu,
    cublas: Option<&'a Cublas>,
    products: &'a [Product],
    current: Option<(Product, Bench<'a>)>,
}

impl<'a> Benches<'a> {
    pub fn new(gpu: &'a Gpu, cublas: Option<&'a Cublas>, products: &'a [Product]) -> Self {
        Self { gpu, cublas, products, current: None }
    }

    /// One that has room for the largest product with the weight of `product`.
    pub fn of(&mut self, product: &Product) -> Result<&Bench<'a>> {
        let current = self.current.take_if(|(largest, _)| !largest.shares_weight(product));
        drop(current); // before there is more
        if self.current.is_none() {
            let same = || self.products.iter().filter(|other| other.shares_weight(product));
            let [m, rank] = [|p: &Product| p.m, |p: &Product| p.rank].map(|size| same().map(size).max());
            let largest = Product { m: m.unwrap_or(0), rank: rank.unwrap_or(0), ..product.clone() };
            let operands = Operands::new(&largest)?;
            let mut bench = Bench::new(self.gpu, &largest, operands, self.cublas)?;
            same().try_for_each(|product| bench.reserve(product))?;
            self.current = Some((largest, bench));
        }
        Ok(&self.current.as_ref().expect("just made").1)
    }
}
