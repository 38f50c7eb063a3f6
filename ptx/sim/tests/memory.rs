//! Loads, stores, atomics and collectives against plain Rust; traffic counters.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::{Gpu, Shape, kernel, shape};

/// The thread's number in %r0, its 4-byte and 8-byte places in p1 in %rd1 and %rd2.
const START: &str = "
    ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1];
    mov.u32 %r30, %ctaid.x; mov.u32 %r31, %ntid.x; mov.u32 %r0, %tid.x; mad.lo.u32 %r0, %r30, %r31, %r0;
    mul.wide.u32 %rd30, %r0, 8; add.u64 %rd2, %rd1, %rd30; mul.wide.u32 %rd30, %r0, 4; add.u64 %rd1, %rd1, %rd30;\n";

fn run(target: &str, version: &str, body: &str, input: &[u32], threads: u32, out: usize) -> Vec<u32> {
    let gpu = Gpu::new();
    let function = gpu.function(&kernel(target, version, 2, &format!("{START}{body}")), "k");
    let (input, output) = (gpu.upload(input), gpu.upload(&vec![0u32; out]));
    ptx_sim::reset_counters();
    gpu.launch(function, shape(threads.div_ceil(256), threads.min(256)), &[input, output]);
    gpu.download(output, out)
}

#[test]
fn widths_and_extensions() {
    let input: Vec<u32> = (0..16).map(|i: u32| 0x8001_0203u32.wrapping_mul(i + 1)).collect();
    let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
    let body = "
        ld.global.u8 %r1, [%rd0+3]; st.global.u32 [%rd1], %r1;
        ld.global.s8 %r1, [%rd0+3]; st.global.u32 [%rd1+4], %r1;
        ld.global.s16 %r1, [%rd0+2]; st.global.u32 [%rd1+8], %r1;
        ld.global.s32 %rd5, [%rd0]; st.global.u64 [%rd1+16], %rd5;
        ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+16];
        st.global.cs.v2.u32 [%rd1+24], {%r4, %r3};
        ld.global.v2.u64 {%rd5, %rd6}, [%rd0+32]; st.global.v2.u64 [%rd1+32], {%rd6, %rd5};
        ld.global.v4.u8 {%h1, %h2, %h3, %h4}, [%rd0+4];
        st.global.v4.u8 [%rd1+48], {%h4, %h3, %h2, %h1};
        ld.volatile.global.u32 %r1, [%rd0+8]; st.global.u16 [%rd1+52], %r1;";
    let out = run("sm_75", "7.4", body, &input, 1, 16);
    assert_eq!(out[0], bytes[3].into());
    assert_eq!(out[1], bytes[3] as i8 as u32);
    assert_eq!(out[2], i16::from_le_bytes([bytes[2], bytes[3]]) as u32);
    assert_eq!((u64::from(out[5]) << 32 | u64::from(out[4])) as i64, i64::from(input[0] as i32));
    assert_eq!(out[6..8], [input[7], input[6]]);
    assert_eq!(out[8..12], [input[10], input[11], input[8], input[9]]);
    assert_eq!(out[12].to_be_bytes(), input[1].to_le_bytes());
    assert_eq!(out[13], input[2] & 0xFFFF);
}

