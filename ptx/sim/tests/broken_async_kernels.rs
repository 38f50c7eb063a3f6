//! Kernels with asynchronous copies: good ones pass; each small edit that breaks one is caught with the right diagnosis.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::table::{ramp, table};
use common::{kernel, shape};
use ptx_sim::FaultKind;

/// A tile through shared memory by cp.async, two groups, read by other threads.
#[test]
fn asynchronous_copies() {
    let body = "
        .shared .align 16 .b8 s[2048];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r1, s;
        mul.wide.u32 %rd2, %r0, 16; add.u64 %rd0, %rd0, %rd2;
        shl.b32 %r2, %r0, 4; add.u32 %r2, %r1, %r2;
        cp.async.cg.shared.global [%r2], [%rd0], 16;
        cp.async.commit_group;
        cp.async.ca.shared.global [%r2+1024], [%rd0+1024], 16;
        cp.async.commit_group;
        cp.async.wait_group 1; // first
        bar.sync 0; // first
        xor.b32 %r3, %r0, 33; shl.b32 %r3, %r3, 4; add.u32 %r3, %r1, %r3;
        ld.shared.f32 %f0, [%r3];
        cp.async.wait_group 0; // second
        bar.sync 0; // second
        ld.shared.f32 %f1, [%r3+1024];
        add.f32 %f0, %f0, %f1;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;
        st.global.f32 [%rd1], %f0;";
    let expected: Vec<f32> = (0..64).map(|i| 2.0 * 4.0 * (i ^ 33) as f32 + 256.0).collect();
    table(
        &kernel("sm_80", "7.0", 3, body),
        shape(1, 64),
        &ramp(512),
        &expected,
        &[
            ("wait removed", "cp.async.wait_group 1; // first", "", FaultKind::MissingWait),
            ("second wait removed", "cp.async.wait_group 0; // second", "", FaultKind::MissingWait),
            (
                "one group too many in flight",
                "wait_group 0; // second",
                "wait_group 1;",
                FaultKind::MissingWait,
            ),
            ("barrier removed", "bar.sync 0; // first", "", FaultKind::Race),
            ("second barrier removed", "bar.sync 0; // second", "", FaultKind::MissingWait),
            ("wrong alignment", "[%r2+1024], [%rd0+1024]", "[%r2+1024], [%rd0+1020]", FaultKind::Misaligned),
            ("overrun", "[%rd0+1024], 16", "[%rd0+2048], 16", FaultKind::OutOfBounds),
        ],
    );
}

/// Tiles of 128 floats by bulk copies through one buffer and an mbarrier, the result stored by a bulk copy.
#[test]
fn bulk_copies() {
    let body = "
        .shared .align 128 .b8 tile[512];
        .shared .align 128 .b8 result[512];
        .shared .align 8 .b8 full[8];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r1, tile; mov.u32 %r2, full; mov.u32 %r3, result;
        shl.b32 %r4, %r0, 2; add.u32 %r5, %r1, %r4; add.u32 %r6, %r3, %r4;
        setp.ne.u32 %p0, %r0, 0;
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], 1;
        fence.mbarrier_init.release.cluster; // init
    READY:
        bar.sync 0; // after init
        mov.f32 %f0, 0f00000000; mov.u32 %r7, 0; mov.u32 %r20, 500;
    LOOP:
        @%p0 bra WAIT;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 512;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0], 512, [%r2];
    WAIT:
        and.b32 %r8, %r7, 1; // parity
        mbarrier.try_wait.parity.shared.b64 %p1, [%r2], %r8;
        @!%p1 bra WAIT;
        ld.shared.f32 %f1, [%r5];
        add.f32 %f0, %f0, %f1;
        add.u64 %rd0, %rd0, 512;
        add.u32 %r7, %r7, 1;
        bar.sync 0; // before the next
        setp.lt.u32 %p2, %r7, 3;
        @%p2 bra LOOP;
        st.shared.f32 [%r6], %f0;
        fence.proxy.async.shared::cta; // store
        bar.sync 0; // result
        @%p0 bra DONE;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], 512;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0; // store
    DONE:";
    let expected: Vec<f32> = (0..128).map(|i| (3 * i + 128 + 256) as f32).collect();
    table(
        &kernel("sm_90", "8.0", 3, body),
        shape(1, 128),
        &ramp(384),
        &expected,
        &[
            (
                "wrong phase",
                "and.b32 %r8, %r7, 1; // parity",
                "and.b32 %r8, %r7, 1; xor.b32 %r8, %r8, 1;",
                FaultKind::MissingWait,
            ),
            ("wait removed", "@!%p1 bra WAIT;", "", FaultKind::MissingWait),
            (
                "phase never changes",
                "and.b32 %r8, %r7, 1; // parity",
                "mov.u32 %r8, 0;",
                FaultKind::MissingWait,
            ),
            ("no barrier after init", "bar.sync 0; // after init", "", FaultKind::Race),
            (
                "no fence after init",
                "fence.mbarrier_init.release.cluster; // init",
                "",
                FaultKind::MissingProxyFence,
            ),
            ("buffer overwritten while read", "bar.sync 0; // before the next", "", FaultKind::Race),
            (
                "missing proxy fence",
                "fence.proxy.async.shared::cta; // store",
                "",
                FaultKind::MissingProxyFence,
            ),
            ("no barrier before the store", "bar.sync 0; // result", "", FaultKind::Race),
            ("no wait for the store", "cp.async.bulk.wait_group 0; // store", "", FaultKind::MissingWait),
            ("too few bytes announced", "_, [%r2], 512;", "_, [%r2], 496;", FaultKind::Deadlock),
            (
                "too many arrivals expected",
                "mbarrier.init.shared.b64 [%r2], 1;",
                "mbarrier.init.shared.b64 [%r2], 2;",
                FaultKind::Deadlock,
            ),
            (
                "copy beyond the input",
                "[%rd0], 512, [%r2]",
                "[%rd0+1024], 512, [%r2]",
                FaultKind::OutOfBounds,
            ),
            ("copy of an odd size", "[%rd0], 512, [%r2]", "[%rd0], %r20, [%r2]", FaultKind::IllegalOperand),
            ("misaligned copy", "[%rd0], 512, [%r2]", "[%rd0+8], 512, [%r2]", FaultKind::Misaligned),
        ],
    );
}

