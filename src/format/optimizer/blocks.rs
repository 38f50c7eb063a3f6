//! States in 8 bits: blocks of 256 elements of a parameter, flattened, the last of which may be short; a code an element and
//! an f32 absmax a block ([`crate::format::blockwise8`]). First moments take the signed dynamic map, second moments the
//! unsigned one (8-bit optimizers, arXiv 2110.02861).
//!
//! A step reads a block's states, steps, and quantizes the new states of the block. Before the first step every absmax is 0,
//! whatever the codes; a block whose states are all zero has absmax 0 and the code of zero.

use super::{MAX_STATES, Numbers, Rule, Scalars};
use crate::format::blockwise8;
use crate::format::dynamic::Map256;

/// Elements of a block.
pub const BLOCK: usize = 256;

/// The map of a state, by whether it has a sign.
pub fn map(signed: bool) -> Map256 {
    if signed { Map256::dynamic_signed() } else { Map256::dynamic_unsigned() }
}

/// A state of a parameter in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// A code an element.
    pub codes: Vec<u8>,
    /// The scale of each block.
    pub absmax: Vec<f32>,
}

impl Blocks {
    /// Zeros.
    pub fn zeros(len: usize, signed: bool) -> Self {
        Self { codes: vec![map(signed).encode(0.0); len], absmax: vec![0.0; len.div_ceil(BLOCK)] }
    }

    /// The values.
    pub fn values(&self, signed: bool) -> Vec<f32> {
        blockwise8::dequantize(&self.codes, &self.absmax, &map(signed), BLOCK)
    }
}

/// The step of a parameter in f32 with states in f32; how many elements were kept.
pub fn step_f32(
    rule: Rule,
    scalars: &Scalars<f32>,
    trust: f32,
    param: &mut [f32],
    grad: &[f32],
    states: &mut [Vec<f32>],
) -> usize {
    let mut kept = 0;
    for (i, (p, &g)) in param.iter_mut().zip(grad).enumerate() {
        let before = std::array::from_fn(|s| states.get(s).map_or(0.0, |state| state[i]));
        let (next, after, taken): (f32, [f32; MAX_STATES], bool) =
            rule.step(&Numbers, scalars, trust, *p, g, before);
        *p = next;
        states.iter_mut().zip(after).for_each(|(state, after)| state[i] = after);
        kept += usize::from(!taken);
    }
    kept
}

/// The same with states in 8 bits.
pub fn step_blocks(
    rule: Rule,
    scalars: &Scalars<f32>,
    trust: f32,
    param: &mut [f32],
    grad: &[f32],
    states: &mut [Blocks],
) -> usize {
    let signs = rule.states();
    let mut values: Vec<Vec<f32>> = states.iter().zip(signs).map(|(s, &signed)| s.values(signed)).collect();
    let kept = step_f32(rule, scalars, trust, param, grad, &mut values);
    for ((state, values), &signed) in states.iter_mut().zip(values).zip(signs) {
        (state.codes, state.absmax) = blockwise8::quantize(&values, &map(signed), BLOCK);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::Hyper;
    use super::*;

    /// bitsandbytes' kernels store a code of the largest magnitude for a block of zeros (the code of zero is 127, theirs 255).
    #[test]
    fn a_block_of_zeros_stays_one() {
        for rule in Rule::ALL {
            let scalars = Hyper { weight_decay: 0.0, ..Hyper::of(rule) }.scalars(rule);
            let mut param = vec![1f32; 600];
            let zeros: Vec<Blocks> =
                rule.states().iter().map(|&signed| Blocks::zeros(param.len(), signed)).collect();
            let mut states = zeros.clone();
            let kept = step_blocks(rule, &scalars, 1.0, &mut param, &[0.0; 600], &mut states);
            assert_eq!((kept, &states), (0, &zeros), "{rule:?}");
            assert!(param.iter().all(|&p| p == 1.0), "{rule:?}");
        }
    }

    #[test]
    fn what_is_not_finite_is_kept() {
        for rule in Rule::ALL {
            let scalars = Hyper::of(rule).scalars(rule);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut param, grad) = (vec![0.5f32; 3], [0.25, bad, 0.25]);
                let mut states: Vec<Vec<f32>> = rule.states().iter().map(|_| vec![0.125; 3]).collect();
                assert_eq!(step_f32(rule, &scalars, 1.0, &mut param, &grad, &mut states), 1);
                assert_eq!(param[1], 0.5, "{rule:?}");
                assert_ne!(param[0], 0.5, "{rule:?}");
                assert!(states.iter().all(|state| state[1] == 0.125 && state[0] != 0.125), "{rule:?}");
            }
        }
    }
}
