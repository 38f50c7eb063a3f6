//! Norms: [`crate::format::optimizer::norms`], the same order of additions.
//!
//! A first kernel sums the squares of each chunk: a warp a run of 256, whose halvings of 128 stay in a lane, those of 64 to 4
//! shuffle, those of 2 and 1 stay in a lane again; the block's eight sums meet in shared memory. A second one sums the chunks,
//! a block for each parameter, or one for all, level after level, and makes of the sum what the step needs.

use super::super::tile::THREADS;
use super::super::{Spec, Written, module};
use super::registers::Registers;
use super::table::{EACH, Group, Table, VECTOR};
use super::{States, scalars, state_values};
use crate::format::optimizer::norms::{CHUNK, clipped_scale};
use crate::format::optimizer::{Arithmetic, Rule};
use crate::format::sum::FAN_IN;
use ptx_asm::{B32, B64, Error, F32, Global, Kernel, Ptr, Reg, Target};

const WARPS: usize = THREADS as usize / 32;

/// The sums of the squares of the chunks of a group's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SquaresSpec {
    /// What the parameters have in common.
    pub group: Group,
    /// Of which terms: the two of a rule with trust ratios, or the scaled gradient.
    pub rule: Option<Rule>,
    /// Whether the gradient's scale is that of [`ReduceSpec::Clip`], in memory.
    pub clipped: bool,
}

impl Spec for SquaresSpec {
    /// Parameters: the [`Table`]; with clipping the scale (f32 in memory); where the sums go (f32 a chunk of the call), and how
    /// far it is from the sums of the first terms to those of the second (elements, u64); the scalars (f32). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "optimizer_squares", THREADS, |k| {
            k.minnctapersm(super::resident(self.group));
            self.body(k)
        })
    }
}

impl SquaresSpec {
    fn body(&self, k: &Kernel) {
        let table = Table::new(k, self.group);
        let scale = self.clipped.then(|| k.param_ptr("scale"));
        let (sums, apart) = (k.param_ptr("sums"), k.param_u64("apart"));
        let mut scalars = scalars(k);
        if let Some(scale) = scale {
            scalars.grad_scale = k.ld_global::<F32>(scale);
        }
        let states = self.rule.map(|rule| (rule, States::new(k, self.group, rule)));
        let terms = if self.rule.is_some() { 2 } else { 1 };
        let slots = k.shared::<F32>("sums_of_runs", terms * WARPS);
        table.for_each_chunk(k, |run| {
            let totals: Vec<Reg<F32>> = (0..terms).map(|_| k.mov(0.0)).collect();
            k.if_then(run.exists, || {
                k.section("squares");
                let grads = run.matrix(k, 1).load(k, run);
                let a = Registers(k);
                let mut squares: Vec<Vec<Reg<F32>>> = vec![Vec::new(); terms];
                match &states {
                    None => squares[0].extend(grads.map(|g| a.mul(g, scalars.grad_scale))),
                    Some((rule, states)) => {
                        let params = run.matrix(k, 0).load(k, run);
                        let before = states.load(k, run, &states.places(k, run));
                        for i in 0..EACH {
                            let old = state_values(k, &before, i);
                            let terms = rule.norm_terms(&a, &scalars, params[i], grads[i], old);
                            squares.iter_mut().zip(terms).for_each(|(squares, term)| squares.push(term));
                        }
                    }
                }
                for (squares, &total) in squares.iter_mut().zip(&totals) {
                    squares.iter_mut().for_each(|x| *x = a.mul(*x, *x));
                    k.to(total).mov(sum_of_vectors(k, squares));
                }
            });
            k.section("the chunk's runs");
            for (t, &total) in totals.iter().enumerate() {
                let slot = k.add_u32(run.warp, (t * WARPS) as u32);
                k.when(k.setp_eq_u32(run.lane, 0)).st_shared::<F32>(slots.element(k, slot), total);
            }
            k.bar_sync(0);
            let first = k.setp_eq_u32(k.tid_x(), 0);
            k.if_then(first, || {
                let to = k.offset(sums, k.shl_b64(run.chunk, 2));
                for t in 0..terms {
                    let mut runs: Vec<_> =
                        (0..WARPS).map(|w| k.ld_shared::<F32>(slots.at(t * WARPS + w))).collect();
                    halve(k, &mut runs);
                    let to = if t == 0 { to } else { k.offset(to, k.shl_b64(apart, 2)) };
                    k.st_global::<F32>(to, runs[0]);
                }
            });
            k.comment("the slots are the next chunk's");
            k.bar_sync(0);
        });
    }
}

/// Adds the upper half to the lower one until one value is left, the first.
fn halve(k: &Kernel, values: &mut [Reg<F32>]) {
    let mut half = values.len() / 2;
    while half > 0 {
        (0..half).for_each(|i| values[i] = k.add_rn_f32(values[i], values[i + half]));
        half /= 2;
    }
}

/// [`crate::format::sum::run_sum`] of a warp's vectors, in lane 0.
fn sum_of_vectors(k: &Kernel, values: &[Reg<F32>]) -> Reg<F32> {
    let (low, high) = values.split_at(VECTOR);
    let mut sums: Vec<_> = low.iter().zip(high).map(|(&a, &b)| k.add_rn_f32(a, b)).collect();
    for apart in [16, 8, 4, 2, 1] {
        sums.iter_mut().for_each(|s| *s = k.add_rn_f32(*s, k.shfl_down_f32(*s, apart, 31, u32::MAX)));
    }
    halve(k, &mut sums);
    sums[0]
}

