//! Managed memory: what the driver checks, where pages are, and what does not fit. The machine is the process's, so tests take
//! turns.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard};

use common::{Gpu, check, event, kernel, shape, stream};
use cudarc::driver::sys::{self, CUresult};
use ptx_sim::log::{Location, Work};
use ptx_sim::{Config, Stats};
use sys::CUmem_advise_enum as Advice;

const PAGE: usize = 4096;
const HOST: c_int = -1;

/// Adds 1 to the first word of so many pages as there are threads.
const TOUCH: &str = "
    ld.param.u64 %rd0, [p0];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd1, %r0, 4096;
    add.s64 %rd0, %rd0, %rd1;
    ld.global.u32 %r1, [%rd0];
    add.u32 %r1, %r1, 1;
    st.global.u32 [%rd0], %r1;";

/// A machine of its own for a test, with this much memory.
fn machine(memory: usize, host_memory: usize, concurrent: bool) -> (MutexGuard<'static, ()>, Gpu) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    ptx_sim::install_simulator();
    ptx_sim::reset();
    ptx_sim::reset_counters();
    ptx_sim::configure(&Config {
        memory: memory as u64,
        host_memory: host_memory as u64,
        concurrent_managed_access: concurrent,
        ..Config::default()
    });
    (turn, Gpu::new())
}

fn allocate(bytes: usize) -> Result<u64, CUresult> {
    let mut address = 0;
    match unsafe { sys::cuMemAllocManaged(&mut address, bytes, 1) } {
        CUresult::CUDA_SUCCESS => Ok(address),
        error => Err(error),
    }
}

fn prefetch(address: u64, bytes: usize, to: c_int) -> CUresult {
    unsafe { sys::cuMemPrefetchAsync(address, bytes, to, null_mut()) }
}

fn advise(address: u64, bytes: usize, advice: Advice, device: c_int) -> CUresult {
    unsafe { sys::cuMemAdvise(address, bytes, advice, device) }
}

/// Touches pages in a kernel; what it counted.
fn touch(gpu: &Gpu, address: u64, pages: usize) -> Stats {
    let function = gpu.function(&kernel("sm_80", "7.0", 1, TOUCH), "k");
    gpu.launch(function, shape(1, pages as u32), &[address]);
    ptx_sim::counters().launches.last().unwrap().stats.clone()
}

/// The bytes that the last prefetch had to move.
fn moved() -> u64 {
    unsafe { check(sys::cuCtxSynchronize()) };
    let log = ptx_sim::counters().log;
    let moved = |work: &Work| if let Work::Prefetch { moved, .. } = work { Some(*moved) } else { None };
    log.iter().rev().find_map(|entry| moved(&entry.work)).expect("a prefetch")
}

const fn pages(n: usize) -> u64 {
    (n * PAGE) as u64
}

