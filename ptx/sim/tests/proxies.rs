//! The generic and the async proxy over the same shared memory.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::table::{ramp, table};
use common::{kernel, shape};
use ptx_sim::FaultKind;

/// A tile that threads have written is overwritten by a bulk copy (§8.9.5: a write through one proxy before a write through
/// the other needs the fence, too).
#[test]
fn a_copy_over_ordinary_writes() {
    let body = "
        .shared .align 128 .b8 tile[128];
        .shared .align 8 .b8 full[8];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r1, tile; mov.u32 %r2, full;
        shl.b32 %r3, %r0, 2; add.u32 %r4, %r1, %r3; setp.ne.u32 %p0, %r0, 0;
        mov.u32 %r5, 0; st.shared.u32 [%r4], %r5;
        fence.proxy.async.shared::cta; // tile
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], 1;
        fence.mbarrier_init.release.cluster; // init
    READY:
        bar.warp.sync -1; // ready
        @%p0 bra WAIT;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 128;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0], 128, [%r2];
    WAIT:
        mbarrier.try_wait.parity.shared.b64 %p1, [%r2], 0;
        @!%p1 bra WAIT;
        ld.shared.f32 %f1, [%r4];
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2; st.global.f32 [%rd1], %f1;";
    let fence = "fence.proxy.async.shared::cta; // tile";
    table(
        &kernel("sm_90", "8.0", 3, body),
        shape(1, 32),
        &ramp(32),
        &ramp(32),
        &[
            ("no fence", fence, "", FaultKind::MissingProxyFence),
            ("of other memory", fence, "fence.proxy.async.global;", FaultKind::MissingProxyFence),
            ("of barriers", fence, "fence.mbarrier_init.release.cluster;", FaultKind::MissingProxyFence),
            (
                "no fence of the barrier",
                "fence.mbarrier_init.release.cluster; // init",
                "",
                FaultKind::MissingProxyFence,
            ),
            ("nothing after the fence", "bar.warp.sync -1; // ready", "", FaultKind::Race),
        ],
    );
}

/// Two groups of stores read one tile: it is free when both are waited for.
#[test]
fn two_groups_that_read_the_same() {
    let body = "
        .shared .align 128 .b8 tile[128];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r1, tile;
        mov.u32 %r0, 0;
    FILL:
        shl.b32 %r3, %r0, 2; add.u32 %r4, %r1, %r3;
        ld.global.f32 %f1, [%rd0]; add.u64 %rd0, %rd0, 4; st.shared.f32 [%r4], %f1;
        add.u32 %r0, %r0, 1; setp.lt.u32 %p0, %r0, 32; @%p0 bra FILL;
        fence.proxy.async.shared::cta;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 128;
        cp.async.bulk.commit_group;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1+128], [%r1], 128;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0; // both
        mov.u32 %r5, 0; st.shared.u32 [%r1], %r5;
        cp.async.bulk.wait_group 0;";
    let expected: Vec<f32> = (0..64).map(|i| (i % 32) as f32).collect();
    let edit = ("the first only", "cp.async.bulk.wait_group 0; // both", "cp.async.bulk.wait_group 1;");
    let edit = (edit.0, edit.1, edit.2, FaultKind::MissingWait);
    table(&kernel("sm_90", "8.0", 3, body), shape(1, 1), &ramp(32), &expected, &[edit]);
}
