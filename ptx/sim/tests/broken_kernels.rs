//! Good kernels pass; each small edit that breaks one is caught with the right diagnosis.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::table::{ramp, table};
use common::{kernel, shape};
use ptx_sim::FaultKind;

/// The sum of 100 elements by 128 threads of one block: a guarded load, a tree in shared memory.
#[test]
fn block_reduction() {
    let mut body = String::from(
        ".shared .align 4 .b8 s[512];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x;
        mul.wide.u32 %rd2, %r0, 4;
        add.u64 %rd0, %rd0, %rd2;
        mov.f32 %f0, 0f00000000;
        setp.ge.u32 %p0, %r0, 100;
        @!%p0 ld.global.f32 %f0, [%rd0];
        mov.u32 %r1, s;
        shl.b32 %r2, %r0, 2;
        add.u32 %r1, %r1, %r2;
        st.shared.f32 [%r1], %f0;
        bar.sync 0; // after the store\n",
    );
    for half in [64, 32, 16, 8, 4, 2, 1] {
        body += &format!(
            "setp.lt.u32 %p1, %r0, {half}; // step {half}
            @%p1 ld.shared.f32 %f1, [%r1+{}];
            @%p1 ld.shared.f32 %f2, [%r1];
            @%p1 add.f32 %f2, %f2, %f1;
            @%p1 st.shared.f32 [%r1], %f2;
            bar.sync 0; // after {half}.\n",
            4 * half
        );
    }
    body += "setp.eq.u32 %p2, %r0, 0;\n@%p2 ld.shared.f32 %f3, [s];\n@%p2 st.global.f32 [%rd1], %f3;";
    let ptx = kernel("sm_75", "6.3", 3, &body);
    table(
        &ptx,
        shape(1, 128),
        &ramp(100),
        &[4950.0],
        &[
            ("barrier removed", "bar.sync 0; // after the store", "", FaultKind::Race),
            ("barrier between warps removed", "bar.sync 0; // after 32.", "", FaultKind::Race),
            ("barrier within a warp removed", "bar.sync 0; // after 2.", "", FaultKind::Race),
            (
                "off-by-one bound",
                "setp.ge.u32 %p0, %r0, 100;",
                "setp.gt.u32 %p0, %r0, 100;",
                FaultKind::OutOfBounds,
            ),
            (
                "wrong alignment",
                "ld.global.f32 %f0, [%rd0]",
                "ld.global.f32 %f0, [%rd0+2]",
                FaultKind::Misaligned,
            ),
            ("shared off by one", "[%r1+256]", "[%r1+260]", FaultKind::OutOfBounds),
            (
                "uninitialized shared memory",
                "st.shared.f32 [%r1], %f0;",
                "@!%p0 st.shared.f32 [%r1], %f0;",
                FaultKind::Uninitialized,
            ),
            ("divergent barrier", "bar.sync 0; // after 8.", "@%p1 bar.sync 0;", FaultKind::Divergence),
            (
                "store before the start",
                "st.global.f32 [%rd1], %f3",
                "st.global.f32 [%rd1+-4], %f3",
                FaultKind::OutOfBounds,
            ),
            (
                "write to the input's place",
                "st.global.f32 [%rd1], %f3;",
                "st.global.f32 [%rd1+65536], %f3;",
                FaultKind::OutOfBounds,
            ),
            ("trap", "mov.u32 %r1, s;", "mov.u32 %r1, s; trap;", FaultKind::Trap),
            ("no end", "mov.u32 %r1, s;", "LOOP: bra LOOP; mov.u32 %r1, s;", FaultKind::Timeout),
            (
                "no end, and a wait in each round",
                "mov.u32 %r1, s;",
                "LOOP: bar.sync 0; bra LOOP; mov.u32 %r1, s;",
                FaultKind::Timeout,
            ),
        ],
    );
}

