//! Matrix products with a quantized weight and a low-rank adapter, the 16- or 32-bit weight never written to memory.
//!
//! With `A[r, K]`, `B[N, r]`:
//!
//! - forward `Y[M, N] = X·Wᵀ + bias + s·(X·Aᵀ)·Bᵀ` = `[X, T]·[W, B]ᵀ + bias` with `T = s·X·Aᵀ`;
//! - backward `dX[M, K] = dY·W + s·(dY·B)·A` = `[dY, U]·[W; A]` with `U = s·dY·B`.
//!
//! So an adapter only makes the inner dimension `r` longer, and one engine ([`engine`]) sums a list of products.

pub mod engine;
mod few_rows;
mod few_rows_backward;
mod pack;

use super::Cpu;
use super::dequantize::Reader;
use crate::view::{Lora, Tensor, TensorMut};
use engine::{Epilogue, Operand, Product, Scratch};

/// Bytes of workspace that the products of this module need with `threads` threads, at any alignment.
pub fn workspace_size(threads: usize, m: usize, rank: usize) -> Option<usize> {
    let low_rank = m.checked_mul(rank)?.checked_mul(size_of::<f32>())?;
    Scratch::bytes(threads)?.checked_add(low_rank)
}

/// `Y = X·Wᵀ + bias + s·(X·Aᵀ)·Bᵀ`. `scratch` holds [`workspace_size`] bytes.
pub fn forward(
    cpu: &Cpu,
    x: &Tensor<'_>,
    w: &Reader<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: TensorMut<'_>,
    mut scratch: Scratch<'_>,
) {
    let base =
        Product { left: Operand::dense(x), right: Operand::quantized(w).transposed(), inner: x.cols() };
    let epilogue = Epilogue { bias, ..Epilogue::default() };
    match lora {
        None => engine::multiply(cpu, &[base], epilogue, y, &mut scratch),
        Some(lora) => {
            let t = down_projection(cpu, x, lora, &mut scratch);
            let adapter = Product {
                left: Operand::dense(&t),
                right: Operand::dense(&lora.b).transposed(),
                inner: t.cols(),
            };
            engine::multiply(cpu, &[base, adapter], epilogue, y, &mut scratch);
        }
    }
}

/// `dX = dY·W + s·(dY·B)·A`, written or added to what is there. `scratch` holds [`workspace_size`] bytes.
pub fn backward(
    cpu: &Cpu,
    dy: &Tensor<'_>,
    w: &Reader<'_>,
    lora: Option<&Lora<'_>>,
    dx: TensorMut<'_>,
    accumulate: bool,
    mut scratch: Scratch<'_>,
) {
    let epilogue = Epilogue { accumulate, ..Epilogue::default() };
    let base = Product { left: Operand::dense(dy), right: Operand::quantized(w), inner: dy.cols() };
    match lora {
        None => engine::multiply(cpu, &[base], epilogue, dx, &mut scratch),
        Some(lora) => {
            let u = up_projection(cpu, dy, lora, &mut scratch);
            let adapter =
                Product { left: Operand::dense(&u), right: Operand::dense(&lora.a), inner: u.cols() };
            engine::multiply(cpu, &[base, adapter], epilogue, dx, &mut scratch);
        }
    }
}

/// `T[M, r] = s·X·Aᵀ`, in the scratch memory.
pub fn down_projection<'a>(
    cpu: &Cpu,
    x: &Tensor<'_>,
    lora: &Lora<'_>,
    scratch: &mut Scratch<'a>,
) -> Tensor<'a> {
    let product =
        Product { left: Operand::dense(x), right: Operand::dense(&lora.a).transposed(), inner: x.cols() };
    low_rank(cpu, product, [x.rows(), lora.a.rows()], lora.scale, scratch)
}

/// `U[M, r] = s·dY·B`, in the scratch memory.
pub fn up_projection<'a>(
    cpu: &Cpu,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    scratch: &mut Scratch<'a>,
) -> Tensor<'a> {
    let product = Product { left: Operand::dense(dy), right: Operand::dense(&lora.b), inner: dy.cols() };
    low_rank(cpu, product, [dy.rows(), lora.b.cols()], lora.scale, scratch)
}

fn low_rank<'a>(
    cpu: &Cpu,
    product: Product<'_>,
    [m, rank]: [usize; 2],
    scale: f32,
    scratch: &mut Scratch<'a>,
) -> Tensor<'a> {
    let memory = scratch.take(m * rank);
    let out = TensorMut::new(&mut *memory, m, rank).expect("as long as the shape");
    engine::multiply(cpu, &[product], Epilogue { scale, ..Epilogue::default() }, out, scratch);
    Tensor::new(memory, m, rank).expect("as long as the shape")
}
