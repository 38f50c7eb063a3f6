//! Blocks on several host threads: a broken kernel is caught whatever the order in which they come.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::{Gpu, kernel, shape};
use ptx_sim::{Config, FaultKind};

/// The block that takes the last number but one adds up what all have left, though the last has not said that it is done. Its
/// atomic must not see the release of one that comes after it.
#[test]
fn an_atomic_does_not_acquire_from_later_ones() {
    ptx_sim::install_simulator();
    ptx_sim::configure(&Config { threads: 4, print_faults: false, ..ptx_sim::config() });
    let body = "
        ld.param.u64 %rd0, [p0];
        mov.u32 %r0, %ctaid.x; mul.wide.u32 %rd2, %r0, 4; add.u64 %rd4, %rd0, %rd2;
        st.global.u32 [%rd4+64], %r0;
        membar.gl;
        atom.global.add.u32 %r1, [%rd0], 1;
        membar.gl;
        setp.ne.u32 %p0, %r1, 6; @%p0 bra DONE;
        mov.u32 %r2, 0;
    LOOP:
        mul.wide.u32 %rd2, %r2, 4; add.u64 %rd4, %rd0, %rd2;
        ld.global.u32 %r3, [%rd4+64];
        add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 8; @%p1 bra LOOP;
    DONE:";
    for _ in 0..200 {
        // A fault ends its context, and what was allocated there.
        let gpu = Gpu::new();
        let function = gpu.function(&kernel("sm_75", "6.3", 1, body), "k");
        let memory = gpu.alloc(128);
        gpu.set_zero(memory, 4);
        let fault = gpu.try_launch(function, shape(8, 1), &[memory]).expect_err("not caught");
        assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialized), "{fault}");
    }
}
