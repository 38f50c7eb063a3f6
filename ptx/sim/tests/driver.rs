//! The stand-in driver behind cudarc's own code.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::ptr::{from_ref, null_mut};
use std::sync::Mutex;

use common::{Gpu, check, event, kernel, stream};
use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut, result, sys};
use ptx_sim::{Config, FaultKind, StreamOrder};
use sys::CUresult;

/// y += 2x.
const AXPY: &str = "
    ld.param.u64 %rd0, [p0];
    ld.param.u64 %rd1, [p1];
    ld.param.u32 %r0, [p2];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
    mad.lo.s32 %r1, %r1, %r2, %r3;
    setp.ge.u32 %p0, %r1, %r0;
    @%p0 bra DONE;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd0, %rd0, %rd2;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.f32 %f0, [%rd0];
    ld.global.f32 %f1, [%rd1];
    fma.rn.f32 %f0, %f0, 0f40000000, %f1;
    st.global.f32 [%rd1], %f0;
DONE:";

fn axpy() -> String {
    kernel("sm_80", "7.0", 3, AXPY)
}

/// Launches `axpy` on a stream.
fn launch_axpy(function: sys::CUfunction, stream: sys::CUstream, x: u64, y: u64, n: u64) -> CUresult {
    let params = [x, y, n];
    let mut pointers = params.each_ref().map(|p| from_ref(p).cast_mut().cast::<c_void>());
    let blocks = (n as u32).div_ceil(256);
    unsafe {
        sys::cuLaunchKernel(function, blocks, 1, 1, 256, 1, 1, 0, stream, pointers.as_mut_ptr(), null_mut())
    }
}

#[test]
fn an_ordinary_cudarc_program() {
    ptx_sim::install_simulator();
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let n = 1000usize;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let x = stream.clone_htod(&x).unwrap();
    let mut y = stream.clone_htod(&vec![1f32; n]).unwrap();
    let function = unsafe {
        let text = CString::new(axpy()).unwrap();
        let module = result::module::load_data(text.as_ptr().cast()).unwrap();
        result::module::get_function(module, c"k".to_owned()).unwrap()
    };
    ptx_sim::reset_counters();
    let (xs, ys) = (x.device_ptr(&stream).0, y.device_ptr_mut(&stream).0);
    assert_eq!(launch_axpy(function, stream.cu_stream(), xs, ys, n as u64), CUresult::CUDA_SUCCESS);
    let result = stream.clone_dtoh(&y).unwrap();
    assert!(result.iter().enumerate().all(|(i, &y)| y == 2.0 * i as f32 + 1.0));
    let counters = ptx_sim::counters();
    let launch = &counters.launches[0];
    assert_eq!((launch.kernel.as_str(), launch.grid, launch.block), ("k", [4, 1, 1], [256, 1, 1]));
    assert_eq!(launch.stats.global_loads.bytes, 8 * n as u64);
    assert_eq!(launch.stats.global_loads.sectors, 250);
    assert_eq!(launch.stats.global_loads.of_width(4), 2 * n as u64);
    assert_eq!(launch.stats.count("fma"), 32); // 1000 threads are 32 warps
    assert_eq!(counters.bytes_to_host, 4 * n as u64);
    assert_eq!(
        context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).unwrap(),
        9
    );
}

