//! The language model's head and the cross-entropy of its predictions, in one.
//!
//! The vocabulary is large: the logits of 512 tokens of SmolLM2 take 100 MB, and so would their
//! gradient. So they are computed for a few rows at a time, turned into their gradient in place, and
//! that at once into the gradient of the head's input: dX = (softmax(X·Wᵀ) - onehot) · W / rows.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows whose logits are in memory at the same time.
const ROWS: usize = 128;

/// Sum of the cross-entropies of all rows of `hidden` · `head`ᵀ, for measuring only.
pub fn total(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for (first, targets) in chunks(targets) {
        let logits = hidden.narrow(0, first, targets.len())?.matmul(&head.t()?)?;
        sum += losses_in_place(&logits, targets)?;
    }
    Ok(sum)
}

/// Mean cross-entropy of all rows of `hidden` · `head`ᵀ with a gradient for `hidden` (the head is frozen).
pub fn mean(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let rows = hidden.detach();
    let mut sum = 0.0;
    let mut gradient = Vec::new();
    for (first, targets) in chunks(targets) {
        let logits = rows.narrow(0, first, targets.len())?.matmul(&head.t()?)?;
        sum += losses_in_place(&logits, targets)?;
        gradient.push(logits.matmul(head)?);
    }
    let gradient = (Tensor::cat(&gradient, 0)? / targets.len() as f64)?;
    hidden.apply_op1(Computed { loss: (sum / targets.len() as f64) as f32, gradient })
}

fn chunks(targets: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    targets.chunks(ROWS).enumerate().map(|(chunk, targets)| (chunk * ROWS, targets))
}

/// The cross-entropies' sum; `logits` becomes softmax - onehot.
fn losses_in_place(logits: &Tensor, targets: &[u32]) -> Result<f64> {
    let op = CrossEntropy { targets, sum: Mutex::new(0.0) };
    logits.inplace_op1(&op)?;
    Ok(op.sum.into_inner().unwrap())
}

struct CrossEntropy<'a> {
    targets: &'a [u32],
    sum: Mutex<f64>,
}

impl InplaceOp1 for CrossEntropy<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(logits) = logits else { candle_core::bail!("logits are not float32") };
        let vocabulary = layout.dims()[1];
        let rows = logits.par_chunks_exact_mut(vocabulary).zip(self.targets);
        let losses: Vec<f64> =
            rows.map(|(row, target)| softmax_minus_onehot(row, *target as usize)).collect();
        // Summed in the order of the rows: the same on any number of threads.
        *self.sum.lock().unwrap() = losses.iter().sum();
        Ok(())
    }
}

/// -ln softmax(row)[target]
fn softmax_minus_onehot(row: &mut [f32], target: usize) -> f64 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let wanted = row[target] - highest;
    let mut sum = 0.0f64;
    // Short runs in float32, their sums in float64.
    for run in row.chunks_mut(64) {
        let mut part = 0.0;
        for logit in run {
            *logit = (*logit - highest).exp();
            part += *logit;
        }
        sum += f64::from(part);
    }
    let scale = (1.0 / sum) as f32;
    row.iter_mut().for_each(|logit| *logit *= scale);
    row[target] -= 1.0;
    sum.ln() - f64::from(wanted)
}

/// A loss whose gradient is already known.
struct Computed {
    loss: f32,
    gradient: Tensor,
}

impl CustomOp1 for Computed {
    fn name(&self) -> &'static str {
        "mean-cross-entropy"
    }

    fn cpu_fwd(&self, _hidden: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, _hidden: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.broadcast_mul(grad)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradient, random};

    #[test]
    fn gradient_matches_finite_differences() {
        let head = random((7, 5), 1);
        check_gradient(&random((3, 5), 2), |hidden| mean(hidden, &head, &[6, 0, 3]));
    }

    #[test]
    fn equal_logits_give_the_logarithm_of_the_vocabulary() {
        // More rows than fit in one chunk.
        let hidden = random((ROWS + 5, 4), 3);
        let head = Tensor::zeros((10, 4), candle_core::DType::F32, hidden.device()).unwrap();
        let targets = vec![4; ROWS + 5];
        let loss = mean(&hidden, &head, &targets).unwrap().to_scalar::<f32>().unwrap();
        assert!((loss - 10f32.ln()).abs() < 1e-6);
        let sum = total(&hidden, &head, &targets).unwrap();
        assert!((sum / targets.len() as f64 - 10f64.ln()).abs() < 1e-6);
    }
}
