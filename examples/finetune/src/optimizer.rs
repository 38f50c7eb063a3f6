//! Optimizer steps on the adapters, with gradient clipping.

use anyhow::{Context, Result};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use clap::ValueEnum;
use qlora_kernels::format::optimizer::blocks::{BLOCK, Blocks};
use qlora_kernels::{Hyper, Parameter, Rule, State, TensorMut, ops};

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

/// A state of a matrix.
enum Stored {
    F32(Vec<f32>),
    Blocks(Blocks),
}

impl<'a> From<&'a mut Stored> for State<'a> {
    fn from(state: &'a mut Stored) -> Self {
        match state {
            Stored::F32(values) => values.into(),
            Stored::Blocks(blocks) => blocks.into(),
        }
    }
}

/// The states of each trained matrix, in the order of `Llama::trained`.
pub struct Optimizer {
    optimizer: ops::Optimizer,
    states: Vec<Vec<Stored>>,
}

impl Optimizer {
    pub fn new(model: &Llama, choice: Choice, lr: f32) -> Self {
        let rule = choice.rule();
        let hyper = Hyper { lr, weight_decay: 0.0, step: 0, ..Hyper::of(rule) };
        let optimizer = ops::Optimizer { hyper, max_norm: Some(MAX_NORM), ..ops::Optimizer::new(rule) };
        let zeros = |len: usize| {
            let zeros = |&signed: &bool| match choice.eight_bits() {
                false => Stored::F32(vec![0.0; len]),
                true => Stored::Blocks(Blocks::zeros(len, signed)),
            };
            rule.states().iter().map(zeros).collect()
        };
        Self { optimizer, states: model.trained().map(|var| zeros(var.elem_count())).collect() }
    }

    pub fn bytes(&self) -> usize {
        let bytes = |state: &Stored| match state {
            Stored::F32(values) => 4 * values.len(),
            Stored::Blocks(Blocks { codes, .. }) => codes.len() + 4 * codes.len().div_ceil(BLOCK),
        };
        self.states.iter().flatten().map(bytes).sum()
    }

    pub fn step(&mut self, engine: &Engine, model: &Llama, grads: &GradStore) -> Result<()> {
        let gradients: Vec<Tensor> = model
            .trained()
            .map(|var| Ok(grads.get(var).context("a trained matrix got no gradient")?.contiguous()?))
            .collect::<Result<_>>()?;
        let gradients = gradients.iter().map(values).collect::<candle_core::Result<Vec<_>>>()?;
        let mut matrices =
            model.trained().map(|var| Ok(values(var)?.to_vec())).collect::<Result<Vec<_>>>()?;
        let mut parameters = Vec::new();
        let memory = matrices.iter_mut().zip(&gradients).zip(&mut self.states);
        for (var, ((matrix, gradient), states)) in model.trained().zip(memory) {
            let (rows, columns) = var.dims2()?;
            parameters.push(Parameter {
                param: TensorMut::new(matrix, rows, columns)?,
                grad: qlora_kernels::Tensor::new(gradient, rows, columns)?,
                states: states.iter_mut().map(State::from).collect(),
            });
        }
        self.optimizer.hyper.step += 1;
        ops::optimizer_step(&engine.host, &self.optimizer, &mut parameters, None, &mut [][..])?;
        for (var, matrix) in model.trained().zip(matrices) {
            var.set(&Tensor::from_vec(matrix, var.dims2()?, var.device())?)?;
        }
        Ok(())
    }
}
