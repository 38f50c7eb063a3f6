//! Low-rank adapters.

use super::Tensor;

/// A low-rank adapter (LoRA, arXiv 2106.09685) of a weight `W[N, K]`: it adds `scale · B·A` to it.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// `[r, K]`, the down-projection.
    pub a: Tensor<'a>,
    /// `[N, r]`, the up-projection.
    pub b: Tensor<'a>,
    /// `s`, usually alpha / r.
    pub scale: f32,
}

impl Lora<'_> {
    /// r.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }
}
