//! Optimizer steps: [`crate::format::optimizer`], the same bits, for any number of parameters in one launch.
//!
//! | file | what |
//! |---|---|
//! | [`registers`] | the rules' arithmetic as instructions |
//! | [`table`] | the parameters, and how their chunks are dealt out |
//! | [`stream`] | elements in memory |
//! | [`codes`] | states in 8 bits |
//! | [`norms`] | sums of squares; clipping and trust ratios |
//!
//! A warp does a run of 256 elements, which is a block of 8-bit states and a leaf of the norms' tree: its scale and its sum
//! need shuffles only. Each lane has two vectors of four, so that every access of a warp is consecutive, 512 bytes of f32, 256
//! of 16 bits, 128 of codes; all loads of a run are in flight at once.
//!
//! Planned traffic: each parameter and state read and written once, each gradient read once. AdamW of bf16 takes 22 bytes an
//! element with f32 states, 10 and 16/256 with 8-bit ones; an entry of the table is read once in 2048 elements. A pass for
//! norms reads what it needs once more.

pub mod codes;
pub mod norms;
pub mod registers;
pub mod stream;
pub mod table;

use super::tensor::Layout;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::format::optimizer::{Arithmetic, MAX_STATES, Rule, Scalars};
use codes::Map;
use ptx_asm::{B32, Error, F32, Global, Kernel, Ptr, Reg, Target};
use registers::{Key, Registers, round_at_random};
use stream::Stream;
use table::{EACH, Group, Run, StateStorage, Table};

/// Blocks that an SM should hold: 768 threads, each with its 8 elements of every stream on the way, at 80 registers. Rows and
/// columns of strided matrices take more.
fn resident(group: Group) -> u32 {
    if group.layout == Layout::Strided { 2 } else { 3 }
}

/// The step of the parameters of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepSpec {
    /// What they have in common.
    pub group: Group,
    /// The rule.
    pub rule: Rule,
    /// Whether the gradient's scale is that of [`norms::ReduceSpec::Clip`], in memory.
    pub clipped: bool,
    /// Whether bf16 parameters are rounded at random.
    pub stochastic: bool,
}

impl Spec for StepSpec {
    /// Parameters: the [`Table`]; a u64 to add the number of kept elements to, or null; with clipping the scale (f32 in memory);
    /// for rules with norms the parameters' trust ratios (f32); for random rounding seed and step (u64); the scalars, in the order
    /// of [`Scalars::NAMES`] (f32). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "optimizer_step", THREADS, |k| {
            k.minnctapersm(resident(self.group));
            self.body(k)
        })
    }
}

impl StepSpec {
    fn body(&self, k: &Kernel) {
        let table = Table::new(k, self.group);
        let kept_at = k.param_u64("kept");
        let scale = self.clipped.then(|| k.param_ptr("scale"));
        let trusts = self.rule.uses_norms().then(|| k.param_ptr("trusts"));
        let key = self.stochastic.then(|| Key::new(k));
        let mut scalars = scalars(k);
        if let Some(scale) = scale {
            k.section("a norm that is not finite keeps everything");
            scalars.grad_scale = k.ld_global::<F32>(scale);
            k.when(k.testp_notanumber_f32(scalars.grad_scale)).exit();
        }
        let states = States::new(k, self.group, self.rule);
        let kept = k.mov::<B32>(0);
        table.for_each_chunk(k, |run| {
            k.if_then(run.exists, || {
                let (param, grad) = (run.matrix(k, 0), run.matrix(k, 1));
                k.section("load");
                let mut values = param.load(k, run);
                let grads = grad.load(k, run);
                let places = states.places(k, run);
                let mut before = states.load(k, run, &places);
                let trust = match trusts {
                    Some(trusts) => k.ld_global::<F32>(k.element(trusts, run.number(k), 4)),
                    None => k.mov(1.0),
                };
                k.section("step");
                for i in 0..EACH {
                    let old = state_values(k, &before, i);
                    let (p, after, taken) =
                        self.rule.step(&Registers(k), &scalars, trust, values[i], grads[i], old);
                    values[i] = p;
                    before.iter_mut().zip(after).for_each(|(state, after)| state[i] = after);
                    let keeps = k.and_pred(k.not_pred(taken), run.has(k, i));
                    k.to(kept).when(keeps).add_u32(kept, 1);
                }
                if let Some(key) = &key {
                    k.section("round at random");
                    let number = run.number(k);
                    for (u, values) in values.chunks_mut(table::VECTOR).enumerate() {
                        let element = k.add_u64(run.first, u64::from(Run::apart(u * table::VECTOR)));
                        let words = key.words(k, number, k.shr_u64(element, table::VECTOR.trailing_zeros()));
                        for (value, word) in values.iter_mut().zip(words) {
                            *value = round_at_random(k, *value, word);
                        }
                    }
                }
                k.section("store");
                param.store(k, run, &values);
                states.store(k, run, &places, &before);
            });
        });
        k.section("count");
        let counts = k.and_pred(k.setp_ne_u32(kept, 0), k.setp_ne_u64(kept_at, 0));
        let to = Ptr::new(k.cvta_to_global(kept_at));
        k.if_then(counts, || k.red_global_add_u64(to, k.cvt_u64_u32(kept)));
    }
}

