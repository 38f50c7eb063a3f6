//! Clusters of blocks: special registers, shared memory of other blocks, the cluster's barrier, copies to several blocks.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::{Gpu, shape};
use cudarc::driver::sys;
use ptx_sim::{Fault, FaultKind};

/// A module of one kernel `k` for clusters of two blocks.
fn kernel(params: usize, body: &str) -> String {
    let text = common::kernel("sm_90", "8.0", params, body);
    text.replacen(")\n{", ")\n.explicitcluster .reqnctapercluster 2, 1, 1\n{", 1)
}

/// Each thread gives a number to the same thread of the cluster's other block.
const EXCHANGE: &str = "
    .shared .align 4 .b8 own[256];
    mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, own;
    shl.b32 %r4, %r0, 2; add.u32 %r5, %r3, %r4;
    mad.lo.u32 %r6, %r1, 1000, %r0; st.shared.u32 [%r5], %r6;
    barrier.cluster.arrive.aligned; // first
    barrier.cluster.wait.aligned; // first
    xor.b32 %r7, %r2, 1; mapa.shared::cluster.u32 %r8, %r5, %r7; ld.shared::cluster.u32 %r9, [%r8];
    barrier.cluster.arrive.aligned; // last
    barrier.cluster.wait.aligned; // last
    mov.u32 %r10, %clusterid.x; mov.u32 %r11, %nclusterid.x; mad.lo.u32 %r9, %r10, 100000, %r9;
    mad.lo.u32 %r9, %r11, 1000000, %r9;
    ld.param.u64 %rd0, [p0]; mad.lo.u32 %r12, %r1, 64, %r0; mul.wide.u32 %rd1, %r12, 4; add.u64 %rd0, %rd0, %rd1;
    st.global.u32 [%rd0], %r9;";

fn exchange(body: &str) -> Result<Vec<u32>, Fault> {
    let gpu = Gpu::new();
    let out = gpu.upload(&[0u32; 256]);
    gpu.try_launch(gpu.function(&kernel(1, body), "k"), shape(4, 64), &[out])?;
    Ok(gpu.download(out, 256))
}

#[test]
fn blocks_of_a_cluster_share_memory() {
    let found = exchange(EXCHANGE).unwrap_or_else(|fault| panic!("{fault}"));
    for (i, found) in (0..).zip(found) {
        let (block, thread) = (i / 64, i % 64);
        // Two clusters, numbered by their blocks' halves.
        assert_eq!(found, 2_000_000 + block / 2 * 100_000 + (block ^ 1) * 1000 + thread, "element {i}");
    }
}

#[test]
fn what_is_wrong_in_clusters_shows() {
    ptx_sim::install_simulator();
    let config = ptx_sim::Config { print_faults: false, ..ptx_sim::config() };
    ptx_sim::configure(&config);
    let first = "barrier.cluster.arrive.aligned; // first\n    barrier.cluster.wait.aligned; // first";
    let last = "barrier.cluster.arrive.aligned; // last\n    barrier.cluster.wait.aligned; // last";
    let edits = [
        ("nobody waits for the other's write", first, "bar.sync 0;", FaultKind::Race),
        ("a block ends while the other reads", last, "", FaultKind::Barrier),
        (
            "an arrival twice",
            "arrive.aligned; // first",
            "arrive.aligned; barrier.cluster.arrive.aligned;",
            FaultKind::Barrier,
        ),
        ("a wait without an arrival", "barrier.cluster.arrive.aligned; // last", "", FaultKind::Barrier),
        ("a block that the cluster lacks", "xor.b32 %r7, %r2, 1;", "mov.u32 %r7, 2;", FaultKind::OutOfBounds),
        ("beyond the other's memory", "[%r8];", "[%r8+256];", FaultKind::OutOfBounds),
        (
            "a warp that never comes",
            first,
            "setp.lt.u32 %p0, %r0, 32; @%p0 bra W; W: bar.sync 0; barrier.cluster.wait.aligned;",
            FaultKind::Barrier,
        ),
    ];
    for (name, from, to, kind) in edits {
        assert_eq!(EXCHANGE.matches(from).count(), 1, "{name}");
        match exchange(&EXCHANGE.replace(from, to)) {
            Ok(_) => panic!("{name}: not caught"),
            Err(fault) => assert_eq!(fault.kind, kind, "{name}: {fault}"),
        }
    }
    // A grid that is no multiple of the cluster.
    let gpu = Gpu::new();
    let function = gpu.function(&kernel(1, EXCHANGE), "k");
    let mut out = gpu.upload(&[0u32; 256]);
    let mut params = [std::ptr::from_mut(&mut out).cast()];
    let null = std::ptr::null_mut();
    let result = unsafe {
        sys::cuLaunchKernel(function, 3, 1, 1, 64, 1, 1, 0, null, params.as_mut_ptr(), null.cast())
    };
    assert_eq!(result, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}

/// Twice, each block brings one half of 1024 bytes to both blocks. Before it does so again, each has heard of the other that it
/// has read the first ones.
const MULTICAST: &str = "
    .shared .align 128 .b8 tile[1024]; .shared .align 8 .b8 full[8]; .shared .align 8 .b8 empty[8];
    mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, tile; mov.u32 %r3, full; mov.u32 %r4, empty;
    ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
    setp.ne.u32 %p0, %r0, 0; mov.u32 %r9, 0; mov.u16 %h0, 3;
    shl.b32 %r5, %r1, 9; add.u32 %r6, %r2, %r5; cvt.u64.u32 %rd2, %r5; add.u64 %rd0, %rd0, %rd2;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r3], 1; mbarrier.init.shared.b64 [%r4], 2; fence.mbarrier_init.release.cluster;
