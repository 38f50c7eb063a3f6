//! What surrounds a call on a CUDA device: devices, contexts, streams, threads, graphs, memory.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use cudarc::driver::{CudaContext, sys};
use ptx_sim::{Config, Installed, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, Context, DType, QuantSpec, QuantizedMatrix, Status, Tensor, ops};

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
fn memory_of_others_is_refused() {
    let simulated = simulator().is_some();
    let gpu = Gpu::new();
    let (x, spec) = (sample(), QuantSpec::new(Codebook::Nf4, 64));
    let q = DeviceQuantized::new(&gpu, &spec, x.rows, x.cols, 0);
    let refusal = |x: Tensor<'_>| {
        let error = ops::quantize(&gpu.context, x, q.view_mut(&gpu), &mut vec![]).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        error.message().to_owned()
    };
    // A Rust slice, whatever the device could read: the call's work may outlive it.
    let message = refusal(x.view());
    assert!(message.starts_with("x is at 0x") && message.contains("a Rust slice"), "{message}");
    let error = QuantizedMatrix::quantize(&gpu.context, x.view(), &spec).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    if simulated {
        // Host memory by its address, as C programs give it.
        let address = x.bytes().as_ptr();
        let host = unsafe { Tensor::from_raw(address, DType::Bf16, x.rows, x.cols, x.cols).unwrap() };
        let message = refusal(host);
        assert!(message.contains("no memory of the device"), "{message}");
        // Another device's memory.
        let other = Gpu::on(1);
        let memory = other.matrix(&x, 0);
        let message = refusal(memory.tensor(&other, &x));
        assert!(message.contains("memory of CUDA device 1; the context is one of device 0"), "{message}");
    }
    // The device is as good as before.
    check(&gpu, &x, &spec, DType::F32, ALIGNED).unwrap();
}

/// The legacy default stream, which a context has unless it is given another.
#[test]
fn the_default_stream() {
    simulator();
    let gpu = Gpu::on_default_stream();
    check(&gpu, &sample(), &spec(), DType::F16, ALIGNED).unwrap();
}

/// A call allocates nothing and waits for nothing, on the first use of its kernels as later.
#[test]
fn calls_only_enqueue() {
    let Some(()) = simulator() else { return };
    let gpu = Gpu::new();
    // Kernels that no other test of this process uses: one device's are shared by all its contexts.
    let (x, spec) = (sample(), QuantSpec::new(Codebook::Int4, 512).with_constants(Constants::Dynamic));
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
        // Codes, one level of the mean, constants, and back; the mean's kernel may be there already.
        assert!(if first { (3..=4).contains(&compiled) } else { compiled == 0 }, "{:?}", seen.calls);
    }
}

/// Kernels of a device are compiled once, whatever the shapes, streams, threads and contexts.
#[test]
fn kernels_are_kept() {
    let Some(()) = simulator() else { return };
    let gpu = Gpu::new();
    let loads = || counters().calls.get("cuModuleLoadDataEx").copied().unwrap_or(0);
    reset_counters();
    for columns in [64, 65, 640] {
        let x = Matrix::new(DType::F32, &numbers(3 * columns, 9, &[]), 3, columns, 0);
        for gpu in [gpu.with_new_stream(), Gpu::new()] {
            check(&gpu, &x, &QuantSpec::new(Codebook::Fp4E3m0, 256), DType::F32, ALIGNED).unwrap();
        }
    }
    assert_eq!(loads(), 2);
}
