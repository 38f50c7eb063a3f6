//! Two devices: what belongs to one is not the other's. The configuration is the process's, so this is a file of its own.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use std::mem::MaybeUninit;
use std::ptr::{from_ref, null_mut};

use common::{Gpu, check, kernel, shape};
use cudarc::driver::sys::{self, CUresult};
use ptx_sim::{Config, FaultKind};

/// A context on the second device, current from now on.
fn second_device() -> sys::CUcontext {
    let mut context = MaybeUninit::uninit();
    unsafe {
        check(sys::cuCtxCreate_v2(context.as_mut_ptr(), 0, 1));
        context.assume_init()
    }
}

#[test]
fn kernels_events_and_memory_stay_on_their_device() {
    ptx_sim::install_simulator();
    ptx_sim::configure(&Config { device_count: 2, print_faults: false, ..ptx_sim::config() });
    let gpu = Gpu::new();
    let body = "ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        ld.global.u32 %r0, [%rd0]; add.u32 %r0, %r0, 1; st.global.u32 [%rd1], %r0;";
    let function = gpu.function(&kernel("sm_75", "6.3", 2, body), "k");
    let (near, output) = (gpu.upload(&[41u32]), gpu.upload(&[0u32]));
    let (event, stream, far, host) = unsafe {
        let mut event = MaybeUninit::uninit();
        check(sys::cuEventCreate(event.as_mut_ptr(), 0));
        let other = second_device();
        let mut stream = MaybeUninit::uninit();
        check(sys::cuStreamCreate(stream.as_mut_ptr(), 0));
        let mut host = null_mut();
        check(sys::cuMemHostAlloc(&mut host, 4, 0));
        host.cast::<u32>().write(6);
        let far = gpu.upload(&[1u32]);
        check(sys::cuCtxPopCurrent_v2(&mut other.clone()));
        (event.assume_init(), stream.assume_init(), far, host as u64)
    };
    // The other's stream takes neither the kernel nor the event; waiting for an event of another context is fine.
    let params = [near, output];
    let mut pointers = params.each_ref().map(|p| from_ref(p).cast_mut().cast());
    unsafe {
        let launched =
            sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, pointers.as_mut_ptr(), null_mut());
        assert_eq!(launched, CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(sys::cuEventRecord(event, stream), CUresult::CUDA_ERROR_INVALID_HANDLE);
        check(sys::cuEventRecord(event, null_mut()));
        check(sys::cuStreamWaitEvent(stream, event, 0));
    }
    gpu.launch(function, shape(1, 1), &[near, output]);
    assert_eq!(gpu.download::<u32>(output, 1), [42]);
    gpu.launch(function, shape(1, 1), &[host, output]);
    assert_eq!(gpu.download::<u32>(output, 1), [7]);
    // Nobody has enabled peer access.
    let fault = gpu.try_launch(function, shape(1, 1), &[far, output]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
    assert!(fault.message.contains("another device"), "{fault}");
}
