//! Parameters of an optimizer in device memory.

use super::device::{Gpu, Memory};
use super::optimizers::{Owned, Values};
use super::*;
use qlora_kernels::format::optimizer::blocks::Blocks;
use qlora_kernels::{Parameter, State};

/// A parameter in device memory.
pub struct Uploaded {
    param: Memory,
    grad: Memory,
    /// Values, or codes with their absmax.
    states: Vec<(Memory, Option<Memory>)>,
}

impl Uploaded {
    /// `offset` elements away from aligned addresses.
    pub fn new(gpu: &Gpu, owned: &Owned, offset: usize) -> Self {
        let matrix = |m: &Matrix| gpu.matrix(m, offset * m.dtype().size());
        let states = match &owned.states {
            Values::F32(states) => states
                .iter()
                .map(|state| (gpu.upload_at(bytemuck::cast_slice(state), 4 * offset), None))
                .collect(),
            Values::Blocks(states) => states
                .iter()
                .map(|Blocks { codes, absmax }| {
                    (
                        gpu.upload_at(codes, offset),
                        Some(gpu.upload_at(bytemuck::cast_slice(absmax), 4 * offset)),
                    )
                })
                .collect(),
        };
        Self { param: matrix(&owned.param), grad: matrix(&owned.grad), states }
    }

    pub fn view(&self, gpu: &Gpu, like: &Owned) -> Parameter<'_> {
        let states = self.states.iter().map(|(values, absmax)| match absmax {
            None => State::F32(values.buffer_mut(gpu)),
            Some(absmax) => State::Blocks { codes: values.buffer_mut(gpu), absmax: absmax.buffer_mut(gpu) },
        });
        Parameter {
            param: self.param.tensor_mut(gpu, &like.param),
            grad: self.grad.tensor(gpu, &like.grad),
            states: states.collect(),
        }
    }

    pub fn download(&self, gpu: &Gpu, like: &Owned) -> Owned {
        let mut owned = like.clone();
        owned.param.bytes_mut().copy_from_slice(&gpu.download::<u8>(&self.param));
        match &mut owned.states {
            Values::F32(states) => {
                states.iter_mut().zip(&self.states).for_each(|(to, (from, _))| *to = gpu.download(from));
            }
            Values::Blocks(states) => {
                for (to, (codes, absmax)) in states.iter_mut().zip(&self.states) {
                    to.codes = gpu.download(codes);
                    to.absmax = gpu.download(absmax.as_ref().unwrap());
                }
            }
        }
        owned
    }
}
