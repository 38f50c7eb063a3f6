//! What optimizers compute, element by element. In f32, each operation rounded by itself ([`arithmetic`]), so that all
//! backends give the same bits; everything that depends on the step alone is computed once, in f64 ([`scalars`]).
//!
//! With the scaled gradient `g = grad_scale · gradient`, learning rate `η`, weight decay `λ`, step number `t` from 1 on, and all
//! states zero before the first step:
//!
//! | rule | states | update |
//! |---|---|---|
//! | [`Rule::Adam`] (Kingma and Ba, arXiv 1412.6980, algorithm 1) | m, v | `g += λp`; `m = β₁m + (1-β₁)g`; `v = β₂v + (1-β₂)g²`; `p -= η·m̂/(√v̂ + ε)` |
//! | [`Rule::AdamW`] (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) | m, v | as Adam without `λp` in `g`; `p = p(1-ηλ) - η·m̂/(√v̂ + ε)` |
//! | [`Rule::AdEmaMix`] (Pagliardini et al., arXiv 2409.03137, algorithm 1) | m, m₂, v | as AdamW, with `m₂ = β₃m₂ + (1-β₃)g`; `p = p(1-ηλ) - η·(m̂ + αm₂)/(√v̂ + ε)` |
//! | [`Rule::Lion`] (Chen et al., arXiv 2302.06675, algorithm 2) | m | `p = p(1-ηλ) - η·sign(β₁m + (1-β₁)g)`; `m = β₂m + (1-β₂)g` |
//! | [`Rule::Sgd`] (Polyak's momentum as in `torch.optim.SGD`) | m | `g += λp`; `m = μm + g`; `p -= η·m`, or with Nesterov `p -= η·(g + μm)` |
//! | [`Rule::RmsProp`] (Hinton's lecture 6e, as in `torch.optim.RMSprop`) | v | `g += λp`; `v = β₂v + (1-β₂)g²`; `p -= η·g/(√v + ε)` |
//! | [`Rule::Adagrad`] (Duchi et al., JMLR 12, 2011) | v | `g += λp`; `v += g²`; `p -= η·g/(√v + ε)` |
//! | [`Rule::Lamb`] (You et al., arXiv 1904.00962, algorithm 2) | m, v | `u = m̂/(√v̂ + ε) + λp`; `p -= η·φ·u`, `φ = ‖p‖/‖u‖` of the whole parameter |
//! | [`Rule::Lars`] (You et al., arXiv 1708.03888, algorithm 1) | m | `u = g + λp`; `m = μm + η·φ·u`, `φ = γ‖p‖/(‖g‖ + λ‖p‖)`; `p -= m` |
//!
//! `m̂ = m/(1-β₁ᵗ)` and `v̂ = v/(1-β₂ᵗ)`. μ is β₁. φ is 1 where it would be 0 or not finite. The norms are those of
//! [`norms`]; so is the clipping of the gradient's norm, which makes `grad_scale` smaller for a step.
//!
//! **Elements that are kept.** An element of which a new state would be infinite or NaN, as from a gradient that is, keeps its
//! parameter and its states: one bad element costs one element's step. How many were kept is counted. A gradient's norm that
//! is to be clipped and is not finite costs the whole step: nothing is written, and all elements count as kept.
//!
//! | file | what |
//! |---|---|
//! | [`arithmetic`] | the operations that the rules are written in |
//! | [`scalars`] | hyperparameters, and what they make of a step |
//! | [`norms`] | sums of squares in one order; clipping and trust ratios |
//! | [`blocks`] | states in 8 bits |
//! | [`stochastic`] | bf16 parameters, rounded at random |
//! | [`saved`] | states as bytes, to be continued elsewhere |

pub mod arithmetic;
pub mod blocks;
pub mod norms;
pub mod saved;
pub mod scalars;
pub mod stochastic;

pub use arithmetic::{Arithmetic, Numbers};
pub use scalars::{Hyper, Scalars};

