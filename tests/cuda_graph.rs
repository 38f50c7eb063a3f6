//! Calls in a CUDA graph. Captured in global mode, as PyTorch does, which no other thread of the process may disturb: so
//! this test has a process of its own.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use cudarc::driver::sys;
use qlora_kernels::{Codebook, Constants, DType, QuantSpec, ops};

/// Captured once, even on the first use of its kernels, and replayed on other data.
#[test]
fn calls_can_be_captured() {
    let gpu = Gpu::new();
    let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
    let x = Matrix::new(DType::Bf16, &numbers(100 * 130, 5, &[0.0]), 100, 130, 0);
    let (mut input, q) = (gpu.matrix(&x, 0), DeviceQuantized::new(&gpu, &spec, x.rows, x.cols, 0));
    let size = ops::quantize_workspace_size(&gpu.context, &spec, x.rows, x.cols).unwrap();
    let (workspace, output) = (gpu.allocate(size, 0), gpu.matrix(&x, 0));
    // Views before the capture: asking cudarc for a pointer makes the stream wait for events.
    let (view, to, workspace) = (input.tensor(&gpu, &x), q.view_mut(&gpu), workspace.buffer_mut::<u8>(&gpu));
    let (from, out) = (q.view(&gpu), output.tensor_mut(&gpu, &x));
    gpu.stream.synchronize().unwrap();

    gpu.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    ops::quantize(&gpu.context, view, to, workspace).unwrap();
    ops::dequantize(&gpu.context, from, out).unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream.end_capture(flags).unwrap().expect("a graph");

    for seed in [1, 2] {
        let x = Matrix::new(DType::Bf16, &numbers(100 * 130, seed, &[]), 100, 130, 0);
        gpu.overwrite(&mut input, x.bytes());
        graph.launch().unwrap();
        let expected = reference(&x.values(), &spec);
        assert_eq!(gpu.download::<u8>(&q.codes), expected.codes);
        let mut back = x.clone();
        back.bytes_mut().copy_from_slice(&gpu.download::<u8>(&output));
        let rounded: Vec<f32> = expected.values.iter().map(|&v| round_to(DType::Bf16, v)).collect();
        same_bits(&back.values(), &rounded).unwrap();
    }
}
