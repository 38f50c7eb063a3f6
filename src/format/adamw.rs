//! One AdamW step on one element: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, in the order of operations of
//! `torch.optim.AdamW`. Every operation is f32 and rounded by itself, so all backends give the same bits.

/// The scalars of a step, bias corrections included: computed once, in f64.
#[derive(Clone, Copy, Debug)]
pub struct AdamWScalars {
    /// Multiplies the gradient first.
    pub grad_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// `1 - beta1`
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`
    pub one_minus_beta2: f32,
    /// `1 - lr · weight_decay`
    pub decay: f32,
    /// `lr / (1 - beta1^t)`
    pub step_size: f32,
    /// `1 / √(1 - beta2^t)`
    pub inverse_sqrt_correction: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl AdamWScalars {
    /// All of them, in the order of the fields.
    pub fn all(&self) -> [f32; 9] {
        [
            self.grad_scale,
            self.beta1,
            self.one_minus_beta1,
            self.beta2,
            self.one_minus_beta2,
            self.decay,
            self.step_size,
            self.inverse_sqrt_correction,
            self.eps,
        ]
    }

    /// The step: parameter and moments in place.
    #[inline(always)]
    pub fn step(&self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        let g = g * self.grad_scale;
        *m = self.beta1 * *m + self.one_minus_beta1 * g;
        *v = self.beta2 * *v + self.one_minus_beta2 * (g * g);
        let denominator = v.sqrt() * self.inverse_sqrt_correction + self.eps;
        *p = *p * self.decay - self.step_size * (*m / denominator);
    }
}
