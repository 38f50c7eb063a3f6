//! The optimizers' equations as their papers have them, in f64, with bounds for what f32 makes of them.

use qlora_kernels::{Hyper, Rule};

/// A number that the library's result is near to: running error analysis (Higham, Accuracy and Stability of Numerical
/// Algorithms, section 3.3), with the unit roundoff of f32.
#[derive(Clone, Copy, Debug)]
pub struct Real {
    pub value: f64,
    pub error: f64,
}

pub const U: f64 = 1.0 / (1 << 24) as f64;
/// Half the least subnormal number.
pub const TINY: f64 = 7.1e-46;

pub fn exact(value: f64) -> Real {
    Real { value, error: 0.0 }
}

/// Computed in f64 and rounded to f32.
pub fn rounded(value: f64) -> Real {
    Real { value, error: U * value.abs() }
}

impl Real {
    pub fn round(value: f64, error: f64) -> Self {
        Self { value, error: error + U * (value.abs() + error) + TINY }
    }
    pub fn sqrt(self) -> Self {
        let root = self.value.sqrt();
        Self::round(root, root - (self.value - self.error).max(0.0).sqrt())
    }
    pub fn sign(self) -> Self {
        let error = if self.value.abs() <= self.error { 2.0 } else { 0.0 };
        Self { value: if self.value == 0.0 { 0.0 } else { self.value.signum() }, error }
    }
}
impl std::ops::Add for Real {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self::round(self.value + b.value, self.error + b.error)
    }
}
impl std::ops::Sub for Real {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        Self::round(self.value - b.value, self.error + b.error)
    }
}
impl std::ops::Mul for Real {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        let cross = self.value.abs() * b.error + b.value.abs() * self.error + self.error * b.error;
        Self::round(self.value * b.value, cross)
    }
}
impl std::ops::Div for Real {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let quotient = self.value / b.value;
        let least = b.value.abs() - b.error;
        let error = if least > 0.0 { (self.error + quotient.abs() * b.error) / least } else { f64::INFINITY };
        Self::round(quotient, error)
    }
}

/// The papers' equations for a whole parameter. `scale` multiplies the gradient; states are replaced; the new parameter is
/// returned before it is rounded to its type.
pub fn model(
    rule: Rule,
    h: &Hyper,
    scale: Real,
    p: &[Real],
    g: &[f32],
    states: &mut [Vec<Real>],
) -> Vec<Real> {
    let t = h.step as f64;
    let [lr, b1, b2, b3, alpha, eps, decay, trust] =
        [h.lr, h.beta1, h.beta2, h.beta3, h.alpha, h.eps, h.weight_decay, h.trust].map(f64::from);
    let average = |b: f64, m: Real, x: Real| exact(b) * m + rounded(1.0 - b) * x;
    let unbias = |b: f64, m: Real| m * rounded(1.0 / (1.0 - b.powf(t)));
    let keep = rounded(1.0 - lr * decay);
    let n = p.len();
    let mut updates = vec![exact(0.0); n];
    let mut norms = [Vec::new(), Vec::new()];
    for i in 0..n {
        let g = exact(f64::from(g[i])) * scale;
        let coupled = g + exact(decay) * p[i];
        let adam = |m: Real, v: Real| unbias(b1, m) / (unbias(b2, v).sqrt() + exact(eps));
        updates[i] = match rule {
            Rule::Adam | Rule::AdamW | Rule::Lamb => {
                let g = if rule == Rule::Adam { coupled } else { g };
                states[0][i] = average(b1, states[0][i], g);
                states[1][i] = average(b2, states[1][i], g * g);
                adam(states[0][i], states[1][i])
            }
            Rule::AdEmaMix => {
                states[0][i] = average(b1, states[0][i], g);
                states[1][i] = average(b3, states[1][i], g);
                states[2][i] = average(b2, states[2][i], g * g);
                let sum = unbias(b1, states[0][i]) + exact(alpha) * states[1][i];
                sum / (unbias(b2, states[2][i]).sqrt() + exact(eps))
            }
            Rule::Lion => {
                let update = average(b1, states[0][i], g).sign();
                states[0][i] = average(b2, states[0][i], g);
                update
            }
            Rule::Sgd | Rule::Nesterov => {
                states[0][i] = exact(b1) * states[0][i] + coupled;
                if rule == Rule::Sgd { states[0][i] } else { coupled + exact(b1) * states[0][i] }
            }
            Rule::RmsProp => {
                states[0][i] = average(b2, states[0][i], coupled * coupled);
                coupled / (states[0][i].sqrt() + exact(eps))
            }
            Rule::Adagrad => {
                states[0][i] = states[0][i] + coupled * coupled;
                coupled / (states[0][i].sqrt() + exact(eps))
            }
            Rule::Lars => coupled,
        };
        if rule == Rule::Lamb {
            updates[i] = updates[i] + exact(decay) * p[i];
        }
        norms[0].push(p[i]);
        norms[1].push(if rule == Rule::Lamb { updates[i] } else { g });
    }
    let [norm_p, norm_other] = norms.map(|terms| norm(&terms));
    (0..n)
        .map(|i| match rule {
            Rule::AdamW | Rule::AdEmaMix | Rule::Lion => p[i] * keep - exact(lr) * updates[i],
            Rule::Lamb => p[i] - exact(lr) * (norm_p / norm_other) * updates[i],
            Rule::Lars => {
                let ratio = exact(trust) * norm_p / (norm_other + exact(decay) * norm_p);
                states[0][i] = exact(b1) * states[0][i] + exact(lr) * ratio * updates[i];
                p[i] - states[0][i]
            }
            _ => p[i] - exact(lr) * updates[i],
        })
        .collect()
}

/// Squares of one sign, so that a tree of additions `d` deep, of squares, has a relative error of (d + 1)u: d is 32 at most
/// for what is tested here.
pub fn norm(terms: &[Real]) -> Real {
    let sum: f64 = terms.iter().map(|x| x.value * x.value).sum();
    let error: f64 = terms.iter().map(|x| 2.0 * x.value.abs() * x.error + x.error * x.error + TINY).sum();
    Real { value: sum, error: error + 33.0 * U * (sum + error) }.sqrt()
}
