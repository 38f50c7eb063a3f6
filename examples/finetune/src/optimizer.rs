//! Optimizer steps on the adapters, with gradient clipping; the states in memory, or paged.

use anyhow::{Context, Result};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use clap::ValueEnum;
use qlora_kernels::format::optimizer::blocks::BLOCK;
use qlora_kernels::ops::{PagedBuffer, PagerStatistics};
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Hyper, Pager, Parameter, Rule, State, TensorMut, ops};

use crate::engine::Engine;
use crate::host::values;
use crate::model::Llama;

/// The paper clips the gradient's norm to 0.3 (appendix B.4).
const MAX_NORM: f32 = 0.3;

/// What trains the adapters; `8bit` are those with states in 8 bits.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[clap(rename_all = "lower")]
pub enum Choice {
    AdamW,
    AdamW8bit,
    AdEmaMix,
    AdEmaMix8bit,
    Lion,
    Lion8bit,
    Sgd,
}

impl Choice {
    fn rule(self) -> Rule {
        match self {
            Self::AdamW | Self::AdamW8bit => Rule::AdamW,
            Self::AdEmaMix | Self::AdEmaMix8bit => Rule::AdEmaMix,
            Self::Lion | Self::Lion8bit => Rule::Lion,
            Self::Sgd => Rule::Sgd,
        }
    }

    fn eight_bits(self) -> bool {
        matches!(self, Self::AdamW8bit | Self::AdEmaMix8bit | Self::Lion8bit)
    }
}

/// Values in memory, or in a pager's.
enum Store<T> {
    Memory(Vec<T>),
    Paged(PagedBuffer<T>),
}

impl<T: Clone + bytemuck::Zeroable> Store<T> {
    /// Zeros.
    fn new(len: usize, pager: Option<&Pager>) -> Result<Self> {
        Ok(match pager {
            None => Self::Memory(vec![T::zeroed(); len]),
            Some(pager) => Self::Paged(pager.buffer(len)?),
        })
    }

    fn lend(&mut self) -> BufferMut<'_, T> {
        match self {
            Self::Memory(values) => values.into(),
            Self::Paged(values) => values.lend(),
        }
    }

    fn bytes(&self) -> usize {
        size_of::<T>()
            * match self {
                Self::Memory(values) => values.len(),
                Self::Paged(values) => values.len(),
            }
    }
}

/// The states of all trained matrices, in the order of `Llama::trained`, one after another.
pub struct Optimizer {
    optimizer: ops::Optimizer,
    eight_bits: bool,
    /// The states, or the scales of those in 8 bits.
    numbers: Store<f32>,
    codes: Store<u8>,
    pager: Option<Pager>,
}

impl Optimizer {
    /// Before its first step; states of 8 bits are zero where their scales are.
    pub fn new(model: &Llama, choice: Choice, lr: f32, pager: Option<Pager>) -> Result<Self> {
        let (rule, eight_bits) = (choice.rule(), choice.eight_bits());
        let hyper = Hyper { lr, weight_decay: 0.0, step: 0, ..Hyper::of(rule) };
        let optimizer = ops::Optimizer { hyper, max_norm: Some(MAX_NORM), ..ops::Optimizer::new(rule) };
        let of_all = |len: &dyn Fn(usize) -> usize| -> usize {
            rule.states().len() * model.trained().map(|var| len(var.elem_count())).sum::<usize>()
        };
        let (numbers, codes) = match eight_bits {
            false => (of_all(&|len| len), 0),
            true => (of_all(&|len| len.div_ceil(BLOCK)), of_all(&|len| len)),
        };
        let (numbers, codes) = (Store::new(numbers, pager.as_ref())?, Store::new(codes, pager.as_ref())?);
        Ok(Self { optimizer, eight_bits, numbers, codes, pager })
    }

    pub fn bytes(&self) -> usize {
        self.numbers.bytes() + self.codes.bytes()
    }

    /// What the pager has done.
    pub fn paged(&self) -> Option<PagerStatistics> {
        self.pager.as_ref().map(Pager::statistics)
    }

    pub fn step(&mut self, engine: &Engine, model: &Llama, grads: &GradStore) -> Result<()> {
        let gradients: Vec<Tensor> = model
            .trained()
            .map(|var| Ok(grads.get(var).context("a trained matrix got no gradient")?.contiguous()?))
            .collect::<Result<_>>()?;
        let gradients = gradients.iter().map(values).collect::<candle_core::Result<Vec<_>>>()?;
        let mut matrices =
            model.trained().map(|var| Ok(values(var)?.to_vec())).collect::<Result<Vec<_>>>()?;
        let (mut numbers, mut codes) = (self.numbers.lend(), self.codes.lend());
        let mut state = |len| match self.eight_bits {
            false => State::F32(take(&mut numbers, len)),
            true => State::Blocks {
                codes: take(&mut codes, len),
                absmax: take(&mut numbers, len.div_ceil(BLOCK)),
            },
        };
        let mut parameters = Vec::new();
        for (var, (matrix, gradient)) in model.trained().zip(matrices.iter_mut().zip(&gradients)) {
            let (rows, columns) = var.dims2()?;
            parameters.push(Parameter {
                param: TensorMut::new(matrix, rows, columns)?,
                grad: qlora_kernels::Tensor::new(gradient, rows, columns)?,
                states: self.optimizer.rule.states().iter().map(|_| state(rows * columns)).collect(),
            });
        }
        self.optimizer.hyper.step += 1;
        let (host, optimizer, workspace) = (&engine.host, &self.optimizer, &mut [][..]);
        match &self.pager {
            None => ops::optimizer_step(host, optimizer, &mut parameters, None, workspace)?,
            Some(pager) => {
                ops::optimizer_step_paged(host, pager, optimizer, &mut parameters, None, workspace)?;
            }
        }
        for (var, matrix) in model.trained().zip(matrices) {
            var.set(&Tensor::from_vec(matrix, var.dims2()?, var.device())?)?;
        }
        Ok(())
    }
}

/// The next `len` values.
fn take<'a, T>(rest: &mut BufferMut<'a, T>, len: usize) -> BufferMut<'a, T> {
    let all = std::mem::replace(rest, BufferMut::from(&mut [][..]));
    let (values, others) = all.split_at(len);
    *rest = others;
    values
}
