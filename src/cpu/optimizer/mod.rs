//! Optimizer steps: one set of tasks over all parameters, cut at whole chunks, so that neither a large parameter nor many
//! small ones leave a thread idle.
//!
//! A thread steps a task's elements of a parameter at once where they are f32 in memory, else [`TILE`] at a time: widened into a
//! buffer in the first-level cache, stepped there and written back. States in 8 bits are numbers for a few blocks at a time
//! ([`Simd::optimizer8`]). Norms are a pass of their own, which only reads.

mod job;

use super::Cpu;
use super::simd::{Simd, Step};
use super::threads::Shared;
use crate::format::optimizer::norms::{CHUNK, chunk_sum, clipped_scale};
use crate::format::optimizer::{Numbers, Optimizer};
use crate::format::sum;
use crate::view::Parameter;
use crate::view::window::{Piece, Plan};
use job::{Job, TILE, Tile};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 14;

/// Who moves the states of a step that is taken part by part.
pub trait Pages: Sync {
    /// The states of this window of the plan are about to be used.
    fn enter(&self, _window: usize) {}
    /// This thread is about to use what lies at these addresses of the window, and maybe to write it.
    fn bring(&self, _window: usize, _range: &Range<usize>, _written: bool) {}
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

impl<'a> Work<'a> {
    fn new(cpu: &'a Cpu, optimizer: &Optimizer, parameters: &'a mut [Parameter<'_>], plan: &Plan) -> Self {
        let mut first_chunk = 0;
        let mut jobs = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let job = Job::new(parameter, optimizer.rule, first_chunk);
            first_chunk += job.len.div_ceil(CHUNK);
            jobs.push(job);
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
        written: bool,
        work: impl Fn(&mut Tile, usize, &Job<'a>, Range<usize>) + Sync,
    ) {
        for (window, tasks) in self.windows.iter().enumerate() {
            pages.enter(window);
            self.cpu.threads().for_each(tasks.len(), |_, task| {
                let mut tile = Tile::new();
                for Piece { parameter, elements } in &tasks[task] {
                    let job = &self.jobs[*parameter];
                    job.areas.iter().for_each(|area| pages.bring(window, &area.bytes(elements), written));
                    work(&mut tile, *parameter, job, elements.clone());
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
        self.for_each_task(pages, true, |tile, number, job, range| {
            let aligned = range.end.min(range.start + job.to_alignment());
            if aligned > range.start {
                work(tile, number, job, range.start..aligned);
            }
            // What is not widened needs no buffer, and a call costs as much as stepping 50 elements.
            let at_once = if job.is_in_place() { range.len().max(1) } else { TILE };
            for start in (aligned..range.end).step_by(at_once) {
                work(tile, number, job, start..range.end.min(start + at_once));
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
        self.for_each_task(pages, false, |tile, _, job, range| {
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