/// What is made of the sums of the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceSpec {
    /// The gradient's scale, from the sums of all parameters.
    Clip,
    /// The trust ratio of each parameter of a group.
    Trust(Group, Rule),
}

impl Spec for ReduceSpec {
    /// Parameters of [`Self::Clip`]: the sums (f32), how many (u64), scratch for one in 256 of them and one more (f32);
    /// grad_scale, max_norm (f32); the scale (f32 in memory); a u64 to add to if the norm is not finite, or null, and how much
    /// (u64). One block.
    ///
    /// Parameters of [`Self::Trust`]: the [`Table`], of whole parameters; the sums, how far it is to the second ones (u64),
    /// scratch for one in 256 of the chunks of the call and one for each entry (f32); the trust ratios (f32 a parameter); the
    /// scalars (f32). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "optimizer_norms", THREADS, |k| match *self {
            Self::Clip => clip(k),
            Self::Trust(group, rule) => trust(k, group, rule),
        })
    }
}

fn clip(k: &Kernel) {
    let (sums, count, scratch) = (k.param_ptr("sums"), k.param_u64("count"), k.param_ptr("scratch"));
    let [grad_scale, max_norm] = ["grad_scale", "max_norm"].map(|name| k.param_f32(name));
    let (scale_out, kept_at, elements) = (k.param_ptr("scale"), k.param_u64("kept"), k.param_u64("elements"));
    let sum = sum_of_chunks(k, sums, k.cvt_u32_u64(count), scratch);
    let scale = clipped_scale(&Registers(k), grad_scale, max_norm, sum);
    k.if_then(k.setp_eq_u32(k.tid_x(), 0), || {
        k.st_global::<F32>(scale_out, scale);
        let counts = k.and_pred(k.testp_notanumber_f32(scale), k.setp_ne_u64(kept_at, 0));
        k.if_then(counts, || k.red_global_add_u64(Ptr::new(k.cvta_to_global(kept_at)), elements));
    });
}

fn trust(k: &Kernel, group: Group, rule: Rule) {
    let table = Table::new(k, group);
    let (sums, apart, scratch) = (k.param_ptr("sums"), k.param_u64("apart"), k.param_ptr("scratch"));
    let (trusts, scalars) = (k.param_ptr("trusts"), scalars(k));
    let index = k.mov::<B32>(k.ctaid_x());
    k.while_(
        || k.setp_lt_u32(index, table.entries()),
        || {
            k.section("a parameter's chunks");
            let entry = table.entry(k, index);
            let [elements, chunk, number] = [1, 2, 4].map(|word| k.ld_global::<B64>(entry.at(8 * word)));
            let number = k.cvt_u32_u64(number);
            let chunks = k.shr_u64(k.add_u64(elements, CHUNK as u64 - 1), CHUNK.trailing_zeros());
            let place = |from: Ptr<Global>, i: Reg<B64>| k.offset(from, k.shl_b64(i, 2));
            // Parameters before this one have filled no more than one in 256 of their chunks, each rounded up.
            let room = k.add_u64(k.shr_u64(chunk, FAN_IN.trailing_zeros()), k.cvt_u64_u32(index));
            let first = place(sums, chunk);
            let both = [first, place(first, apart)].map(|from| {
                k.section("sum of chunks");
                sum_of_chunks(k, from, k.cvt_u32_u64(chunks), place(scratch, room))
            });
            let ratio = rule.trust_ratio(&Registers(k), &scalars, both);
            k.when(k.setp_eq_u32(k.tid_x(), 0)).st_global::<F32>(k.element(trusts, number, 4), ratio);
            k.to(index).add_u32(index, k.nctaid_x());
        },
    );
}

/// [`crate::format::sum::tree_sum`] by a block, in all its threads: level after level from one place to the other and back.
/// What was there is overwritten.
fn sum_of_chunks(k: &Kernel, values: Ptr<Global>, count: Reg<B32>, scratch: Ptr<Global>) -> Reg<F32> {
    let tid = k.tid_x();
    let (warp, lane) = (k.shr_u32(tid, 5), k.and_b32(tid, 31));
    let [from, to] = [values, scratch].map(|at| k.mov::<B64>(at.reg()));
    let count = k.mov::<B32>(count);
    k.do_while(|| {
        let runs = k.shr_u32(k.add_u32(count, FAN_IN as u32 - 1), FAN_IN.trailing_zeros());
        k.for_range(warp, runs, WARPS as u32, |run| {
            let first = k.add_u32(k.shl_b32(run, FAN_IN.trailing_zeros()), lane);
            let mut addends = k.splat::<F32, EACH>(0.0);
            for (j, &addend) in addends.iter().enumerate() {
                let i = k.add_u32(first, 32 * j as u32);
                let exists = k.setp_lt_u32(i, count);
                k.to(addend).when(exists).ld_global::<F32>(k.element(Ptr::new(from), i, 4));
            }
            halve(k, &mut addends);
            let sum = addends[0];
            for apart in [16, 8, 4, 2, 1] {
                k.to(sum).add_rn_f32(sum, k.shfl_down_f32(sum, apart, 31, u32::MAX));
            }
            let leads = k.setp_eq_u32(lane, 0);
            k.when(leads).st_global::<F32>(k.element(Ptr::<Global>::new(to), run, 4), sum);
        });
        k.bar_sync(0);
        let old = k.mov::<B64>(from);
        k.to(from).mov(to);
        k.to(to).mov(old);
        k.to(count).mov(runs);
        k.setp_gt_u32(count, 1)
    });
    let sum = k.ld_global::<F32>(Ptr::<Global>::new(from));
    k.comment("both places are free again");
    k.bar_sync(0);
    sum
}