/// A producer warp and two consumer warps over a ring of two buffers, each with a full and an empty barrier.
#[test]
fn producer_and_consumers() {
    let body = "
        .shared .align 128 .b8 ring[1024];
        .shared .align 8 .b8 bars[32];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r1, ring; mov.u32 %r2, bars;
        setp.ne.u32 %p0, %r0, 0;
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], 1;
        mbarrier.init.shared.b64 [%r2+8], 1;
        mbarrier.init.shared.b64 [%r2+16], 64;
        mbarrier.init.shared.b64 [%r2+24], 64;
        fence.mbarrier_init.release.cluster;
    READY:
        bar.sync 0;
        mov.u32 %r7, 0;
        setp.ge.u32 %p1, %r0, 64;
        @!%p1 bra CONSUMER;
        setp.ne.u32 %p0, %r0, 64;
        @%p0 bra DONE;
    PRODUCE:
        and.b32 %r8, %r7, 1; shr.u32 %r9, %r7, 1; and.b32 %r9, %r9, 1; xor.b32 %r9, %r9, 1; // empty parity
        shl.b32 %r10, %r8, 3; add.u32 %r10, %r2, %r10;
        shl.b32 %r11, %r8, 9; add.u32 %r11, %r1, %r11;
    EMPTY:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r10+16], %r9; // empty
        @!%p2 bra EMPTY;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r10], 512;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r11], [%rd0], 512, [%r10];
        add.u64 %rd0, %rd0, 512; add.u32 %r7, %r7, 1;
        setp.lt.u32 %p3, %r7, 6;
        @%p3 bra PRODUCE;
        bra DONE;
    CONSUMER:
        shl.b32 %r4, %r0, 3; add.u32 %r5, %r1, %r4; mov.f32 %f0, 0f00000000;
    CONSUME:
        and.b32 %r8, %r7, 1; shr.u32 %r9, %r7, 1; and.b32 %r9, %r9, 1;
        shl.b32 %r10, %r8, 3; add.u32 %r10, %r2, %r10;
        shl.b32 %r11, %r8, 9; add.u32 %r11, %r5, %r11;
    FULL:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r10], %r9; // full
        @!%p2 bra FULL;
        ld.shared.v2.f32 {%f1, %f2}, [%r11];
        add.f32 %f0, %f0, %f1; add.f32 %f0, %f0, %f2;
        mbarrier.arrive.shared.b64 %rd5, [%r10+16]; // read
        add.u32 %r7, %r7, 1;
        setp.lt.u32 %p3, %r7, 6;
        @%p3 bra CONSUME;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;
        st.global.f32 [%rd1], %f0;
    DONE:";
    let expected: Vec<f32> =
        (0..64).map(|i| (0..6).map(|k| (128 * k + 2 * i) as f32 * 2.0 + 1.0).sum()).collect();
    table(
        &kernel("sm_90", "8.0", 3, body),
        shape(1, 96),
        &ramp(768),
        &expected,
        &[
            ("producer does not wait", "@!%p2 bra EMPTY;", "", FaultKind::Barrier),
            ("consumer does not wait", "@!%p2 bra FULL;", "", FaultKind::Uninitialized),
            ("wrong empty parity", "xor.b32 %r9, %r9, 1; // empty parity", "", FaultKind::Deadlock),
            (
                "released before it is read",
                "ld.shared.v2.f32 {%f1, %f2}, [%r11];
        add.f32 %f0, %f0, %f1; add.f32 %f0, %f0, %f2;
        mbarrier.arrive.shared.b64 %rd5, [%r10+16]; // read",
                "mbarrier.arrive.shared.b64 %rd5, [%r10+16];
        ld.shared.v2.f32 {%f1, %f2}, [%r11];
        add.f32 %f0, %f0, %f1; add.f32 %f0, %f0, %f2;",
                FaultKind::Race,
            ),
            (
                "never released",
                "mbarrier.arrive.shared.b64 %rd5, [%r10+16]; // read",
                "",
                FaultKind::Deadlock,
            ),
        ],
    );
}
