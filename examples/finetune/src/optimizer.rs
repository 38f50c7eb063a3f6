//! AdamW on the adapters, with gradient clipping.

use anyhow::{Context, Result};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use qlora_kernels::{AdamW, TensorMut, ops};

use crate::engine::Engine;
use crate::host::values;
use crate::model::Llama;

/// The paper clips the gradient's norm to 0.3 (appendix B.4).
const MAX_NORM: f64 = 0.3;

/// Both moments of each trained matrix, in the order of `Llama::trained`.
pub struct Optimizer {
    hyper: AdamW,
    moments: Vec<[Vec<f32>; 2]>,
}

impl Optimizer {
    pub fn new(model: &Llama, lr: f32) -> Self {
        let zeros = |size: usize| [vec![0.0; size], vec![0.0; size]];
        let moments = model.trained().map(|var| zeros(var.elem_count())).collect();
        let hyper =
            AdamW { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 0, grad_scale: 1.0 };
        Self { hyper, moments }
    }

    pub fn bytes(&self) -> usize {
        self.moments.iter().flatten().map(|moment| size_of_val(moment.as_slice())).sum()
    }

    pub fn step(&mut self, engine: &Engine, model: &Llama, grads: &GradStore) -> Result<()> {
        let gradients: Vec<Tensor> = model
            .trained()
            .map(|var| Ok(grads.get(var).context("a trained matrix got no gradient")?.contiguous()?))
            .collect::<Result<_>>()?;
        let mut squares = 0.0;
        for gradient in &gradients {
            squares += values(gradient)?.iter().map(|x| f64::from(x * x)).sum::<f64>();
        }
        self.hyper.step += 1;
        self.hyper.grad_scale = (MAX_NORM / squares.sqrt()).min(1.0) as f32;
        for ((var, gradient), [m, v]) in model.trained().zip(&gradients).zip(&mut self.moments) {
            let (rows, columns) = var.dims2()?;
            let mut parameter = values(var)?.to_vec();
            let gradient = values(gradient)?;
            let gradient = qlora_kernels::Tensor::new(&gradient, rows, columns)?;
            let out = TensorMut::new(&mut parameter, rows, columns)?;
            ops::adamw_step(&engine.host, &self.hyper, out, gradient, m.as_mut_slice(), v.as_mut_slice())?;
            var.set(&Tensor::from_vec(parameter, (rows, columns), var.device())?)?;
        }
        Ok(())
    }
}