/// Declares the scalars.
pub fn scalars(k: &Kernel) -> Scalars<Reg<F32>> {
    Scalars::from_names(|name| k.param_f32(name))
}

/// Element `i` of each state; states that the rule has not are 0.
pub fn state_values(k: &Kernel, states: &[[Reg<F32>; EACH]], i: usize) -> [Reg<F32>; MAX_STATES] {
    let zero = Registers(k).number(0.0);
    std::array::from_fn(|s| states.get(s).map_or(zero, |state| state[i]))
}

/// The states of a rule: where those of a run are, and their values.
pub struct States {
    storage: StateStorage,
    signs: &'static [bool],
    /// By sign, with 8 bits.
    maps: [Option<Map>; 2],
}

/// Where a state of a run is.
pub enum Place {
    /// In f32.
    F32(Stream),
    /// Codes and absmax.
    Block([Ptr<Global>; 2]),
}

impl States {
    /// Brings the tables of 8-bit states to shared memory, and waits for them.
    pub fn new(k: &Kernel, group: Group, rule: Rule) -> Self {
        let (signs, blocks) = (rule.states(), group.storage == StateStorage::Blocks);
        if blocks {
            k.section("tables");
        }
        let map = |signed| (blocks && signs.contains(&signed)).then(|| Map::new(k, signed));
        let maps = [map(false), map(true)];
        if blocks {
            k.bar_sync(0);
        }
        Self { storage: group.storage, signs, maps }
    }

    fn map(&self, state: usize) -> &Map {
        self.maps[usize::from(self.signs[state])].as_ref().expect("made for each sign")
    }

    /// Where each state is.
    pub fn places(&self, k: &Kernel, run: &Run) -> Vec<Place> {
        let place = |state| match self.storage {
            StateStorage::F32 => Place::F32(run.state(k, state)),
            StateStorage::Blocks => Place::Block(run.block(k, state)),
        };
        (0..self.signs.len()).map(place).collect()
    }

    /// The lane's elements of each state.
    pub fn load(&self, k: &Kernel, run: &Run, places: &[Place]) -> Vec<[Reg<F32>; EACH]> {
        let load = |(state, place): (usize, &Place)| match place {
            Place::F32(stream) => stream.load(k, run),
            Place::Block(at) => self.map(state).load(k, run, *at),
        };
        places.iter().enumerate().map(load).collect()
    }

    fn store(&self, k: &Kernel, run: &Run, places: &[Place], values: &[[Reg<F32>; EACH]]) {
        for (state, (place, values)) in places.iter().zip(values).enumerate() {
            match place {
                Place::F32(stream) => stream.store(k, run, values),
                Place::Block(at) => self.map(state).store(k, run, *at, values),
            }
        }
    }
}
