//! The AdamW step with states in 32 and in 8 bits: the CPU backend's bits, then bytes a second.

use super::Result;
use super::data::{Bytes, Noise};
use super::device::{Gpu, Memory};
use super::report::Figures;
use super::timing;
use qlora_kernels::format::optimizer::blocks::BLOCK;
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Context, DType, Hyper, Optimizer, Parameter, Rule, State, Tensor, TensorMut, ops};
use std::fmt;

/// The share of the copy rate that is aimed at.
const GOAL: f64 = 0.9;

/// A step on parameters and gradients of one type.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub dtype: DType,
    pub eight_bits: bool,
}

pub fn select(only: Option<&str>) -> Vec<Step> {
    let of = |eight_bits| {
        [DType::F32, DType::F16, DType::Bf16].map(|dtype| Step { dtype, eight_bits }).into_iter()
    };
    let all = of(false).chain(of(true));
    all.filter(|step| only.is_none_or(|pattern| step.to_string().contains(pattern))).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = if self.eight_bits { "adamw8bit" } else { "adamw" };
        write!(f, "{name} {}", format!("{:?}", self.dtype).to_lowercase())
    }
}

pub fn adamw() -> Optimizer {
    let hyper = Hyper { step: 7, grad_scale: 0.5, ..Hyper::of(Rule::AdamW) };
    Optimizer { hyper, ..Optimizer::new(Rule::AdamW) }
}

impl Step {
    /// Checks one step of `n` parameters; the bytes compared.
    pub fn check(self, gpu: &Gpu, n: usize) -> Result<usize> {
        let mut expected = self.state(n);
        let device = expected.iter().map(|bytes| gpu.upload(bytes)).collect::<Result<Vec<_>>>()?;
        let workspace = self.workspace(gpu, n, &device)?;
        self.enqueue(gpu, n, &device, &workspace)?;
        self.on_cpu(n, &mut expected)?;
        let found = device.iter().map(|memory| gpu.download(memory)).collect::<Result<Vec<_>>>()?;
        Self::compare(found.iter().map(|bytes| &bytes[..]), &expected)?;
        Ok(expected.iter().map(|bytes| bytes.len()).sum())
    }

    /// Takes the step in host memory.
    pub fn on_cpu(self, n: usize, state: &mut [Bytes]) -> Result<()> {
        let pointers: Vec<_> = state.iter_mut().map(|bytes| bytes.as_mut_ptr()).collect();
        // SAFETY: the memory outlives the call, which is done when it returns.
        unsafe {
            let mut parameter = [self.parameter(n, &pointers)?];
            Ok(ops::optimizer_step(&Context::cpu(), &adamw(), &mut parameter, None, &mut [][..])?)
        }
    }

    /// Fails if what was found is not what [`Self::on_cpu`] gives.
    pub fn compare<'a>(found: impl Iterator<Item = &'a [u8]>, expected: &[Bytes]) -> Result<()> {
        let names = ["param", "grad", "m", "v", "absmax of m", "absmax of v"];
        for (name, (found, expected)) in names.iter().zip(found.zip(expected)) {
            if let Some(at) = found.iter().zip(expected.iter()).position(|(a, b)| a != b) {
                return Err(format!("{name} differs at byte {at}").into());
            }
        }
        Ok(())
    }

    /// Checks and times it.
    pub fn check_and_time(self, gpu: &Gpu, n: usize, repetitions: usize) -> Result<Figures> {
        self.check(gpu, n)?;
        let state = self.state(n);
        // The parameter and its states are read and written, the gradient is read.
        let bytes = 2 * state.iter().map(|bytes| bytes.len()).sum::<usize>() - state[1].len();
        let upload = |_| state.iter().map(|bytes| gpu.upload(bytes)).collect::<Result<Vec<_>>>();
        let sets: Vec<Vec<Memory>> = (0..timing::sets(gpu, bytes)).map(upload).collect::<Result<_>>()?;
        let workspace = self.workspace(gpu, n, &sets[0])?;
        let enqueue = |set: usize| self.enqueue(gpu, n, &sets[set], &workspace);
        let times = timing::repeat(gpu, sets.len(), repetitions, enqueue)?;
        let bytes_per_second = bytes as f64 / times.median;
        Ok(Figures { name: self.to_string(), bytes, times, bytes_per_second, goal: Some(GOAL) })
    }

    /// Parameters, gradients, first and second moments; of those in 8 bits the codes, then the scales.
    pub fn state(self, n: usize) -> Vec<Bytes> {
        let row = |dtype, row, len| Noise::Weights.rows(dtype, row, 1, len);
        let mut state = vec![row(self.dtype, 0, n), row(self.dtype, 1, n)];
        if self.eight_bits {
            // Any byte is a code.
            state.extend([2, 3].map(|at| Bytes::of(&row(DType::F16, at, n.div_ceil(2))[..n])));
            state.extend([0, 1].map(|_| Noise::Weights.constants(n.div_ceil(BLOCK))));
        } else {
            state.extend([row(DType::F32, 2, n), Noise::Weights.constants(n)]);
        }
        state
    }

    fn workspace(self, gpu: &Gpu, n: usize, state: &[Memory]) -> Result<Memory> {
        // SAFETY: nothing is read or written.
        let parameter = [unsafe { self.parameter(n, &addresses(gpu, state))? }];
        gpu.allocate(ops::optimizer_workspace_size(&gpu.context, &adamw(), &parameter)?)
    }

    fn enqueue(self, gpu: &Gpu, n: usize, state: &[Memory], workspace: &Memory) -> Result<()> {
        // SAFETY: the memory is of these sizes, and the device's only stream orders its uses.
        unsafe {
            let mut parameter = [self.parameter(n, &addresses(gpu, state))?];
            let size = ops::optimizer_workspace_size(&gpu.context, &adamw(), &parameter)?;
            let workspace = BufferMut::from_raw(workspace.address(gpu), size);
            Ok(ops::optimizer_step(&gpu.context, &adamw(), &mut parameter, None, workspace)?)
        }
    }

    /// # Safety
    /// The pointers are to what [`Self::state`] has, in memory of a context's device, which nothing else uses meanwhile.
    pub unsafe fn parameter<'a>(self, n: usize, at: &[*mut u8]) -> Result<Parameter<'a>> {
        // SAFETY: as promised by the caller.
        unsafe {
            let states = [2, 3].map(|i| match self.eight_bits {
                false => State::F32(BufferMut::from_raw(at[i].cast(), n)),
                true => State::Blocks {
                    codes: BufferMut::from_raw(at[i], n),
                    absmax: BufferMut::from_raw(at[i + 2].cast(), n.div_ceil(BLOCK)),
                },
            });
            Ok(Parameter {
                param: TensorMut::from_raw(at[0], self.dtype, 1, n, n)?,
                grad: Tensor::from_raw(at[1], self.dtype, 1, n, n)?,
                states: states.into(),
            })
        }
    }
}

fn addresses(gpu: &Gpu, state: &[Memory]) -> Vec<*mut u8> {
    state.iter().map(|memory| memory.address(gpu)).collect()
}
