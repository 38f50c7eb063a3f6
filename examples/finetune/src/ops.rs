//! The model's operations between its linear layers, each with its gradient.
//!
//! candle can build them of simple operations, but then keeps and walks over several times as many
//! intermediate tensors. Rows are independent, so results don't depend on the number of threads.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::host::{slice, values};

/// A vector of `len` values, filled by rows of `width` in parallel.
fn by_rows(len: usize, width: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; len];
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| fill(row, out));
    out
}

fn output(values: Vec<f32>, layout: &Layout) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), layout.shape().clone()))
}

fn like(tensor: &Tensor, values: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(values, tensor.shape(), tensor.device())
}

/// x · w / √(mean(x²) + eps) over rows, w frozen.
#[derive(Clone)]
pub struct RmsNorm {
    pub weight: Arc<[f32]>,
    pub eps: f32,
}

impl RmsNorm {
    fn inverse_rms(&self, x: &[f32]) -> f32 {
        let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        1.0 / (mean + self.eps).sqrt()
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = (slice(x, layout)?, self.weight.len());
        let normed = by_rows(x.len(), width, |row, out| {
            let x = &x[row * width..][..width];
            let scale = self.inverse_rms(x);
            for ((out, x), w) in out.iter_mut().zip(x).zip(&*self.weight) {
                *out = x * scale * w;
            }
        });
        output(normed, layout)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (xs, dy, width) = (values(x)?, values(&dy)?, self.weight.len());
        let dx = by_rows(xs.len(), width, |row, out| {
            let (x, dy) = (&xs[row * width..][..width], &dy[row * width..][..width]);
            let scale = self.inverse_rms(x);
            let along: f32 = x.iter().zip(dy).zip(&*self.weight).map(|((x, dy), w)| x * dy * w).sum();
            let pull = along * scale * scale / width as f32;
            for (((out, x), dy), w) in out.iter_mut().zip(x).zip(dy).zip(&*self.weight) {
                *out = scale * (dy * w - x * pull);
            }
        });
        Ok(Some(like(x, dx)?))
    }
}

/// Rotary position embedding: turns the pair (x[i], x[i + half]) of every head by position · θ^(-i/half).
/// Rows are the tokens of one or more sequences of `seq` tokens.
#[derive(Clone)]
pub struct Rope {
    table: Arc<[(f32, f32)]>,
    half: usize,
    seq: usize,
}

impl Rope {
    pub fn new(theta: f64, head_dim: usize, seq: usize) -> Self {
        let half = head_dim / 2;
        let angle = |at: usize| (at / half) as f64 * theta.powf(-((at % half) as f64) / half as f64);
        let table = (0..seq * half).map(|at| (angle(at).cos() as f32, angle(at).sin() as f32)).collect();
        Self { table, half, seq }
    }

    fn turn(&self, x: &[f32], width: usize, sign: f32) -> Vec<f32> {
        by_rows(x.len(), width, |row, out| {
            let turns = &self.table[row % self.seq * self.half..][..self.half];
            let x = x[row * width..][..width].chunks_exact(2 * self.half);
            for (out, x) in out.chunks_exact_mut(2 * self.half).zip(x) {
                for (i, (cos, sin)) in turns.iter().enumerate() {
                    let (a, b, sin) = (x[i], x[i + self.half], sign * sin);
                    out[i] = a * cos - b * sin;
                    out[i + self.half] = b * cos + a * sin;
                }
            }
        })
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims()[layout.dims().len() - 1];
        output(self.turn(slice(x, layout)?, width, 1.0), layout)
    }

    // A turn's transpose is the turn back.
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let width = x.dim(candle_core::D::Minus1)?;
        Ok(Some(like(x, self.turn(&values(&dy)?, width, -1.0))?))
    }
}

