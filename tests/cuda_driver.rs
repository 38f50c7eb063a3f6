//! What surrounds a call on a CUDA device: devices, contexts, streams, threads, graphs, memory.

mod common;

use common::device::*;
use common::*;
use cudarc::driver::{CudaContext, sys};
use ptx_sim::{Config, Installed, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, Context, DType, QuantSpec, QuantizedMatrix, Status, ops};

/// The simulator, with two devices; `None` on a real driver.
fn simulator() -> Option<()> {
    static TWO: std::sync::Once = std::sync::Once::new();
    let simulated = matches!(ptx_sim::install(), Installed::Simulator);
    if simulated {
        TWO.call_once(|| ptx_sim::configure(&Config { device_count: 2, ..ptx_sim::config() }));
    }
    simulated.then_some(())
}

fn spec() -> QuantSpec {
    QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8)
}

fn sample() -> Matrix {
    Matrix::new(DType::Bf16, &numbers(100 * 130, 5, &[0.0]), 100, 130, 0)
}

#[test]
fn several_devices() {
    if simulator().is_none() {
        return;
    }
    assert_eq!(qlora_kernels::DeviceKind::Cuda.count(), 2);
    let context = Context::cuda(1).unwrap();
    assert!(context.name().contains("ptx-sim") && context.cores() == 132, "{}", context.name());
    for ordinal in [0, 1] {
        check(&Gpu::on(ordinal), &sample(), &spec(), DType::F32, ALIGNED).unwrap();
    }
    let error = Context::cuda(2).err().unwrap();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert_eq!(error.message(), "ordinal is 2; there are 2 CUDA devices");
}

#[test]
fn several_threads_share_a_context() {
    simulator();
    let gpu = Gpu::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // A stream each, one context for all.
                let mine = gpu.with_new_stream();
                for _ in 0..5 {
                    check(&mine, &sample(), &spec(), DType::Bf16, ALIGNED).unwrap();
                }
            });
        }
    });
}

/// Whatever was current before a call is current after it, and a call works under any.
#[test]
fn a_foreign_current_context_stays_current() {
    simulator();
    let gpu = Gpu::new();
    let current = || {
        let mut context = std::ptr::null_mut();
        unsafe { sys::cuCtxGetCurrent(&mut context) }.result().unwrap();
        context
    };
    let foreign = CudaContext::new_non_primary(0, 0).unwrap();
    let nothing = std::ptr::null_mut();
    for context in [foreign.cu_ctx(), nothing] {
        let (x, spec) = (sample(), spec());
        let (input, q) = (gpu.matrix(&x, 0), DeviceQuantized::new(&gpu, &spec, x.rows, x.cols, 0));
        let size = ops::quantize_workspace_size(&gpu.context, &spec, x.rows, x.cols).unwrap();
        let workspace = gpu.allocate(size, 0);
        let (view, to, workspace) =
            (input.tensor(&gpu, &x), q.view_mut(&gpu), workspace.buffer_mut::<u8>(&gpu));
        let (from, mut host) = (q.view(&gpu), x.clone());
        // Making nothing current takes one context off the thread's stack: until it is empty.
        while current() != context {
            unsafe { sys::cuCtxSetCurrent(context) }.result().unwrap();
        }
        ops::quantize(&gpu.context, view, to, workspace).unwrap();
        assert_eq!(current(), context);
        // Errors, too, leave it alone.
        assert!(ops::dequantize(&gpu.context, from, host.view_mut()).is_err());
        assert_eq!(current(), context);
        assert_eq!(gpu.download::<u8>(&q.codes), reference(&x.values(), &spec).codes);
    }
}

#[test]
fn host_memory_is_refused() {
    simulator();
    let gpu = Gpu::new();
    let (x, spec) = (sample(), QuantSpec::new(Codebook::Nf4, 64));
    let q = DeviceQuantized::new(&gpu, &spec, x.rows, x.cols, 0);
    let none = &mut [][..];
    let error = ops::quantize(&gpu.context, x.view(), q.view_mut(&gpu), none).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(
        error.message().starts_with("x is at 0x") && error.message().contains("no memory of the device"),
        "{error}"
    );
    // A matrix in host memory: the convenient form is for CPU contexts.
    let error = QuantizedMatrix::quantize(&gpu.context, x.view(), &spec).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    // The device is as good as before.
    check(&gpu, &x, &spec, DType::F32, ALIGNED).unwrap();
}

/// A call allocates nothing and waits for nothing, on the first use of its kernels as later.
#[test]
fn calls_only_enqueue() {
    let Some(()) = simulator() else { return };
    let gpu = Gpu::new();
    let (x, spec) = (sample(), spec());
    let (input, q) = (gpu.matrix(&x, 0), DeviceQuantized::new(&gpu, &spec, x.rows, x.cols, 0));
    let size = ops::quantize_workspace_size(&gpu.context, &spec, x.rows, x.cols).unwrap();
    let workspace = gpu.allocate(size, 0);
    let output = gpu.matrix(&x, 0);
    for first in [true, false] {
        reset_counters();
        let (view, to) = (input.tensor(&gpu, &x), q.view_mut(&gpu));
        ops::quantize(&gpu.context, view, to, workspace.buffer_mut::<u8>(&gpu)).unwrap();
        ops::dequantize(&gpu.context, q.view(&gpu), output.tensor_mut(&gpu, &x)).unwrap();
        let seen = counters();
        assert_eq!((seen.allocations, seen.frees, seen.synchronizations), (0, 0, 0), "{:?}", seen.calls);
        let compiled = seen.calls.get("cuModuleLoadDataEx").copied().unwrap_or(0);
        // Codes, one level of the mean, constants, and back. Contexts of other tests have kernels of their own.
        assert_eq!(compiled, if first { 4 } else { 0 }, "{:?}", seen.calls);
    }
}

/// Captured once, even on the first use of its kernels, and replayed on other data.
#[test]
fn calls_can_be_captured() {
    simulator();
    let gpu = Gpu::new();
    let (x, spec) = (sample(), spec());
    let (mut input, q) = (gpu.matrix(&x, 0), DeviceQuantized::new(&gpu, &spec, x.rows, x.cols, 0));
    let size = ops::quantize_workspace_size(&gpu.context, &spec, x.rows, x.cols).unwrap();
    let (workspace, output) = (gpu.allocate(size, 0), gpu.matrix(&x, 0));
    // Views before the capture: asking cudarc for a pointer makes the stream wait for events.
    let (view, to, workspace) = (input.tensor(&gpu, &x), q.view_mut(&gpu), workspace.buffer_mut::<u8>(&gpu));
    let (from, out) = (q.view(&gpu), output.tensor_mut(&gpu, &x));
    gpu.stream.synchronize().unwrap();

    gpu.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
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

/// Kernels of one context are compiled once, whatever the shapes, streams and threads.
#[test]
fn kernels_are_kept() {
    let Some(()) = simulator() else { return };
    let gpu = Gpu::new();
    let loads = || counters().calls.get("cuModuleLoadDataEx").copied().unwrap_or(0);
    reset_counters();
    for columns in [64, 65, 640] {
        let x = Matrix::new(DType::F32, &numbers(3 * columns, 9, &[]), 3, columns, 0);
        check(&gpu.with_new_stream(), &x, &QuantSpec::new(Codebook::Nf4, 64), DType::F32, ALIGNED).unwrap();
    }
    assert_eq!(loads(), 2);
}
