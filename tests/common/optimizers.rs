//! Parameters of an optimizer in host memory, and what a step must make of them.

use super::*;
use qlora_kernels::format::optimizer::blocks::{Blocks, step_blocks, step_f32};
use qlora_kernels::format::optimizer::{Numbers, norms, stochastic};
use qlora_kernels::format::sum::tree_sum;
use qlora_kernels::{Hyper, Optimizer, Parameter, Rule, State};

/// A parameter with its gradient and states.
#[derive(Clone, Debug)]
pub struct Owned {
    pub param: Matrix,
    pub grad: Matrix,
    pub states: Values,
}

#[derive(Clone, Debug)]
pub enum Values {
    F32(Vec<Vec<f32>>),
    Blocks(Vec<Blocks>),
}

/// How a parameter looks.
#[derive(Clone, Debug)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
    pub dtypes: [DType; 2],
    pub gaps: [usize; 2],
    pub eight_bits: bool,
}

impl Shape {
    /// One row without gaps.
    pub fn row(len: usize, dtype: DType, eight_bits: bool) -> Self {
        Self { rows: 1, cols: len, dtypes: [dtype; 2], gaps: [0; 2], eight_bits }
    }
}

impl Owned {
    /// In the middle of its training: random numbers, with some of `special` among gradients and parameters.
    pub fn new(rule: Rule, shape: &Shape, seed: u64, special: &[f32]) -> Self {
        let Shape { rows, cols, dtypes, gaps, eight_bits } = *shape;
        let len = rows * cols;
        let matrix =
            |i: usize| Matrix::new(dtypes[i], &numbers(len, seed ^ i as u64, special), rows, cols, gaps[i]);
        let mut owned =
            Self { param: matrix(0), grad: matrix(1), states: Values::zeros(rule, len, eight_bits) };
        let signs = rule.states();
        match &mut owned.states {
            Values::F32(states) => {
                for (i, (state, signed)) in (2..).zip(states.iter_mut().zip(signs)) {
                    *state = numbers(len, seed ^ i, &[0.0]);
                    if !signed {
                        state.iter_mut().for_each(|v| *v *= *v);
                    }
                }
            }
            Values::Blocks(states) => {
                for (i, state) in (2..).zip(states) {
                    let random = numbers(len, seed ^ i, &[]);
                    state.codes = random.iter().map(|x| (x.abs() * 256.0) as u8).collect();
                    let random = numbers(state.absmax.len(), seed ^ (i + 8), &[0.0]);
                    state.absmax = random.iter().map(|x| x * x).collect();
                }
            }
        }
        owned
    }

    pub fn view(&mut self) -> Parameter<'_> {
        let states = match &mut self.states {
            Values::F32(states) => states.iter_mut().map(State::from).collect(),
            Values::Blocks(states) => states.iter_mut().map(State::from).collect(),
        };
        Parameter { param: self.param.view_mut(), grad: self.grad.view(), states }
    }

    pub fn len(&self) -> usize {
        self.param.rows * self.param.cols
    }

    /// Equal bits everywhere.
    pub fn same(&self, other: &Self) -> Result<(), String> {
        same_bits(&self.param.values(), &other.param.values()).map_err(|e| format!("param {e}"))?;
        match (&self.states, &other.states) {
            (Values::F32(a), Values::F32(b)) => a
                .iter()
                .zip(b)
                .enumerate()
                .try_for_each(|(i, (a, b))| same_bits(a, b).map_err(|e| format!("state {i} {e}"))),
            (Values::Blocks(a), Values::Blocks(b)) => {
                a.iter().zip(b).enumerate().try_for_each(|(i, (a, b))| {
                    same_bits(&a.absmax, &b.absmax).map_err(|e| format!("absmax {i} {e}"))?;
                    match a.codes.iter().zip(&b.codes).position(|(a, b)| a != b) {
                        None => Ok(()),
                        Some(at) => {
                            Err(format!("code {at} of state {i}: {} for {}", a.codes[at], b.codes[at]))
                        }
                    }
                })
            }
            _ => Err("states of different kinds".into()),
        }
    }
}

impl Values {
    /// Before the first step.
    pub fn zeros(rule: Rule, len: usize, eight_bits: bool) -> Self {
        match eight_bits {
            false => Self::F32(rule.states().iter().map(|_| vec![0.0; len]).collect()),
            true => Self::Blocks(rule.states().iter().map(|&signed| Blocks::zeros(len, signed)).collect()),
        }
    }

