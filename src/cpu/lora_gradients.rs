//! The gradients of a low-rank adapter: `dA[r, K] = s·(dY·B)ᵀ·X` and `dB[N, r] = s·dYᵀ·(X·Aᵀ)`.

use super::Cpu;
use super::gemm::engine::{Epilogue, Operand, Product, Scratch, multiply};
use super::gemm::{down_projection, up_projection};
use crate::view::{Lora, Tensor, TensorMut};

/// Writes the gradients, or adds them to what is there. `scratch` holds `gemm::workspace_size` bytes.
pub fn lora_gradients(
    cpu: &Cpu,
    x: &Tensor<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    [da, db]: [TensorMut<'_>; 2],
    accumulate: bool,
    mut scratch: Scratch<'_>,
) {
    let epilogue = Epilogue { accumulate, ..Epilogue::default() };
    let tokens = x.rows();
    let gradient = |left: &Tensor<'_>, right: &Tensor<'_>, out, scratch: &mut Scratch<'_>| {
        let product =
            Product { left: Operand::dense(left).transposed(), right: Operand::dense(right), inner: tokens };
        multiply(cpu, &[product], epilogue, out, scratch);
    };
    // The two low-rank products need their memory one after the other.
    {
        let mut scratch = scratch.reborrow();
        let u = up_projection(cpu, dy, lora, &mut scratch);
        gradient(&u, x, da, &mut scratch);
    }
    let t = down_projection(cpu, x, lora, &mut scratch);
    gradient(dy, &t, db, &mut scratch);
}