#[test]
fn arguments_are_checked() {
    use CUresult::{
        CUDA_ERROR_INVALID_DEVICE as DEVICE, CUDA_ERROR_INVALID_VALUE as VALUE, CUDA_SUCCESS as OK,
    };
    let (_turn, gpu) = machine(1 << 20, 1 << 20, true);
    let mut address = 0;
    for (size, flags, result) in
        [(4, 0, VALUE), (4, 3, VALUE), (4, 4, VALUE), (0, 1, VALUE), (4, 1, OK), (4, 2, OK)]
    {
        assert_eq!(unsafe { sys::cuMemAllocManaged(&mut address, size, flags) }, result, "{size} {flags}");
    }
    let managed = allocate(4 * PAGE).unwrap();
    let device = gpu.alloc(4 * PAGE);
    // Ranges need not be aligned, but be within one managed allocation.
    for (address, bytes, to, result) in [
        (managed, 4 * PAGE, 0, OK),
        (managed + 5, 1, HOST, OK),
        (managed, 4 * PAGE + 1, 0, VALUE),
        (managed, 0, 0, VALUE),
        (device, PAGE, 0, VALUE),
        (managed, PAGE, 1, DEVICE),
        (managed, PAGE, -2, DEVICE),
    ] {
        assert_eq!(prefetch(address, bytes, to), result, "{bytes} to {to}");
        assert_eq!(advise(address, bytes, Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION, to), result);
    }
    // Where the location means nothing, it may be anything.
    for (advice, result) in [
        (Advice::CU_MEM_ADVISE_SET_READ_MOSTLY, OK),
        (Advice::CU_MEM_ADVISE_UNSET_READ_MOSTLY, OK),
        (Advice::CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, OK),
        (Advice::CU_MEM_ADVISE_SET_ACCESSED_BY, DEVICE),
        (Advice::CU_MEM_ADVISE_UNSET_ACCESSED_BY, DEVICE),
    ] {
        assert_eq!(advise(managed, PAGE, advice, 5), result, "{advice:?}");
    }
    unsafe {
        // The second versions, which this version of cudarc does not bind.
        type Prefetch = unsafe extern "C" fn(u64, usize, [c_int; 2], c_uint, *mut c_void) -> CUresult;
        type Advise = unsafe extern "C" fn(u64, usize, c_uint, [c_int; 2]) -> CUresult;
        let symbol = |name: &std::ffi::CStr| libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        let prefetch: Prefetch = std::mem::transmute(symbol(c"cuMemPrefetchAsync_v2"));
        let advise: Advise = std::mem::transmute(symbol(c"cuMemAdvise_v2"));
        assert_eq!(prefetch(managed, PAGE, [1, 0], 1, null_mut()), VALUE, "flags");
        // Invalid, device, host, NUMA node, nearest NUMA node; 1 is neither a device nor a node.
        for (kind, id, result) in [
            (0, 0, VALUE),
            (1, 0, OK),
            (1, 1, DEVICE),
            (2, 1, OK),
            (3, 0, OK),
            (3, 1, VALUE),
            (4, 1, OK),
            (5, 0, VALUE),
        ] {
            assert_eq!(prefetch(managed, PAGE, [kind, id], 0, null_mut()), result, "{kind} {id}");
            assert_eq!(advise(managed, PAGE, 3, [kind, id]), result, "{kind} {id}");
            let accessed_by = if kind > 2 { VALUE } else { result };
            assert_eq!(advise(managed, PAGE, 5, [kind, id]), accessed_by, "{kind} {id}");
        }
        for advice in [0, 7] {
            assert_eq!(advise(managed, PAGE, advice, [2, 0]), VALUE);
        }
        let attach =
            |stream, address, bytes, flags| sys::cuStreamAttachMemAsync(stream, address, bytes, flags);
        let own = stream(1);
        assert_eq!(attach(own, managed, 0, 4), OK);
        assert_eq!(attach(own, managed, 4 * PAGE, 1), OK);
        assert_eq!(attach(own, managed, PAGE, 1), VALUE, "a part");
        assert_eq!(attach(own, managed, 0, 3), VALUE, "flags");
        assert_eq!(attach(null_mut(), managed, 0, 4), VALUE, "a single stream cannot be the default one");
        assert_eq!(attach(own, device, 0, 1), VALUE, "not managed");

        // No graph node is a prefetch.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let mut graph = null_mut();
        check(sys::cuStreamBeginCapture_v2(own, mode));
        let captured = sys::cuMemPrefetchAsync(managed, PAGE, 0, own);
        assert_eq!(captured, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let ended = sys::cuStreamEndCapture(own, &mut graph);
        assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
}

#[test]
fn without_concurrent_access_managed_memory_is_device_memory() {
    let (_turn, gpu) = machine(8 * PAGE, 0, false);
    let managed = allocate(8 * PAGE).unwrap();
    assert_eq!(allocate(1), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    for to in [0, HOST] {
        assert_eq!(prefetch(managed, PAGE, to), CUresult::CUDA_ERROR_INVALID_DEVICE);
    }
    let preferred = Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
    assert_eq!(advise(managed, PAGE, preferred, 0), CUresult::CUDA_ERROR_INVALID_DEVICE);
    check(advise(managed, PAGE, preferred, HOST));
    let stats = touch(&gpu, managed, 8);
    assert_eq!((stats.managed_faults, stats.managed_remote), (0, 0));
    unsafe { check(sys::cuMemFree_v2(managed)) };
    assert_eq!(allocate(9 * PAGE), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    allocate(8 * PAGE).unwrap();
}

#[test]
fn the_hosts_memory_has_an_end() {
    let (_turn, _gpu) = machine(PAGE, 8 * PAGE, true);
    let host = |bytes, flags| {
        let mut address = null_mut();
        match unsafe { sys::cuMemHostAlloc(&mut address, bytes, flags) } {
            CUresult::CUDA_SUCCESS => Ok(address),
            error => Err(error),
        }
    };
    // Both may be larger than the device's memory.
    let (managed, pinned) = (allocate(5 * PAGE).unwrap(), host(3 * PAGE, 7).unwrap());
    let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    assert_eq!((allocate(1), host(1, 0)), (Err(full), Err(full)));
    assert_eq!(host(1, 8), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    unsafe { check(sys::cuMemFreeHost(pinned)) };
    assert_eq!(host(4 * PAGE, 0), Err(full));
    let pinned = host(3 * PAGE, 0).unwrap();
    unsafe { check(sys::cuMemFree_v2(managed)) };
    assert_eq!(allocate(6 * PAGE), Err(full));
    allocate(5 * PAGE).unwrap();
    unsafe {
        let mut flags = 0;
        check(sys::cuMemHostGetFlags(&mut flags, pinned));
        assert_eq!(
            sys::cuMemHostGetFlags(&mut flags, (&raw mut flags).cast()),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
    // The limit may move while contexts exist, for a failure in the middle of a program.
    ptx_sim::configure(&Config { host_memory: 9 << 20, ..ptx_sim::config() });
    allocate(8 << 20).unwrap();
}

#[test]
fn kernels_fetch_what_was_not_prefetched() {
    let (_turn, gpu) = machine(64 * PAGE, 64 * PAGE, true);
    let managed = allocate(8 * PAGE).unwrap();
    let words = managed as *mut u32;
    (0..8).for_each(|page| unsafe { *words.add(page * PAGE / 4) = 10 * page as u32 });

    // Half is prefetched, with one byte of the next page.
    check(prefetch(managed, 4 * PAGE + 1, 0));
    assert_eq!(moved(), pages(5));
    assert_eq!(touch(&gpu, managed, 8).managed_faults, pages(3));
    assert_eq!(touch(&gpu, managed, 8).managed_faults, 0);
    check(prefetch(managed, 8 * PAGE, 0));
    assert_eq!(moved(), 0);
    // Away with two of them.
    check(prefetch(managed + pages(2), 2 * PAGE, HOST));
    assert_eq!(moved(), pages(2));
    assert_eq!(touch(&gpu, managed, 8).managed_faults, pages(2));

    let counters = ptx_sim::counters();
    assert_eq!(counters.prefetched_to_device, pages(12) + 1);
    assert_eq!((counters.prefetched_to_host, counters.managed_evictions), (pages(2), 0));
    assert_eq!(counters.total().managed_faults, pages(5));
    let to = |to| move |work: &Work| matches!(work, Work::Prefetch { to: there, .. } if *there == to);
    let count = |is: &dyn Fn(&Work) -> bool| counters.log.iter().filter(|entry| is(&entry.work)).count();
    assert_eq!((count(&to(Location::Device(0))), count(&to(Location::Host))), (2, 1));
    assert_eq!(count(&|work| matches!(work, Work::Kernel { faults, .. } if *faults == pages(3))), 1);
    // Where pages are is nothing to what is in them.
    (0..8).for_each(|page| assert_eq!(unsafe { *words.add(page * PAGE / 4) }, 10 * page as u32 + 3));
}

#[test]
fn a_prefetch_comes_in_its_streams_turn() {
    let (_turn, gpu) = machine(64 * PAGE, 64 * PAGE, true);
    let managed = allocate(2 * PAGE).unwrap();
    let (first, second, done) = (stream(1), stream(1), event());
    unsafe {
        check(sys::cuMemPrefetchAsync(managed, PAGE, 0, first));
        check(sys::cuEventRecord(done, first));
        check(sys::cuMemPrefetchAsync(managed + pages(1), PAGE, 0, first));
        check(sys::cuStreamWaitEvent(second, done, 0));
        check(sys::cuStreamSynchronize(second));
    }
    // The default stream does not wait for the others.
    assert_eq!(touch(&gpu, managed, 1).managed_faults, 0);
    let function = gpu.function(&kernel("sm_80", "7.0", 1, TOUCH), "k");
    let address = managed + pages(1);
    let mut params = [(&raw const address).cast_mut().cast::<c_void>()];
    unsafe {
        // In another stream the kernel runs before the prefetch that nothing asked for.
        let params = params.as_mut_ptr();
        check(sys::cuMemPrefetchAsync(address, PAGE, HOST, null_mut()));
        check(sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, second, params, null_mut()));
        check(sys::cuStreamSynchronize(second));
    }
    assert_eq!(ptx_sim::counters().launches.last().unwrap().stats.managed_faults, 0);
    assert_eq!(touch(&gpu, address, 1).managed_faults, pages(1));
}

#[test]
fn pages_that_came_first_leave_first() {
    let (_turn, gpu) = machine(8 * PAGE, 64 * PAGE, true);
    let managed = allocate(16 * PAGE).unwrap();
    let at = |page: usize| managed + pages(page);
    let evicted = || ptx_sim::counters().managed_evictions;
    let free = || {
        let (mut free, mut total) = (0, 0);
        unsafe { check(sys::cuMemGetInfo_v2(&mut free, &mut total)) };
        free as u64
    };
    check(prefetch(at(0), 8 * PAGE, 0));
    assert_eq!((moved(), evicted(), free()), (pages(8), 0, 0));
    // Three more push out the first three: those are 0 to 2, but 0 has come anew.
    check(prefetch(at(0), PAGE, 0));
    check(prefetch(at(8), 3 * PAGE, 0));
    assert_eq!((moved(), evicted()), (pages(3), pages(3)));
    assert_eq!(touch(&gpu, at(0), 1).managed_faults, 0);
    assert_eq!(touch(&gpu, at(4), 7).managed_faults, 0);
    // 1 to 3 are gone; by page faults they come back, and 4 to 6 go.
    assert_eq!(touch(&gpu, at(1), 3).managed_faults, pages(3));
    assert_eq!(evicted(), pages(6));
    check(prefetch(at(4), 3 * PAGE, HOST));
    assert_eq!((moved(), free()), (0, 0));
    // The device's own memory needs room as well.
    let own = gpu.alloc(6 * PAGE);
    assert_eq!((evicted(), free()), (pages(12), 0));
    // Who goes through more than fits fetches everything each time.
    for _ in 0..2 {
        for page in (0..16).step_by(2) {
            assert_eq!(touch(&gpu, at(page), 2).managed_faults, pages(2), "{page}");
        }
    }
    unsafe {
        check(sys::cuMemFree_v2(managed));
        check(sys::cuMemFree_v2(own));
    }
    assert_eq!(free(), pages(8));
}

#[test]
fn advice_lets_pages_stay_at_the_host() {
    let (_turn, gpu) = machine(64 * PAGE, 64 * PAGE, true);
    let managed = allocate(4 * PAGE).unwrap();
    let of = |stats: Stats| (stats.managed_faults, stats.managed_remote);
    // A load and a store of 4 bytes each.
    let remote = |pages: u64| 8 * pages;
    check(advise(managed, 2 * PAGE, Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION, HOST));
    check(advise(managed + pages(2), PAGE, Advice::CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    assert_eq!(of(touch(&gpu, managed, 4)), (pages(1), remote(3)));
    // Prefetched, they are at hand whatever the advice.
    check(prefetch(managed, PAGE, 0));
    assert_eq!(of(touch(&gpu, managed, 4)), (0, remote(2)));
    check(prefetch(managed, PAGE, HOST));
    assert_eq!(of(touch(&gpu, managed, 4)), (0, remote(3)));
    // Taken back or overruled, the next touch fetches.
    check(advise(managed, PAGE, Advice::CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, 0));
    check(advise(managed + pages(1), PAGE, Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 0));
    check(advise(managed + pages(2), PAGE, Advice::CU_MEM_ADVISE_UNSET_ACCESSED_BY, 0));
    assert_eq!(of(touch(&gpu, managed, 4)), (pages(3), 0));
    // A preferred location on the device overrules that it can reach the page elsewhere.
    check(prefetch(managed, PAGE, HOST));
    check(advise(managed, PAGE, Advice::CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    check(advise(managed, PAGE, Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 0));
    assert_eq!(of(touch(&gpu, managed, 1)), (pages(1), 0));
    check(prefetch(managed, PAGE, HOST));
    check(advise(managed, PAGE, Advice::CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, 0));
    assert_eq!(of(touch(&gpu, managed, 1)), (0, remote(1)));
}