READY:
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; // ready
ROUND:
    @%p0 bra WAIT;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 1024;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r6], [%rd0], 512, [%r3], %h0;
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p1, [%r3], %r9;
    @!%p1 bra WAIT;
    shl.b32 %r7, %r0, 2; add.u32 %r8, %r2, %r7; ld.shared.u32 %r10, [%r8]; ld.shared.u32 %r11, [%r8+512];
    bar.sync 0;
    setp.gt.u32 %p2, %r0, 1; @%p2 bra HEARD;
    mapa.shared::cluster.u32 %r12, %r4, %r0; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r12]; // tell both
HEARD:
    mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p1, [%r4], %r9;
    @!%p1 bra HEARD; // heard
    add.u64 %rd0, %rd0, 1024; add.u32 %r9, %r9, 1; setp.lt.u32 %p3, %r9, 2; @%p3 bra ROUND;
    mov.u32 %r13, %ctaid.x; shl.b32 %r13, %r13, 10; cvt.u64.u32 %rd3, %r13; cvt.u64.u32 %rd4, %r7;
    add.u64 %rd1, %rd1, %rd3; add.u64 %rd1, %rd1, %rd4; st.global.u32 [%rd1], %r10; st.global.u32 [%rd1+512], %r11;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; // done";

fn multicast(body: &str) -> Result<bool, Fault> {
    let gpu = Gpu::new();
    let data: Vec<u32> = (0..512).map(|i| 7 * i + 1).collect();
    let (from, out) = (gpu.upload(&data), gpu.upload(&[0u32; 512]));
    gpu.try_launch(gpu.function(&kernel(2, body), "k"), shape(2, 128), &[from, out])?;
    // Both blocks have read the second 1024 bytes last.
    Ok(gpu.download::<u32>(out, 512) == [&data[256..], &data[256..]].concat())
}

#[test]
fn copies_to_several_blocks() {
    ptx_sim::install_simulator();
    let config = ptx_sim::Config { print_faults: false, ..ptx_sim::config() };
    ptx_sim::configure(&config);
    assert_eq!(multicast(MULTICAST), Ok(true));
    let edits = [
        (
            "the first round's readers are not waited for",
            "@!%p1 bra HEARD; // heard",
            "",
            FaultKind::MissingWait,
        ),
        (
            "only the own block's are",
            "mapa.shared::cluster.u32 %r12, %r4, %r0; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r12]; // tell both",
            "mbarrier.arrive.shared.b64 %rd5, [%r4];",
            FaultKind::MissingWait,
        ),
        ("blocks that the cluster lacks", "mov.u16 %h0, 3;", "mov.u16 %h0, 7;", FaultKind::IllegalOperand),
        ("more than announced", "[%r3], 1024;", "[%r3], 1040;", FaultKind::Deadlock),
        (
            "the other's barrier may not be there yet",
            "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; // ready",
            "bar.sync 0;",
            FaultKind::Race,
        ),
    ];
    for (name, from, to, kind) in edits {
        assert_eq!(MULTICAST.matches(from).count(), 1, "{name}");
        match multicast(&MULTICAST.replace(from, to)) {
            Ok(_) => panic!("{name}: not caught"),
            Err(fault) => assert_eq!(fault.kind, kind, "{name}: {fault}"),
        }
    }
}
