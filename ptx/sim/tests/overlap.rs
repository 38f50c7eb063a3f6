//! Launches that may overlap the kernel ahead of them in their stream (programmatic stream serialization): what they touch of global
//! memory before they have waited for it may not be there yet.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::{Gpu, check, kernel};
use cudarc::driver::sys;
use ptx_sim::{Fault, FaultKind};
use std::ffi::c_void;

const COPY: &str = "
    ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
    mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 16;
    griddepcontrol.wait; // all
    mul.wide.u32 %rd2, %r0, 4; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2;
    ld.global.f32 %f0, [%rd0];
    st.global.f32 [%rd1], %f0;
    griddepcontrol.launch_dependents;";

/// 32 numbers, copied.
fn copied(gpu: &Gpu, body: &str, overlaps: i32) -> Result<Vec<f32>, Fault> {
    let data: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let [from, to] = [gpu.upload(&data), gpu.upload(&[0f32; 32])];
    let function = gpu.function(&kernel("sm_90", "7.8", 2, body), "k");
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = overlaps;
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: std::ptr::null_mut(),
        attrs: &mut attribute,
        numAttrs: 1,
    };
    let mut params = [from, to].map(|address| Box::into_raw(Box::new(address)).cast::<c_void>());
    let result = unsafe {
        check(sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut()));
        let result = sys::cuCtxSynchronize();
        params.into_iter().for_each(|param| drop(Box::from_raw(param.cast::<u64>())));
        result
    };
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(gpu.download(to, 32));
    }
    let fault = ptx_sim::last_fault().expect("a fault");
    ptx_sim::clear_faults();
    Err(fault)
}

#[test]
fn who_may_overlap_must_wait() {
    ptx_sim::install_simulator();
    ptx_sim::configure(&ptx_sim::Config { print_faults: false, ..ptx_sim::config() });
    let all = "griddepcontrol.wait; // all";
    let some = COPY.replace(all, "@%p0 griddepcontrol.wait;");
    for (body, overlaps, fault) in [
        (COPY, 0, false),
        (COPY, 1, false),
        (&COPY.replace(all, ""), 0, false),
        (&COPY.replace(all, ""), 1, true),
        (&some, 1, true),
    ] {
        match copied(&Gpu::new(), body, overlaps) {
            Ok(found) => {
                assert!(!fault, "not caught:{body}");
                assert!(found.iter().enumerate().all(|(i, &v)| v == i as f32), "{found:?}");
            }
            Err(found) => {
                assert!(fault, "{found}");
                assert_eq!(found.kind, FaultKind::MissingWait, "{found}");
                assert_eq!(found.instruction, "ld.global.f32");
                assert_eq!(found.thread[0], if body == some { 16 } else { 0 });
            }
        }
    }
}