#[test]
fn faults_are_sticky_and_end_their_context_only() {
    let gpu = Gpu::new();
    let function = gpu.function(&axpy(), "k");
    let (x, y) = (gpu.upload(&[1f32; 100]), gpu.upload(&[1f32; 101]));
    unsafe {
        assert_eq!(launch_axpy(function, null_mut(), x, y, 101), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuCtxSynchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let fault = ptx_sim::last_fault().unwrap();
        assert_eq!((fault.kind, fault.block, fault.thread), (FaultKind::OutOfBounds, [0; 3], [100, 0, 0]));
        assert_eq!(
            (fault.kernel.as_str(), fault.instruction.as_str(), fault.line),
            ("k", "ld.global.f32", 18)
        );
        assert!(fault.message.contains("0 bytes behind the end of an allocation of 400 bytes"), "{fault}");
        let mut address = 0;
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 4), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(launch_axpy(function, null_mut(), x, y, 1), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let other = Gpu::new();
        other.upload(&[1u8]);
    }
}

#[test]
fn refused_modules_say_why() {
    let _gpu = Gpu::new();
    let load = |text: &str| {
        let text = CString::new(text).unwrap();
        let mut log = vec![0u8; 1024];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
        let mut module = MaybeUninit::uninit();
        let (text, options) = (text.as_ptr().cast(), options.as_mut_ptr());
        let result =
            unsafe { sys::cuModuleLoadDataEx(module.as_mut_ptr(), text, 2, options, values.as_mut_ptr()) };
        let len = values[1] as usize;
        (result, String::from_utf8(log[..len.saturating_sub(1)].to_vec()).unwrap())
    };
    let cases = [
        (axpy().replace("fma.rn.f32", "frobnicate.f32"), CUresult::CUDA_ERROR_INVALID_PTX, "line 20"),
        (axpy().replace("fma.rn.f32", "fma.rn.funny.f32"), CUresult::CUDA_ERROR_INVALID_PTX, ".funny"),
        (
            axpy().replace("%f0, %f0, 0f40000000", "%f0, %f77, 0f40000000"),
            CUresult::CUDA_ERROR_INVALID_PTX,
            "%f77",
        ),
        (
            axpy().replace("fma.rn.f32 %f0, %f0", "fma.rn.f32 %rd5, %f0"),
            CUresult::CUDA_ERROR_INVALID_PTX,
            "B64",
        ),
        (axpy().replace("bra DONE", "bra NOWHERE"), CUresult::CUDA_ERROR_INVALID_PTX, "NOWHERE"),
        (axpy().replace("[%rd1], %f0;", "[%rd1], %f0"), CUresult::CUDA_ERROR_INVALID_PTX, "line 22"),
        (axpy().replace("sm_80", "sm_100"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, "sm_100"),
        (axpy().replace("sm_80", "sm_80a"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, "sm_80a"),
        (
            axpy().replace("7.0", "9.9"),
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            "Unsupported .version 9.9",
        ),
    ];
    for (text, code, word) in cases {
        let (result, log) = load(&text);
        assert_eq!(result, code, "{log}");
        assert!(log.contains(word), "{log}");
    }
    assert_eq!(load(&axpy()).0, CUresult::CUDA_SUCCESS);
}

#[test]
fn launches_are_checked() {
    let gpu = Gpu::new();
    let text = axpy().replace("{\n.reg", ".reqntid 256, 1, 1\n{\n.shared .b8 s[1024];\n.reg");
    let function = gpu.function(&text, "k");
    let params = [0u64; 3];
    let mut pointers = params.each_ref().map(|p| from_ref(p).cast_mut().cast::<c_void>());
    let mut launch = |grid: u32, block: u32, shared: u32| unsafe {
        let params = pointers.as_mut_ptr();
        sys::cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, null_mut(), params, null_mut())
    };
    assert_eq!(launch(1, 256, 0), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(1, 128, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(0, 256, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(1, 2048, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(1, 256, 47 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(1, 256, 48 << 10), CUresult::CUDA_ERROR_INVALID_VALUE);
    unsafe {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(
            sys::cuFuncSetAttribute(function, attribute, 227 << 10),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        check(sys::cuFuncSetAttribute(function, attribute, 226 << 10));
    }
    assert_eq!(launch(1, 256, 226 << 10), CUresult::CUDA_SUCCESS);
    unsafe {
        check(sys::cuCtxSynchronize());
        check(sys::cuCtxPopCurrent_v2(null_mut()));
    }
    assert_eq!(launch(1, 256, 0), CUresult::CUDA_ERROR_INVALID_CONTEXT);
}

/// The order of streams is the process's: tests that depend on it take turns.
static ORDER: Mutex<()> = Mutex::new(());

/// Two kernels in two streams, the second reading what the first wrote.
fn two_streams(order: StreamOrder, with_event: bool) -> f32 {
    let gpu = Gpu::new();
    ptx_sim::configure(&Config { stream_order: order, ..ptx_sim::config() });
    let function = gpu.function(&axpy(), "k");
    let (x, y, z) = (gpu.upload(&[1f32]), gpu.upload(&[1f32]), gpu.upload(&[1f32]));
    let (first, second, event) = (stream(1), stream(1), event());
    unsafe {
        check(launch_axpy(function, first, x, y, 1));
        if with_event {
            check(sys::cuEventRecord(event, first));
            check(sys::cuStreamWaitEvent(second, event, 0));
        }
        check(launch_axpy(function, second, y, z, 1));
        check(sys::cuStreamSynchronize(second));
        let z = gpu.download::<f32>(z, 1)[0];
        check(sys::cuCtxSynchronize());
        z
    }
}

#[test]
fn a_missing_event_shows() {
    let _turn = ORDER.lock();
    assert_eq!(two_streams(StreamOrder::Immediate, false), 7.0);
    assert_eq!(two_streams(StreamOrder::Lazy, false), 3.0);
    for order in [StreamOrder::Immediate, StreamOrder::OthersFirst, StreamOrder::Random(1), StreamOrder::Lazy]
    {
        assert_eq!(two_streams(order, true), 7.0, "{order:?}");
    }
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    let _turn = ORDER.lock();
    for (flags, expected) in [(0, 3.0), (1, 1.0)] {
        let gpu = Gpu::new();
        let function = gpu.function(&axpy(), "k");
        let (x, y) = (gpu.upload(&[1f32]), gpu.upload(&[1f32]));
        check(launch_axpy(function, stream(flags), x, y, 1));
        assert_eq!(gpu.download::<f32>(y, 1)[0], expected);
    }
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_pageable_when_it_is_called() {
    let _turn = ORDER.lock();
    let gpu = Gpu::new();
    unsafe {
        let mut pinned = MaybeUninit::uninit();
        check(sys::cuMemHostAlloc(pinned.as_mut_ptr(), 4, 0));
        let pinned = pinned.assume_init().cast::<u32>();
        let mut pageable = 1u32;
        *pinned = 1;
        let (a, b, s) = (gpu.alloc(4), gpu.alloc(4), stream(1));
        check(sys::cuMemcpyHtoDAsync_v2(a, pinned.cast(), 4, s));
        check(sys::cuMemcpyHtoDAsync_v2(b, from_ref(&pageable).cast(), 4, s));
        *pinned = 2;
        pageable = 2;
        check(sys::cuStreamSynchronize(s));
        assert_eq!((gpu.download::<u32>(a, 1)[0], gpu.download::<u32>(b, 1)[0], pageable), (2, 1, 2));
        check(sys::cuMemFreeHost(pinned.cast()));
    }
}

#[test]
fn graphs_replay_and_captures_break() {
    let gpu = Gpu::new();
    let function = gpu.function(&axpy(), "k");
    let (x, y) = (gpu.upload(&[1f32]), gpu.upload(&[0f32]));
    let (main, side, fork, join) = (stream(1), stream(1), event(), event());
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let mut graph = MaybeUninit::uninit();
    unsafe {
        check(sys::cuStreamBeginCapture_v2(main, mode));
        check(launch_axpy(function, main, x, y, 1));
        check(sys::cuEventRecord(fork, main));
        check(sys::cuStreamWaitEvent(side, fork, 0));
        check(launch_axpy(function, side, x, y, 1));
        check(sys::cuEventRecord(join, side));
        check(sys::cuStreamWaitEvent(main, join, 0));
        check(sys::cuStreamEndCapture(main, graph.as_mut_ptr()));
        let mut executable = MaybeUninit::uninit();
        check(sys::cuGraphInstantiateWithFlags(executable.as_mut_ptr(), graph.assume_init(), 0));
        assert_eq!(gpu.download::<f32>(y, 1)[0], 0.0, "captured work does not run");
        for _ in 0..3 {
            check(sys::cuGraphLaunch(executable.assume_init(), main));
        }
        check(sys::cuStreamSynchronize(main));
        assert_eq!(gpu.download::<f32>(y, 1)[0], 12.0);

        type Breaker = fn(sys::CUstream) -> CUresult;
        let breakers: [(&str, Breaker); 4] = [
            ("allocation", |_| {
                let mut address = 0;
                sys::cuMemAlloc_v2(&mut address, 4)
            }),
            ("synchronization of the stream", |s| sys::cuStreamSynchronize(s)),
            ("synchronization of the context", |_| sys::cuCtxSynchronize()),
            ("query", |s| sys::cuStreamQuery(s)),
        ];
        for (name, breaker) in breakers {
            check(sys::cuStreamBeginCapture_v2(main, mode));
            assert_eq!(breaker(main), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "{name}");
            assert_eq!(
                launch_axpy(function, main, x, y, 1),
                CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                "{name}"
            );
            let ended = sys::cuStreamEndCapture(main, graph.as_mut_ptr());
            assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{name}");
        }
        check(sys::cuStreamBeginCapture_v2(main, mode));
        check(sys::cuEventRecord(fork, main));
        check(sys::cuStreamWaitEvent(side, fork, 0));
        check(launch_axpy(function, side, x, y, 1));
        let ended = sys::cuStreamEndCapture(main, graph.as_mut_ptr());
        assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    }
}

#[test]
fn memory_of_all_kinds() {
    let gpu = Gpu::new();
    let function = gpu.function(&axpy(), "k");
    unsafe {
        let attach = sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL as u32;
        let mut managed = 0;
        check(sys::cuMemAllocManaged(&mut managed, 400, attach));
        let values = std::slice::from_raw_parts_mut(managed as *mut f32, 100);
        values.fill(3.0);
        let mut registered = vec![1f32; 100];
        check(sys::cuMemHostRegister_v2(registered.as_mut_ptr().cast(), 400, 0));
        check(launch_axpy(function, null_mut(), managed, registered.as_ptr() as u64, 100));
        check(sys::cuCtxSynchronize());
        assert!(registered.iter().all(|&v| v == 7.0));
        check(sys::cuMemHostUnregister(registered.as_mut_ptr().cast()));

        let y = gpu.alloc(400);
        check(sys::cuMemsetD32_v2(y, 1f32.to_bits(), 100));
        check(sys::cuMemcpyDtoD_v2(y, managed, 200));
        let copied: Vec<f32> = gpu.download(y, 100);
        assert_eq!((copied[49], copied[50]), (3.0, 1.0));
        let mut kind = 0u32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED;
        check(sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, managed));
        assert_eq!(kind, 1);
        let mut size = 0usize;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE;
        check(sys::cuPointerGetAttribute((&raw mut size).cast(), attribute, y + 100));
        assert_eq!(size, 400);
        assert_eq!(sys::cuMemcpyDtoD_v2(y, managed, 404), CUresult::CUDA_ERROR_INVALID_VALUE);
        check(sys::cuMemFree_v2(y));
        assert_eq!(sys::cuMemFree_v2(y), CUresult::CUDA_ERROR_INVALID_VALUE);
        check(launch_axpy(function, null_mut(), managed, y, 100));
        assert_eq!(sys::cuCtxSynchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "freed memory");
    }
}

#[test]
fn cudarc_binds_only_symbols_that_are_there() {
    ptx_sim::install_simulator();
    unsafe {
        let mut version = 0;
        check(sys::cuDriverGetVersion(&mut version));
        assert_eq!(version, 12080);
        check(sys::cuInit(0));
        assert_eq!(sys::cuMemAddressFree(0, 0), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(sys::cuTexObjectDestroy(0), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
}
