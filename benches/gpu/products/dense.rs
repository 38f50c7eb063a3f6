//! The same products by cuBLAS, on the weight as a dense matrix of the activations' type: what a trainer does that
//! dequantizes first, and without the time that this takes.

use super::super::Result;
use super::super::cublas::{Cublas, Factor, Scales};
use super::super::device::Memory;
use super::super::timing::{self, Times};
use super::bench::Bench;
use super::exact::Sample;
use super::{Kind, Product, SCALE};
use qlora_kernels::{TensorMut, ops};

/// Where a result is held to be wrong, as ‖found - exact‖ / ‖exact‖ over the samples: 16-bit operands and results give
/// about 2^-9, a transposed operand about √2.
const TOLERANCE: f64 = 1.0 / 64.0;

/// The weight's copies, and room for the low-rank factor.
pub struct Dense<'a> {
    cublas: &'a Cublas,
    weights: Vec<Memory>,
    low_rank: Memory,
}

impl<'a> Dense<'a> {
    /// Of the weight of `bench`, decoded.
    pub fn new(cublas: &'a Cublas, bench: &Bench, product: &Product) -> Result<Self> {
        let (gpu, dtype, spec) = (bench.gpu, product.dtype, product.spec());
        let Product { m, n, k, rank, .. } = *product;
        let bytes = n * k * dtype.size();
        let decoded = |_| -> Result<Memory> {
            let memory = gpu.allocate(bytes)?;
            // SAFETY: the memory is of that size, and the device's only stream orders its uses.
            let out = unsafe { TensorMut::from_raw(memory.address(gpu), dtype, n, k, k)? };
            ops::dequantize(&gpu.context, bench.quantized(product, &spec, 0)?, out)?;
            Ok(memory)
        };
        let weights = (0..timing::sets(gpu, bytes)).map(decoded).collect::<Result<_>>()?;
        Ok(Self { cublas, weights, low_rank: gpu.allocate(m * rank * dtype.size())? })
    }

    /// Runs a product once and holds the results loosely to f64, so that it is the same product.
    pub fn check(&self, bench: &Bench, product: &Product, expected: &[Vec<Sample>]) -> Result<()> {
        bench.erase()?;
        self.enqueue(bench, product, 0)?;
        for (output, samples) in expected.iter().enumerate() {
            let found = bench.read(product, output, samples)?;
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let of = norm(&mut samples.iter().map(|s| s.sum.exact));
            let off = norm(&mut samples.iter().zip(found).map(|(s, found)| f64::from(found) - s.sum.exact));
            let is_close = off <= TOLERANCE * of; // a NaN is not
            if !is_close {
                return Err(format!("cuBLAS's output {output} is off by {:e} of its norm", off / of).into());
            }
        }
        Ok(())
    }

    pub fn time(&self, bench: &Bench, product: &Product, repetitions: usize) -> Result<Times> {
        timing::repeat(bench.gpu, self.weights.len(), repetitions, |set| self.enqueue(bench, product, set))
    }

    /// Puts a product with a copy of the weight into the stream.
    fn enqueue(&self, bench: &Bench, product: &Product, set: usize) -> Result<()> {
        let Product { kind, dtype, m, n, k, rank, .. } = *product;
        let factor = |memory: &Memory, cols| Factor::new(memory.address(bench.gpu), cols);
        let [x, dy, a, b] = [k, n, k, rank].map({
            let mut matrices = bench.matrices.iter();
            move |cols| factor(matrices.next().expect("four matrices"), cols)
        });
        let (w, low) = (factor(&self.weights[set], k), factor(&self.low_rank, rank));
        let multiply = |out: &Memory, shape, left, right, scales| {
            self.cublas.multiply(dtype, out.address(bench.gpu), shape, left, right, scales)
        };
        let down = || multiply(&self.low_rank, [m, rank, k], x, a.transposed(), Scales::new(SCALE));
        let up = || multiply(&self.low_rank, [m, rank, n], dy, b, Scales::new(SCALE));
        let (plain, out) = (Scales::new(1.0), &bench.outputs[0]);
        match kind {
            Kind::Forward => {
                multiply(out, [m, n, k], x, w.transposed(), plain)?;
                if rank > 0 {
                    down()?;
                    multiply(out, [m, n, rank], low, b.transposed(), plain.accumulating())?;
                }
            }
            Kind::Backward => {
                multiply(out, [m, k, n], dy, w, plain)?;
                if rank > 0 {
                    up()?;
                    multiply(out, [m, k, rank], low, a, plain.accumulating())?;
                }
            }
            Kind::Gradients => {
                up()?;
                multiply(out, [rank, k, m], low.transposed(), x, plain)?;
                down()?;
                multiply(&bench.outputs[1], [n, rank, m], dy.transposed(), low, plain)?;
            }
        }
        Ok(())
    }
}
