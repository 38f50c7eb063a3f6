//! Seconds by events.

use super::Result;
use super::call::Call;
use super::cases::{Case, Shape};
use super::data::Bytes;
use super::device::Gpu;
use cudarc::driver::sys::CUevent_flags;
use serde::Serialize;

/// How many times the second-level cache must be passed before memory is read again.
const CACHES: usize = 4;
/// The most sets of buffers.
const MAX_SETS: usize = 32;
/// Untimed runs, before the timed ones.
const WARM_UP: usize = 3;

/// Seconds a call.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    pub repetitions: usize,
    /// Sets of buffers that took turns, so that none was in the cache.
    pub sets: usize,
}

/// How many sets of buffers of `bytes` bytes leave nothing of the first in the cache when they have all been used.
pub fn sets(gpu: &Gpu, bytes: usize) -> usize {
    (CACHES * gpu.facts.l2_bytes).div_ceil(bytes.max(1)).clamp(1, MAX_SETS)
}

/// Times a case with cold caches.
pub fn time(gpu: &Gpu, case: &Case, shape: Shape, inputs: &[Bytes], repetitions: usize) -> Result<Times> {
    let calls: Vec<Call> = (0..sets(gpu, case.traffic(shape)))
        .map(|_| Call::new(gpu, case, shape, inputs))
        .collect::<Result<_>>()?;
    repeat(gpu, calls.len(), repetitions, |set| calls[set].enqueue())
}

/// Times what `enqueue` puts into the stream; its argument is the number of the set of buffers to use.
pub fn repeat(
    gpu: &Gpu,
    sets: usize,
    repetitions: usize,
    mut enqueue: impl FnMut(usize) -> Result<()>,
) -> Result<Times> {
    let mut turn = (0..sets).cycle();
    let mut next = || turn.next().expect("an endless iterator");
    for _ in 0..WARM_UP {
        enqueue(next())?;
    }
    gpu.stream.synchronize()?;
    // Made beforehand, so that the host stays ahead of the device.
    let event = || gpu.cuda.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let runs: Vec<_> = (0..repetitions).map(|_| Ok((event()?, event()?))).collect::<Result<_>>()?;
    for (start, end) in &runs {
        start.record(&gpu.stream)?;
        enqueue(next())?;
        end.record(&gpu.stream)?;
    }
    let mut seconds = Vec::with_capacity(repetitions);
    for (start, end) in &runs {
        seconds.push(f64::from(start.elapsed_ms(end)?) / 1e3);
    }
    seconds.sort_by(f64::total_cmp);
    let [median, least, greatest] = [repetitions / 2, 0, repetitions - 1].map(|rank| seconds[rank]);
    Ok(Times { median, least, greatest, repetitions, sets })
}