    /// In f32.
    pub fn values(&self, rule: Rule) -> Vec<Vec<f32>> {
        match self {
            Self::F32(states) => states.clone(),
            Self::Blocks(states) => {
                states.iter().zip(rule.states()).map(|(state, &signed)| state.values(signed)).collect()
            }
        }
    }
}

/// The format's step; how many elements were kept.
pub fn reference_step(optimizer: &Optimizer, parameters: &mut [Owned]) -> u64 {
    let rule = optimizer.rule;
    let mut scalars = optimizer.scalars();
    if let Some(max_norm) = optimizer.max_norm {
        let chunks = parameters.iter().flat_map(|parameter| {
            let scaled = parameter.grad.values().into_iter().map(|g| g * scalars.grad_scale);
            let squares: Vec<f32> = scaled.map(|g| g * g).collect();
            squares.chunks(norms::CHUNK).map(norms::chunk_sum).collect::<Vec<_>>()
        });
        let sum = tree_sum(&chunks.collect::<Vec<_>>());
        scalars.grad_scale = norms::clipped_scale(&Numbers, scalars.grad_scale, max_norm, sum);
        if scalars.grad_scale.is_nan() {
            return parameters.iter().map(|parameter| parameter.len() as u64).sum();
        }
    }
    let mut kept = 0;
    for (i, parameter) in parameters.iter_mut().enumerate() {
        let (mut p, g) = (parameter.param.values(), parameter.grad.values());
        let mut trust = 1.0;
        if rule.uses_norms() {
            let states = parameter.states.values(rule);
            let terms: Vec<[f32; 2]> = (0..p.len())
                .map(|e| {
                    let states = std::array::from_fn(|s| states.get(s).map_or(0.0, |state| state[e]));
                    rule.norm_terms(&Numbers, &scalars, p[e], g[e], states)
                })
                .collect();
            let sums = [0, 1]
                .map(|n| norms::sum_of_squares(&terms.iter().map(|terms| terms[n]).collect::<Vec<_>>()));
            trust = rule.trust_ratio(&Numbers, &scalars, sums);
        }
        kept += match &mut parameter.states {
            Values::F32(states) => step_f32(rule, &scalars, trust, &mut p, &g, states),
            Values::Blocks(states) => step_blocks(rule, &scalars, trust, &mut p, &g, states),
        } as u64;
        if let (Some(key), DType::Bf16) = (optimizer.key(i), parameter.param.dtype()) {
            stochastic::round_all(&key, 0, &mut p);
        }
        parameter.param.set(&p);
    }
    kept
}

pub fn any_rule() -> impl Strategy<Value = Rule> {
    prop::sample::select(Rule::ALL.to_vec())
}

pub fn any_shape(most: usize) -> impl Strategy<Value = Shape> {
    let gaps = (0usize..3, 0usize..3);
    (0usize..4, 0..most, any_dtype(), any_dtype(), gaps, any::<bool>()).prop_map(
        |(rows, cols, param, grad, gaps, eight_bits)| Shape {
            rows,
            cols,
            dtypes: [param, grad],
            gaps: [gaps.0, gaps.1],
            eight_bits,
        },
    )
}

/// Hyperparameters all over their ranges.
pub fn any_hyper() -> impl Strategy<Value = Hyper> {
    let rates = (1e-5f32..1e-1, 0f32..0.5, 0.01f32..4.0, 1e-3f32..1.0);
    let betas = (0f32..0.99, 0.5f32..0.9999, 0.5f32..0.9999);
    (rates, betas, 0f32..8.0, 1u64..2000).prop_map(
        |((lr, weight_decay, grad_scale, trust), (beta1, beta2, beta3), alpha, step)| Hyper {
            lr,
            beta1,
            beta2,
            beta3,
            alpha,
            eps: 1e-8,
            weight_decay,
            trust,
            grad_scale,
            step,
        },
    )
}

/// Any rule with any hyperparameters, perhaps clipping, perhaps rounding at random.
pub fn any_optimizer() -> impl Strategy<Value = Optimizer> {
    let options = (prop::option::of(0.01f32..10.0), prop::option::of(any::<u64>()));
    (any_rule(), any_hyper(), options).prop_map(|(rule, hyper, (max_norm, seed))| Optimizer {
        rule,
        hyper,
        max_norm,
        seed,
    })
}
