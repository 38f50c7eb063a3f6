//! Optimizer steps: one set of tasks over all parameters, cut at whole chunks, so that neither a large parameter nor many
//! small ones leave a thread idle.
//!
//! A thread takes [`TILE`] elements at a time: what is not f32 in memory is widened into a buffer in the first-level cache,
//! stepped there and written back; states in 8 bits a block at a time ([`Simd::optimizer8`]). Norms are a pass of their own,
//! which only reads.

use super::Cpu;
use super::access::{self, Output, for_each_row_piece, read_row};
use super::float_environment::StandardModes;
use super::simd::codes::{Blocks, Coder};
use super::simd::{self, Simd, Step};
use super::threads::Shared;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::norms::{CHUNK, chunk_sum, clipped_scale};
use crate::format::optimizer::{MAX_STATES, Numbers, Optimizer};
use crate::format::sum;
use crate::view::window::{Piece, Plan};
use crate::view::{DType, Parameter, State, Tensor};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements that a thread works on at a time; whole blocks.
const TILE: usize = 1024;
const _: () = assert!(CHUNK.is_multiple_of(TILE) && TILE.is_multiple_of(BLOCK));
/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 14;

static CODERS: LazyLock<[Coder; 2]> = LazyLock::new(|| [false, true].map(Coder::new));

/// Who moves the states of a step that is taken part by part.
pub trait Pages: Sync {
    /// The states of this window of the plan are about to be used.
    fn enter(&self, _window: usize) {}
    /// They are not, for now.
    fn leave(&self, _window: usize) {}
}

/// States that are in memory.
impl Pages for () {}

