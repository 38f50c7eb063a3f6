//! Parameters that have their states in a pager's memory.

use super::optimizers::*;
use qlora_kernels::format::optimizer::blocks::BLOCK;
use qlora_kernels::ops::PagedBuffer;
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Optimizer, Pager, Parameter, State};

/// The states of some parameters, one after another in one allocation, `gap` floats between them. With a gap of one, codes are at
/// odd addresses.
pub struct PagedStates {
    pool: PagedBuffer<u32>,
    /// Of each parameter, of each state: where its values or codes are, and its absmax.
    places: Vec<Vec<[usize; 2]>>,
}

impl PagedStates {
    /// With the values that the parameters have.
    pub fn new(pager: &Pager, parameters: &[Owned], gap: usize) -> Self {
        let (mut places, mut end) = (Vec::new(), 0);
        let mut take = |bytes: usize| {
            let start = end;
            end = (start + bytes).next_multiple_of(4) + 4 * gap;
            start
        };
        let odd = if gap == 1 { 3 } else { 0 };
        for owned in parameters {
            let len = owned.len();
            places.push(match &owned.states {
                Values::F32(states) => states.iter().map(|_| [take(4 * len), 0]).collect::<Vec<_>>(),
                Values::Blocks(states) => {
                    states.iter().map(|_| [odd + take(len + odd), take(4 * len.div_ceil(BLOCK))]).collect()
                }
            });
        }
        let mut paged = Self { pool: pager.buffer(end / 4).unwrap(), places };
        for (i, owned) in parameters.iter().enumerate() {
            paged.write(i, owned);
        }
        paged
    }

    pub fn address(&self) -> usize {
        self.pool.address()
    }

    pub fn bytes(&self) -> u64 {
        4 * self.pool.len() as u64
    }

    /// Memory of the host's.
    fn slice<T>(&self, at: usize, len: usize) -> &[T] {
        let start = std::ptr::with_exposed_provenance::<T>(self.pool.address() + at);
        // SAFETY: inside the pool, which no operation uses meanwhile.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    fn slice_mut<T>(&mut self, at: usize, len: usize) -> &mut [T] {
        let start = std::ptr::with_exposed_provenance_mut::<T>(self.pool.address() + at);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Writes the states of a parameter, as others than the pager's steps do.
    pub fn write(&mut self, i: usize, owned: &Owned) {
        let len = owned.len();
        for (s, [values, absmax]) in self.places[i].clone().into_iter().enumerate() {
            match &owned.states {
                Values::F32(states) => self.slice_mut(values, len).copy_from_slice(&states[s]),
                Values::Blocks(states) => {
                    self.slice_mut(values, len).copy_from_slice(&states[s].codes);
                    self.slice_mut(absmax, len.div_ceil(BLOCK)).copy_from_slice(&states[s].absmax);
                }
            }
        }
    }

    /// Reads the states of a parameter.
    pub fn read(&self, i: usize, owned: &mut Owned) {
        let len = owned.len();
        for (s, &[values, absmax]) in self.places[i].iter().enumerate() {
            match &mut owned.states {
                Values::F32(states) => states[s].copy_from_slice(self.slice(values, len)),
                Values::Blocks(states) => {
                    states[s].codes.copy_from_slice(self.slice(values, len));
                    states[s].absmax.copy_from_slice(self.slice(absmax, len.div_ceil(BLOCK)));
                }
            }
        }
    }

    /// The states of a parameter that looks like `owned`.
    pub fn states(&self, i: usize, owned: &Owned) -> Vec<State<'_>> {
        let len = owned.len();
        let buffer = |at: usize| std::ptr::with_exposed_provenance_mut::<u8>(self.pool.address() + at);
        // SAFETY: inside the pool, in parts of their own; tests use one view at a time.
        unsafe {
            let state = |&[values, absmax]: &[usize; 2]| match &owned.states {
                Values::F32(_) => State::F32(BufferMut::from_raw(buffer(values).cast(), len)),
                Values::Blocks(_) => State::Blocks {
                    codes: BufferMut::from_raw(buffer(values), len),
                    absmax: BufferMut::from_raw(buffer(absmax).cast(), len.div_ceil(BLOCK)),
                },
            };
            self.places[i].iter().map(state).collect()
        }
    }

    /// Views of parameters in host memory with paged states; those whose number `unpaged` divides keep their own.
    pub fn views<'a>(&'a self, parameters: &'a mut [Owned], unpaged: usize) -> Vec<Parameter<'a>> {
        let own = |i: usize| unpaged > 0 && i.is_multiple_of(unpaged);
        let states: Vec<_> = parameters.iter().enumerate().map(|(i, owned)| self.states(i, owned)).collect();
        let with = |(i, (owned, states)): (usize, (&'a mut Owned, Vec<State<'a>>))| {
            if own(i) {
                return owned.view();
            }
            Parameter { param: owned.param.view_mut(), grad: owned.grad.view(), states }
        };
        parameters.iter_mut().zip(states).enumerate().map(with).collect()
    }
}

/// Parameters in the middle of their training.
pub fn training(optimizer: &Optimizer, shapes: &[Shape], seed: u64, special: &[f32]) -> Vec<Owned> {
    let owned = |(i, shape): (u64, &Shape)| Owned::new(optimizer.rule, shape, seed ^ (i << 32), special);
    (0..).zip(shapes).map(owned).collect()
}
