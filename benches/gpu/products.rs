//! The matrix products with a quantized weight: checked against f64, timed as operations a second.
//!
//! A sum of n terms in f32 is off by at most γ(n) times the sum of its terms' magnitudes (Higham, "Accuracy and Stability of
//! Numerical Algorithms", 2nd ed., section 3.1). Tensor cores may truncate what they add, which doubles γ, and take 16-bit
//! operands: the weight's values and the low-rank factor are rounded to the input's type first.

use super::Result;
use super::call::{Placed, buffer, constants_view};
use super::cases::{Case, Operation, Shape};
use super::data::{Bytes, Noise, values_of};
use super::device::{Gpu, Memory};
use super::reference::{Problem, by_cpu};
use super::timing::{self, Times};
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Codebook, Constants, DType, Lora, QuantSpec, Quantized, Tensor, TensorMut, ops};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;

const SCALE: f32 = 0.37;
/// N and K of the timed products.
const WIDTH: usize = 4096;
/// Rows and columns of a result that are checked, at most: f64 is slow.
const SAMPLES: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Y = X·Wᵀ.
    Forward,
    /// dX = dY·W.
    Backward,
    /// dA and dB.
    Gradients,
}

/// What is checked and timed: for `W[n, k]`, `X[m, k]`, `dY[m, n]`, an adapter of rank `rank` (0: none).
#[derive(Clone, Debug)]
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
    /// Multiplications and additions.
    pub operations: f64,
    /// What is read and written, each once.
    pub bytes: usize,
    pub times: Times,
}

/// The shapes [m, n, k, rank] of the checks: the least; odd ones; whole chunks of K, in cut and in several tiles.
const SMALL: [[usize; 4]; 5] =
    [[1, 1, 1, 1], [3, 67, 35, 0], [5, 130, 64, 16], [33, 70, 192, 0], [70, 140, 128, 32]];

pub fn small(only: Option<&str>) -> Vec<Product> {
    all(&[DType::F32, DType::F16, DType::Bf16], &SMALL, only)
}

/// Rows from one token's to a batch's, with a weight as a 7B model has.
pub fn large(quick: bool, only: Option<&str>) -> Vec<Product> {
    let rows: &[usize] = if quick { &[1, 512] } else { &[1, 16, 128, 512, 2048] };
    let shapes: Vec<_> = rows.iter().flat_map(|&m| [0, 16].map(|rank| [m, WIDTH, WIDTH, rank])).collect();
    all(if quick { &[DType::Bf16] } else { &[DType::Bf16, DType::F16, DType::F32] }, &shapes, only)
}