/// Steps all parameters, window by window; how many elements were kept.
pub fn step(
    cpu: &Cpu,
    optimizer: &Optimizer,
    parameters: &mut [Parameter<'_>],
    plan: &Plan,
    pages: &impl Pages,
) -> u64 {
    let _modes = StandardModes::set();
    let work = Work::new(cpu, optimizer, parameters, plan);
    let mut step = Step { rule: optimizer.rule, scalars: optimizer.scalars(), trust: 1.0 };
    if let Some(max_norm) = optimizer.max_norm {
        let sum = sum::tree_sum(&work.gradient_sums(step.scalars.grad_scale));
        step.scalars.grad_scale = clipped_scale(&Numbers, step.scalars.grad_scale, max_norm, sum);
        if step.scalars.grad_scale.is_nan() {
            return work.jobs.iter().map(|job| job.len as u64).sum();
        }
    }
    let trusts =
        if optimizer.rule.uses_norms() { work.trusts(&step, pages) } else { vec![1.0; work.jobs.len()] };
    let kept = AtomicU64::new(0);
    work.for_each_tile(pages, |tile, number, job, range| {
        let step = Step { trust: trusts[number], ..step };
        // SAFETY: tiles are disjoint.
        let count = unsafe { job.step(work.simd, &step, optimizer.key(number), tile, range) };
        if count != 0 {
            kept.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
    kept.into_inner()
}

/// All parameters, and the tasks that they are cut into.
struct Work<'a> {
    cpu: &'a Cpu,
    simd: &'static Simd,
    jobs: Vec<Job<'a>>,
    /// For each window its tasks, for each task its pieces.
    windows: Vec<Vec<Vec<Piece>>>,
}

/// A parameter.
struct Job<'a> {
    param: Output<'a>,
    grad: Tensor<'a>,
    cols: usize,
    len: usize,
    /// The number of its first chunk among those of all parameters.
    first_chunk: usize,
    states: Vec<Stored>,
}

/// A state where it lies.
enum Stored {
    F32(Shared<f32>),
    Blocks { codes: Shared<u8>, absmax: Shared<f32>, coder: &'static Coder },
}

/// What a thread widens into; states for norms alone.
struct Tile {
    param: [f32; TILE],
    grad: [f32; TILE],
    states: [[f32; TILE]; MAX_STATES],
}

impl<'a> Work<'a> {
    fn new(cpu: &'a Cpu, optimizer: &Optimizer, parameters: &'a mut [Parameter<'_>], plan: &Plan) -> Self {
        let mut first_chunk = 0;
        let mut jobs = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let (len, cols) = (parameter.param.rows() * parameter.param.cols(), parameter.param.cols());
            let signs = optimizer.rule.states();
            let states =
                parameter.states.iter_mut().zip(signs).map(|(state, &signed)| Stored::of(state, signed));
            jobs.push(Job {
                param: Output::new(parameter.param.reborrow()),
                grad: parameter.grad,
                cols,
                len,
                first_chunk,
                states: states.collect(),
            });
            first_chunk += len.div_ceil(CHUNK);
        }
        // Four tasks a thread even out threads of unequal speed.
        let tasks = |window: &[Piece]| {
            let total: usize = window.iter().map(|piece| piece.elements.len()).sum();
            cut(window, (total / (4 * cpu.threads().count())).max(LEAST))
        };
        Self { cpu, simd: cpu.simd(), jobs, windows: plan.windows().map(tasks).collect() }
    }

    fn for_each_task(
        &self,
        pages: &impl Pages,
        work: impl Fn(&mut Tile, usize, &Job<'a>, Range<usize>) + Sync,
    ) {
        for (window, tasks) in self.windows.iter().enumerate() {
            pages.enter(window);
            self.cpu.threads().for_each(tasks.len(), |_, task| {
                let mut tile =
                    Tile { param: [0.0; TILE], grad: [0.0; TILE], states: [[0.0; TILE]; MAX_STATES] };
                for Piece { parameter, elements } in &tasks[task] {
                    work(&mut tile, *parameter, &self.jobs[*parameter], elements.clone());
                }
            });
            pages.leave(window);
        }
    }

    fn for_each_tile(
        &self,
        pages: &impl Pages,
        work: impl Fn(&mut Tile, usize, &Job<'a>, Range<usize>) + Sync,
    ) {
        self.for_each_task(pages, |tile, number, job, range| {
            for start in range.clone().step_by(TILE) {
                work(tile, number, job, start..range.end.min(start + TILE));
            }
        });
    }

    /// The sums of squares of the chunks of all parameters, `N` at once. `terms` writes the terms of a tile's elements.
    fn chunk_sums<const N: usize>(
        &self,
        pages: &impl Pages,
        terms: impl Fn(&mut Tile, &Job<'a>, Range<usize>, [&mut [f32]; N]) + Sync,
    ) -> [Vec<f32>; N] {
        let chunks = self.jobs.iter().map(|job| job.len.div_ceil(CHUNK)).sum();
        let mut sums: [Vec<f32>; N] = std::array::from_fn(|_| vec![0.0; chunks]);
        let shared = sums.each_mut().map(|sums| Shared::new(sums));
        self.for_each_task(pages, |tile, _, job, range| {
            let mut buffers = [[0f32; CHUNK]; N];
            for start in range.clone().step_by(CHUNK) {
                let end = range.end.min(start + CHUNK);
                for at in (start..end).step_by(TILE) {
                    let within = at - start..end.min(at + TILE) - start;
                    let out = buffers.each_mut().map(|buffer| &mut buffer[within.clone()]);
                    terms(tile, job, at..end.min(at + TILE), out);
                }
                let chunk = job.first_chunk + start / CHUNK;
                for (buffer, sums) in buffers.iter_mut().zip(shared) {
                    let squares = &mut buffer[..end - start];
                    squares.iter_mut().for_each(|x| *x *= *x);
                    // SAFETY: chunks are disjoint.
                    unsafe { sums.slice(chunk, chunk + 1)[0] = chunk_sum(squares) };
                }
            }
        });
        sums
    }

    /// The sums of squares of the scaled gradients.
    fn gradient_sums(&self, grad_scale: f32) -> Vec<f32> {
        let [sums] = self.chunk_sums(&(), |tile, job, range, [terms]| {
            let grad = job.grad(self.simd, &mut tile.grad, range);
            terms.iter_mut().zip(grad).for_each(|(term, g)| *term = g * grad_scale);
        });
        sums
    }

    /// The trust ratio of each parameter.
    fn trusts(&self, step: &Step, pages: &impl Pages) -> Vec<f32> {
        let sums = self.chunk_sums(pages, |tile, job, range, terms| {
            // SAFETY: tiles are disjoint, and nothing is written to them.
            let (param, grad, states) = unsafe { job.load(self.simd, tile, range) };
            self.simd.norm_terms(step, param, grad, states, terms);
        });
        let of = |job: &Job<'_>| {
            let chunks = job.first_chunk..job.first_chunk + job.len.div_ceil(CHUNK);
            let [p, other] = [0, 1].map(|i| sum::tree_sum(&sums[i][chunks.clone()]));
            step.rule.trust_ratio(&Numbers, &step.scalars, [p, other])
        };
        self.jobs.iter().map(of).collect()
    }
}

/// Cuts the pieces of a window into tasks of `target` elements and a little more, at whole chunks.
fn cut(window: &[Piece], target: usize) -> Vec<Vec<Piece>> {
    let mut tasks = Vec::new();
    let (mut task, mut room) = (Vec::new(), target);
    for &Piece { parameter, elements: Range { mut start, end: last } } in window {
        while start < last {
            let end = last.min(start + room.next_multiple_of(CHUNK));
            task.push(Piece { parameter, elements: start..end });
            room = room.saturating_sub(end - start);
            start = end;
            if room == 0 {
                tasks.push(std::mem::take(&mut task));
                room = target;
            }
        }
    }
    if !task.is_empty() {
        tasks.push(task);
    }
    tasks
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
                    coder: &CODERS[usize::from(signed)],
                },
            }
        }
    }
}

impl Job<'_> {
    /// The gradient of some elements, in memory or widened into `buffer`.
    fn grad<'t>(&'t self, simd: &Simd, buffer: &'t mut [f32; TILE], range: Range<usize>) -> &'t [f32] {
        if let Some(grad) = access::slice::<f32>(&self.grad, range.start, range.end) {
            return grad;
        }
        for_each_row_piece(self.cols, range.start, range.end, |row, col, at, len| {
            read_row(simd, &self.grad, row, col, &mut buffer[at..at + len]);
        });
        &buffer[..range.len()]
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
            _ => Blocks { codes: &mut [], absmax: &mut [], coder: &CODERS[0] },
        };
        let in_blocks = matches!(self.states[0], Stored::Blocks { .. });
        in_blocks.then(|| std::array::from_fn(|s| blocks(self.states.get(s))))
    }

    /// Parameter, gradient and states of some elements, in memory where they are f32, else widened into the tile.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    unsafe fn load<'t>(
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
    unsafe fn step(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_everything_in_chunks() {
        let lens = [0, 1, 5000, 100_000, CHUNK, 3, 0, 70_000];
        let window: Vec<Piece> = lens
            .into_iter()
            .enumerate()
            .map(|(parameter, len)| Piece { parameter, elements: 0..len })
            .collect();
        for target in [1, CHUNK, 20_000, 1 << 20] {
            let tasks = cut(&window, target);
            let mut covered = [0; 8];
            for Piece { parameter, elements } in tasks.iter().flatten() {
                let Range { start, end } = *elements;
                assert!(start == covered[*parameter] && start % CHUNK == 0 && start < end);
                assert!(end == lens[*parameter] || end % CHUNK == 0);
                covered[*parameter] = end;
            }
            assert_eq!(covered, lens);
            let elements = |task: &Vec<Piece>| task.iter().map(|piece| piece.elements.len()).sum::<usize>();
            let (last, full) = tasks.split_last().unwrap();
            assert!(full.iter().all(|task| (target..target + CHUNK).contains(&elements(task))));
            assert!(elements(last) < target + CHUNK);
        }
    }
}
