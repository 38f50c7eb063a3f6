//! Scopes of strong accesses, and loads that rely on memory that does not change.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::table::{ramp, table};
use common::{kernel, shape};
use ptx_sim::FaultKind;

/// A thread hands a value to another through global memory, with a flag of the scope that `.cta` or `.gpu` say.
fn hand_over(release: &str, acquire: &str, id: &str) -> String {
    let body = format!(
        "
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; ld.param.u64 %rd5, [p2];
        mov.u32 %r0, {id}; mov.u32 %r1, %laneid; or.b32 %r2, %r0, %r1;
        setp.ne.u32 %p0, %r1, 0; @%p0 bra DONE;
        setp.ne.u32 %p0, %r0, 0; @%p0 bra READ;
        ld.global.f32 %f0, [%rd0+4]; st.global.f32 [%rd5+64], %f0;
        mov.u32 %r3, 1;
        {release} [%rd5], %r3; // release
        bra DONE;
    READ:
        {acquire} %r3, [%rd5]; // acquire
        setp.eq.u32 %p0, %r3, 0; @%p0 bra READ;
        ld.global.f32 %f0, [%rd5+64]; st.global.f32 [%rd1], %f0;
    DONE:"
    );
    kernel("sm_75", "6.3", 3, &body)
}

#[test]
fn flags_of_a_block_and_of_the_device() {
    for release in ["st.release.cta.global.u32", "st.release.gpu.global.u32"] {
        for acquire in ["ld.acquire.cta.global.u32", "ld.acquire.gpu.global.u32"] {
            let weak = ("only relaxed", release, "st.relaxed.gpu.global.u32", FaultKind::Race);
            let text = hand_over(release, acquire, "%warpid");
            table(&text, shape(1, 64), &ramp(2), &[1.0], &[weak]);
        }
    }
    let (release, acquire) = ("st.release.gpu.global.u32", "ld.acquire.gpu.global.u32");
    table(
        &hand_over(release, acquire, "%ctaid.x"),
        shape(2, 1),
        &ramp(2),
        &[1.0],
        &[
            ("released to the block", release, "st.release.cta.global.u32", FaultKind::Race),
            ("acquired from the block", acquire, "ld.acquire.cta.global.u32", FaultKind::Race),
        ],
    );
}

/// A read-only load and a write of its place, ordered by a barrier: not allowed in one kernel even so (§9.7.9.9).
#[test]
fn read_only_means_the_whole_kernel() {
    let body = "
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
        mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 4; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2;
        ld.global.f32 %f0, [%rd0]; // load
        bar.sync 0;
        st.global.f32 [%rd0], %f0; st.global.f32 [%rd1], %f0;";
    table(
        &kernel("sm_75", "6.3", 3, body),
        shape(1, 64),
        &ramp(64),
        &ramp(64),
        &[(
            "read-only",
            "ld.global.f32 %f0, [%rd0]; // load",
            "ld.global.nc.f32 %f0, [%rd0];",
            FaultKind::Race,
        )],
    );
}
