//! Optimizer steps in a CUDA graph. Captured in global mode, as PyTorch does, which no other thread of the process may disturb:
//! so this test has a process of its own.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::device_optimizers::Uploaded;
use common::optimizers::*;
use cudarc::driver::sys;
use qlora_kernels::{DType, Hyper, Optimizer, Rule, ops};

/// A step is captured once, even on the first use of its kernels, and replayed: as one more call with the same step number
/// would, it works on what the one before has left.
#[test]
fn steps_can_be_captured() {
    let gpu = Gpu::new();
    for (rule, eight_bits) in [(Rule::AdamW, false), (Rule::AdamW, true), (Rule::Lamb, true)] {
        let hyper = Hyper { step: 3, ..Hyper::of(rule) };
        // Clipping and rounding at random, too: their sums and their key are the call's.
        let optimizer = Optimizer { rule, hyper, max_norm: Some(0.5), seed: Some(5) };
        let shape = |i: u64| Shape::row([1, 300, 5000][i as usize % 3], DType::Bf16, eight_bits);
        // More than one launch fills the table.
        let start: Vec<Owned> = (0..80).map(|i| Owned::new(rule, &shape(i), i, &[])).collect();
        let once = run(&gpu, &optimizer, &start, [Run::Call]);
        let twice = run(&gpu, &optimizer, &start, [Run::Call, Run::Call]);
        assert!(
            once.iter().zip(&twice).any(|(once, twice)| once.same(twice).is_err()),
            "a step does nothing"
        );
        for (expected, runs) in
            [(&once, &[Run::Graph][..]), (&twice, &[Run::Graph; 2]), (&twice, &[Run::Graph, Run::Call])]
        {
            let found = run(&gpu, &optimizer, &start, runs.iter().copied());
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                found.same(expected).unwrap_or_else(|e| panic!("{rule:?}, {runs:?}, parameter {i}: {e}"));
            }
        }
    }
}

/// How a step is made.
#[derive(Clone, Copy, Debug)]
enum Run {
    /// By a call.
    Call,
    /// By launching the graph of one.
    Graph,
}

/// The parameters after these steps.
fn run(
    gpu: &Gpu,
    optimizer: &Optimizer,
    start: &[Owned],
    steps: impl IntoIterator<Item = Run>,
) -> Vec<Owned> {
    let uploaded: Vec<_> = start.iter().map(|owned| Uploaded::new(gpu, owned, 0)).collect();
    // Views before the capture: asking cudarc for a pointer makes the stream wait for events.
    let views = || uploaded.iter().zip(start).map(|(up, owned)| up.view(gpu, owned)).collect::<Vec<_>>();
    let size = ops::optimizer_workspace_size(&gpu.context, optimizer, &views()).unwrap();
    let memory = gpu.workspace(size);
    let call = |(mut views, workspace): (Vec<_>, _)| {
        ops::optimizer_step(&gpu.context, optimizer, &mut views, None, workspace).unwrap();
    };
    let arguments = || (views(), memory.buffer_mut::<u8>(gpu));

    let captured = arguments();
    gpu.stream.synchronize().unwrap();
    gpu.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    call(captured);
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream.end_capture(flags).unwrap().expect("a graph");

    for step in steps {
        match step {
            Run::Call => call(arguments()),
            Run::Graph => graph.launch().unwrap(),
        }
    }
    uploaded.iter().zip(start).map(|(up, owned)| up.download(gpu, owned)).collect()
}