fn all(dtypes: &[DType], shapes: &[[usize; 4]], only: Option<&str>) -> Vec<Product> {
    let mut products = Vec::new();
    for kind in [Kind::Forward, Kind::Backward, Kind::Gradients] {
        for &dtype in dtypes {
            for &[m, n, k, rank] in shapes {
                let constants = if m % 2 == 0 { Constants::Fp8 } else { Constants::F32 };
                products.push(Product { kind, constants, dtype, m, n, k, rank });
            }
        }
    }
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

    /// What turns the weight's codes into its values.
    fn weight(&self) -> Case {
        Case { operation: Operation::Dequantize(self.spec()), dtype: DType::F32, strided: false }
    }

    fn weight_shape(&self) -> Shape {
        Shape { rows: self.n, cols: self.k }
    }

    /// Rows and columns of X, dY, A and B.
    fn inputs(&self) -> [[usize; 2]; 4] {
        let Self { m, n, k, rank, .. } = *self;
        [[m, k], [m, n], [rank, k], [n, rank]]
    }

    /// Which of them are read.
    fn used(&self) -> &'static [usize] {
        match self.kind {
            Kind::Forward => &[0, 2, 3],
            Kind::Backward => &[1, 2, 3],
            Kind::Gradients => &[0, 1, 2, 3],
        }
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

    /// Checks it; the elements compared.
    pub fn check(&self, gpu: &Gpu) -> Result<usize> {
        let operands = Operands::new(self)?;
        self.compare(gpu, &operands, &Call::new(gpu, self, &operands)?)
    }

    /// Checks and times it.
    pub fn check_and_time(&self, gpu: &Gpu, repetitions: usize) -> Result<Figures> {
        let operands = Operands::new(self)?;
        let bytes = operands.traffic(self);
        let calls: Vec<Call> =
            (0..timing::sets(gpu, bytes)).map(|_| Call::new(gpu, self, &operands)).collect::<Result<_>>()?;
        self.compare(gpu, &operands, &calls[0])?;
        let times = timing::repeat(gpu, calls.len(), repetitions, |set| calls[set].enqueue())?;
        Ok(Figures { name: self.to_string(), operations: self.operations(), bytes, times })
    }

    /// Runs it once and holds the results to f64.
    pub fn compare(&self, gpu: &Gpu, operands: &Operands, call: &Call) -> Result<usize> {
        call.enqueue()?;
        let exact = Exact::new(self, operands);
        let mut compared = 0;
        for (output, (memory, [rows, cols])) in call.outputs.iter().zip(self.outputs()).enumerate() {
            let found = values_of(self.dtype, &gpu.download(memory)?, cols, cols);
            for (i, j) in sample(rows).flat_map(|i| sample(cols).map(move |j| (i, j))) {
                self.hold(found[i * cols + j], exact.element(output, i, j))
                    .map_err(|e| format!("output {output}, row {i}, column {j}: {e}"))?;
                compared += 1;
            }
        }
        Ok(compared)
    }

    /// Holds an element to the exact sum.
    fn hold(&self, found: f32, Sum(exact, magnitude): Sum) -> std::result::Result<(), String> {
        let low = if self.rank > 0 { self.n.max(self.k) + self.rank } else { 0 };
        let terms = low
            + 4
            + match self.kind {
                Kind::Forward => self.k,
                Kind::Backward => self.n,
                Kind::Gradients => self.m,
            };
        // Unit roundoff of the type, half its least subnormal; of the operands; f32's roundoffs an addition.
        let (roundoff, tiny, operands, additions) = match self.dtype {
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
}

/// Host memory.
pub struct Operands {
    /// Codes and constants in; values out.
    pub weight: Problem,
    /// X, dY, A, B.
    matrices: [Bytes; 4],
}

impl Operands {
    pub fn new(product: &Product) -> Result<Self> {
        let weight = Problem::new(&product.weight(), product.weight_shape(), Noise::Weights, &by_cpu)?;
        let matrix = |which: usize| {
            let [rows, cols] = product.inputs()[which];
            Noise::Weights.rows(product.dtype, which + 1, rows, cols)
        };
        Ok(Self { weight, matrices: std::array::from_fn(matrix) })
    }

    /// Bytes read and written, each once.
    fn traffic(&self, product: &Product) -> usize {
        let outputs: usize = product.outputs().iter().map(|[rows, cols]| rows * cols).sum();
        let matrices: usize = product.used().iter().map(|&i| self.matrices[i].len()).sum();
        let weight: usize = match product.kind {
            Kind::Gradients => 0,
            _ => self.weight.inputs.iter().map(|part| part.len()).sum(),
        };
        outputs * product.dtype.size() + matrices + weight
    }
}

/// A sum and the sum of its terms' magnitudes.
#[derive(Clone, Copy)]
struct Sum(f64, f64);

impl Sum {
    fn of(products: impl Iterator<Item = [Sum; 2]>) -> Self {
        products.fold(Sum(0.0, 0.0), |Sum(exact, magnitude), [Sum(a, a_abs), Sum(b, b_abs)]| {
            Sum(exact + a * b, magnitude + a_abs * b_abs)
        })
    }
}

/// A row-major matrix for f64 arithmetic.
struct Matrix {
    values: Vec<f32>,
    cols: usize,
}

impl Matrix {
    fn at(&self, row: usize, col: usize) -> Sum {
        let value = f64::from(self.values[row * self.cols + col]);
        Sum(value, value.abs())
    }
}

/// The product in f64.
struct Exact<'a> {
    product: &'a Product,
    w: Matrix,
    matrices: [Matrix; 4],
    /// s·X·Aᵀ and s·dY·B, row after row.
    low: [Vec<Sum>; 2],
}

impl<'a> Exact<'a> {
    fn new(product: &'a Product, operands: &Operands) -> Self {
        let Product { m, n, k, rank, .. } = *product;
        let [x, dy, a, b] = std::array::from_fn(|i| {
            let cols = product.inputs()[i][1];
            Matrix { values: values_of(product.dtype, &operands.matrices[i], cols, cols), cols }
        });
        let w = Matrix { values: bytemuck::cast_slice(&operands.weight.expected[0]).to_vec(), cols: k };
        let low = |row: &(dyn Fn(usize, usize) -> Sum + Sync)| {
            let scaled = |Sum(exact, magnitude)| Sum(exact * f64::from(SCALE), magnitude * f64::from(SCALE));
            (0..m * rank).into_par_iter().map(|at| scaled(row(at / rank, at % rank))).collect()
        };
        let down = low(&|i, r| Sum::of((0..k).map(|l| [x.at(i, l), a.at(r, l)])));
        let up = low(&|i, r| Sum::of((0..n).map(|l| [dy.at(i, l), b.at(l, r)])));
        Self { product, w, matrices: [x, dy, a, b], low: [down, up] }
    }

    /// Element (i, j) of a result.
    fn element(&self, output: usize, i: usize, j: usize) -> Sum {
        let (Product { m, n, k, rank, .. }, [x, dy, a, b]) = (self.product, &self.matrices);
        let [down, up] = [0, 1].map(|which| move |row: usize, r: usize| self.low[which][row * rank + r]);
        match (self.product.kind, output) {
            (Kind::Forward, _) => {
                let low = (0..*rank).map(|r| [down(i, r), b.at(j, r)]);
                Sum::of((0..*k).map(|l| [x.at(i, l), self.w.at(j, l)]).chain(low))
            }
            (Kind::Backward, _) => {
                let low = (0..*rank).map(|r| [up(i, r), a.at(r, j)]);
                Sum::of((0..*n).map(|l| [dy.at(i, l), self.w.at(l, j)]).chain(low))
            }
            (Kind::Gradients, 0) => Sum::of((0..*m).map(|l| [up(l, i), x.at(l, j)])),
            (Kind::Gradients, _) => Sum::of((0..*m).map(|l| [dy.at(l, i), down(l, j)])),
        }
    }
}

/// At most so many of 0..len: the first and the last ones, which tiles cut, and some between.
fn sample(len: usize) -> impl Iterator<Item = usize> + Clone {
    let count = len.min(SAMPLES);
    (0..count).map(move |i| if count < 2 { 0 } else { i * (len - 1) / (count - 1) })
}

/// A call with memory of its own.
pub struct Call<'a> {
    gpu: &'a Gpu,
    product: &'a Product,
    weight: Vec<Memory>,
    matrices: Vec<Memory>,
    outputs: Vec<Memory>,
    workspace: Memory,
}