/// softmax(scale · scores) over each row's keys up to its own position; later keys get 0. The last two
/// dimensions are queries and `keys`; query row i stands at position i mod keys.
#[derive(Clone, Copy)]
pub struct CausalSoftmax {
    pub scale: f32,
    pub keys: usize,
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = slice(scores, layout)?;
        let weights = by_rows(scores.len(), self.keys, |row, out| {
            let seen = row % self.keys + 1;
            let scores = &scores[row * self.keys..][..seen];
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (out, score) in out.iter_mut().zip(scores) {
                *out = (self.scale * (score - highest)).exp();
                sum += *out;
            }
            out[..seen].iter_mut().for_each(|out| *out /= sum);
        });
        output(weights, layout)
    }

    fn bwd(&self, scores: &Tensor, weights: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (p, grad) = (values(weights)?, values(&grad)?);
        let out = by_rows(p.len(), self.keys, |row, out| {
            let seen = row % self.keys + 1;
            let (p, grad) = (&p[row * self.keys..][..seen], &grad[row * self.keys..][..seen]);
            let mean: f32 = p.iter().zip(grad).map(|(p, grad)| p * grad).sum();
            for ((out, p), grad) in out.iter_mut().zip(p).zip(grad) {
                *out = self.scale * p * (grad - mean);
            }
        });
        Ok(Some(like(scores, out)?))
    }
}

/// silu(gate) · up
#[derive(Clone, Copy)]
pub struct SwiGlu;

/// Elements a thread takes at once.
const CHUNK: usize = 4096;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let product = by_rows(gate.len(), CHUNK, |chunk, out| {
            let at = chunk * CHUNK;
            for ((out, gate), up) in out.iter_mut().zip(&gate[at..]).zip(&up[at..]) {
                *out = gate * sigmoid(*gate) * up;
            }
        });
        output(product, gate_layout)
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (gates, ups, dy) = (values(gate)?, values(up)?, values(&dy)?);
        let mut d_up = vec![0.0; dy.len()];
        let mut d_gate = vec![0.0; dy.len()];
        let chunks = d_up.par_chunks_mut(CHUNK).zip(d_gate.par_chunks_mut(CHUNK)).enumerate();
        chunks.for_each(|(chunk, (d_up, d_gate))| {
            for (i, (d_up, d_gate)) in d_up.iter_mut().zip(d_gate).enumerate() {
                let at = chunk * CHUNK + i;
                let s = sigmoid(gates[at]);
                *d_up = dy[at] * gates[at] * s;
                *d_gate = dy[at] * ups[at] * s * (1.0 + gates[at] * (1.0 - s));
            }
        });
        Ok((Some(like(gate, d_gate)?), Some(like(up, d_up)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradient, random};

    #[test]
    fn gradients_match_finite_differences() {
        let norm = RmsNorm { weight: [0.5, -1.0, 2.0, 1.5].into(), eps: 1e-5 };
        check_gradient(&random((3, 4), 1), |x| x.apply_op1(norm.clone()));
        let rope = Rope::new(10_000.0, 4, 3);
        check_gradient(&random((6, 8), 2), |x| x.apply_op1(rope.clone()));
        check_gradient(&random((2, 6, 3), 3), |x| x.apply_op1(CausalSoftmax { scale: 0.7, keys: 3 }));
        let other = random((2, 5), 4);
        check_gradient(&random((2, 5), 5), |gate| gate.apply_op2(&other, SwiGlu));
        check_gradient(&random((2, 5), 6), |up| other.apply_op2(up, SwiGlu));
    }

    #[test]
    fn softmax_sees_only_the_past() {
        let weights = random((1, 4, 2), 7).apply_op1(CausalSoftmax { scale: 1.0, keys: 2 }).unwrap();
        let weights = weights.reshape((4, 2)).unwrap().to_vec2::<f32>().unwrap();
        for (row, weights) in weights.iter().enumerate() {
            assert!((weights[0] + weights[1] - 1.0).abs() < 1e-6);
            assert_eq!(weights[1] == 0.0, row % 2 == 0);
        }
    }

    #[test]
    fn rope_leaves_the_first_position_and_lengths_alone() {
        let x = random((2, 4), 8);
        let turned = x.apply_op1(Rope::new(100.0, 4, 2)).unwrap();
        let (x, turned) = (x.to_vec2::<f32>().unwrap(), turned.to_vec2::<f32>().unwrap());
        assert_eq!(x[0], turned[0]);
        let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>();
        assert!((length(&x[1]) - length(&turned[1])).abs() < 1e-5);
        assert_ne!(x[1], turned[1]);
    }
}
