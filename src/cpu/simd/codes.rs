//! A dynamic map as the inner loops want it.

use super::octaves::Octaves;
use super::{Simd, States, Step};
use crate::format::Map256;
use crate::format::dynamic_rank::Lines;
use crate::format::optimizer::MAX_STATES;
use crate::format::optimizer::blocks::{self, BLOCK};

/// A dynamic map: values, thresholds, and the lines that estimate codes.
#[repr(align(64))]
pub struct Coder {
    /// Byte `b` of each value: what instructions that look up bytes take.
    pub value_planes: [[u8; 256]; 4],
    /// Byte `b` of each midpoint, from the first one above zero on. Those of negative numbers are these negated.
    pub midpoint_planes: [[u8; 256]; 4],
    pub octaves: Octaves,
    pub map: Map256,
    pub lines: Lines,
}

impl Coder {
    /// The map of states with a sign, or without.
    pub fn new(signed: bool) -> Self {
        let map = blocks::map(signed);
        let zero = usize::from(map.encode(0.0));
        let planes = |of: &dyn Fn(usize) -> f32| {
            std::array::from_fn(|byte| std::array::from_fn(|i| of(i).to_le_bytes()[byte]))
        };
        Self {
            value_planes: planes(&|i| map.values[i]),
            midpoint_planes: planes(&|i| map.midpoints[(zero + i).min(255)]),
            octaves: Octaves::new(signed),
            lines: Lines::new(signed),
            map,
        }
    }
}

/// A state in 8 bits of some elements, from the start of a block on.
pub struct Blocks<'a> {
    /// A code an element.
    pub codes: &'a mut [u8],
    /// The scale of each block.
    pub absmax: &'a mut [f32],
    pub coder: &'a Coder,
}

impl Blocks<'_> {
    /// From this block on.
    pub fn from_block(&mut self, block: usize) -> Blocks<'_> {
        let Self { codes, absmax, coder } = self;
        Blocks { codes: &mut codes[block * BLOCK..], absmax: &mut absmax[block..], coder }
    }
}

/// [`Simd::optimizer8`], a block after the other: decoded into a buffer, stepped, encoded.
pub fn step_by_block(
    simd: &Simd,
    step: &Step,
    param: &mut [f32],
    grad: &[f32],
    states: &mut [Blocks<'_>],
) -> usize {
    let mut buffers = [[0f32; BLOCK]; MAX_STATES];
    let mut kept = 0;
    for (block, (param, grad)) in param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK)).enumerate() {
        let codes = block * BLOCK..block * BLOCK + param.len();
        let mut values = States::default();
        for ((values, buffer), state) in values.iter_mut().zip(&mut buffers).zip(&*states) {
            *values = &mut buffer[..param.len()];
            simd.decode8(state.coder, &state.codes[codes.clone()], state.absmax[block], values);
        }
        kept += simd.optimizer(step, param, grad, values);
        for (values, state) in buffers.iter().zip(&mut *states) {
            let (values, inverse) = (&values[..param.len()], &mut 0.0);
            (state.absmax[block], *inverse) = simd.block_scale(values);
            // An inverse of 0 makes zeros of a block that vanishes.
            simd.encode8(state.coder, values, *inverse, &mut state.codes[codes.clone()]);
        }
    }
    kept
}