impl<'a> Call<'a> {
    pub fn new(gpu: &'a Gpu, product: &'a Product, operands: &Operands) -> Result<Self> {
        let upload = |parts: &[Bytes]| parts.iter().map(|bytes| gpu.upload(bytes)).collect::<Result<_>>();
        let Product { m, n, k, rank, .. } = *product;
        let size = |[rows, cols]: [usize; 2]| rows * cols * product.dtype.size();
        Ok(Self {
            gpu,
            product,
            weight: upload(&operands.weight.inputs)?,
            matrices: upload(&operands.matrices)?,
            outputs: product.outputs().into_iter().map(|o| gpu.allocate(size(o))).collect::<Result<_>>()?,
            workspace: gpu.allocate(ops::gemm_workspace_size(&gpu.context, m, n, k, rank)?)?,
        })
    }

    fn enqueue(&self) -> Result<()> {
        let (gpu, product) = (self.gpu, self.product);
        let (dtype, spec) = (product.dtype, product.spec());
        let parts = product.weight().inputs(product.weight_shape());
        let pointers: Vec<*mut u8> = self.weight.iter().map(|memory| memory.address(gpu)).collect();
        let weight: Vec<Placed> = parts.iter().zip(&pointers).collect();
        // SAFETY: the memory is the call's own and of these sizes, and the device's only stream orders its uses.
        unsafe {
            let input = |i: usize| {
                let [rows, cols] = product.inputs()[i];
                Tensor::from_raw(self.matrices[i].address(gpu), dtype, rows, cols, cols)
            };
            let output = |i: usize| {
                let [rows, cols] = product.outputs()[i];
                TensorMut::from_raw(self.outputs[i].address(gpu), dtype, rows, cols, cols)
            };
            let (codes, constants) = (buffer(weight[0]), constants_view(&spec.constants, &weight[1..]));
            let w = Quantized::new(&spec, product.n, product.k, codes, constants)?;
            let lora = match product.rank {
                0 => None,
                _ => Some(Lora { a: input(2)?, b: input(3)?, scale: SCALE }),
            };
            let workspace = BufferMut::<u8>::from_raw(self.workspace.address(gpu), self.workspace.len);
            match product.kind {
                Kind::Forward => {
                    ops::gemm_forward(&gpu.context, input(0)?, w, None, lora, output(0)?, workspace)?
                }
                Kind::Backward => {
                    ops::gemm_backward(&gpu.context, input(1)?, w, lora, output(0)?, false, workspace)?
                }
                Kind::Gradients => {
                    let (lora, outputs) =
                        (lora.expect("gradients are of an adapter"), [output(0)?, output(1)?]);
                    let [da, db] = outputs;
                    ops::lora_gradients(&gpu.context, input(0)?, input(1)?, lora, da, db, false, workspace)?
                }
            }
        }
        Ok(())
    }
}