/// Which optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the module's table has them
pub enum Rule {
    Adam,
    AdamW,
    AdEmaMix,
    Lion,
    Sgd,
    Nesterov,
    RmsProp,
    Adagrad,
    Lamb,
    Lars,
}

/// An optimizer at one of its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// What it computes.
    pub rule: Rule,
    /// With what numbers.
    pub hyper: Hyper,
    /// Scales the gradients of all parameters of one call together so that their norm is at most this: [`norms::clipped_scale`].
    pub max_norm: Option<f32>,
    /// Rounds bf16 parameters at random, from this seed on: [`stochastic`]. Parameters of other types are rounded to nearest.
    pub seed: Option<u64>,
}

impl Optimizer {
    /// The first step with [`Hyper::of`] the rule, without clipping, rounding to nearest.
    pub fn new(rule: Rule) -> Self {
        Self { rule, hyper: Hyper::of(rule), max_norm: None, seed: None }
    }

    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.hyper.check()?;
        match self.max_norm {
            Some(norm) if !(norm.is_finite() && norm > 0.0) => {
                Err(format!("max_norm is {norm}; it must be finite and greater than 0"))
            }
            _ => Ok(()),
        }
    }

    /// The scalars of the step.
    pub fn scalars(&self) -> Scalars<f32> {
        self.hyper.scalars(self.rule)
    }

    /// What the random bits of a parameter depend on, where it is rounded at random.
    pub fn key(&self, parameter: usize) -> Option<stochastic::Key> {
        let (step, parameter) = (self.hyper.step, parameter as u64);
        self.seed.map(|seed| stochastic::Key { seed, step, parameter })
    }
}

/// The most states of a parameter.
pub const MAX_STATES: usize = 3;

