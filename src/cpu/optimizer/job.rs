//! A parameter as the threads see it: where its elements and states lie, and steps of some of them.

use super::super::access::{self, Output, for_each_row_piece};
use super::super::simd::codes::{Blocks, Coder};
use super::super::simd::{self, Simd, Step};
use super::super::threads::Shared;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::norms::CHUNK;
use crate::format::optimizer::{MAX_STATES, Rule};
use crate::view::window::Area;
use crate::view::{DType, Parameter, State, Tensor};
use std::ops::Range;

/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Elements that a thread widens at a time; whole blocks.
pub const TILE: usize = 1024;
const _: () = assert!(CHUNK.is_multiple_of(TILE) && TILE.is_multiple_of(BLOCK));

/// A parameter.
pub struct Job<'a> {
    param: Output<'a>,
    grad: Tensor<'a>,
    cols: usize,
    pub len: usize,
    /// The number of its first chunk among those of all parameters.
    pub first_chunk: usize,
    states: Vec<Stored>,
    /// Where the states lie.
    pub areas: Vec<Area>,
}

/// A state where it lies.
enum Stored {
    F32(Shared<f32>),
    Blocks { codes: Shared<u8>, absmax: Shared<f32>, coder: &'static Coder },
}

/// What a thread widens into; states for norms alone.
pub struct Tile {
    param: [f32; TILE],
    pub grad: [f32; TILE],
    states: [[f32; TILE]; MAX_STATES],
}

impl Tile {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { param: [0.0; TILE], grad: [0.0; TILE], states: [[0.0; TILE]; MAX_STATES] }
    }
}

impl Stored {
    fn of(state: &mut State<'_>, signed: bool) -> Self {
        // SAFETY: a CPU context's memory is host memory.
        unsafe {
            match state {
                State::F32(values) => Self::F32(Shared::new(values.reborrow().into_slice())),
                State::Blocks { codes, absmax } => Self::Blocks {
                    codes: Shared::new(codes.reborrow().into_slice()),
                    absmax: Shared::new(absmax.reborrow().into_slice()),
                    coder: Coder::of_states(signed),
                },
            }
        }
    }
}

impl<'a> Job<'a> {
    /// A parameter that as many chunks come before.
    pub fn new(parameter: &'a mut Parameter<'_>, rule: Rule, first_chunk: usize) -> Self {
        let (len, cols, areas) = (parameter.elements(), parameter.param.cols(), parameter.areas().collect());
        let states = parameter.states.iter_mut().zip(rule.states());
        Self {
            states: states.map(|(state, &signed)| Stored::of(state, signed)).collect(),
            param: Output::new(parameter.param.reborrow()),
            grad: parameter.grad,
            cols,
            len,
            first_chunk,
            areas,
        }
    }
}

