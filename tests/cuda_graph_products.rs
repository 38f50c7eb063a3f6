//! Products give the same bits whenever they are repeated, in a CUDA graph and outside. Captured in global mode, as PyTorch
//! does, which no other thread of the process may disturb: so this test has a process of its own.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use cudarc::driver::{CudaGraph, sys};
use qlora_kernels::{Codebook, Constants, Context, DType, Lora, QuantSpec, QuantizedMatrix, Tensor, ops};

/// Few rows, where sums are split over blocks; and more.
#[test]
fn products_repeat() {
    let gpu = Gpu::new();
    for m in [1, 12, 40, 130] {
        repeat(&gpu, m);
    }
}

fn repeat(gpu: &Gpu, m: usize) {
    let (n, k, rank) = (192, 256, 16);
    let matrix = |rows, cols, seed| Matrix::new(DType::Bf16, &numbers(rows * cols, seed, &[]), rows, cols, 0);
    let inputs = [matrix(m, k, 1), matrix(m, n, 2), matrix(rank, k, 3), matrix(n, rank, 4)];
    let outputs = [matrix(m, n, 5), matrix(m, k, 6), matrix(rank, k, 7), matrix(n, rank, 8)];
    let weight = numbers(n * k, 9, &[]);
    let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
    let weight = Tensor::new(&weight, n, k).unwrap();
    let weight =
        DeviceQuantized::of(gpu, &QuantizedMatrix::quantize(&Context::cpu(), weight, &spec).unwrap());
    let workspace = gpu.workspace(ops::gemm_workspace_size(&gpu.context, m, n, k, rank).unwrap());
    let up = |matrices: &[Matrix; 4]| matrices.each_ref().map(|matrix| gpu.matrix(matrix, 0));
    let (from, mut to) = (up(&inputs), up(&outputs));

    let mut graph: Option<CudaGraph> = None;
    let mut results = Vec::new();
    for captured in [false, true, true, false] {
        to.iter_mut().zip(&outputs).for_each(|(memory, matrix)| gpu.overwrite(memory, matrix.bytes()));
        // Views before the capture: asking cudarc for a pointer makes the stream wait for events.
        let [x, dy, a, b] = std::array::from_fn(|i| from[i].tensor(gpu, &inputs[i]));
        let [y, dx, da, db] = std::array::from_fn(|i| to[i].tensor_mut(gpu, &outputs[i]));
        let [first, second, third] = std::array::from_fn(|_| workspace.buffer_mut::<u8>(gpu));
        let (w, lora) = (weight.view(gpu), Lora { a, b, scale: 0.5 });
        let calls = || {
            ops::gemm_forward(&gpu.context, x, w, None, Some(lora), y, first).unwrap();
            ops::gemm_backward(&gpu.context, dy, w, Some(lora), dx, true, second).unwrap();
            ops::lora_gradients(&gpu.context, x, dy, lora, da, db, true, third).unwrap();
        };
        match (captured, &graph) {
            (false, _) => calls(),
            (true, None) => graph = Some(capture(gpu, calls)),
            (true, Some(_)) => {}
        }
        if captured {
            graph.as_ref().expect("captured").launch().unwrap();
        }
        results.push(to.each_ref().map(|memory| gpu.download::<u8>(memory)));
    }
    assert!(results.iter().all(|result| result == &results[0]), "M = {m}");
}

fn capture(gpu: &Gpu, calls: impl FnOnce()) -> CudaGraph {
    gpu.stream.synchronize().unwrap();
    gpu.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    calls();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    gpu.stream.end_capture(flags).unwrap().expect("a graph")
}
