//! The hyperparameters of a step, and the scalars that the elements' arithmetic takes: computed once a step, in f64, since
//! `1 - βᵗ` loses everything in f32 for a β near 1.

use super::Rule;

/// The hyperparameters of one step. A rule uses those that its line in [`super`]'s table has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// η, the learning rate.
    pub lr: f32,
    /// β₁, or μ.
    pub beta1: f32,
    /// β₂.
    pub beta2: f32,
    /// β₃ of AdEMAMix, as its schedule has it for this step.
    pub beta3: f32,
    /// α of AdEMAMix, as its schedule has it for this step.
    pub alpha: f32,
    /// ε.
    pub eps: f32,
    /// λ.
    pub weight_decay: f32,
    /// γ, the trust coefficient of LARS.
    pub trust: f32,
    /// Multiplies the gradient first: 1, or the inverse of a loss scale.
    pub grad_scale: f32,
    /// t, the number of this step, from 1 on.
    pub step: u64,
}

impl Hyper {
    /// The defaults of the rule's paper, or of torch where it has the optimizer; step 1.
    pub fn of(rule: Rule) -> Self {
        let adam = Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            beta3: 0.9999,
            alpha: 5.0,
            eps: 1e-8,
            weight_decay: 0.0,
            trust: 1e-3,
            grad_scale: 1.0,
            step: 1,
        };
        match rule {
            Rule::Adam => adam,
            Rule::AdamW | Rule::AdEmaMix => Self { weight_decay: 0.01, ..adam },
            Rule::Lion => Self { lr: 1e-4, beta2: 0.99, ..adam },
            Rule::Sgd | Rule::Nesterov => Self { lr: 1e-2, ..adam },
            Rule::RmsProp => Self { lr: 1e-2, beta2: 0.99, ..adam },
            Rule::Adagrad => Self { lr: 1e-2, eps: 1e-10, ..adam },
            Rule::Lamb => Self { eps: 1e-6, weight_decay: 0.01, ..adam },
            Rule::Lars => Self { lr: 1e-2, weight_decay: 1e-4, ..adam },
        }
    }

    /// What is wrong with one of them.
    pub fn check(&self) -> Result<(), String> {
        let at_least_0 = [
            ("lr", self.lr),
            ("alpha", self.alpha),
            ("eps", self.eps),
            ("weight_decay", self.weight_decay),
            ("trust", self.trust),
        ];
        for (name, value) in at_least_0 {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{name} is {value}; it must be finite and at least 0"));
            }
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("beta3", self.beta3)] {
            if !(0.0..1.0).contains(&value) {
                return Err(format!("{name} is {value}; it must be at least 0 and less than 1"));
            }
        }
        if !self.grad_scale.is_finite() {
            return Err(format!("grad_scale is {}; it must be finite", self.grad_scale));
        }
        if self.step == 0 {
            return Err("step is 0; the first step is 1".into());
        }
        Ok(())
    }

    /// The scalars of a step by `rule`.
    pub fn scalars(&self, rule: Rule) -> Scalars<f32> {
        let [lr, beta1, beta2, beta3, decay] =
            [self.lr, self.beta1, self.beta2, self.beta3, self.weight_decay].map(f64::from);
        let correction1 = 1.0 / (1.0 - power(beta1, self.step));
        let rate = match rule {
            Rule::Adam | Rule::AdamW => lr * correction1,
            _ => lr,
        };
        Scalars {
            grad_scale: self.grad_scale,
            rate: rate as f32,
            keep: (1.0 - lr * decay) as f32,
            decay: self.weight_decay,
            beta1: self.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: self.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            beta3: self.beta3,
            one_minus_beta3: (1.0 - beta3) as f32,
            alpha: self.alpha,
            correction1: correction1 as f32,
            correction2: (1.0 / (1.0 - power(beta2, self.step)).sqrt()) as f32,
            eps: self.eps,
            trust: self.trust,
        }
    }
}

/// `βᵗ` for β below 1, with the same bits on every system, which `powf` does not promise. A squaring doubles the relative error and
/// adds a rounding: it grows to `t·2⁻⁵³`. But `t·βᵗ` is at most `(1-βᵗ)/(1-β)`, since `1-βᵗ = (1-β)·Σβⁱ`: of itself, `1-βᵗ` is off by
/// less than 2⁻²⁹ even for the largest β, before it is rounded.
fn power(beta: f64, t: u64) -> f64 {
    let (mut power, mut square, mut left) = (1.0, beta, t);
    while left > 0 {
        if left % 2 == 1 {
            power *= square;
        }
        square *= square;
        left /= 2;
    }
    power
}

macro_rules! scalars {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The scalars of a step: numbers, or registers with them.
        #[derive(Clone, Copy, Debug)]
        pub struct Scalars<V> {
            $($(#[$doc])* pub $name: V,)*
        }

        impl<V: Copy> Scalars<V> {
            /// Their names, in order.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Each as something else, in order.
            pub fn map<W>(&self, mut f: impl FnMut(V) -> W) -> Scalars<W> {
                Scalars { $($name: f(self.$name)),* }
            }

            /// All, in order.
            pub fn all(&self) -> Vec<V> {
                vec![$(self.$name),*]
            }

            /// From their names, in order.
            pub fn from_names(mut f: impl FnMut(&'static str) -> V) -> Self {
                Self { $($name: f(stringify!($name))),* }
            }
        }
    };
}

scalars! {
    /// Multiplies the gradient.
    grad_scale,
    /// η; with Adam and AdamW `η/(1-β₁ᵗ)`.
    rate,
    /// `1 - ηλ`
    keep,
    /// λ
    decay,
    /// β₁
    beta1,
    /// `1 - β₁`
    one_minus_beta1,
    /// β₂
    beta2,
    /// `1 - β₂`
    one_minus_beta2,
    /// β₃
    beta3,
    /// `1 - β₃`
    one_minus_beta3,
    /// α
    alpha,
    /// `1/(1-β₁ᵗ)`
    correction1,
    /// `1/√(1-β₂ᵗ)`
    correction2,
    /// ε
    eps,
    /// γ
    trust,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_within_their_bound() {
        for beta in [0.0, 0.5, 0.9, 0.999, 0.9999, f64::from(1f32.next_down())] {
            for t in (1..2000).chain((11..64).map(|bits| (1 << bits) - 1)) {
                let (power, exact) = (power(beta, t), beta.powf(t as f64));
                let bound = (t as f64 + 64.0) * f64::EPSILON * exact + f64::MIN_POSITIVE;
                assert!((power - exact).abs() <= bound, "{beta}^{t}: {power}, not {exact}");
            }
        }
    }

    /// Computed with 60 digits.
    #[test]
    fn corrections_have_these_bits() {
        let bits = |step| {
            let scalars = Hyper { step, ..Hyper::of(Rule::AdamW) }.scalars(Rule::AdamW);
            [scalars.rate, scalars.correction1, scalars.correction2].map(f32::to_bits)
        };
        let expected = [
            (1, [0x3c23d708, 0x411ffffe, 0x41fcfbdd]),
            (7, [0x3afb3d18, 0x3ff559a9, 0x413f865b]),
            (1000, [0x3a83126f, 0x3f800000, 0x3fa0f8a7]),
            (123456, [0x3a83126f, 0x3f800000, 0x3f800000]),
        ];
        for (step, expected) in expected {
            assert_eq!(bits(step), expected, "step {step}");
        }
    }
}
