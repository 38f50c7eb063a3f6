//! The AdamW step.

use super::context::{Context, Device};
use super::{check_disjoint, check_shape};
use crate::error::{Result, ensure};
use crate::format::adamw::AdamWScalars;
use crate::view::{BufferMut, Tensor, TensorMut};
use crate::{cpu, cuda};

/// The hyperparameters of one AdamW step (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f32,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, multiplied by `lr`.
    pub weight_decay: f32,
    /// The number of this step, from 1 on.
    pub step: u64,
    /// Multiplies the gradient first: 1, or the inverse of a loss scale, or a clipping factor.
    pub grad_scale: f32,
}

impl Default for AdamW {
    /// `torch.optim.AdamW`'s: lr 1e-3, betas (0.9, 0.999), eps 1e-8, weight decay 0.01; step 1.
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1, grad_scale: 1.0 }
    }
}

impl AdamW {
    fn check(&self) -> Result<AdamWScalars> {
        let finite = |name: &str, value: f32| {
            ensure!(value.is_finite(), "{name} is {value}; it must be finite");
            Ok(())
        };
        let at_least_0 = |name: &str, value: f32| {
            ensure!(value.is_finite() && value >= 0.0, "{name} is {value}; it must be finite and at least 0");
            Ok(())
        };
        let beta = |name: &str, value: f32| {
            ensure!((0.0..1.0).contains(&value), "{name} is {value}; it must be at least 0 and less than 1");
            Ok(())
        };
        at_least_0("lr", self.lr)?;
        beta("beta1", self.beta1)?;
        beta("beta2", self.beta2)?;
        at_least_0("eps", self.eps)?;
        at_least_0("weight_decay", self.weight_decay)?;
        finite("grad_scale", self.grad_scale)?;
        ensure!(self.step >= 1, "step is 0; the first step is 1");
        // In f64: 1 - beta^t loses everything in f32 for a beta near 1.
        let (beta1, beta2, t) = (f64::from(self.beta1), f64::from(self.beta2), self.step as f64);
        Ok(AdamWScalars {
            grad_scale: self.grad_scale,
            beta1: self.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: self.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            decay: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            step_size: (f64::from(self.lr) / (1.0 - beta1.powf(t))) as f32,
            inverse_sqrt_correction: (1.0 / (1.0 - beta2.powf(t)).sqrt()) as f32,
            eps: self.eps,
        })
    }
}

/// One AdamW step with f32 states, in place:
/// `m = β₁m + (1-β₁)g`, `v = β₂v + (1-β₂)g²`, `p = p(1 - lr·wd) - lr·m̂ / (√v̂ + eps)`, with `g` = gradient times
/// `grad_scale`, `m̂ = m/(1-β₁ᵗ)`, `v̂ = v/(1-β₂ᵗ)`.
///
/// `param` and `grad` have one shape and are f32, f16 or bf16, independently; `m` and `v` have as many f32 elements, in
/// row-major order. The arithmetic is f32; a 16-bit parameter is rounded once.
pub fn adamw_step<'a>(
    context: &Context,
    hyper: &AdamW,
    param: TensorMut<'_>,
    grad: Tensor<'_>,
    m: impl Into<BufferMut<'a, f32>>,
    v: impl Into<BufferMut<'a, f32>>,
) -> Result<()> {
    let (m, v) = (m.into(), v.into());
    let scalars = hyper.check()?;
    check_shape("grad", [grad.rows(), grad.cols()], "param's rows x cols", [param.rows(), param.cols()])?;
    let outputs = [("param", param.extent()), ("m", m.extent()), ("v", v.extent())];
    check_disjoint(&outputs, &[("grad", grad.extent())])?;
    let elements = param.rows() * param.cols();
    ensure!(m.len() == elements, "m has {} elements; param has {elements}", m.len());
    ensure!(v.len() == elements, "v has {} elements; param has {elements}", v.len());
    match &context.device {
        Device::Cpu(cpu) => {
            // SAFETY: a CPU context's memory is host memory.
            let (m, v) = unsafe { (m.into_slice(), v.into_slice()) };
            cpu::adamw::adamw_step(cpu, &scalars, param, &grad, m, v);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &[("grad", grad.extent())]])?;
            cuda::adamw::adamw_step(&queue, &scalars, &param, &grad, &m, &v)
        }
    }
}