impl Job<'_> {
    /// Elements from the start of a chunk to where f32 states begin a line of the cache; large allocations are often 16 bytes off
    /// one, all alike, and vectors that straddle lines cost about a tenth of the step.
    pub fn to_alignment(&self) -> usize {
        match self.states.first() {
            Some(Stored::F32(_)) => {
                let off = self.areas[0].address % LINE;
                if off.is_multiple_of(size_of::<[f32; 4]>()) {
                    (LINE - off) % LINE / size_of::<f32>()
                } else {
                    0
                }
            }
            _ => 0, // blocks stay whole
        }
    }

    /// Whether a step needs no [`Tile`], so that it may be of any number of elements.
    pub fn is_in_place(&self) -> bool {
        access::are_consecutive::<f32>(&self.grad) && self.param.are_consecutive::<f32>()
    }

    /// The gradient of some elements, in memory or widened into `buffer`.
    pub fn grad<'t>(&'t self, simd: &Simd, buffer: &'t mut [f32; TILE], range: Range<usize>) -> &'t [f32] {
        access::read(simd, &self.grad, range.start, range.end, buffer)
    }

    /// The parameter's elements, in memory or widened into `buffer`.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    unsafe fn param<'t>(
        &'t self,
        simd: &Simd,
        buffer: &'t mut [f32; TILE],
        Range { start, end }: Range<usize>,
    ) -> &'t mut [f32] {
        // SAFETY: as promised by the caller.
        if let Some(param) = unsafe { self.param.slice::<f32>(start, end) } {
            return param;
        }
        for_each_row_piece(self.cols, start, end, |row, col, at, len| unsafe {
            self.param.read_row(simd, row, col, &mut buffer[at..at + len]);
        });
        &mut buffer[..end - start]
    }

    /// The states of some elements in 8 bits, if they are; whole blocks but for the parameter's last.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    unsafe fn blocks(&self, Range { start, end }: Range<usize>) -> Option<[Blocks<'_>; MAX_STATES]> {
        let blocks = |stored: Option<&Stored>| match stored {
            // SAFETY: as promised by the caller.
            Some(Stored::Blocks { codes, absmax, coder }) => unsafe {
                let absmax = absmax.slice(start / BLOCK, end.div_ceil(BLOCK));
                Blocks { codes: codes.slice(start, end), absmax, coder }
            },
            _ => Blocks { codes: &mut [], absmax: &mut [], coder: Coder::of_states(false) },
        };
        let in_blocks = matches!(self.states[0], Stored::Blocks { .. });
        in_blocks.then(|| std::array::from_fn(|s| blocks(self.states.get(s))))
    }

    /// Parameter, gradient and states of some elements, in memory where they are f32, else widened into the tile.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    pub unsafe fn load<'t>(
        &'t self,
        simd: &Simd,
        tile: &'t mut Tile,
        range: Range<usize>,
    ) -> (&'t mut [f32], &'t [f32], simd::States<'t>) {
        let Range { start, end } = range;
        let Tile { param, grad, states } = tile;
        let grad = self.grad(simd, grad, start..end);
        // SAFETY: as promised by the caller.
        let param = unsafe { self.param(simd, param, start..end) };
        let mut loaded = simd::States::default();
        for ((loaded, stored), buffer) in loaded.iter_mut().zip(&self.states).zip(states) {
            *loaded = match stored {
                // SAFETY: as promised by the caller.
                Stored::F32(values) => unsafe { values.slice(start, end) },
                Stored::Blocks { codes, absmax, coder } => {
                    let values = &mut buffer[..end - start];
                    // SAFETY: as promised by the caller.
                    let (codes, absmax) = unsafe {
                        (codes.slice(start, end), absmax.slice(start / BLOCK, end.div_ceil(BLOCK)))
                    };
                    for ((values, codes), absmax) in
                        values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(absmax)
                    {
                        simd.decode8(coder, codes, *absmax, values);
                    }
                    values
                }
            };
        }
        (param, grad, loaded)
    }

    /// Steps some elements; how many were kept.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    pub unsafe fn step(
        &self,
        simd: &Simd,
        step: &Step,
        key: Option<crate::format::optimizer::stochastic::Key>,
        tile: &mut Tile,
        range: Range<usize>,
    ) -> usize {
        let Range { start, end } = range;
        // SAFETY: as promised by the caller.
        let (param, kept) = unsafe {
            if let Some(mut blocks) = self.blocks(start..end) {
                let param = self.param(simd, &mut tile.param, start..end);
                let grad = self.grad(simd, &mut tile.grad, start..end);
                let kept = simd.optimizer8(step, param, grad, &mut blocks[..self.states.len()]);
                (param, kept)
            } else {
                let (param, grad, states) = self.load(simd, tile, start..end);
                let kept = simd.optimizer(step, param, grad, states);
                (param, kept)
            }
        };
        if let (Some(key), DType::Bf16) = (key, self.param.dtype()) {
            simd.round_at_random(&key, start, param);
        }
        // SAFETY: as promised by the caller.
        unsafe {
            if self.param.slice::<f32>(start, end).is_none() {
                for_each_row_piece(self.cols, start, end, |row, col, at, len| {
                    self.param.write_row(simd, row, col, &tile.param[at..at + len]);
                });
            }
        }
        kept
    }
}
