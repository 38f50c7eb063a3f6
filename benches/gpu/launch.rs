//! Calls too small to fill the device: what a call costs the host, and the device with and without a graph.

use super::Result;
use super::call::Call;
use super::cases::{Case, Operation, Shape, select};
use super::data::Noise;
use super::device::Gpu;
use super::reference::{Problem, by_cpu};
use super::timing;
use qlora_kernels::DType;
use serde::Serialize;
use std::time::Instant;

/// Calls timed together; a stream takes about a thousand launches before a call waits for room.
const CALLS: usize = 100;
/// Small for a GPU.
pub const SHAPE: Shape = Shape { rows: 16, cols: 4096 };

/// Seconds a call.
#[derive(Clone, Debug, Serialize)]
pub struct Launch {
    pub name: String,
    pub elements: usize,
    /// Of the host, for the call to return.
    pub host: f64,
    /// Of the host or the device, whichever is slower: calls one after another in a stream.
    pub stream: f64,
    /// Of the device, the same calls captured into a graph.
    pub graph: f64,
}

/// The main cases whose name holds `only`, each with one dtype.
pub fn cases(only: Option<&str>) -> Vec<Case> {
    let mut cases = select(true, only);
    cases.retain(|case| match case.operation {
        Operation::Quantize(_) | Operation::Dequantize(_) => case.dtype == DType::Bf16,
        _ => true,
    });
    cases
}

/// Checks and times a case.
pub fn figure(gpu: &Gpu, case: &Case, shape: Shape, repetitions: usize) -> Result<Launch> {
    let problem = Problem::new(case, shape, Noise::Weights, &by_cpu)?;
    let call = Call::new(gpu, case, shape, &problem.inputs)?;
    let calls = || (0..CALLS).try_for_each(|_| call.enqueue());
    let stream = timing::spans(gpu, repetitions, calls)?;

    let mut host = Vec::new();
    for _ in 0..repetitions {
        gpu.stream.synchronize()?;
        let start = Instant::now();
        calls()?;
        host.push(start.elapsed().as_secs_f64());
    }
    gpu.stream.synchronize()?;
    host.sort_by(f64::total_cmp);

    let graph = timing::capture(gpu, calls)?;
    graph.upload()?;
    call.outputs.iter().try_for_each(|memory| gpu.erase(memory))?; // the graph must write them
    let replay = timing::spans(gpu, repetitions, || Ok(graph.launch()?))?;
    for ((part, memory), expected) in case.outputs(shape).iter().zip(&call.outputs).zip(&problem.expected) {
        super::check::compare(part, &gpu.download(memory)?, expected)?;
    }
    let each = |seconds: f64| seconds / CALLS as f64;
    Ok(Launch {
        name: case.to_string(),
        elements: shape.elements(),
        host: each(host[repetitions / 2]),
        stream: each(stream[repetitions / 2]),
        graph: each(replay[repetitions / 2]),
    })
}
