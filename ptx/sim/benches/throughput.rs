//! Warp instructions a second for a kernel like a 4-bit dequantization: 16-byte loads of codes, a table in shared memory,
//! one multiplication and one rounding a value, 16-byte stores.
//!
//! `cargo bench -p ptx-sim`

use std::ffi::{CString, c_void};
use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::time::Instant;

use cudarc::driver::sys;

/// The kernel: each thread decodes 32 codes.
fn dequantize() -> String {
    let mut body = String::from(
        ".version 7.1\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 codes, .param .u64 absmax, .param .u64 table, .param .u64 out)\n{\n\
         .reg .pred %p; .reg .b32 %r<64>; .reg .f32 %f<8>; .reg .b64 %rd<8>;\n.shared .align 16 .b8 values[64];\n\
         mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;\n\
         setp.ge.u32 %p, %r0, 16;\n@%p bra FILLED;\n\
         ld.param.u64 %rd0, [table]; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd0, %rd0, %rd1; ld.global.nc.f32 %f0, [%rd0];\n\
         shl.b32 %r3, %r0, 2; mov.u32 %r4, values; add.u32 %r3, %r3, %r4; st.shared.f32 [%r3], %f0;\n\
         FILLED:\nbar.sync 0;\n\
         mad.lo.u32 %r3, %r1, %r2, %r0; mov.u32 %r4, values;\n\
         ld.param.u64 %rd0, [codes]; mul.wide.u32 %rd1, %r3, 16; add.u64 %rd0, %rd0, %rd1;\n\
         ld.global.nc.v4.u32 {%r10, %r11, %r12, %r13}, [%rd0];\n\
         ld.param.u64 %rd0, [absmax]; shr.u32 %r5, %r3, 1; mul.wide.u32 %rd1, %r5, 4; add.u64 %rd0, %rd0, %rd1;\n\
         ld.global.nc.f32 %f0, [%rd0];\n\
         ld.param.u64 %rd2, [out]; mul.wide.u32 %rd1, %r3, 64; add.u64 %rd2, %rd2, %rd1;\n",
    );
    for word in 0..4 {
        for byte in 0..4 {
            for (half, shift) in [(0, 8 * byte + 4), (1, 8 * byte)] {
                writeln!(
                    body,
                    "shr.u32 %r5, %r{}, {shift}; and.b32 %r5, %r5, 15; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r4;\n\
                     ld.shared.f32 %f{}, [%r5]; mul.f32 %f{}, %f{}, %f0;",
                    10 + word,
                    1 + half,
                    1 + half,
                    1 + half
                )
                .unwrap();
            }
            writeln!(body, "cvt.rn.bf16x2.f32 %r{}, %f2, %f1;", 20 + byte).unwrap();
        }
        writeln!(body, "st.global.v4.b32 [%rd2+{}], {{%r20, %r21, %r22, %r23}};", 16 * word).unwrap();
    }
    body.push_str("ret;\n}\n");
    body
}

fn check(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS, "{:?}", ptx_sim::last_fault());
}

fn upload<T>(data: &[T]) -> u64 {
    let mut address = 0;
    // SAFETY: the slice is as long as it says.
    unsafe {
        check(sys::cuMemAlloc_v2(&mut address, size_of_val(data)));
        check(sys::cuMemcpyHtoD_v2(address, data.as_ptr().cast(), size_of_val(data)));
    }
    address
}

fn main() {
    ptx_sim::install();
    let (blocks, threads) = (4096u32, 256u32);
    let count = (blocks * threads) as usize;
    // SAFETY: plain uses of the driver API.
    let function = unsafe {
        check(sys::cuInit(0));
        let mut context = MaybeUninit::uninit();
        check(sys::cuCtxCreate_v2(context.as_mut_ptr(), 0, 0));
        let text = CString::new(dequantize()).unwrap();
        let mut module = MaybeUninit::uninit();
        check(sys::cuModuleLoadData(module.as_mut_ptr(), text.as_ptr().cast()));
        let mut function = MaybeUninit::uninit();
        check(sys::cuModuleGetFunction(function.as_mut_ptr(), module.assume_init(), c"k".as_ptr()));
        function.assume_init()
    };
    let codes = upload(&vec![0x5Au8; 16 * count]);
    let absmax = upload(&vec![1.5f32; count / 2]);
    let table = upload(&std::array::from_fn::<f32, 16, _>(|i| i as f32 / 8.0 - 1.0));
    let out = upload(&vec![0u8; 64 * count]);
    let params = [codes, absmax, table, out];
    let mut pointers = params.each_ref().map(|p| std::ptr::from_ref(p).cast_mut().cast::<c_void>());
    for races in [true, false] {
        ptx_sim::configure(&ptx_sim::Config { check_races: races, ..ptx_sim::config() });
        for _ in 0..3 {
            ptx_sim::reset_counters();
            let start = Instant::now();
            // SAFETY: the parameters are those that the kernel declares.
            unsafe {
                let (null, pointers) = (std::ptr::null_mut(), pointers.as_mut_ptr());
                check(sys::cuLaunchKernel(
                    function,
                    blocks,
                    1,
                    1,
                    threads,
                    1,
                    1,
                    0,
                    null,
                    pointers,
                    null.cast(),
                ));
                check(sys::cuCtxSynchronize());
            }
            let seconds = start.elapsed().as_secs_f64();
            let instructions = ptx_sim::counters().total().warp_instructions;
            println!(
                "race checks {races}: {instructions} warp instructions in {seconds:.3} s = {:.1} M/s, {:.1} M values/s",
                instructions as f64 / seconds / 1e6,
                32.0 * count as f64 / seconds / 1e6
            );
        }
    }
}
