//! Other machines than the default. The configuration is the process's, so this is one test in a file of its own.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use std::ffi::CString;
use std::mem::MaybeUninit;

use common::{Gpu, check, kernel, shape};
use cudarc::driver::sys::{self, CUresult};
use ptx_sim::{Config, FaultKind};

fn load(ptx: &str) -> CUresult {
    let text = CString::new(ptx).unwrap();
    let mut module = MaybeUninit::uninit();
    unsafe { sys::cuModuleLoadData(module.as_mut_ptr(), text.as_ptr().cast()) }
}

#[test]
fn another_machine() {
    ptx_sim::install_simulator();
    let turing = Config {
        compute_capability: (7, 5),
        sm_count: 40,
        memory: 1 << 20,
        device_count: 2,
        driver_version: 12000,
        concurrent_managed_access: false,
        print_faults: false,
        ..Config::default()
    };
    ptx_sim::configure(&turing);
    assert_eq!(ptx_sim::config(), turing);
    let gpu = Gpu::new();
    unsafe {
        let mut count = 0;
        check(sys::cuDeviceGetCount(&mut count));
        assert_eq!(count, 2);
        let mut device = 0;
        check(sys::cuDeviceGet(&mut device, 1));
        assert_eq!(sys::cuDeviceGet(&mut device, 2), CUresult::CUDA_ERROR_INVALID_DEVICE);
        let mut value = 0;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        check(sys::cuDeviceGetAttribute(&mut value, attribute, 0));
        assert_eq!(value, 40);

        assert_eq!(load(&kernel("sm_75", "8.0", 0, "")), CUresult::CUDA_SUCCESS);
        assert_eq!(load(&kernel("sm_75", "8.1", 0, "")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(load(&kernel("sm_80", "8.0", 0, "")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);

        let mut address = 0;
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 2 << 20), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        check(sys::cuMemAlloc_v2(&mut address, 1 << 20));
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 1), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        check(sys::cuMemFree_v2(address));

        let mut managed = 0;
        check(sys::cuMemAllocManaged(&mut managed, 4096, 1));
        let prefetch = sys::cuMemPrefetchAsync(managed, 4096, 0, std::ptr::null_mut());
        assert_eq!(prefetch, CUresult::CUDA_ERROR_INVALID_DEVICE);
    }
    // Checks may change while contexts exist, the device may not.
    let body = "ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; mov.u32 %r0, %tid.x; and.b32 %r0, %r0, 1;
        ld.global.u32 %r1, [%rd0]; mul.wide.u32 %rd2, %r0, 0; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r0;";
    let function = gpu.function(&kernel("sm_75", "6.3", 2, body), "k");
    let (unwritten, output) = (gpu.alloc(4), gpu.alloc(4));
    let run = |config: Config| {
        ptx_sim::configure(&config);
        gpu.try_launch(function, shape(1, 32), &[unwritten, output]).map_err(|fault| fault.kind)
    };
    assert_eq!(run(turing), Err(FaultKind::Uninitialized));
    assert_eq!(run(Config { check_uninitialized: false, ..turing }), Err(FaultKind::Race));
    assert_eq!(run(Config { check_uninitialized: false, check_races: false, ..turing }), Ok(()));
    assert!(std::panic::catch_unwind(|| ptx_sim::configure(&Config::default())).is_err());

    drop(gpu);
    ptx_sim::reset();
    assert_eq!(ptx_sim::config(), Config::default());
}
