//! Seconds by events.

use super::Result;
use super::call::Call;
use super::cases::{Case, Shape};
use super::data::Bytes;
use super::device::Gpu;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How many times the second-level cache must be passed before memory is read again.
const CACHES: usize = 4;
/// The most sets of buffers.
const MAX_SETS: usize = 32;
/// Untimed calls are repeated for this long first: an idle GPU runs at low clocks.
const WARM_UP: Duration = Duration::from_millis(100);
/// Seconds between two events, at least.
const SPAN: f64 = 2e-3;
/// The most calls in a graph.
const MAX_CALLS: usize = 256;

/// Seconds a call.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    pub repetitions: usize,
    /// Sets of buffers that took turns, so that none was in the cache.
    pub sets: usize,
    /// Calls between two events.
    pub calls: usize,
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

/// Times what `enqueue` puts into the stream; its argument is the number of the set of buffers to use. So many calls are
/// captured into a graph that they last [`SPAN`] together: one alone may be over before the host has submitted the next.
pub fn repeat(
    gpu: &Gpu,
    sets: usize,
    repetitions: usize,
    mut enqueue: impl FnMut(usize) -> Result<()>,
) -> Result<Times> {
    let seconds = warm_up(gpu, sets, &mut enqueue)?;
    let rounds = (SPAN / (seconds * sets as f64)).ceil().clamp(1.0, (MAX_CALLS / sets) as f64) as usize;
    let calls = rounds * sets;
    let graph = capture(gpu, || (0..calls).try_for_each(|call| enqueue(call % sets)))?;
    graph.upload()?;
    let seconds = spans(gpu, repetitions, || Ok(graph.launch()?))?;
    let [median, least, greatest] =
        [repetitions / 2, 0, repetitions - 1].map(|rank| seconds[rank] / calls as f64);
    Ok(Times { median, least, greatest, repetitions, sets, calls })
}

/// Repeats until the clocks of an idle GPU have risen; seconds a call.
fn warm_up(gpu: &Gpu, sets: usize, enqueue: &mut impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let round = |enqueue: &mut dyn FnMut(usize) -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        (0..sets).try_for_each(enqueue)?;
        gpu.stream.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / sets as f64)
    };
    let start = Instant::now();
    let mut least = round(enqueue)?.min(round(enqueue)?);
    while start.elapsed() < WARM_UP {
        least = least.min(round(enqueue)?);
    }
    Ok(least)
}

/// Seconds of what `run` puts into the stream, by events around it; sorted.
pub fn spans(gpu: &Gpu, repetitions: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    gpu.stream.synchronize()?;
    // Made beforehand, so that the host stays ahead of the device.
    let event = || gpu.cuda.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let runs: Vec<_> = (0..repetitions).map(|_| Ok((event()?, event()?))).collect::<Result<_>>()?;
    for (start, end) in &runs {
        start.record(&gpu.stream)?;
        run()?;
        end.record(&gpu.stream)?;
    }
    let mut seconds = Vec::with_capacity(repetitions);
    for (start, end) in &runs {
        seconds.push(f64::from(start.elapsed_ms(end)?) / 1e3);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// A graph of what `calls` puts into the stream.
pub fn capture(gpu: &Gpu, calls: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let captured = calls();
    // cudarc has no name for "no flags"; this one concerns allocations in the graph, of which there is none.
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream.end_capture(flags)?;
    captured?;
    graph.ok_or_else(|| "the capture gave no graph".into())
}