impl Rule {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Adam,
        Self::AdamW,
        Self::AdEmaMix,
        Self::Lion,
        Self::Sgd,
        Self::Nesterov,
        Self::RmsProp,
        Self::Adagrad,
        Self::Lamb,
        Self::Lars,
    ];

    /// Its states, in order; whether each has a sign.
    pub fn states(self) -> &'static [bool] {
        match self {
            Self::Adam | Self::AdamW | Self::Lamb => &[true, false],
            Self::AdEmaMix => &[true, true, false],
            Self::Lion | Self::Sgd | Self::Nesterov | Self::Lars => &[true],
            Self::RmsProp | Self::Adagrad => &[false],
        }
    }

    /// Whether the rate of a parameter depends on norms over all its elements.
    pub fn uses_norms(self) -> bool {
        matches!(self, Self::Lamb | Self::Lars)
    }

    /// One element's step: the parameter and its states (as many as [`Self::states`]; others stay 0) after it, and whether it
    /// was taken. `trust` is φ; 1 for rules without norms.
    #[inline(always)]
    pub fn step<A: Arithmetic>(
        self,
        a: &A,
        s: &Scalars<A::Value>,
        trust: A::Value,
        p: A::Value,
        gradient: A::Value,
        states: [A::Value; MAX_STATES],
    ) -> (A::Value, [A::Value; MAX_STATES], A::Truth) {
        let (moved, next) = self.attempt(a, s, trust, p, gradient, states);
        let taken = self.taken(a, &next);
        let mut after = states;
        for i in 0..self.states().len() {
            after[i] = a.select(taken, next[i], states[i]);
        }
        (a.select(taken, moved, p), after, taken)
    }

    /// What a step would make of the parameter and its states, finite or not.
    #[inline(always)]
    pub fn attempt<A: Arithmetic>(
        self,
        a: &A,
        s: &Scalars<A::Value>,
        trust: A::Value,
        p: A::Value,
        gradient: A::Value,
        states: [A::Value; MAX_STATES],
    ) -> (A::Value, [A::Value; MAX_STATES]) {
        let g = a.mul(gradient, s.grad_scale);
        let (direction, next) = self.direction(a, s, trust, p, g, states);
        let rate = if self == Self::Lamb { a.mul(s.rate, trust) } else { s.rate };
        let kept = if self.decays() { a.mul(p, s.keep) } else { p };
        let moved = match self {
            Self::Lars => a.sub(kept, direction),
            _ => a.sub(kept, a.mul(rate, direction)),
        };
        (moved, next)
    }

    /// Whether a step is taken: its states must be finite. Whatever is wrong with a gradient shows in them.
    #[inline(always)]
    fn taken<A: Arithmetic>(self, a: &A, next: &[A::Value; MAX_STATES]) -> A::Truth {
        (1..self.states().len()).fold(a.is_finite(next[0]), |all, i| a.both(all, a.is_finite(next[i])))
    }

    /// Whether weights decay by themselves, apart from the gradient.
    fn decays(self) -> bool {
        matches!(self, Self::AdamW | Self::AdEmaMix | Self::Lion)
    }

    /// What is subtracted, but for the rate, and the new states. `g` is scaled.
    #[inline(always)]
    pub fn direction<A: Arithmetic>(
        self,
        a: &A,
        s: &Scalars<A::Value>,
        trust: A::Value,
        p: A::Value,
        g: A::Value,
        [first, second, third]: [A::Value; MAX_STATES],
    ) -> (A::Value, [A::Value; MAX_STATES]) {
        let zero = a.number(0.0);
        let coupled = |g| a.add(g, a.mul(s.decay, p));
        let moment1 = |g| a.weighted(s.beta1, first, s.one_minus_beta1, g);
        let moment2 = |v, g| a.weighted(s.beta2, v, s.one_minus_beta2, a.mul(g, g));
        // √v̂ + ε; the first moment's correction is in the rate, but where something else is added to it.
        let root = |v| a.add(a.mul(a.sqrt(v), s.correction2), s.eps);
        match self {
            Self::Adam => {
                let g = coupled(g);
                let (m, v) = (moment1(g), moment2(second, g));
                (a.div(m, root(v)), [m, v, zero])
            }
            Self::AdamW => {
                let (m, v) = (moment1(g), moment2(second, g));
                (a.div(m, root(v)), [m, v, zero])
            }
            Self::AdEmaMix => {
                let (m, v) = (moment1(g), moment2(third, g));
                let slow = a.weighted(s.beta3, second, s.one_minus_beta3, g);
                let sum = a.add(a.mul(m, s.correction1), a.mul(s.alpha, slow));
                (a.div(sum, root(v)), [m, slow, v])
            }
            Self::Lion => {
                let m = a.weighted(s.beta2, first, s.one_minus_beta2, g);
                (a.sign(moment1(g)), [m, zero, zero])
            }
            Self::Sgd => {
                let m = a.add(a.mul(s.beta1, first), coupled(g));
                (m, [m, zero, zero])
            }
            Self::Nesterov => {
                let g = coupled(g);
                let m = a.add(a.mul(s.beta1, first), g);
                (a.add(g, a.mul(s.beta1, m)), [m, zero, zero])
            }
            Self::RmsProp => {
                let g = coupled(g);
                let v = moment2(first, g);
                (a.div(g, a.add(a.sqrt(v), s.eps)), [v, zero, zero])
            }
            Self::Adagrad => {
                let g = coupled(g);
                let v = a.add(first, a.mul(g, g));
                (a.div(g, a.add(a.sqrt(v), s.eps)), [v, zero, zero])
            }
            Self::Lamb => {
                let (m, v) = (moment1(g), moment2(second, g));
                let adam = a.div(a.mul(m, s.correction1), root(v));
                (a.add(adam, a.mul(s.decay, p)), [m, v, zero])
            }
            Self::Lars => {
                let step = a.mul(a.mul(s.rate, trust), coupled(g));
                let m = a.add(a.mul(s.beta1, first), step);
                (m, [m, zero, zero])
            }
        }
    }
}
