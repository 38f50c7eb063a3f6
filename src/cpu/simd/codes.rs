//! A dynamic map as the inner loops want it.

#[cfg(target_arch = "x86_64")]
use super::vbmi::LookUps;
use super::{Simd, States, Step};
use crate::format::Map256;
use crate::format::dynamic_rank::Lines;
use crate::format::optimizer::MAX_STATES;
use crate::format::optimizer::blocks::{self, BLOCK};
use std::sync::LazyLock;

/// A dynamic map: values, thresholds, and the lines that estimate codes.
pub struct Coder {
    pub map: Map256,
    pub lines: Lines,
    #[cfg(target_arch = "x86_64")]
    pub look_ups: LookUps,
}

/// Of the unsigned map, and of the signed one.
static CODERS: LazyLock<[Coder; 2]> = LazyLock::new(|| [false, true].map(Coder::new));

impl Coder {
    /// That of states with a sign, or without.
    pub fn of_states(signed: bool) -> &'static Self {
        &CODERS[usize::from(signed)]
    }

    /// That of a map, if it is a dynamic one.
    pub fn of(map: &Map256) -> Option<&'static Self> {
        let bits = |map: &Map256| map.values.map(f32::to_bits);
        CODERS.iter().find(|coder| bits(&coder.map) == bits(map))
    }

    /// The map of states with a sign, or without.
    pub fn new(signed: bool) -> Self {
        let map = blocks::map(signed);
        Self {
            lines: Lines::new(signed),
            #[cfg(target_arch = "x86_64")]
            look_ups: LookUps::new(&map, signed),
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

#[cfg(target_arch = "x86_64")] // others step block by block
impl Blocks<'_> {
    /// What is left behind this many blocks.
    pub fn after(&mut self, block: usize) -> Blocks<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers about all thresholds: midpoints and values, and where the upper half of an f32 changes.
    fn numbers(map: &Map256) -> Vec<f32> {
        let uppers = (0..=0x3f80u32).map(|upper| f32::from_bits(upper << 16));
        let all = map.midpoints[..255].iter().chain(&map.values).copied().chain(uppers);
        all.flat_map(|x| [x.next_down(), x, x.next_up()]).flat_map(|x| [x, -x]).collect()
    }

    #[test]
    fn every_table_has_the_codes_of_the_search() {
        for signed in [true, false] {
            let coder = Coder::new(signed);
            let x = numbers(&coder.map);
            let expected: Vec<u8> = x.iter().map(|&t| coder.map.encode(t)).collect();
            for simd in Simd::available() {
                for first in [0, 1] {
                    let mut codes = vec![99; x.len() - first];
                    simd.encode8(&coder, &x[first..], 1.0, &mut codes);
                    for (i, code) in codes.into_iter().enumerate() {
                        let (t, expected) = (x[first + i], expected[first + i]);
                        assert_eq!(code, expected, "{}: {t:e}, signed: {signed}", simd.name);
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_that_are_not_finite_have_the_codes_of_the_search() {
        for signed in [true, false] {
            let coder = Coder::new(signed);
            let mut x = [1.0f32; 100];
            (x[3], x[70], x[71], x[99]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0);
            for inverse in [0.0, f32::NAN] {
                let expected = x.map(|x| coder.map.encode(x * inverse));
                for simd in Simd::available() {
                    let mut codes = [99; 100];
                    simd.encode8(&coder, &x, inverse, &mut codes);
                    assert_eq!(codes, expected, "{}", simd.name);
                }
            }
        }
    }

    #[test]
    fn every_table_decodes_every_code() {
        let codes: [u8; 256] = std::array::from_fn(|i| i as u8);
        for coder in [true, false].map(Coder::new) {
            for (simd, len) in Simd::available().into_iter().flat_map(|simd| [(simd, 256), (simd, 251)]) {
                let mut values = vec![0.0; len];
                simd.decode8(&coder, &codes[..len], 0.3, &mut values);
                assert!(
                    values.iter().zip(coder.map.values).all(|(&value, of)| value == of * 0.3),
                    "{}",
                    simd.name
                );
            }
        }
    }
}