#[test]
fn state_spaces() {
    let text = ".version 7.0\n.target sm_80\n.address_size 64\n
        .const .align 4 .b32 table[4] = {10, 20, 30, 40};
        .global .align 4 .u32 counter = 5;
        .extern .shared .align 16 .b8 dynamic[];
        .visible .entry k(.param .align 8 .b8 block[24], .param .u32 scale)\n{
        .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<32>;
        .local .align 8 .b8 stack[64];
        .shared .align 4 .b32 fixed[32];
        ld.param.u64 %rd1, [block+8]; ld.param.u32 %r9, [scale]; mov.u64 %rd9, block; ld.param.u32 %r10, [%rd9+16];
        mov.u32 %r0, %tid.x; and.b32 %r1, %r0, 3; shl.b32 %r1, %r1, 2; cvt.u64.u32 %rd2, %r1;
        mov.u64 %rd3, table; add.u64 %rd3, %rd3, %rd2; ld.const.u32 %r2, [%rd3];
        st.local.u32 [stack+8], %r2; mov.u64 %rd4, stack; cvta.local.u64 %rd5, %rd4; ld.u32 %r3, [%rd5+8];
        mov.u32 %r4, fixed; shl.b32 %r5, %r0, 2; add.u32 %r4, %r4, %r5; st.shared.u32 [%r4], %r3;
        cvt.u64.u32 %rd6, %r4; cvta.shared.u64 %rd6, %rd6; ld.u32 %r6, [%rd6];
        mov.u32 %r7, dynamic; add.u32 %r7, %r7, %r5; st.shared.u32 [%r7], %r6; ld.shared.u32 %r6, [%r7];
        ld.global.u32 %r8, [counter]; mad.lo.u32 %r6, %r6, %r9, %r8; add.u32 %r6, %r6, %r10;
        isspacep.shared %p0, %rd6; @!%p0 trap; isspacep.global %p0, %rd6; @%p0 trap;
        mul.wide.u32 %rd7, %r0, 4; add.u64 %rd1, %rd1, %rd7; st.global.u32 [%rd1], %r6;
        ret;\n}\n";
    let gpu = Gpu::new();
    let function = gpu.function(text, "k");
    let output = gpu.alloc(128);
    let block = [0u64, output, 1000];
    let scale = 3u32;
    let mut params =
        [std::ptr::from_ref(&block).cast_mut().cast(), std::ptr::from_ref(&scale).cast_mut().cast()];
    unsafe {
        use cudarc::driver::sys;
        let (null, params) = (std::ptr::null_mut(), params.as_mut_ptr());
        common::check(sys::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 128, null, params, null.cast()));
    }
    let out: Vec<u32> = gpu.download(output, 32);
    assert!(
        out.iter().enumerate().all(|(t, &v)| v as usize == (10 + 10 * (t % 4)) * 3 + 5 + 1000),
        "{out:?}"
    );
}

#[test]
fn atomics() {
    let body = "
        ld.global.u32 %r1, [%rd0]; // a constant 3
        ld.param.u64 %rd1, [p1];
        atom.global.add.u32 %r2, [%rd1], %r1;
        red.global.max.s32 [%rd1+4], %r0;
        red.global.add.f32 [%rd1+8], 0f3F000000;
        atom.global.or.b32 %r3, [%rd1+12], %r0;
        atom.global.inc.u32 %r3, [%rd1+16], 9;
        red.global.add.noftz.f16x2 [%rd1+20], %r10;
        red.global.add.u64 [%rd1+24], 4294967297;
        setp.eq.u32 %p0, %r0, 77;
        @%p0 atom.global.cas.b32 %r4, [%rd1+32], 0, 55;
        @%p0 atom.global.exch.b32 %r4, [%rd1+36], 66;";
    let out = run("sm_80", "7.0", &format!("mov.u32 %r10, 0x40003C00;{body}"), &[3], 512, 16);
    assert_eq!(out[0], 3 * 512);
    assert_eq!(out[1], 511);
    assert_eq!(f32::from_bits(out[2]), 256.0);
    assert_eq!(out[3], 511);
    assert_eq!(out[4], 512 % 10);
    assert_eq!(
        out[5],
        u32::from(half::f16::from_f32(1024.0).to_bits()) << 16
            | u32::from(half::f16::from_f32(512.0).to_bits())
    );
    assert_eq!(out[6..8], [512, 512]);
    assert_eq!(out[8..10], [55, 66]);
    assert_eq!(ptx_sim::counters().total().global_atomics.bytes, 512 * (6 * 4 + 8) + 8);
}