/// A warp's sum by shuffles, over lanes that may be masked off.
#[test]
fn shuffles() {
    let mut body = String::from(
        "ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %laneid;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2;
        ld.global.f32 %f0, [%rd0]; // data
        setp.lt.u32 %p0, %r0, 16;\n",
    );
    for distance in [16, 8, 4, 2, 1] {
        body += &format!(
            "mov.b32 %r1, %f0; shfl.sync.bfly.b32 %r2, %r1, {distance}, 31, -1;\nmov.b32 %f1, %r2; add.f32 %f0, %f0, %f1;\n"
        );
    }
    body += "st.global.f32 [%rd1], %f0;";
    let ptx = kernel("sm_75", "6.3", 3, &body);
    table(
        &ptx,
        shape(1, 32),
        &ramp(32),
        &[496.0; 32],
        &[
            (
                "divergent shuffle",
                "shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;",
                "@%p0 shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;",
                FaultKind::Divergence,
            ),
            ("mask without the lane", "%r1, 8, 31, -1", "%r1, 8, 31, 0xffff", FaultKind::Divergence),
            (
                "lanes gone",
                "ld.global.f32 %f0, [%rd0]; // data",
                "ld.global.f32 %f0, [%rd0]; setp.gt.u32 %p1, %r0, 30; @%p1 exit;",
                FaultKind::Divergence,
            ),
        ],
    );
}

/// Neighbours in a warp exchange through shared memory.
#[test]
fn warp_exchange() {
    let body = "
        .shared .align 4 .b8 s[128];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %laneid;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2;
        ld.global.f32 %f0, [%rd0];
        mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r2, %r2, 4; add.u32 %r4, %r1, %r2;
        st.shared.f32 [%r3], %f0;
        bar.warp.sync -1; // store to load
        ld.shared.f32 %f0, [%r4];
        bar.warp.sync -1; // load to store
        st.shared.f32 [%r3], %f0;
        st.global.f32 [%rd1], %f0;";
    let expected: Vec<f32> = (0..32).map(|i| (i ^ 1) as f32).collect();
    table(
        &kernel("sm_75", "6.3", 3, body),
        shape(1, 32),
        &ramp(32),
        &expected,
        &[
            ("load after store unordered", "bar.warp.sync -1; // store to load", "", FaultKind::Race),
            ("store after load unordered", "bar.warp.sync -1; // load to store", "", FaultKind::Race),
            (
                "half the warp",
                "bar.warp.sync -1; // store to load",
                "bar.warp.sync 0xffff;",
                FaultKind::Divergence,
            ),
            (
                "same place",
                "st.shared.f32 [%r3], %f0;\n        bar.warp",
                "st.shared.f32 [s], %f0;\n        bar.warp",
                FaultKind::Race,
            ),
        ],
    );
}

/// Each block leaves a partial result; the last to come, by an atomic counter, adds them up.
#[test]
fn last_block_reduces() {
    let body = "
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; ld.param.u64 %rd5, [p2];
        mov.u32 %r0, %ctaid.x; mov.u32 %r9, %tid.x;
        setp.ne.u32 %p7, %r9, 0; @%p7 bra DONE;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd3, %rd0, %rd2; add.u64 %rd4, %rd5, %rd2;
        ld.global.f32 %f0, [%rd3];
        st.global.f32 [%rd4+64], %f0; // partial
        membar.gl; // release
        atom.global.add.u32 %r1, [%rd5], 1;
        membar.gl; // acquire
        setp.ne.u32 %p0, %r1, 15; @%p0 bra DONE;
        mov.f32 %f1, 0f00000000; mov.u32 %r2, 0;
    LOOP:
        mul.wide.u32 %rd2, %r2, 4; add.u64 %rd4, %rd5, %rd2;
        ld.global.f32 %f0, [%rd4+64];
        add.f32 %f1, %f1, %f0;
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 16; @%p1 bra LOOP;
        st.global.f32 [%rd1], %f1;
    DONE:";
    table(
        &kernel("sm_90", "7.8", 3, body),
        shape(16, 64),
        &ramp(16),
        &[120.0],
        &[
            ("no release fence", "membar.gl; // release", "", FaultKind::Race),
            ("no acquire fence", "membar.gl; // acquire", "", FaultKind::Race),
            ("fence of the block only", "membar.gl; // release", "membar.cta;", FaultKind::Race),
            ("fence of the cluster only", "membar.gl; // release", "fence.acq_rel.cluster;", FaultKind::Race),
            (
                "counter of the block",
                "atom.global.add.u32",
                "atom.relaxed.cta.global.add.u32",
                FaultKind::Race,
            ),
            (
                "one block too early",
                "setp.ne.u32 %p0, %r1, 15;",
                "setp.ne.u32 %p0, %r1, 14;",
                FaultKind::Uninitialized,
            ),
            (
                "not atomic",
                "atom.global.add.u32 %r1, [%rd5], 1;",
                "ld.global.u32 %r1, [%rd5]; add.u32 %r1, %r1, 1; st.global.u32 [%rd5], %r1;",
                FaultKind::Race,
            ),
            (
                "partials in one place",
                "st.global.f32 [%rd4+64], %f0; // partial",
                "st.global.f32 [%rd5+64], %f0;",
                FaultKind::Race,
            ),
        ],
    );
}

