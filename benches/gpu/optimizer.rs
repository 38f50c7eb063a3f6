//! The AdamW step: the CPU backend's bits, then bytes a second.

use super::Result;
use super::data::{Bytes, Noise};
use super::device::{Gpu, Memory};
use super::report::Figures;
use super::timing;
use qlora_kernels::view::BufferMut;
use qlora_kernels::{AdamW, Context, DType, Tensor, TensorMut, ops};
use std::fmt;

const HYPER: AdamW =
    AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 7, grad_scale: 0.5 };
/// The share of the copy rate that is aimed at.
const GOAL: f64 = 0.9;

/// A step on parameters and gradients of this type, with f32 states.
#[derive(Clone, Copy, Debug)]
pub struct Step(pub DType);

pub fn select(only: Option<&str>) -> Vec<Step> {
    let mut steps = [DType::F32, DType::F16, DType::Bf16].map(Step).to_vec();
    steps.retain(|step| only.is_none_or(|pattern| step.to_string().contains(pattern)));
    steps
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "adamw {}", format!("{:?}", self.0).to_lowercase())
    }
}

impl Step {
    /// Checks one step of `n` parameters; the bytes compared.
    pub fn check(self, gpu: &Gpu, n: usize) -> Result<usize> {
        let mut expected = self.state(n);
        let device = expected.iter().map(|bytes| gpu.upload(bytes)).collect::<Result<Vec<_>>>()?;
        self.enqueue(gpu, n, &device)?;
        let pointers = std::array::from_fn(|i| expected[i].as_mut_ptr());
        // SAFETY: the memory outlives the call, which is done when it returns.
        unsafe { self.step(&Context::cpu(), n, pointers)? };
        for (name, (memory, expected)) in ["param", "grad", "m", "v"].iter().zip(device.iter().zip(&expected))
        {
            let found = gpu.download(memory)?;
            if let Some(at) = found.iter().zip(expected.iter()).position(|(a, b)| a != b) {
                return Err(format!("{name} differs at byte {at}").into());
            }
        }
        Ok(expected.iter().map(|bytes| bytes.len()).sum())
    }

    /// Checks and times it.
    pub fn check_and_time(self, gpu: &Gpu, n: usize, repetitions: usize) -> Result<Figures> {
        self.check(gpu, n)?;
        // The parameter and both states are read and written, the gradient is read.
        let bytes = n * (3 * self.0.size() + 4 * 4);
        let state = self.state(n);
        let upload = |_| state.iter().map(|bytes| gpu.upload(bytes)).collect::<Result<Vec<_>>>();
        let sets: Vec<Vec<Memory>> = (0..timing::sets(gpu, bytes)).map(upload).collect::<Result<_>>()?;
        let times = timing::repeat(gpu, sets.len(), repetitions, |set| self.enqueue(gpu, n, &sets[set]))?;
        let bytes_per_second = bytes as f64 / times.median;
        Ok(Figures { name: self.to_string(), bytes, times, bytes_per_second, goal: Some(GOAL) })
    }

    /// Parameters, gradients, first and second moments.
    fn state(self, n: usize) -> [Bytes; 4] {
        let row = |dtype, row| Noise::Weights.rows(dtype, row, 1, n);
        [row(self.0, 0), row(self.0, 1), row(DType::F32, 2), Noise::Weights.constants(n)]
    }

    fn enqueue(self, gpu: &Gpu, n: usize, state: &[Memory]) -> Result<()> {
        // SAFETY: the memory is of these sizes, and the device's only stream orders its uses.
        unsafe { self.step(&gpu.context, n, std::array::from_fn(|i| state[i].address(gpu))) }
    }

    /// # Safety
    /// The pointers are to `n` elements each in memory of the context's device, which nothing else uses meanwhile.
    unsafe fn step(self, context: &Context, n: usize, [param, grad, m, v]: [*mut u8; 4]) -> Result<()> {
        // SAFETY: as promised by the caller.
        unsafe {
            let (param, grad) =
                (TensorMut::from_raw(param, self.0, 1, n, n)?, Tensor::from_raw(grad, self.0, 1, n, n)?);
            let (m, v) = (BufferMut::from_raw(m.cast(), n), BufferMut::from_raw(v.cast(), n));
            ops::adamw_step(context, &HYPER, param, grad, m, v)?;
        }
        Ok(())
    }
}