#[test]
fn collectives() {
    let body = "
        mov.u32 %r1, %laneid; mul.lo.u32 %r2, %r1, 3; mov.u32 %r9, %ntid.x; mov.u32 %r8, %tid.x;
        ld.param.u64 %rd1, [p1]; mul.wide.u32 %rd3, %r8, 64; add.u64 %rd1, %rd1, %rd3;
        shfl.sync.up.b32 %r3|%p1, %r2, 1, 0, -1; selp.u32 %r4, 1, 0, %p1;
        st.global.v2.u32 [%rd1], {%r3, %r4};
        shfl.sync.down.b32 %r3|%p1, %r2, 5, 31, -1; selp.u32 %r4, 1, 0, %p1;
        st.global.v2.u32 [%rd1+8], {%r3, %r4};
        shfl.sync.bfly.b32 %r3, %r2, 9, 31, -1;
        shfl.sync.idx.b32 %r4, %r2, 3, 0x181f, -1;
        st.global.v2.u32 [%rd1+16], {%r3, %r4};
        setp.gt.u32 %p2, %r1, 20; vote.sync.ballot.b32 %r3, %p2, -1; vote.sync.any.pred %p3, %p2, -1;
        vote.sync.all.pred %p4, !%p2, -1; selp.u32 %r4, 2, 0, %p3; selp.u32 %r5, 1, 0, %p4; or.b32 %r4, %r4, %r5;
        st.global.v2.u32 [%rd1+24], {%r3, %r4};
        shr.u32 %r5, %r1, 3; match.any.sync.b32 %r3, %r5, -1; activemask.b32 %r4;
        st.global.v2.u32 [%rd1+32], {%r3, %r4};
        redux.sync.add.s32 %r3, %r2, -1; redux.sync.max.u32 %r4, %r2, -1;
        st.global.v2.u32 [%rd1+40], {%r3, %r4};
        bar.red.popc.u32 %r3, 0, %p2; bar.red.or.pred %p5, 0, %p2; selp.u32 %r4, 1, 0, %p5;
        st.global.v2.u32 [%rd1+48], {%r3, %r4};
        mov.u32 %r3, %lanemask_lt; mov.u32 %r4, %lanemask_ge;
        st.global.v2.u32 [%rd1+56], {%r3, %r4};";
    let out = run("sm_80", "7.0", body, &[0], 64, 64 * 16);
    for t in 0..64usize {
        let (lane, o) = ((t % 32) as u32, &out[16 * t..16 * t + 16]);
        assert_eq!(o[..2], [3 * lane.saturating_sub(1), u32::from(lane >= 1)]);
        assert_eq!(o[2..4], if lane + 5 < 32 { [3 * (lane + 5), 1] } else { [3 * lane, 0] });
        assert_eq!(o[4..6], [3 * (lane ^ 9), 3 * (lane / 8 * 8 + 3)]);
        assert_eq!(o[6..8], [0xFFE0_0000, 2]);
        assert_eq!(o[8..10], [0xFF << (lane / 8 * 8), u32::MAX]);
        assert_eq!(o[10..12], [3 * 31 * 16, 93]);
        assert_eq!(o[12..14], [22, 1]);
        assert_eq!(o[14..16], [(1 << lane) - 1, u32::MAX << lane]);
    }
}

#[test]
fn divergent_lanes_meet_again() {
    // Lanes take different numbers of turns, some by a path behind the loop's end; all take part in the vote after it.
    let body = "
        mov.u32 %r1, %laneid; and.b32 %r2, %r1, 7; mov.u32 %r3, 0;
    LOOP:
        setp.ge.u32 %p0, %r3, %r2; @%p0 bra OUT;
        and.b32 %r4, %r3, 1; setp.eq.u32 %p1, %r4, 1; @%p1 bra ASIDE;
        add.u32 %r3, %r3, 1; bra LOOP;
    OUT:
        vote.sync.ballot.b32 %r5, %p0, -1;
        st.global.v2.u32 [%rd2], {%r3, %r5};
        bra.uni END;
    ASIDE:
        add.u32 %r3, %r3, 3; bra LOOP;
    END:";
    let out = run("sm_75", "6.3", body, &[0], 32, 64);
    for lane in 0..32 {
        let mut turns = 0;
        while turns < lane % 8 {
            turns += if turns % 2 == 1 { 3 } else { 1 };
        }
        assert_eq!(out[2 * lane..2 * lane + 2], [turns as u32, u32::MAX]);
    }
}