/// One warp fills a buffer twice, the other reads it: a pair of named barriers.
#[test]
fn named_barriers() {
    let body = "
        .shared .align 4 .b8 s[128];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r5, %laneid; mov.u32 %r1, s; shl.b32 %r2, %r5, 2; add.u32 %r1, %r1, %r2;
        mul.wide.u32 %rd2, %r5, 4; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2;
        setp.ge.u32 %p0, %r0, 32; @%p0 bra CONSUMER;
        ld.global.f32 %f0, [%rd0]; st.shared.f32 [%r1], %f0;
        bar.arrive 1, 64; // full
        bar.sync 2, 64; // empty
        ld.global.f32 %f0, [%rd0+128]; st.shared.f32 [%r1], %f0;
        bar.arrive 1, 64;
        bra DONE;
    CONSUMER:
        bar.sync 1, 64; // first
        ld.shared.f32 %f0, [%r1];
        bar.arrive 2, 64; // read
        bar.sync 1, 64; // second
        ld.shared.f32 %f1, [%r1];
        add.f32 %f0, %f0, %f1;
        st.global.f32 [%rd1], %f0;
    DONE:";
    let expected: Vec<f32> = (0..32).map(|i| (2 * i + 32) as f32).collect();
    table(
        &kernel("sm_75", "6.3", 3, body),
        shape(1, 64),
        &ramp(64),
        &expected,
        &[
            ("no wait for the reader", "bar.sync 2, 64; // empty", "", FaultKind::Barrier),
            (
                "arrival too early",
                "ld.global.f32 %f0, [%rd0]; st.shared.f32 [%r1], %f0;\n        bar.arrive 1, 64; // full",
                "bar.arrive 1, 64; ld.global.f32 %f0, [%rd0]; st.shared.f32 [%r1], %f0;",
                FaultKind::Race,
            ),
            ("nobody arrives", "bar.arrive 2, 64; // read", "", FaultKind::Deadlock),
            ("wrong count", "bar.sync 1, 64; // first", "bar.sync 1, 96;", FaultKind::Barrier),
            (
                "count of no whole warps",
                "bar.sync 1, 64; // first",
                "mov.u32 %r6, 48; bar.sync 1, %r6;",
                FaultKind::Barrier,
            ),
        ],
    );
}

/// Rows that each lane stores go to the other lanes by `ldmatrix`, back by `stmatrix`, and each lane reads its own again.
#[test]
fn matrix_exchange() {
    let body = "
        .shared .align 16 .b8 s[512];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %laneid;
        mul.wide.u32 %rd2, %r0, 16; add.u64 %rd0, %rd0, %rd2;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;
        ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%rd0];
        mov.u32 %r1, s; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;
        st.shared.v4.f32 [%r1], {%f0, %f1, %f2, %f3};
        bar.warp.sync -1; // store to ldmatrix
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1];
        bar.warp.sync -1; // ldmatrix to stmatrix
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r1], {%r4, %r5, %r6, %r7};
        bar.warp.sync -1; // stmatrix to load
        ld.shared.f32 %f4, [%r1];
        mov.b32 %f5, %r4; add.f32 %f4, %f4, %f5;
        st.global.f32 [%rd1], %f4;";
    let expected: Vec<f32> = (0..32).map(|i| (4 * i + i) as f32).collect();
    table(
        &kernel("sm_90", "7.8", 3, body),
        shape(1, 32),
        &ramp(128),
        &expected,
        &[
            ("ldmatrix of unordered rows", "bar.warp.sync -1; // store to ldmatrix", "", FaultKind::Race),
            ("rows stored while read", "bar.warp.sync -1; // ldmatrix to stmatrix", "", FaultKind::Race),
            ("rows read while stored", "bar.warp.sync -1; // stmatrix to load", "", FaultKind::Race),
        ],
    );
}
