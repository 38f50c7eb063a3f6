//! `mbarrier` beyond bulk copies: `cp.async` arrivals, dropped threads, polling.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::table::{ramp, table};
use common::{kernel, shape};
use ptx_sim::FaultKind;

/// A thread's arrival for its copies, of which the barrier expects one: counted beforehand, or besides an ordinary one.
const NOINC: &str = "cp.async.mbarrier.arrive.noinc.shared.b64 [%r2]; // arrive";
const INC: &str =
    "cp.async.mbarrier.arrive.shared.b64 [%r2]; mbarrier.arrive.shared.b64 %rd5, [%r2]; // arrive";

/// Two warps: the first `producing` threads copy 16 bytes each, everybody waits and reads what another copied.
fn producers(arrive: &str, producing: u32) -> String {
    let body = format!(
        "
        .shared .align 16 .b8 s[1024];
        .shared .align 8 .b8 full[8];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r1, s; mov.u32 %r2, full;
        setp.ne.u32 %p0, %r0, 0;
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], {producing};
    READY:
        bar.sync 0;
        setp.ge.u32 %p1, %r0, {producing};
        @%p1 bra WAIT;
        mul.wide.u32 %rd2, %r0, 16; add.u64 %rd2, %rd0, %rd2;
        shl.b32 %r3, %r0, 4; add.u32 %r3, %r1, %r3;
        cp.async.cg.shared.global [%r3], [%rd2], 16;
        {arrive}
    WAIT:
        mbarrier.test_wait.parity.shared.b64 %p2, [%r2], 0;
        @!%p2 bra WAIT;
        add.u32 %r4, %r0, 1; rem.u32 %r4, %r4, {producing}; shl.b32 %r4, %r4, 4; add.u32 %r4, %r1, %r4;
        ld.shared.f32 %f0, [%r4];
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;
        st.global.f32 [%rd1], %f0;"
    );
    kernel("sm_80", "7.1", 3, &body)
}

/// `cp.async.mbarrier.arrive` orders the copies before it for whoever waits: in the warp that copies, in another, from all lanes
/// or from one.
#[test]
fn copies_that_arrive() {
    for producing in [64, 32, 1] {
        for arrive in [NOINC, INC] {
            let expected: Vec<f32> = (0..64).map(|i| ((i + 1) % producing * 4) as f32).collect();
            table(
                &producers(arrive, producing),
                shape(1, 64),
                &ramp(256),
                &expected,
                &[
                    (
                        "nobody waits",
                        "mbarrier.test_wait.parity.shared.b64 %p2, [%r2], 0;
        @!%p2 bra WAIT;",
                        "",
                        FaultKind::Race,
                    ),
                    (
                        "an ordinary arrival waits for no copy",
                        arrive,
                        "mbarrier.arrive.shared.b64 %rd5, [%r2];",
                        FaultKind::MissingWait,
                    ),
                ],
            );
        }
    }
}

/// A thread that drops out leaves as many arrivals out of later phases as it arrives with (§9.7.13.15.14): 3 − 2 = 1.
#[test]
fn dropped_arrivals() {
    let body = "
        .shared .align 8 .b8 full[8];
        ld.param.u64 %rd1, [p1];
        mov.u32 %r2, full;
        mbarrier.init.shared.b64 [%r2], 3;
        mbarrier.arrive_drop.shared.b64 %rd5, [%r2], 2; // two of three
        mbarrier.arrive.shared.b64 %rd5, [%r2];
        mbarrier.arrive.shared.b64 %rd5, [%r2]; // the next phase
    WAIT:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r2], 1;
        @!%p2 bra WAIT;
        mov.f32 %f0, 0f3f800000;
        st.global.f32 [%rd1], %f0;";
    table(
        &kernel("sm_90", "8.0", 3, body),
        shape(1, 1),
        &ramp(1),
        &[1.0],
        &[
            (
                "too few arrive",
                "mbarrier.arrive.shared.b64 %rd5, [%r2]; // the next phase",
                "",
                FaultKind::Deadlock,
            ),
            (
                "dropped one only",
                "mbarrier.arrive_drop.shared.b64 %rd5, [%r2], 2; // two of three",
                "mbarrier.arrive_drop.shared.b64 %rd5, [%r2], 1; mbarrier.arrive.shared.b64 %rd5, [%r2], 1;",
                FaultKind::Deadlock,
            ),
        ],
    );
}

/// A bulk copy that is asked for by `test_wait`, which never sleeps, while another warp waits at a barrier.
#[test]
fn polling() {
    let body = "
        .shared .align 16 .b8 s[128];
        .shared .align 8 .b8 full[8];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mov.u32 %r1, s; mov.u32 %r2, full;
        setp.ne.u32 %p0, %r0, 0; setp.ge.u32 %p1, %r0, 32;
        @%p1 bra READ;
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], 1;
        fence.mbarrier_init.release.cluster;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 128;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0], 128, [%r2]; // copy
    READY:
        bar.warp.sync -1;
    WAIT:
        mbarrier.test_wait.parity.shared.b64 %p2, [%r2], 0;
        @!%p2 bra WAIT;
    READ:
        bar.sync 0;
        and.b32 %r3, %r0, 31; shl.b32 %r3, %r3, 2; add.u32 %r3, %r1, %r3;
        ld.shared.f32 %f0, [%r3];
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;
        st.global.f32 [%rd1], %f0;";
    let expected: Vec<f32> = (0..64).map(|i| (i % 32) as f32).collect();
    table(
        &kernel("sm_90", "8.0", 3, body),
        shape(1, 64),
        &ramp(32),
        &expected,
        &[
            (
                "no copy",
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0], 128, [%r2]; // copy",
                "",
                FaultKind::Timeout,
            ),
            ("nobody waits", "@!%p2 bra WAIT;", "", FaultKind::MissingWait),
        ],
    );
}