#[test]
fn sectors_and_bank_conflicts() {
    let count = |body: &str| {
        let body = format!(".shared .align 16 .b8 s[8192];\nmov.u32 %r1, s; mov.u32 %r2, %laneid;\n{body}");
        run("sm_80", "7.0", &body, &[7; 4096], 32, 64);
        ptx_sim::counters().total()
    };
    let strided = |bytes: u32| {
        let stats = count(&format!(
            "mul.wide.u32 %rd3, %r2, {bytes}; add.u64 %rd3, %rd0, %rd3; ld.global.u32 %r3, [%rd3];"
        ));
        (stats.global_loads.sectors, stats.global_loads.bytes)
    };
    // Allocations are aligned to sectors.
    assert_eq!(strided(4), (4, 128));
    assert_eq!(strided(8), (8, 128));
    assert_eq!(strided(64), (32, 128));
    assert_eq!(strided(0), (1, 128));
    let conflicts = |bytes: u32, ty: &str, value: &str| {
        count(&format!("mul.lo.u32 %r3, %r2, {bytes}; add.u32 %r3, %r1, %r3; st.shared.{ty} [%r3], {value};"))
            .bank_conflicts
    };
    assert_eq!(conflicts(4, "u32", "%r1"), 0);
    assert_eq!(conflicts(8, "u32", "%r1"), 1);
    assert_eq!(conflicts(128, "u32", "%r1"), 31);
    assert_eq!(conflicts(132, "u32", "%r1"), 0);
    assert_eq!(conflicts(16, "v4.u32", "{%r1, %r1, %r1, %r1}"), 0);
    assert_eq!(conflicts(32, "v4.u32", "{%r1, %r1, %r1, %r1}"), 4);
    assert_eq!(conflicts(8, "v2.u32", "{%r1, %r1}"), 0);
    assert_eq!(count("st.shared.u32 [s], 5;").bank_conflicts, 0);
    let widths =
        count("ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd0]; ld.global.u8 %r3, [%rd0];").global_loads;
    assert_eq!((widths.of_width(16), widths.of_width(1)), (32, 32));
}

/// A grid barrier of a cooperative launch: blocks wait for each other.
#[test]
fn blocks_wait_for_each_other() {
    let body = "
        mov.u32 %r1, %tid.x; setp.ne.u32 %p0, %r1, 0; mov.u32 %r9, %nctaid.x; mov.u32 %r8, %ctaid.x;
        ld.param.u64 %rd1, [p1];
        @%p0 bra WAITED;
        mul.wide.u32 %rd3, %r8, 4; add.u64 %rd3, %rd1, %rd3; st.global.u32 [%rd3+64], %r8;
        fence.acq_rel.gpu;
        red.relaxed.gpu.global.add.u32 [%rd1], 1;
    SPIN:
        ld.acquire.gpu.global.u32 %r3, [%rd1];
        setp.lt.u32 %p1, %r3, %r9; @%p1 bra SPIN;
    WAITED:
        bar.sync 0;
        add.u32 %r8, %r8, 1; rem.u32 %r8, %r8, %r9; mul.wide.u32 %rd3, %r8, 4; add.u64 %rd3, %rd1, %rd3;
        ld.global.u32 %r4, [%rd3+64];
        @!%p0 red.global.add.u32 [%rd1+4], %r4;";
    let gpu = Gpu::new();
    let function = gpu.function(&kernel("sm_75", "6.3", 2, body), "k");
    let output = gpu.upload(&vec![0u32; 128]);
    gpu.launch(function, Shape([40, 1, 1], [64, 1, 1], 0), &[output, output]);
    assert_eq!(gpu.download::<u32>(output, 2), [40, (0..40).sum()]);
}
