//! Good kernels pass; each small edit that breaks one is caught with the right diagnosis.

mod common;

use common::{Gpu, Shape, kernel, shape};
use ptx_sim::FaultKind;

/// An edit: its name, the text it replaces, the replacement, and what must be found.
type Edit = (&'static str, &'static str, &'static str, FaultKind);

/// Runs the good kernel, checks its output, then each mutant.
fn table(ptx: &str, shape: Shape, input: &[f32], expected: &[f32], edits: &[Edit]) {
    let gpu = Gpu::new();
    let config = ptx_sim::Config { instruction_limit: 1_000_000, print_faults: false, ..ptx_sim::config() };
    ptx_sim::configure(&config);
    let run = |text: &str| {
        let input = gpu.upload(input);
        let output = gpu.upload(&vec![0f32; expected.len()]);
        // A counter that starts at zero, then memory that nobody has written.
        let scratch = gpu.alloc(1024);
        gpu.set_zero(scratch, 4);
        let function = gpu.function(text, "k");
        gpu.try_launch(function, shape, &[input, output, scratch])
            .map(|()| gpu.download::<f32>(output, expected.len()))
    };
    match run(ptx) {
        Ok(output) => assert_eq!(output, expected),
        Err(fault) => panic!("the good kernel: {fault}"),
    }
    for (name, from, to, kind) in edits {
        assert_eq!(ptx.matches(from).count(), 1, "{name}: the edit's place");
        match run(&ptx.replace(from, to)) {
            Ok(_) => panic!("{name}: not caught"),
            Err(fault) => {
                assert_eq!(fault.kind, *kind, "{name}: {fault}");
                assert_eq!(fault.kernel, "k");
                assert!(fault.line > 4, "{name}: {fault}");
            }
        }
    }
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

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
        &kernel("sm_75", "6.3", 3, body),
        shape(16, 64),
        &ramp(16),
        &[120.0],
        &[
            ("no release fence", "membar.gl; // release", "", FaultKind::Race),
            ("no acquire fence", "membar.gl; // acquire", "", FaultKind::Race),
            ("fence of the block only", "membar.gl; // release", "membar.cta;", FaultKind::Race),
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
