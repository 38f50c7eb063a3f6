//! One pool of threads a context.

use crate::float_environment::StandardModes;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of threads; the pool starts with the first work that is worth sharing.
pub struct Threads {
    count: usize,
    process: u32,
    pool: OnceLock<Option<rayon::ThreadPool>>,
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

impl Threads {
    pub fn new(count: usize) -> Self {
        Self { count: count.max(1), process: std::process::id(), pool: OnceLock::new() }
    }

    /// Whether this process was forked from the one that made them: a child has none of its parent's threads, and would wait for
    /// them forever. (A child in a namespace of its own may have its parent's number; it is not recognized.)
    pub fn are_of_a_parent(&self) -> bool {
        self.process != std::process::id()
    }

    /// How many threads there are; workers are numbered from 0 below this.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `work(worker, task)` once for each task below `tasks`, on all threads, in any order. Two calls at once
    /// never have the same `worker` within one `for_each`. A panic in `work` comes out here.
    ///
    /// One task runs on the caller's thread, as does everything where the system gives no threads.
    pub fn for_each(&self, tasks: usize, work: impl Fn(usize, usize) + Sync) {
        if self.count > 1 && tasks > 1 {
            let build = || {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(self.count)
                    .thread_name(|i| format!("qlk-{i}"))
                    .build()
                    .ok()
            };
            if let Some(pool) = self.pool.get_or_init(build) {
                let next = AtomicUsize::new(0);
                pool.broadcast(|worker| {
                    let _modes = StandardModes::set();
                    loop {
                        let task = next.fetch_add(1, Ordering::Relaxed);
                        if task >= tasks {
                            break;
                        }
                        work(worker.index(), task);
                    }
                });
                return;
            }
        }
        let _modes = StandardModes::set();
        (0..tasks).for_each(|task| work(0, task));
    }

    /// Cuts `0..len` into parts of a multiple of `unit` elements (the last may be short), each worth at least
    /// `least` elements, and calls `work(start, end)` for each.
    pub fn for_each_part(&self, len: usize, unit: usize, least: usize, work: impl Fn(usize, usize) + Sync) {
        let units = len.div_ceil(unit);
        // Four parts a thread even out threads of unequal speed.
        let part = units.div_ceil(self.count * 4).max(least.div_ceil(unit)) * unit;
        self.for_each(len.div_ceil(part), |_, task| work(task * part, len.min((task + 1) * part)));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.are_of_a_parent() {
            // To end its threads a pool locks what they had locked, maybe, when the process was forked.
            std::mem::forget(self.pool.take());
        }
    }
}

/// A pointer that threads may share: they promise to use disjoint parts of what it points to.
#[derive(Clone, Copy)]
pub struct Shared<T>(*mut T);

// SAFETY: see the type; `slice` states the promise.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// Elements `start..end`.
    ///
    /// # Safety
    /// The range lies inside the slice that this was made of, which outlives `'a`, and no other thread uses any of it.
    pub unsafe fn slice<'a>(self, start: usize, end: usize) -> &'a mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), end - start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [1, 2, 5] {
            let threads = Threads::new(count);
            for tasks in [0, 1, 2, 100] {
                let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each(tasks, |worker, task| {
                    assert!(worker < count);
                    seen[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn parts_cover_everything_in_units() {
        let threads = Threads::new(3);
        for (len, unit, least) in [(0, 64, 1), (1, 64, 1), (1000, 64, 1), (1000, 7, 500), (4096, 32, 100_000)]
        {
            let covered = AtomicUsize::new(0);
            threads.for_each_part(len, unit, least, |start, end| {
                assert!(start % unit == 0 && (end % unit == 0 || end == len) && start < end);
                covered.fetch_add(end - start, Ordering::Relaxed);
            });
            assert_eq!(covered.into_inner(), len);
        }
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_survives() {
        let threads = Threads::new(2);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            threads.for_each(8, |_, task| assert!(task != 5, "task 5"));
        }));
        assert!(result.is_err());
        let done = AtomicUsize::new(0);
        threads.for_each(8, |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 8);
    }
}
